//! Elects the member of a cluster of bridges that publishes.
//!
//! [`Membership::join`] makes a process a member: the member leads while it holds the lease of the cluster, and follows
//! otherwise. NATS or Kafka, called the *engine*, stores the lease. At no time do two members hold a valid [`Leadership`].
//! But a leader whose process is stopped in the middle of a request may send this request after its leadership has ended, so
//! the destination of the events also has to refuse an earlier leader.
//!
//! The module `machine` contains the rules of a lease in NATS, without I/O. With Kafka, a consumer group decides who leads
//! (`kafka`).

#![cfg_attr(
    not(any(feature = "kafka", feature = "nats")),
    allow(unused, reason = "a build without engines has no member")
)]

mod config;
#[cfg(feature = "nats")]
mod driver;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod machine;
#[cfg(feature = "nats")]
mod members;
mod membership;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "nats")]
mod presence;
mod probe;
mod record;
mod role;
mod settled;
mod shared;
#[cfg(feature = "nats")]
mod store;

#[cfg(feature = "kafka")]
pub use self::config::KafkaLease;
#[cfg(feature = "nats")]
pub use self::config::NatsLease;
pub use self::{
    config::{ClusterConfig, LeaseConfig, ReadLease, Standby},
    membership::Membership,
    role::{ConnectedFor, JoinState, Leadership, MemberReport, MemberState, Role},
    settled::Settled,
};
