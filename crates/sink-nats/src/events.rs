//! The events of the client other than messages: broken connections and refusals.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use async_nats::Event;
use neurobridge_core::sink::SinkFault;
use tokio::sync::Notify;

use crate::error;

/// The first fault of a connection. Written by the client's task, read by the sink.
#[derive(Debug, Default)]
pub(crate) struct Events {
    fault: Mutex<Option<SinkFault>>,
    faulted: Notify,
    is_line_too_long: AtomicBool,
}

impl Events {
    /// Records an event of the client. The first fault is kept, since a refusal is followed by a broken connection.
    pub(crate) fn record(&self, event: &Event) {
        let Some(fault) = error::of_event(event) else {
            return;
        };
        if error::is_line_too_long(event) {
            self.is_line_too_long.store(true, Ordering::Release);
        }
        self.fail(fault);
    }

    /// Records a fault of the connection, unless there was one before.
    pub(crate) fn fail(&self, fault: SinkFault) {
        // No code under this lock can panic in the middle of an update.
        let mut first = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(fault);
            drop(first);
            self.faulted.notify_waiters();
        }
    }

    /// Returns the fault, if there was one.
    pub(crate) fn fault(&self) -> Option<SinkFault> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_ref().map(|fault| SinkFault {
            kind: fault.kind,
            reason: fault.reason.clone(),
            is_final: fault.is_final,
        })
    }

    /// Returns whether the server closed the connection because a line of the protocol exceeded its `max_control_line`.
    pub(crate) fn is_line_too_long(&self) -> bool {
        self.is_line_too_long.load(Ordering::Acquire)
    }

    /// Waits for a fault.
    pub(crate) async fn faulted(&self) -> SinkFault {
        loop {
            let notified = self.faulted.notified();
            tokio::pin!(notified);
            // Enabled before the check, so that a fault in between is not missed.
            notified.as_mut().enable();
            if let Some(fault) = self.fault() {
                return fault;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_nats::ServerError;
    use neurobridge_core::sink::FaultKind;

    use super::*;

    #[tokio::test]
    async fn first_fault_of_a_connection_is_kept() {
        let events = Arc::new(Events::default());
        events.record(&Event::Connected);
        assert!(events.fault().is_none());
        let waiting = tokio::spawn({
            let events = Arc::clone(&events);
            async move { events.faulted().await.kind }
        });
        let refusal = "Permissions Violation for Publish to \"a\"";
        events.record(&Event::ServerError(ServerError::Other(refusal.into())));
        events.record(&Event::Disconnected);
        assert_eq!(waiting.await.unwrap(), FaultKind::Unauthorised);
        assert_eq!(events.faulted().await.kind, FaultKind::Unauthorised);
    }
}
