//! Connection attempts: their time limit, and the reason shown for a sink that is not connected after some seconds.

use std::{pin::pin, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::{ConnectionEnd, OBSERVE_INTERVAL, health::SinkHealth, replacement::REPLACED};
use crate::{
    connect::SlowConnect,
    reader::Reader,
    sink::{ConnectContext, Connected, FaultKind, Sink, SinkFault},
};

/// The time limit of an attempt without progress, as [`ConnectSteps`](crate::connect::ConnectSteps) defines it. Longer than the
/// limits that the sinks have for their own steps, of which the longest is 30 seconds.
const PROGRESS_LIMIT: Duration = Duration::from_secs(45);

/// Connects a sink. After some seconds the sink counts as down, with the current step of the attempt as the reason. If the
/// client can be replaced, the attempt ends after [`PROGRESS_LIMIT`].
///
/// `reader` provides the number of pending events. The borrow is exclusive, because a reader need not be `Sync`.
pub(super) async fn connect<S: Sink, R: Reader>(
    sink: &mut S,
    context: &ConnectContext<'_>,
    health: &mut SinkHealth,
    reader: &mut R,
) -> Result<Connected, ConnectionEnd> {
    let mut connecting = pin!(sink.connect(context));
    let mut tick = interval(OBSERVE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    health.connecting();
    loop {
        tokio::select! {
            biased;
            connected = &mut connecting => {
                if connected.is_err() {
                    health.connect_failed(context.steps.step());
                }
                return connected.map_err(ConnectionEnd::from);
            }
            _ = tick.tick() => {}
        }
        let Some(slow) = context.steps.slow() else {
            continue;
        };
        health.connect_failed(context.steps.step());
        if S::REPLACES_CLIENT && context.steps.without_progress() >= PROGRESS_LIMIT {
            return Err(ConnectionEnd::Replace(abandoned(&slow)));
        }
        let pending = reader.end().map(|end| end.since(context.cursor.next));
        health.slow_connect(&slow, pending);
    }
}

/// Returns the fault of an attempt without progress.
fn abandoned(slow: &SlowConnect) -> SinkFault {
    SinkFault::new(FaultKind::Timeout, format!("{}; {REPLACED}", slow.fault))
}
