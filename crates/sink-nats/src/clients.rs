//! A limit on the clients of a sink that have not ended.
//!
//! A dropped client ends only when it next has nothing to receive. A client that receives a line without an end may continue
//! for a long time, and keeps the memory of the line.

use std::sync::{Arc, Weak};

use async_nats::Statistics;
use neurobridge_core::sink::{FaultKind, SinkFault};

/// The largest number of clients of a sink at the same time. More than one, since a client may end later than its connection.
const MAX_CLIENTS: usize = 8;

/// The clients of a sink that have not ended. Each is represented by its counters, which it owns until it ends.
#[derive(Debug, Default)]
pub(crate) struct Clients(Vec<Weak<Statistics>>);

impl Clients {
    /// Checks whether one more client may be created.
    ///
    /// # Errors
    /// Returns a fault if too many former clients still receive. A later attempt succeeds when one of them has ended.
    pub(crate) fn check(&mut self) -> Result<(), SinkFault> {
        self.0.retain(|client| client.strong_count() > 0);
        if self.0.len() < MAX_CLIENTS {
            return Ok(());
        }
        let reason = format!(
            "{MAX_CLIENTS} former connections still receive a message or a line without an end; the sink connects when one of them \
             has ended. Check that a NATS server listens at the addresses of servers"
        );
        Err(SinkFault::new(FaultKind::Other, reason))
    }

    /// Adds a new client.
    pub(crate) fn add(&mut self, client: &Arc<Statistics>) {
        self.0.push(Arc::downgrade(client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_bounded_until_one_ends() {
        let mut clients = Clients::default();
        let mut existing: Vec<_> = (0..MAX_CLIENTS)
            .map(|_| {
                clients.check().unwrap();
                let client = Arc::new(Statistics::default());
                clients.add(&client);
                client
            })
            .collect();
        let fault = clients.check().unwrap_err();
        assert!(fault.reason.contains("8 former connections"), "{fault}");
        assert!(!fault.is_final);
        existing.pop();
        clients.check().unwrap();
    }
}
