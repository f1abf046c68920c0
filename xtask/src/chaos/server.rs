//! The brokers, and what is done to them.

use std::time::Duration;

use anyhow::{Result, bail};
use neurobridge_tests::kafka::Kafka;
use neurobridge_tests::nats::Nats;

use super::clock::Clock;
use super::schedule::{Fault, Kind};

/// Between two faults that are late.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// A broker that can be killed and frozen.
pub(super) trait Server {
    fn kill(&mut self) -> Result<()>;
    /// Waits until it answers.
    fn start_again(&mut self) -> Result<()>;
    fn freeze(&mut self) -> Result<()>;
    fn thaw(&mut self) -> Result<()>;
    /// Lets its cluster take it for dead, while it answers its clients.
    fn fence(&mut self) -> Result<()>;
    fn unfence(&mut self) -> Result<()>;
}

/// Does to a broker what is on the schedule; how often it was killed. In the end it runs.
pub(super) fn torment(server: &mut impl Server, faults: &[Fault], clock: &Clock) -> Result<u64> {
    let mut kills = 0;
    let mut previous_end = Duration::ZERO;
    for fault in faults {
        // A start that took long, as on a busy machine, delays the faults after it: between them the server still runs.
        clock.pause(fault.at.saturating_sub(previous_end).min(SHORTEST_PAUSE));
        if !clock.wait_until(fault.at) {
            break;
        }
        previous_end = fault.at + fault.lasts;
        match fault.kind {
            Kind::Kill => {
                server.kill()?;
                kills += 1;
                clock.say(fault.victim, "is killed")?;
                clock.pause(fault.lasts);
                server.start_again()?;
            }
            Kind::Fence => {
                server.fence()?;
                clock.say(fault.victim, "is fenced")?;
                clock.pause(fault.lasts);
                server.unfence()?;
            }
            Kind::Freeze | Kind::Cut | Kind::Fill => {
                server.freeze()?;
                clock.say(fault.victim, "is frozen")?;
                clock.pause(fault.lasts);
                server.thaw()?;
            }
        }
        clock.say(fault.victim, "is there again")?;
    }
    Ok(kills)
}

impl Server for Kafka {
    fn kill(&mut self) -> Result<()> {
        Self::kill(self)
    }

    fn start_again(&mut self) -> Result<()> {
        Self::start_again(self)
    }

    fn freeze(&mut self) -> Result<()> {
        Self::freeze(self)
    }

    fn thaw(&mut self) -> Result<()> {
        Self::thaw(self)
    }

    fn fence(&mut self) -> Result<()> {
        Self::fence(self)
    }

    fn unfence(&mut self) -> Result<()> {
        Self::unfence(self)
    }
}

impl Server for Nats {
    fn kill(&mut self) -> Result<()> {
        Self::kill(self)
    }

    fn start_again(&mut self) -> Result<()> {
        Self::start_again(self)
    }

    fn freeze(&mut self) -> Result<()> {
        Self::freeze(self)
    }

    fn thaw(&mut self) -> Result<()> {
        Self::thaw(self)
    }

    fn fence(&mut self) -> Result<()> {
        bail!("NATS has no controller that could fence it")
    }

    fn unfence(&mut self) -> Result<()> {
        bail!("NATS has no controller that could fence it")
    }
}
