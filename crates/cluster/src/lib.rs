//! Elects the member of a cluster of bridges that publishes.
//!
//! [`Membership::join`] makes a process a member: it leads while it holds the lease of the cluster, and follows otherwise. An existing
//! engine keeps the lease. At no time do two members hold a valid [`Leadership`]; but a leader that is stopped in the middle of a
//! request may send it after its leadership has ended, so whoever publishes also needs a destination that refuses
//! an earlier leader.
//!
//! The module `machine` has the rules of the lease, without I/O.

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
