//! What the log says of an outage: each reason once, and a word now and then that it lasts.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{connect::SlowConnect, sink::SinkFault, units::format_duration};

/// How often the log says that a sink is still down for the same reason. The tries between are said at the level of debug.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// A sink's outage, from its first fault to the next event that it takes.
pub(super) struct Outage {
    since: Instant,
    /// The fault said last, and when.
    fault: Option<(String, Instant)>,
    /// The same for the step that a connection attempt waited for. Apart, since both alternate when each attempt fails.
    step: Option<(String, Instant)>,
    tries: u64,
}

/// What is said of an outage.
#[derive(Clone, Copy)]
enum About {
    Fault,
    Step,
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
        let said = Self::take(outage, About::Fault, &fault.reason);
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

    /// Takes the fault of a connection attempt that has not ended, and says it unless it was said for the same step.
    pub(super) fn tell_slow_connect(outage: &mut Option<Self>, sink: &str, slow: &SlowConnect) {
        let SlowConnect { at, fault } = slow;
        let kind = fault.kind.label();
        match Self::take(outage, About::Step, at) {
            Said::First => warn!(sink, kind, "the sink is down: {fault}"),
            Said::Again => warn!(sink, kind, "the sink is still down: {fault}"),
            Said::Quietly => {}
        }
    }

    fn take(outage: &mut Option<Self>, about: About, reason: &str) -> Said {
        let now = Instant::now();
        let is_first = outage.is_none();
        let outage = outage.get_or_insert(Self {
            since: now,
            fault: None,
            step: None,
            tries: 0,
        });
        let said = match about {
            About::Fault => {
                outage.tries += 1;
                &mut outage.fault
            }
            About::Step => &mut outage.step,
        };
        if let Some((said, at)) = said
            && said == reason
            && *at + REMIND_EVERY > now
        {
            return Said::Quietly;
        }
        *said = Some((reason.to_owned(), now));
        if is_first { Said::First } else { Said::Again }
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
        assert_eq!(Outage::take(&mut outage, About::Fault, "refused"), Said::First);
        advance(Duration::from_secs(30)).await;
        assert_eq!(Outage::take(&mut outage, About::Fault, "refused"), Said::Quietly);
        assert_eq!(Outage::take(&mut outage, About::Fault, "no leader"), Said::Again);
        assert_eq!(
            Outage::take(&mut outage, About::Fault, "no leader"),
            Said::Quietly
        );
        advance(REMIND_EVERY).await;
        assert_eq!(Outage::take(&mut outage, About::Fault, "no leader"), Said::Again);
        assert_eq!(
            Outage::take(&mut outage, About::Fault, "no leader"),
            Said::Quietly
        );
        // A step alternates with the fault that ends its attempt.
        assert_eq!(Outage::take(&mut outage, About::Step, "dial"), Said::Again);
        assert_eq!(
            Outage::take(&mut outage, About::Fault, "no leader"),
            Said::Quietly
        );
        assert_eq!(Outage::take(&mut outage, About::Step, "dial"), Said::Quietly);
        assert_eq!(Outage::take(&mut outage, About::Step, "sign-in"), Said::Again);
        let outage = outage.unwrap();
        assert_eq!((outage.tries, outage.lasted()), (7, Duration::from_secs(90)));
    }
}
