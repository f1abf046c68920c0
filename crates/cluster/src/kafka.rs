//! The lease as the membership in a Kafka consumer group: the member to which partition 0 of a topic is assigned leads.
//!
//! librdkafka sends heartbeats by itself and does not report them. So the leader renews its leadership by committing an
//! offset: the coordinator accepts a commit only from a current member of the group, and assigns the partition to no other
//! member within the session time-out after the commit. The committed offset is the term, and its metadata contain the lease.

use std::{
    sync::Arc,
    time::{Duration, Instant as StdInstant},
};

use neurobridge_core::sink::{FaultKind, SinkFault};
use neurobridge_sink_kafka::{KafkaConfig, client};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
    types::RDKafkaErrorCode as Code,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{context::Context, group::Committed};
use crate::{
    config::KafkaLease,
    membership::Resign,
    record::{self, Identity, LeaseRecord},
    role::{JoinState, Leadership, MemberState, Role},
    shared::Shared,
};

mod context;
mod group;

/// The longest wait for an event of the client.
const POLL: Duration = Duration::from_millis(50);
/// A leader stops publishing this part of the ttl (a fifth) before the session ends.
const MARGIN: u32 = 5;
/// The number of renewals within the ttl.
const RENEWALS: u32 = 5;
/// A member that has released the lease does not join the group again for this many ttls, unless no other member is alive.
const REST: u32 = 2;

/// The thread of a member.
pub(crate) struct GroupDriver {
    pub(crate) lease: KafkaLease,
    pub(crate) me: Identity,
    pub(crate) cluster: String,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: CancellationToken,
    pub(crate) resignations: mpsc::Receiver<Resign>,
}

/// The state of a member in the group, over one client.
struct Group {
    consumer: BaseConsumer<Context>,
    is_subscribed: bool,
    /// The time of the next [`check`](GroupDriver::check).
    check_at: Instant,
    /// The earliest time of the next joining, unless the group has no other member.
    rests_until: Instant,
    /// The term and the next renewal of the own leadership.
    held: Option<(u64, Instant)>,
    renewals: u64,
}

impl GroupDriver {
    /// Runs until `stop` is cancelled. Blocks.
    pub(crate) fn run(mut self) {
        let mut shown = None;
        while let Err(fault) = self.session() {
            self.shared.set_role(Role::Follower);
            if shown.as_ref() != Some(&fault.reason) {
                warn!(
                    cluster = self.cluster,
                    reason = fault.reason,
                    "lease unreachable; retrying; without it this member cannot become or remain the leader"
                );
                shown = Some(fault.reason.clone());
            }
            self.shared.set_join_state(JoinState::Unreachable(fault.reason));
            let until = StdInstant::now() + self.lease.ttl / 10;
            while StdInstant::now() < until && !self.stop.is_cancelled() {
                // On a thread, because librdkafka's calls block; in steps, so that a stop is noticed.
                std::thread::sleep(POLL);
            }
            if self.stop.is_cancelled() {
                break;
            }
        }
        self.shared.set_role(Role::Follower);
    }

    /// Uses one client until `stop` is cancelled.
    fn session(&mut self) -> Result<(), SinkFault> {
        let consumer = self.consumer()?;
        self.check_topic(&consumer)?;
        let mut group = Group {
            consumer,
            is_subscribed: false,
            check_at: Instant::now(),
            rests_until: Instant::now(),
            held: None,
            renewals: 0,
        };
        while !self.stop.is_cancelled() {
            if let Ok(resign) = self.resignations.try_recv() {
                self.release(&mut group);
                group.rests_until = Instant::now() + self.lease.ttl * REST;
                group.check_at = Instant::now() + self.interval();
                // The caller may have stopped waiting.
                let _ = resign.send(());
            }
            if Instant::now() >= group.check_at {
                self.check(&mut group)?;
                group.check_at = Instant::now() + self.interval();
            }
            if let Some(Err(error)) = group.consumer.poll(POLL) {
                self.handle(&error)?;
            }
            self.lead(&mut group)?;
        }
        self.release(&mut group);
        Ok(())
    }

    /// Takes or renews the leadership while the partition is assigned; otherwise ends it.
    fn lead(&self, group: &mut Group) -> Result<(), SinkFault> {
        if !group.consumer.context().is_assigned() || group.consumer.assignment_lost() {
            group.held = None;
            self.shared.set_role(Role::Follower);
            return Ok(());
        }
        let now = Instant::now();
        let term = match group.held {
            Some((_, renew_at)) if now < renew_at => return Ok(()),
            Some((term, _)) => term,
            None => self.committed(group)?.offset + 1,
        };
        group.renewals += 1;
        let record = LeaseRecord::new(&self.me, term, self.lease.ttl, group.renewals);
        // Before the request: the coordinator measures the session from a later instant.
        let sent = Instant::now();
        match self.commit(group, &record) {
            Ok(()) => {
                group.held = Some((term, sent + self.interval()));
                // The answer may arrive after the membership has ended.
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                self.shared.set_role(Role::Leader(Leadership {
                    term,
                    valid_until: sent + self.lease.ttl - self.lease.ttl / MARGIN,
                }));
            }
            // The usual cause is a new generation of the group without this member: the next events of the client revoke the
            // assignment.
            Err(error) => {
                group.held = group
                    .held
                    .map(|(term, _)| (term, Instant::now() + self.interval() / 4));
                self.handle(&error)?;
            }
        }
        Ok(())
    }

    /// Releases the lease and leaves the group.
    fn release(&self, group: &mut Group) {
        self.shared.set_role(Role::Follower);
        if let Some((term, _)) = group.held.take() {
            let mut record = LeaseRecord::new(&self.me, term, self.lease.ttl, group.renewals + 1);
            record.released = true;
            if let Err(error) = self.commit(group, &record) {
                warn!(
                    cluster = self.cluster,
                    %error,
                    "lease not released; another member can lead only after the lease has expired"
                );
            }
        }
        if group.is_subscribed {
            group.is_subscribed = false;
            group.consumer.unsubscribe();
            // Polls until the callback for the revoked partition was called, after which the client leaves the group.
            let until = StdInstant::now() + self.interval();
            while group.consumer.context().is_assigned() && StdInstant::now() < until {
                let _ = group.consumer.poll(POLL);
            }
            group.consumer.context().clear();
        }
    }

    /// Reads the members and the lease of the group, joins the group unless this is refused, and publishes the members.
    fn check(&self, group: &mut Group) -> Result<(), SinkFault> {
        let members = self.members(group)?;
        let committed = self.committed(group)?;
        let others = members.iter().any(|member| !member.is_self);
        if group.is_subscribed {
            if group.consumer.context().has_joined() {
                self.shared.set_join_state(JoinState::Joined);
            }
        } else if let Some(refused) = self.refused(&members, &committed) {
            self.shared.set_join_state(refused);
        } else if Instant::now() >= group.rests_until || !others {
            let subscribed = group.consumer.subscribe(&[&self.lease.topic]);
            subscribed.map_err(|error| self.fault(&error))?;
            group.is_subscribed = true;
        }
        self.shared.set_members(self.shown(members, &committed, group));
        Ok(())
    }

    /// Returns why this member must not join.
    fn refused(&self, members: &[MemberState], committed: &Committed) -> Option<JoinState> {
        let (member, cluster) = (&self.me.member, &self.cluster);
        // This process is not in the group yet, so a member with its name is another process.
        if members.iter().any(|other| other.name == *member) {
            return Some(JoinState::Refused(format!(
                "found another process with the member name \"{member}\" in the cluster \"{cluster}\", expected a different name \
                 for each member; set another cluster.member. After a crash the name is free within the ttl of the lease"
            )));
        }
        match &committed.lease {
            Err(found) => Some(JoinState::Refused(format!(
                "found {found} as the metadata of the offset that the group \"{}\" committed for the topic \"{}\", expected a lease of \
                 neurobridge; use a group that no other program uses",
                self.lease.group, self.lease.topic
            ))),
            Ok(Some(lease)) if !lease.released && lease.config != self.me.config && !members.is_empty() => {
                Some(JoinState::OtherConfiguration(format!(
                    "the leader \"{}\" of the cluster \"{cluster}\" has another configuration, expected the same sources, sinks and \
                     redaction; apply the same configuration to all members: this member leads after the leader hands over",
                    lease.member
                )))
            }
            Ok(_) => None,
        }
    }

    /// Adds the content of the lease to the state of the leader.
    fn shown(&self, mut members: Vec<MemberState>, committed: &Committed, group: &Group) -> Vec<MemberState> {
        let lease = committed
            .lease
            .as_ref()
            .ok()
            .and_then(Option::as_ref)
            .filter(|lease| !lease.released);
        for member in &mut members {
            member.is_self = group.is_subscribed && member.name == self.me.member;
            if let Some(lease) = lease.filter(|lease| lease.member == member.name) {
                member.term = Some(lease.term);
                member.config_hash.clone_from(&lease.config);
            }
        }
        members
    }

    /// Ignores an error that librdkafka recovers from by itself.
    ///
    /// # Errors
    /// Returns an error that needs another client, or an operator.
    fn handle(&self, error: &KafkaError) -> Result<(), SinkFault> {
        match error.rdkafka_error_code() {
            Some(
                Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::RebalanceInProgress
                | Code::NoOffset
                | Code::AssignmentLost
                | Code::AutoOffsetReset
                | Code::PartitionEOF
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::RequestTimedOut
                | Code::OperationTimedOut
                | Code::BrokerTransportFailure
                | Code::AllBrokersDown,
            ) => Ok(()),
            Some(Code::InvalidSessionTimeout) => Err(SinkFault::new(
                FaultKind::Other,
                "the brokers refuse the ttl of the lease; expected cluster.lease.ttl between their \
                 group.min.session.timeout.ms (6 s by default) and group.max.session.timeout.ms",
            )),
            _ => Err(self.fault(error)),
        }
    }

    fn interval(&self) -> Duration {
        self.lease.ttl / RENEWALS
    }

    fn fault(&self, error: &KafkaError) -> SinkFault {
        client::fault(error, &self.lease.topic)
    }

    fn connection(&self) -> KafkaConfig {
        self.lease.connection()
    }

    fn commit(&self, group: &Group, record: &LeaseRecord) -> Result<(), KafkaError> {
        let mut offsets = TopicPartitionList::new();
        let mut partition = offsets.add_partition(&self.lease.topic, 0);
        let term = i64::try_from(record.term).unwrap_or(i64::MAX);
        partition.set_offset(Offset::Offset(term))?;
        let text = String::from_utf8(record::encode(record)).expect("JSON is UTF-8");
        partition.set_metadata(text);
        group.consumer.commit(&offsets, CommitMode::Sync)
    }
}

/// Connects and checks the topic of a lease without joining its group.
///
/// # Errors
/// Returns a fault if the brokers cannot be reached, or the topic is unsuitable.
pub(crate) async fn probe(lease: KafkaLease, member: String) -> Result<Vec<String>, SinkFault> {
    let (_requests, resignations) = mpsc::channel(1);
    let driver = GroupDriver {
        lease,
        me: Identity {
            member,
            instance: String::new(),
            config: String::new(),
        },
        cluster: String::new(),
        shared: Arc::new(Shared::new("")),
        stop: CancellationToken::new(),
        resignations,
    };
    let checked = tokio::task::spawn_blocking(move || driver.check_topic(&driver.consumer()?));
    checked
        .await
        .expect("the check of a topic neither panics nor is cancelled")?;
    Ok(Vec::new())
}
