//! The rules of a lease in NATS, without I/O: when a member takes, renews, releases and loses the lease.
//!
//! A member that does not lead measures by its own monotonic clock for how long the lease has not changed. Only after the
//! whole ttl of the lease may this member write its own lease, and the write succeeds only if the stored value is still the
//! one that was read. The leader counts the ttl from the instant *before* it sent a renewal, and stops earlier by a margin.
//! So the leader stops before another member can lead, whatever the delays of requests and answers are, and no two clocks are
//! ever compared.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    record::{Identity, LeaseRecord},
    role::Leadership,
};

/// A leader stops publishing this part of the ttl (a fifth) before the lease ends, because clocks differ in speed and the last
/// messages take time to arrive.
const MARGIN: u32 = 5;
/// The number of renewals within the ttl.
const RENEWALS: u32 = 5;
/// A member takes the lease of a silent leader with another configuration only after this many ttls, so that a member with the
/// configuration of the leader takes it first.
const OTHER_CONFIGURATION: u32 = 3;

/// The value of the lease's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// No value, or a deleted one.
    Nothing,
    Lease(LeaseRecord),
    /// A value that is no lease of neurobridge; contains its description.
    Foreign(String),
}

/// The stored value with the revision under which a write replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) revision: u64,
    pub(crate) stored: Stored,
}

/// The next step of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Reads the lease.
    Read,
    /// Waits until an instant, or until the lease changes.
    Wait(Instant),
    /// Writes the lease, under the condition that its revision is the expected one.
    Write { expected: u64, record: LeaseRecord },
}

/// Why the member must not lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The key of the lease has a value that is no lease of neurobridge; contains its description.
    Foreign(String),
    /// The leader has another configuration; contains the name of the leader.
    OtherConfiguration(String),
}

/// The state of the lease as one member knows it.
#[derive(Debug)]
pub(crate) struct Machine {
    me: Identity,
    ttl: Duration,
    seen: Option<Seen>,
    held: Option<Held>,
    /// The member does not take the lease before this instant, unless another member has held it since.
    rests_until: Option<Instant>,
    is_resigning: bool,
    may_lead: bool,
    must_read: bool,
    highest_term: u64,
    renewals: u64,
}

#[derive(Debug)]
struct Seen {
    entry: Entry,
    /// The first time at which this value was seen.
    since: Instant,
    /// The last time at which it was read.
    read: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    leadership: Leadership,
    renew_at: Instant,
}

impl Machine {
    pub(crate) const fn new(me: Identity, ttl: Duration) -> Self {
        Self {
            me,
            ttl,
            seen: None,
            held: None,
            rests_until: None,
            is_resigning: false,
            may_lead: false,
            must_read: true,
            highest_term: 0,
            renewals: 0,
        }
    }

    /// Returns the interval of renewals, which is also that of reads.
    pub(crate) fn interval(&self) -> Duration {
        self.ttl / RENEWALS
    }

    /// Returns the leadership, if it is valid and the lease is not being released.
    pub(crate) fn leadership(&self, now: Instant) -> Option<Leadership> {
        let held = self.held.filter(|_| !self.is_resigning && self.may_lead)?;
        Some(held.leadership).filter(|leadership| now < leadership.valid_until)
    }

    /// Records the value of the lease. `now`: an instant after the answer.
    pub(crate) fn observe(&mut self, entry: Entry, now: Instant) {
        if let Stored::Lease(record) = &entry.stored {
            self.highest_term = self.highest_term.max(record.term);
            // Another member has taken the lease that this member released. Once the other member releases it too, this
            // member must not wait.
            if !record.released && record.instance != self.me.instance {
                self.rests_until = None;
            }
            // A process that has just started did not receive the events before its start. So the current followers may take a
            // released lease first, even if the notice of the release reaches them late.
            if record.released && self.seen.is_none() {
                self.rests_until = Some(now + self.interval());
            }
        }
        if self.held.is_some() && !self.is_held_by(&entry) {
            self.held = None;
        }
        self.must_read = false;
        match &mut self.seen {
            Some(seen) if seen.entry == entry => seen.read = now,
            seen => {
                *seen = Some(Seen {
                    entry,
                    since: now,
                    read: now,
                });
            }
        }
    }

    /// Returns the next step.
    pub(crate) fn next(&mut self, now: Instant) -> Step {
        if self.held.is_some_and(|held| now >= held.leadership.valid_until) {
            self.held = None;
        }
        let Some(seen) = self.seen.as_ref().filter(|_| !self.must_read) else {
            return Step::Read;
        };
        let next_read = seen.read + self.interval();
        // A stored lease of this process is released even without a known leadership: the answer to its renewal may have been
        // lost.
        if self.is_resigning && (self.held.is_some() || self.is_own(&seen.entry)) {
            return self.write(self.highest_term);
        }
        self.is_resigning = false;
        if let Some(held) = self.held.filter(|_| self.may_lead) {
            return if now < held.renew_at {
                Step::Wait(held.renew_at)
            } else {
                self.write(held.leadership.term)
            };
        }
        if now >= next_read {
            return Step::Read;
        }
        let free_at = self.free_at().filter(|_| self.may_lead);
        let free_at = free_at.map(|free_at| self.rests_until.map_or(free_at, |rest| free_at.max(rest)));
        match free_at {
            // A deleted lease has no term. Its revision is at least the term of each earlier lease, so the new term is larger.
            Some(free_at) if now >= free_at => self.write(self.highest_term.max(seen.entry.revision) + 1),
            Some(free_at) => Step::Wait(free_at.min(next_read)),
            None => Step::Wait(next_read),
        }
    }

    /// Records an accepted write. `sent`: an instant before the request.
    pub(crate) fn written(&mut self, record: LeaseRecord, revision: u64, sent: Instant, now: Instant) {
        self.highest_term = self.highest_term.max(record.term);
        self.held = (!record.released).then(|| Held {
            leadership: Leadership {
                term: record.term,
                valid_until: sent + self.ttl - self.ttl / MARGIN,
            },
            renew_at: sent + self.interval(),
        });
        if record.released {
            self.is_resigning = false;
        }
        let entry = Entry {
            revision,
            stored: Stored::Lease(record),
        };
        self.must_read = false;
        self.seen = Some(Seen {
            entry,
            since: now,
            read: now,
        });
    }

    /// Renews the lease with the next step, if it is held.
    pub(crate) fn renew_next(&mut self) {
        if let Some(held) = &mut self.held {
            held.renew_at = Instant::now();
        }
    }

    /// Makes the next step a read: the lease may have changed, a write was rejected, or its result is unknown.
    pub(crate) const fn read_next(&mut self) {
        self.must_read = true;
    }

    /// Sets whether the member may take or renew the lease.
    pub(crate) const fn allow(&mut self, may_lead: bool) {
        self.may_lead = may_lead;
    }

    /// Releases the lease with the next write, and does not take it again before `rests_until`.
    pub(crate) const fn resign(&mut self, rests_until: Instant) {
        self.is_resigning = true;
        self.rests_until = Some(rests_until);
    }

    /// Ends the rest after a hand-over.
    pub(crate) const fn end_rest(&mut self) {
        self.rests_until = None;
    }

    /// Returns whether the lease still has to be released.
    pub(crate) const fn is_resigning(&self) -> bool {
        self.is_resigning
    }

    /// Returns the reason why the member must not lead, if there is one.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match &self.seen.as_ref()?.entry.stored {
            Stored::Foreign(found) => Some(Refusal::Foreign(found.clone())),
            Stored::Lease(record) if self.is_of_other_configuration(record) => {
                Some(Refusal::OtherConfiguration(record.member.clone()))
            }
            _ => None,
        }
    }

    /// Returns the instant from which on the lease may be taken; `None` if it must not be taken.
    fn free_at(&self) -> Option<Instant> {
        let seen = self.seen.as_ref()?;
        match &seen.entry.stored {
            Stored::Foreign(_) => None,
            // The last holder of a deleted lease is unknown, and may still lead.
            Stored::Nothing => Some(seen.since + self.ttl),
            Stored::Lease(record) if record.released || self.is_own(&seen.entry) => Some(seen.since),
            Stored::Lease(record) => {
                let ttl = record.ttl().max(self.ttl);
                let times = if self.is_of_other_configuration(record) {
                    OTHER_CONFIGURATION
                } else {
                    1
                };
                Some(seen.since + ttl * times)
            }
        }
    }

    fn write(&mut self, term: u64) -> Step {
        self.renewals += 1;
        let mut record = LeaseRecord::new(&self.me, term, self.ttl, self.renewals);
        record.released = self.is_resigning;
        Step::Write {
            expected: self.seen.as_ref().map_or(0, |seen| seen.entry.revision),
            record,
        }
    }

    fn is_own(&self, entry: &Entry) -> bool {
        matches!(&entry.stored, Stored::Lease(record) if record.instance == self.me.instance && !record.released)
    }

    /// Returns whether a value is the held lease, or a renewal of it whose answer was lost.
    fn is_held_by(&self, entry: &Entry) -> bool {
        let Stored::Lease(record) = &entry.stored else {
            return false;
        };
        self.is_own(entry) && self.held.is_some_and(|held| held.leadership.term == record.term)
    }

    fn is_of_other_configuration(&self, record: &LeaseRecord) -> bool {
        !record.released && record.instance != self.me.instance && record.config != self.me.config
    }
}
