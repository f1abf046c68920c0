//! The callbacks of the consumer: the assignment of the lease's partition.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rdkafka::{
    ClientContext,
    consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance},
    error::KafkaError,
};
use tracing::debug;

use crate::{role::Role, shared::Shared};

/// Called by the client on the thread that polls it.
pub(super) struct Context {
    shared: Arc<Shared>,
    is_assigned: AtomicBool,
    has_joined: AtomicBool,
}

impl Context {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            is_assigned: AtomicBool::new(false),
            has_joined: AtomicBool::new(false),
        }
    }

    /// Returns whether the partition of the lease is assigned to this member.
    pub(super) fn is_assigned(&self) -> bool {
        self.is_assigned.load(Ordering::Acquire)
    }

    /// Returns whether the group has accepted this member.
    pub(super) fn has_joined(&self) -> bool {
        self.has_joined.load(Ordering::Acquire)
    }

    /// Resets the state after the member has left the group.
    pub(super) fn clear(&self) {
        self.is_assigned.store(false, Ordering::Release);
        self.has_joined.store(false, Ordering::Release);
    }
}

impl ClientContext for Context {
    // For debugging only: the client reports each error that matters by `poll` too.
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "the Kafka client of the lease reports an error");
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if !matches!(rebalance, Rebalance::Assign(_)) {
            self.is_assigned.store(false, Ordering::Release);
            // The group assigns the partition to another member only after this callback.
            self.shared.set_role(Role::Follower);
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.has_joined.store(true, Ordering::Release);
            if partitions.count() > 0 {
                // The records of the topic are not needed. If this fails, the client only transfers them in vain.
                let _ = consumer.pause(partitions);
                self.is_assigned.store(true, Ordering::Release);
            }
        }
    }
}
