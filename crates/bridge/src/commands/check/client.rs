//! Tries the clients of brokers.

use std::time::Instant;

use neurobridge_core::{
    connect::ConnectSteps,
    epoch::Epochs,
    event::Sequence,
    identity::SpoolId,
    reader::Cursor,
    sink::{ConnectContext, FaultKind, Sink},
};
use tokio::time::timeout;

use super::connect::{Answer, Fine, SINK_TIMEOUT};
use crate::exit::Exit;

/// Connects as for a delivery that begins, and leaves again. Publishes nothing.
pub(super) async fn connect<S: Sink>(mut sink: S, dangers: fn(&S) -> &[String]) -> Answer {
    let begin = Instant::now();
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let steps = ConnectSteps::default();
    let context = ConnectContext {
        spool: SpoolId::generate(),
        cursor: &cursor,
        epochs: &Epochs::default(),
        steps: &steps,
    };
    let connected = timeout(SINK_TIMEOUT, sink.connect(&context))
        .await
        .unwrap_or_else(|_| Err(steps.pending().fault));
    let time = begin.elapsed();
    let dangers = dangers(&sink).to_vec();
    // What it leaves behind ends with the process.
    let _ = timeout(SINK_TIMEOUT, sink.close()).await;
    match connected {
        Ok(()) => Ok(Fine { time, dangers }),
        Err(fault) if fault.kind == FaultKind::Disk => Err((Exit::Disk, fault.reason)),
        Err(fault) => Err((Exit::Unavailable, fault.reason)),
    }
}
