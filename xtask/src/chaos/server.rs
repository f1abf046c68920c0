//! Applies the scheduled faults to a broker: kills, freezes and fences.

use std::time::Duration;

use anyhow::{Result, bail};
use neurobridge_tests::kafka::Kafka;
use neurobridge_tests::nats::Nats;

use super::clock::Clock;
use super::schedule::{Fault, Kind};

/// The shortest pause between two delayed faults.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// A broker that can be killed and frozen.
pub(super) trait Server {
    fn kill(&mut self) -> Result<()>;
    /// Restarts the broker and waits until it answers.
    fn start_again(&mut self) -> Result<()>;
    fn freeze(&mut self) -> Result<()>;
    fn thaw(&mut self) -> Result<()>;
    /// Makes the cluster consider the broker dead, while the broker still answers its clients.
    fn fence(&mut self) -> Result<()>;
    fn unfence(&mut self) -> Result<()>;
}

/// Applies the scheduled faults to a broker and returns the number of kills. The broker runs at the end.
pub(super) fn apply_faults(server: &mut impl Server, faults: &[Fault], clock: &Clock) -> Result<u64> {
    let mut kills = 0;
    let mut previous_end = Duration::ZERO;
    for fault in faults {
        // After a slow start of the broker, as on a busy machine, the next fault is late. The pause lets the broker
        // run between the two faults.
        clock.pause(fault.at.saturating_sub(previous_end).min(SHORTEST_PAUSE));
        if !clock.wait_until(fault.at) {
            break;
        }
        previous_end = fault.at + fault.lasts;
        match fault.kind {
            Kind::Kill => {
                server.kill()?;
                kills += 1;
                clock.log(fault.victim, "killed")?;
                clock.pause(fault.lasts);
                server.start_again()?;
            }
            Kind::Fence => {
                server.fence()?;
                clock.log(fault.victim, "fenced")?;
                clock.pause(fault.lasts);
                server.unfence()?;
            }
            _ => {
                server.freeze()?;
                clock.log(fault.victim, "frozen")?;
                clock.pause(fault.lasts);
                server.thaw()?;
            }
        }
        clock.log(fault.victim, "available again")?;
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
        bail!("NATS cannot be fenced: it has no controller")
    }

    fn unfence(&mut self) -> Result<()> {
        bail!("NATS cannot be fenced: it has no controller")
    }
}
