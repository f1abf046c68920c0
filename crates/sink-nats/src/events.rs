//! What the client tells besides the answers: that the connection broke, that something was refused.

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
    /// Takes what the client tells. The first fault stays: a refusal is followed by a broken connection.
    pub(crate) fn take(&self, event: &Event) {
        let Some(fault) = error::of_event(event) else {
            return;
        };
        if error::is_line_too_long(event) {
            self.is_line_too_long.store(true, Ordering::Release);
        }
        self.fail(fault);
    }

    /// Notes a fault of the connection, unless there was one before.
    pub(crate) fn fail(&self, fault: SinkFault) {
        // Nothing within the lock can panic half-way.
        let mut first = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(fault);
            drop(first);
            self.faulted.notify_waiters();
        }
    }

    /// The fault, if there was one.
    pub(crate) fn fault(&self) -> Option<SinkFault> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_ref().map(|fault| SinkFault {
            kind: fault.kind,
            reason: fault.reason.clone(),
            is_final: fault.is_final,
        })
    }

    /// Whether the server closed the connection because a line of the protocol was longer than its `max_control_line`.
    pub(crate) fn is_line_too_long(&self) -> bool {
        self.is_line_too_long.load(Ordering::Acquire)
    }

    /// Waits for a fault.
    pub(crate) async fn faulted(&self) -> SinkFault {
        loop {
            let notified = self.faulted.notified();
            tokio::pin!(notified);
            // Before the look: what happens in between wakes us then.
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
    async fn the_first_fault_stays() {
        let events = Arc::new(Events::default());
        events.take(&Event::Connected);
        assert!(events.fault().is_none());
        let waiting = tokio::spawn({
            let events = Arc::clone(&events);
            async move { events.faulted().await.kind }
        });
        let refusal = "Permissions Violation for Publish to \"a\"";
        events.take(&Event::ServerError(ServerError::Other(refusal.into())));
        events.take(&Event::Disconnected);
        assert_eq!(waiting.await.unwrap(), FaultKind::Unauthorised);
        assert_eq!(events.faulted().await.kind, FaultKind::Unauthorised);
    }
}
