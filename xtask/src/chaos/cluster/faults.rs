//! Injects the faults of members. A fault waits for a member with the required role, and until another member has
//! received every event that the first member has not published.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;

use super::super::clock::Clock;
use super::super::schedule::{Fault, Kind, Link, Victim};
use super::feeds::Feeds;
use super::member::{Member, lock};
use super::status::Role;
use super::takeovers::{Injected, Target};

/// The shortest pause between two faults of a lane.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest wait until a fault may begin; afterwards it is omitted.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// The interval at which a waiting fault is considered again.
const INTERVAL: Duration = Duration::from_millis(100);

/// The faults that were injected.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Vec<Injected>>);

impl Journal {
    /// Returns the time in milliseconds since 1970.
    pub(super) fn now() -> i64 {
        Timestamp::now().as_millisecond()
    }

    /// Adds a fault that has just ended.
    pub(super) fn add(&self, target: Target, kind: Kind, began: i64) {
        lock(&self.0).push(Injected {
            target,
            kind,
            began,
            ended: Self::now(),
        });
    }

    pub(super) fn into_faults(self) -> Vec<Injected> {
        self.0.into_inner().unwrap_or_default()
    }
}

/// The members and their observed state, which all threads of a run share.
pub(super) struct Cluster<'a> {
    pub(super) members: &'a [Member],
    pub(super) feeds: &'a Mutex<Feeds>,
    pub(super) journal: &'a Journal,
    pub(super) clock: &'a Clock,
}

impl Cluster<'_> {
    /// Requests the status of a member, and logs changes of its role.
    pub(super) fn observe(&self, member: usize) -> Result<()> {
        let Some(observation) = self.members[member].observe()? else {
            return Ok(());
        };
        lock(self.feeds).observe(member, observation.is_connected, self.clock.now());
        match observation.change {
            Some(membership) => self.log(Victim::Bridge, member, &membership.to_string()),
            None => Ok(()),
        }
    }

    /// Injects the faults of a lane one after the other. A fault that is delayed delays the following ones.
    pub(super) fn inject(&self, faults: &[Fault]) -> Result<()> {
        for (number, fault) in faults.iter().enumerate() {
            self.clock.pause(SHORTEST_PAUSE);
            if !self.clock.wait_until(fault.at) || self.clock.has_ended() {
                return Ok(());
            }
            let Some(member) = self.await_victim(fault, number)? else {
                continue;
            };
            let began = Journal::now();
            self.inject_into(member, fault)?;
            if interrupts_feed(fault.kind) {
                lock(self.feeds).restore(member);
            }
            self.journal.add(Target::Member(member), fault.kind, began);
            match fault.kind {
                Kind::CutFrom(link) => {
                    self.log(fault.victim, member, &format!("connected to {link} again"))?
                }
                _ => self.log(fault.victim, member, "available again")?,
            }
        }
        Ok(())
    }

    /// Waits until there is a member that the fault concerns, and the fault may begin. Returns `None` if the run ends, or after
    /// [`BEGIN_LIMIT`].
    fn await_victim(&self, fault: &Fault, number: usize) -> Result<Option<usize>> {
        let deadline = Instant::now() + BEGIN_LIMIT;
        loop {
            let reason = match self.try_begin(fault, number) {
                Ok(member) => return Ok(Some(member)),
                Err(reason) => reason,
            };
            if self.clock.has_stopped() || self.clock.has_ended() {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                self.clock.log(
                    fault.victim,
                    &format!("fault omitted ({:?}): {reason}", fault.kind),
                )?;
                return Ok(None);
            }
            self.clock.pause(INTERVAL);
        }
    }

    /// Returns the member if the fault may begin now, otherwise the reason.
    fn try_begin(&self, fault: &Fault, number: usize) -> Result<usize, &'static str> {
        let role = if fault.victim == Victim::Leader {
            Role::Leader
        } else {
            Role::Follower
        };
        let count = self.members.len();
        let mut reason = "no member has this role";
        // Different followers of a large cluster take turns.
        for member in (0..count).map(|member| (member + number) % count) {
            let Some(latest) = self.members[member].latest() else {
                continue;
            };
            if latest.membership.role != role {
                continue;
            }
            let (mut feeds, now) = (lock(self.feeds), self.clock.now());
            let begun = match fault.kind {
                Kind::CutFrom(Link::Kafka) => Ok(()),
                // The member stays connected to the feed, but may lose the leadership.
                Kind::CutFrom(Link::Nats) => feeds.check(member, now, latest.lag),
                _ => feeds.interrupt(member, now, latest.lag),
            };
            match begun {
                Ok(()) => return Ok(member),
                Err(refused) => reason = refused,
            }
        }
        Err(reason)
    }

    fn inject_into(&self, member: usize, fault: &Fault) -> Result<()> {
        let Member { links, .. } = &self.members[member];
        let begun = |what: &str| {
            self.log(fault.victim, member, what)?;
            self.clock.pause(fault.lasts);
            Ok(())
        };
        let process = &self.members[member];
        match fault.kind {
            Kind::CutFrom(link) => {
                links.cut(link);
                let paused = begun(&format!("cut from {link}"));
                links.restore(link);
                paused
            }
            Kind::Freeze => process.disturb(|bridge| {
                bridge.process().freeze()?;
                begun("frozen (SIGSTOP)")?;
                // The process must not continue on a connection with a backlog. The platform may close that connection at any
                // time and discard its events, and another member may miss the same events by its own next fault.
                links.cut(Link::Feed);
                links.restore(Link::Feed);
                bridge.process().thaw()
            }),
            Kind::Terminate => process.disturb(|bridge| {
                self.log(fault.victim, member, "SIGTERM")?;
                Member::terminate(bridge)?;
                begun("stopped")?;
                bridge.start_again()
            }),
            _ => process.disturb(|bridge| {
                bridge.process().kill()?;
                begun("kill -9")?;
                bridge.start_again()
            }),
        }
    }

    fn log(&self, victim: Victim, member: usize, what: &str) -> Result<()> {
        self.clock
            .log(victim, &format!("{}: {what}", self.members[member].name))
    }
}

/// Returns the number of injected faults by kind.
pub(super) fn summary(faults: &[Injected]) -> String {
    let mut kinds: Vec<String> = faults
        .iter()
        .map(|fault| {
            let of = match fault.target {
                Target::Member(_) => "members".to_owned(),
                Target::Broker(link) => link.to_string(),
            };
            format!("{:?} of {of}", fault.kind)
        })
        .collect();
    kinds.sort_unstable();
    let counted: Vec<String> = kinds
        .chunk_by(|one, other| one == other)
        .map(|alike| format!("{} {}", alike.len(), alike[0]))
        .collect();
    format!("faults: {}", counted.join(", "))
}

/// Returns whether the member receives no events during the fault.
fn interrupts_feed(kind: Kind) -> bool {
    !matches!(kind, Kind::CutFrom(Link::Kafka | Link::Nats))
}
