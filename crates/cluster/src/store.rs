//! The interface of the engine that stores the lease: a small key-value store with conditional writes.

use std::{future::Future, time::Duration};

use neurobridge_core::sink::SinkFault;

/// The key of the lease.
pub(crate) const LEASE: &str = "lease";

/// Returns the key of a member's state.
pub(crate) fn member_key(member: &str) -> String {
    format!("member.{member}")
}

/// A value of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Value {
    /// The revision under which the next write replaces the value; 0 for a key that was never written.
    pub(crate) revision: u64,
    /// `None` for a key that does not exist or was deleted.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// The result of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The value was stored with this revision.
    Stored(u64),
    /// The revision was not the expected one, and nothing was stored.
    Conflict,
}

/// A connection to the store. After a fault the result of the last request is unknown, and another connection is needed.
pub(crate) trait Store: Send {
    /// Reads a key.
    fn read(&mut self, key: &str) -> impl Future<Output = Result<Value, SinkFault>> + Send;

    /// Writes a key if its revision is the expected one. `bytes`: the new value; `None` deletes the key.
    fn write(
        &mut self,
        key: &str,
        expected: u64,
        bytes: Option<Vec<u8>>,
    ) -> impl Future<Output = Result<Written, SinkFault>> + Send;

    /// Reads the states of all members, at most a bounded number.
    fn members(&mut self) -> impl Future<Output = Result<Vec<Value>, SinkFault>> + Send;

    /// Waits for a notice that the lease may have been written, by this member or another one. Cancel-safe.
    fn changed(&mut self) -> impl Future<Output = Result<(), SinkFault>> + Send;
}

/// Opens connections to the store.
pub(crate) trait Engine: Send + Sync + 'static {
    type Store: Store;

    /// Connects, and checks that the store is suitable for leases with this ttl.
    fn connect(&mut self, ttl: Duration) -> impl Future<Output = Result<Self::Store, SinkFault>> + Send;
}
