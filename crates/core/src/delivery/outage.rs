//! What the log says of an outage: each reason once, and a word now and then that it lasts.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{sink::SinkFault, units::format_duration};

/// How often the log says that a sink is still down for the same reason. The tries between are said at the level of debug.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// A sink's outage, from its first fault to the next event that it takes.
pub(super) struct Outage {
    since: Instant,
    said: String,
    said_at: Instant,
    tries: u64,
}

/// How loud a fault is said.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    First,
    Again,
    Quietly,
}

impl Outage {
    /// Takes a fault, the first one or one more, and says it.
    pub(super) fn tell(outage: &mut Option<Self>, sink: &str, fault: &SinkFault, delay: Duration) {
        let kind = fault.kind.label();
        let said = Self::take(outage, &fault.reason);
        let delay = told(delay);
        let (lasted, tries) = outage
            .as_ref()
            .map_or_else(Default::default, |outage| (told(outage.lasted()), outage.tries));
        match said {
            Said::First => warn!(sink, kind, delay, "the sink is down: {fault}"),
            Said::Again => warn!(
                sink,
                kind, delay, lasted, tries, "the sink is still down: {fault}"
            ),
            Said::Quietly => debug!(
                sink,
                kind, delay, lasted, tries, "the sink is still down: {fault}"
            ),
        }
    }

    fn take(outage: &mut Option<Self>, reason: &str) -> Said {
        let now = Instant::now();
        let Some(outage) = outage else {
            *outage = Some(Self {
                since: now,
                said: reason.to_owned(),
                said_at: now,
                tries: 1,
            });
            return Said::First;
        };
        outage.tries += 1;
        if outage.said == reason && outage.said_at + REMIND_EVERY > now {
            return Said::Quietly;
        }
        outage.said_at = now;
        reason.clone_into(&mut outage.said);
        Said::Again
    }

    /// How long it has lasted.
    pub(super) fn lasted(&self) -> Duration {
        self.since.elapsed()
    }
}

/// A duration as the log tells it: nobody reads milliseconds beside minutes.
pub(super) fn told(duration: Duration) -> String {
    format_duration(if duration < Duration::from_secs(10) {
        duration
    } else {
        Duration::from_secs(duration.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reason_is_said_once_and_then_every_minute() {
        let mut outage = None;
        assert_eq!(Outage::take(&mut outage, "refused"), Said::First);
        advance(Duration::from_secs(30)).await;
        assert_eq!(Outage::take(&mut outage, "refused"), Said::Quietly);
        assert_eq!(Outage::take(&mut outage, "no leader"), Said::Again);
        assert_eq!(Outage::take(&mut outage, "no leader"), Said::Quietly);
        advance(REMIND_EVERY).await;
        assert_eq!(Outage::take(&mut outage, "no leader"), Said::Again);
        assert_eq!(Outage::take(&mut outage, "no leader"), Said::Quietly);
        let outage = outage.unwrap();
        assert_eq!((outage.tries, outage.lasted()), (6, Duration::from_secs(90)));
    }
}
