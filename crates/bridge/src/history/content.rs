//! The content of the history, bounded: entries, gaps, and the last proof of life of each source.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};
use neurobridge_listener::{DisconnectReason, Label};
use serde::{Deserialize, Serialize};

use super::entry::Entry;
use crate::gaps::{FILLING, Gap, OPEN, ProofOfLife, seconds_between};

/// The largest number of entries. About 300 bytes each.
pub(super) const MAX_ENTRIES: usize = 1000;
/// The largest number of gaps. About 200 bytes each.
pub(super) const MAX_GAPS: usize = 1000;
/// The time within which the same change counts as a repeat.
const REPEAT_PERIOD: SignedDuration = SignedDuration::from_hours(1);
/// The number of repeats that are entries of their own. Later ones are merged into the newest entry.
const MAX_SEPARATE_REPEATS: usize = 3;

/// The largest time by which the last proof of life before a gap may be later than the start of the gap: a proof of life has the
/// time at which a batch was counted, a gap starts when the last byte of that batch was read. With a larger difference, the event
/// of the proof of life may have followed the gap: another connection was authenticated before the loss was detected.
const ALIVE_AFTER_START: SignedDuration = SignedDuration::from_millis(200);

/// One line of the file. A later line replaces an earlier one with the same id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first line: the version of the format, and the next id.
    History {
        version: u32,
        next: u64,
    },
    Entry(Entry),
    Gap(Gap),
    /// The gap with this id was merged into another one.
    Merged(u64),
    /// The last proof of life of each source.
    Alive(BTreeMap<String, ProofOfLife>),
    /// The bridge was stopped in an orderly way.
    Stopped(Timestamp),
}

/// The content of the history.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HistoryContent {
    /// The next id of an entry or a gap.
    pub(super) next: u64,
    /// The entries by id.
    pub(super) entries: BTreeMap<u64, Entry>,
    /// The gaps by id.
    pub(super) gaps: BTreeMap<u64, Gap>,
    /// The last proof of life of each source.
    pub(super) alive: BTreeMap<String, ProofOfLife>,
    /// The time of the orderly stop, unless a run began after it.
    pub(super) stopped: Option<Timestamp>,
    /// The lines that are not in the file yet.
    pub(super) unwritten: Vec<Line>,
}

impl HistoryContent {
    /// Applies a line of the file.
    pub(super) fn apply(&mut self, line: Line) {
        match line {
            Line::History { next, .. } => self.next = self.next.max(next),
            Line::Entry(entry) => {
                self.next = self.next.max(entry.id.saturating_add(1));
                self.entries.insert(entry.id, entry);
            }
            Line::Gap(gap) => {
                self.next = self.next.max(gap.id.saturating_add(1));
                self.gaps.insert(gap.id, gap);
            }
            Line::Merged(id) => drop(self.gaps.remove(&id)),
            Line::Alive(alive) => self.alive = alive,
            Line::Stopped(at) => self.stopped = Some(at),
        }
    }

    /// Returns the lines of a file with all of the content.
    pub(super) fn lines(&self, version: u32) -> Vec<Line> {
        let next = self.next;
        let mut lines = vec![Line::History { version, next }];
        lines.extend(self.gaps.values().cloned().map(Line::Gap));
        lines.extend(self.entries.values().cloned().map(Line::Entry));
        lines.push(Line::Alive(self.alive.clone()));
        lines.extend(self.stopped.map(Line::Stopped));
        lines
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        id
    }

    /// Adds a change, or merges it into a recent repeat.
    pub(super) fn add(&mut self, mut entry: Entry) {
        let mut recent = self.entries.values().rev().filter(|other| {
            other.is_repeat_of(&entry) && entry.at.duration_since(other.newest()).abs() <= REPEAT_PERIOD
        });
        let newest = recent.next().map(|other| other.id);
        let is_merged = recent.count() + 1 >= MAX_SEPARATE_REPEATS;
        let id = match newest.and_then(|id| self.entries.get_mut(&id)) {
            Some(newest) if is_merged => {
                newest.merge(entry);
                newest.id
            }
            _ => {
                entry.id = self.take_id();
                let id = entry.id;
                self.entries.insert(id, entry);
                id
            }
        };
        self.unwritten
            .extend(self.entries.get(&id).cloned().map(Line::Entry));
        self.limit_entries();
    }

    /// Removes the oldest entry of the most frequent kind, so that no kind displaces the others.
    pub(super) fn limit_entries(&mut self) {
        while self.entries.len() > MAX_ENTRIES {
            let frequency = |entry: &Entry| {
                self.entries
                    .values()
                    .filter(|other| other.has_same_kind_and_part(entry))
                    .count()
            };
            let mut kinds: Vec<&Entry> = Vec::new();
            for entry in self.entries.values() {
                if !kinds.iter().any(|kind| kind.has_same_kind_and_part(entry)) {
                    kinds.push(entry);
                }
            }
            // The first entry of each kind is its oldest one.
            let Some(oldest) = kinds
                .into_iter()
                .max_by_key(|entry| frequency(entry))
                .map(|entry| entry.id)
            else {
                return;
            };
            self.entries.remove(&oldest);
        }
    }

    /// Returns the open gap of a source.
    pub(super) fn open_gap(&self, source: &str) -> Option<&Gap> {
        self.gaps
            .values()
            .rev()
            .find(|gap| gap.is_open() && gap.source == source)
    }

    /// Opens a gap. If the source has an open gap already, only a refused token replaces its cause.
    pub(super) fn begin_gap(&mut self, source: &str, began: Timestamp, reason: impl Into<Cow<'static, str>>) {
        let reason = reason.into();
        if let Some(id) = self.open_gap(source).map(|gap| gap.id) {
            if reason == DisconnectReason::TokenRefused.as_str()
                && let Some(gap) = self.gaps.get_mut(&id).filter(|gap| gap.reason != reason)
            {
                gap.reason = reason;
                self.unwritten.push(Line::Gap(gap.clone()));
            }
            return;
        }
        let gap = Gap {
            id: self.take_id(),
            source: source.to_owned(),
            began,
            ended: None,
            reason,
            outcome: Cow::Borrowed(OPEN),
            seconds: 0.0,
            gaps: 1,
            fetched: 0,
            next_event: None,
            last_event: self.alive.get(source).and_then(|alive| {
                let is_before = alive.at.duration_since(began) <= ALIVE_AFTER_START;
                alive.event.clone().filter(|_| is_before)
            }),
        };
        self.unwritten.push(Line::Gap(gap.clone()));
        self.gaps.insert(gap.id, gap);
    }

    /// Closes the open gap of a source. Returns the gap.
    pub(super) fn end_gap(&mut self, source: &str, ended: Timestamp, outcome: &'static str) -> Option<Gap> {
        let id = self.open_gap(source)?.id;
        let gap = self.gaps.get_mut(&id)?;
        // The clock may have been set back.
        let ended = ended.max(gap.began);
        gap.ended = Some(ended);
        gap.seconds = seconds_between(gap.began, ended);
        gap.outcome = Cow::Borrowed(outcome);
        let gap = gap.clone();
        self.unwritten.push(Line::Gap(gap.clone()));
        self.limit_gaps();
        Some(gap)
    }

    /// Sets the event of the feed up to which the events of a gap are fetched.
    pub(super) fn set_next_event(&mut self, id: u64, event: String) {
        if let Some(gap) = self.gaps.get_mut(&id).filter(|gap| gap.outcome == FILLING) {
            gap.next_event = Some(event);
            self.unwritten.push(Line::Gap(gap.clone()));
        }
    }

    /// Sets the final outcome of a gap whose events were to be fetched. Returns `None` if the gap has a final outcome already,
    /// was removed, or was extended by a later gap, whose events are still to be fetched.
    pub(super) fn fill_gap(&mut self, filled: &Gap, outcome: &'static str, fetched: u64) -> Option<&Gap> {
        let is_same = |gap: &&mut Gap| gap.outcome == FILLING && gap.ended == filled.ended;
        let gap = self.gaps.get_mut(&filled.id).filter(is_same)?;
        gap.outcome = Cow::Borrowed(outcome);
        gap.fetched = fetched;
        self.unwritten.push(Line::Gap(gap.clone()));
        Some(gap)
    }

    /// Merges gaps while there are too many: the two closest ones with the same source, reason and outcome, so that counts and
    /// durations stay.
    pub(super) fn limit_gaps(&mut self) {
        while self.gaps.len() > MAX_GAPS {
            let mut last: BTreeMap<(&str, &str, &str), &Gap> = BTreeMap::new();
            let mut closest: Option<(f64, u64, u64)> = None;
            for gap in self.gaps.values().filter(|gap| !gap.is_open()) {
                let key = (&*gap.source, &*gap.reason, &*gap.outcome);
                if let Some(before) = last.insert(key, gap) {
                    let distance = seconds_between(before.ended.unwrap_or(before.began), gap.began);
                    if closest.is_none_or(|(least, ..)| distance < least) {
                        closest = Some((distance, before.id, gap.id));
                    }
                }
            }
            let Some((_, first, second)) = closest else {
                // No two closed gaps have the same source, reason and outcome: possible only with very many sources.
                self.gaps.pop_first();
                continue;
            };
            let Some(merged) = self.gaps.remove(&second) else {
                return;
            };
            self.unwritten.push(Line::Merged(second));
            if let Some(gap) = self.gaps.get_mut(&first) {
                gap.ended = merged.ended;
                gap.next_event = merged.next_event;
                gap.seconds += merged.seconds;
                gap.gaps = gap.gaps.saturating_add(merged.gaps);
                gap.fetched = gap.fetched.saturating_add(merged.fetched);
                self.unwritten.push(Line::Gap(gap.clone()));
            }
        }
    }

    /// Returns the entries, the newest first.
    pub(crate) fn newest_entries(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.entries.values().rev().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.newest()));
        entries
    }

    /// Returns the gaps, the newest first.
    pub(crate) fn newest_gaps(&self) -> impl Iterator<Item = &Gap> {
        self.gaps.values().rev()
    }
}
