//! Derives the entries of the history by comparing successive views of the parts of the bridge.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use neurobridge_core::{
    delivery::{ProgressSnapshot, SinkState},
    units::format_duration,
};
use neurobridge_listener::{Label, SourceState};
use neurobridge_spool::SpoolStatus;
use tracing::warn;

use super::{
    condition::Condition,
    content::{HistoryContent, MAX_GAPS},
    entry::{self, Entry, Kind, dead_letters, disconnected},
    entry_limiter::EntryLimiter,
    facts::SourceFacts,
    pause::Pause,
};
use crate::gaps::{CRASH, FILLING, Gap, GapSum, ProofOfLife, RECOVERED, RESTART, TAKEOVER, UNRECOVERED};

/// The time for which another condition of the spool lasts before it is recorded, because a spool at its limit alternates
/// between full and not full.
const STEADY_TIME: SignedDuration = SignedDuration::from_secs(1);

/// The last observed state of the parts of the bridge.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) pause: Pause,
    pub(super) sources: BTreeMap<String, SourceWatch>,
    sinks: BTreeMap<String, SinkWatch>,
    spool: SpoolWatch,
    /// Limits the entries about dropped events. `None` before the first view, since the spool may count events of earlier runs.
    dropped: Option<EntryLimiter>,
}

#[derive(Debug, Default)]
pub(super) struct SourceWatch {
    pub(super) has_connected: bool,
    /// The number of ended gaps in the last view.
    gaps_seen: u64,
    pub(super) reported: Reported,
    /// A proof of life that counts once the events before it are stored, with the number of events received until then.
    pub(super) candidate: Option<(ProofOfLife, u64)>,
    dead_letters: EntryLimiter,
    /// Gaps that ended in this run.
    ended: GapSum,
    /// The gaps that ended in this run and whose events are missed.
    lost: GapSum,
    /// The gaps that are being filled and have no next event yet, each with the last event at its end.
    without_next: Vec<(u64, Option<String>)>,
}

/// The last entry of the history about the current outage of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub(super) enum Reported {
    #[default]
    Nothing,
    Disconnected,
    Refused,
}

#[derive(Debug, Default)]
struct SinkWatch {
    /// The number of the delivery. A reload that changes the sink starts a delivery with another number.
    delivery: u64,
    changes: u64,
    is_stopped: bool,
    recreations: u64,
    file_changes: u64,
    lost_from_file: u64,
    /// The start of the outage.
    down_since: Option<Timestamp>,
    dead_letters: EntryLimiter,
}

#[derive(Debug, Default)]
struct SpoolWatch {
    /// The condition that the history contains.
    recorded: Condition,
    /// The start of the recorded condition.
    since: Option<Timestamp>,
    /// A new condition that is not recorded yet, and its start.
    changing: Option<(Condition, Timestamp)>,
}

impl Watch {
    /// Opens a gap for each source from which an earlier run received events. Ends the gaps of sources that are no longer
    /// configured.
    pub(super) fn begin(content: &mut HistoryContent, sources: &[(&str, bool)], now: Timestamp) {
        let reason = Self::end_earlier_run(content, sources, now);
        for (source, _) in sources {
            if let Some(alive) = content.alive.get(*source) {
                // The clock may have been set back meanwhile.
                let began = alive.at.min(now);
                content.begin_gap(source, began, reason);
            }
        }
    }

    /// Ends the gaps of sources that are no longer configured, and sets the event up to which the gaps of an earlier run are
    /// still to be filled. Returns the reason of the gap since that run.
    pub(super) fn end_earlier_run(
        content: &mut HistoryContent,
        sources: &[(&str, bool)],
        now: Timestamp,
    ) -> &'static str {
        let reason = if content.stopped.take().is_some() {
            RESTART
        } else {
            CRASH
        };
        let is_configured = |source: &str| sources.iter().any(|(name, _)| *name == source);
        let gone: Vec<String> = content
            .gaps
            .values()
            .filter(|gap| gap.is_open() && !is_configured(&gap.source))
            .map(|gap| gap.source.clone())
            .collect();
        for source in gone {
            content.end_gap(&source, now, UNRECOVERED);
        }
        let unfilled: Vec<Gap> = content
            .gaps
            .values()
            .filter(|gap| gap.outcome == FILLING && !sources.contains(&(&*gap.source, true)))
            .cloned()
            .collect();
        for gap in unfilled {
            content.fill_gap(&gap, UNRECOVERED, 0);
        }
        content.alive.retain(|source, _| is_configured(source));
        // The last event that an earlier run received is the next event, if it is not the last event before the gap.
        let next_events: Vec<(u64, String)> = content
            .gaps
            .values()
            .filter(|gap| gap.outcome == FILLING && gap.next_event.is_none())
            .filter_map(|gap| {
                Some((
                    gap.id,
                    content.alive.get(&gap.source)?.event.clone()?,
                    gap.last_event.clone()?,
                ))
            })
            .filter(|(_, event, before)| event != before)
            .map(|(id, event, _)| (id, event))
            .collect();
        for (id, event) in next_events {
            content.set_next_event(id, event);
        }
        reason
    }

    /// Records that the process runs. Called before each comparison of views.
    pub(super) fn tick(&mut self, now: Timestamp) {
        self.pause.tick(now);
    }

    /// Compares a source with its state in the last view.
    pub(super) fn observe_source(
        &mut self,
        source: &SourceFacts,
        content: &mut HistoryContent,
        now: Timestamp,
    ) {
        let name = &*source.name;
        let watch = self.sources.entry(source.name.clone()).or_default();
        if let Some(at) = source.first_authenticated
            && !std::mem::replace(&mut watch.has_connected, true)
        {
            watch.reported = Reported::Nothing;
            let outcome = if source.first_resumed {
                RECOVERED
            } else {
                source.outcome(UNRECOVERED)
            };
            match content.end_gap(name, at, outcome) {
                Some(gap) => watch.gap_ended(&gap, source, content, true),
                None => content.add(Entry::new(Kind::SourceConnected, at, "authenticated").of_source(name)),
            }
        }
        let ended = source.gaps.saturating_sub(watch.gaps_seen);
        watch.gaps_seen = source.gaps;
        let ended = usize::try_from(ended).unwrap_or(usize::MAX);
        for (began, length, reason, outcome) in source.newest_gaps.iter().take(ended).rev() {
            if watch.reported == Reported::Nothing {
                // The gap is shorter than the interval of the views, so no view has shown the lost connection.
                content.add(disconnected(name, *began, reason, None));
            }
            watch.reported = Reported::Nothing;
            content.begin_gap(name, self.pause.start_of_gap(*began), *reason);
            if let Some(gap) = content.end_gap(
                name,
                entry::saturating_add(*began, *length),
                source.outcome(outcome),
            ) {
                watch.gap_ended(&gap, source, content, false);
            }
        }
        if let Some((began, reason)) = source.open_gap {
            content.begin_gap(name, self.pause.start_of_gap(began), reason);
        }
        watch.set_next_events(source, content);
        watch.report_outage(source, content);
        watch.update_proof_of_life(source, content);
        if let Some(count) = watch.dead_letters.report(source.dead_letters, now) {
            let reason = source.newest_dead_letter.unwrap_or("unknown");
            content.add(dead_letters(count, reason, now).of_source(name));
        }
    }

    /// Compares a sink with its state in the last view.
    pub(super) fn observe_sink(
        &mut self,
        name: &str,
        sink: &ProgressSnapshot,
        content: &mut HistoryContent,
        now: Timestamp,
    ) {
        let watch = self.sinks.entry(name.to_owned()).or_default();
        for change in sink.changes.after(watch.changes) {
            let reason = change.reason.as_deref().unwrap_or("no reason is known");
            match change.state {
                SinkState::Down => {
                    watch.down_since.get_or_insert(change.at);
                    let text = format!("the sink is down: {reason}");
                    let mut entry = Entry::new(Kind::SinkDown, change.at, &text).of_sink(name);
                    entry.reason = change.kind.map(|kind| Cow::Borrowed(kind.as_str()));
                    content.add(entry);
                }
                SinkState::Up => {
                    let entry = match watch.down_since.take() {
                        Some(since) => Entry::new(Kind::SinkRecovered, change.at, "the sink has recovered")
                            .lasting_since(since),
                        None => Entry::new(Kind::SinkUp, change.at, "the sink is up"),
                    };
                    content.add(entry.of_sink(name));
                }
                SinkState::Connecting | SinkState::Draining => {}
            }
        }
        watch.changes = sink.changes.total();
        if sink.is_stopped && !std::mem::replace(&mut watch.is_stopped, true) {
            let reason = sink.reason.as_deref().unwrap_or("no reason is known");
            let text = format!("the sink is stopped until the bridge is restarted: {reason}");
            content.add(Entry::new(Kind::SinkStopped, now, &text).of_sink(name));
        }
        let recreations = sink.recreations.count;
        if std::mem::replace(&mut watch.recreations, recreations) < recreations {
            let text = sink
                .recreations
                .last
                .as_deref()
                .unwrap_or("the destination was recreated");
            content.add(Entry::new(Kind::DestinationRecreated, now, text).of_sink(name));
        }
        let changes = &sink.file_changes;
        let lost = changes
            .lost
            .saturating_sub(std::mem::replace(&mut watch.lost_from_file, changes.lost));
        if std::mem::replace(&mut watch.file_changes, changes.count) < changes.count {
            let text = changes
                .last
                .as_deref()
                .unwrap_or("another program changed the file");
            let entry = Entry::new(Kind::FileChanged, now, text).of_sink(name);
            content.add(if lost > 0 { entry.events(lost) } else { entry });
        }
        let total = sink.dead_letters.total();
        if let Some(count) = watch.dead_letters.report(total, now) {
            let reason = sink.newest_dead_letters.iter().next();
            let reason = reason.map_or("unknown", |dead_letter| dead_letter.reason);
            content.add(dead_letters(count, reason, now).of_sink(name));
        }
    }

    /// Resets the counters of a sink whose delivery was replaced, because its settings have changed.
    pub(super) fn reset_replaced_sink(&mut self, name: &str, delivery: u64) {
        let watch = self.sinks.entry(name.to_owned()).or_default();
        if watch.delivery != delivery {
            *watch = SinkWatch {
                delivery,
                ..SinkWatch::default()
            };
        }
    }

    pub(super) fn remove_source(&mut self, name: &str) {
        self.sources.remove(name);
    }

    /// Compares the spool with its state in the last view.
    pub(super) fn observe_spool(
        &mut self,
        spool: &SpoolStatus,
        content: &mut HistoryContent,
        now: Timestamp,
    ) {
        let dropped = self.dropped.get_or_insert(EntryLimiter {
            reported: spool.dropped_events,
            reported_at: None,
        });
        if let Some(events) = dropped.report(spool.dropped_events, now) {
            let text =
                "the spool is full and drops its oldest events; sinks that have not delivered them lose them";
            content.add(Entry::new(Kind::EventsDropped, now, text).events(events));
        }
        let condition = Condition::of(spool);
        let watch = &mut self.spool;
        if condition == watch.recorded {
            watch.changing = None;
            return;
        }
        let since = match watch.changing {
            Some((changing, since)) if changing == condition => since,
            _ => {
                watch.changing = Some((condition, now));
                now
            }
        };
        if condition != Condition::Failed && now.duration_since(since) < STEADY_TIME {
            return;
        }
        let (kind, text) = match condition {
            Condition::Full => (
                Kind::SpoolFull,
                "the spool is full; it stores no events until there is room",
            ),
            Condition::DiskFull => (
                Kind::DiskFull,
                "the disk is full; the spool stores no events until there is room",
            ),
            Condition::Retrying => (
                Kind::SpoolRetrying,
                "spool cannot write now; retrying until the system allows it",
            ),
            Condition::Failed => (
                Kind::SpoolFailed,
                "the spool has failed and accepts no more events; stored events can still be delivered",
            ),
            Condition::Fine => (
                Kind::SpoolRecovered,
                if watch.recorded == Condition::Retrying {
                    "spool can write again"
                } else {
                    "the spool has room again"
                },
            ),
        };
        let entry = Entry::new(kind, since, text);
        content.add(match (condition, watch.since) {
            (Condition::Fine, Some(began)) => entry.lasting_since(began),
            _ => entry,
        });
        watch.recorded = condition;
        watch.since = Some(since);
        watch.changing = None;
    }

    /// Counts a gap whose events could not be fetched.
    pub(super) fn count_lost_gap(&mut self, gap: &Gap) {
        let watch = self.sources.entry(gap.source.clone()).or_default();
        watch.lost.add(gap);
    }

    /// Returns the gaps of a source that ended in this run.
    pub(super) fn ended(&self, source: &str) -> GapSum {
        self.sources
            .get(source)
            .map(|watch| watch.ended)
            .unwrap_or_default()
    }

    /// Returns the gaps of a source that ended in this run and whose events are missed.
    pub(super) fn lost(&self, source: &str) -> GapSum {
        self.sources
            .get(source)
            .map(|watch| watch.lost)
            .unwrap_or_default()
    }
}

impl SourceWatch {
    /// Counts a gap that has ended, and adds the entry about it. `is_first`: the first authentication of this run has ended it.
    fn gap_ended(&mut self, gap: &Gap, source: &SourceFacts, content: &mut HistoryContent, is_first: bool) {
        if gap.outcome == FILLING {
            if self.without_next.len() == MAX_GAPS {
                self.without_next.remove(0);
            }
            self.without_next.push((gap.id, source.last_event.clone()));
        }
        self.ended.add(gap);
        if gap.outcome == UNRECOVERED {
            self.lost.add(gap);
        }
        let text = match &*gap.reason {
            _ if gap.outcome == RECOVERED => {
                "authenticated again; the feed continues after the last stored event"
            }
            _ if gap.outcome == FILLING => "authenticated again; the missed events are being fetched",
            RESTART => "authenticated; events since the stop of the bridge are missed",
            CRASH => "authenticated; events since the crash of the bridge are missed",
            TAKEOVER => "authenticated; events since the last connection of the former leader are missed",
            _ => "authenticated again; events of the gap are missed",
        };
        let ended = gap.ended.unwrap_or(gap.began);
        if is_first {
            // The listener logs the other gaps, but does not know of the earlier run.
            let length = format_duration(Duration::from_secs_f64(gap.seconds));
            warn!(source = gap.source, reason = &*gap.reason, gap = length, "{text}");
        }
        let entry = Entry::new(Kind::Gap, ended, text).of_source(&gap.source);
        content.add(entry.with_reason(gap.reason.clone()).lasting_since(gap.began));
    }

    /// Sets for each gap that is being filled the first event of the feed that is observed after the gap.
    fn set_next_events(&mut self, source: &SourceFacts, content: &mut HistoryContent) {
        self.without_next.retain(|(gap, before)| {
            let next = source
                .last_event
                .clone()
                .filter(|event| Some(event) != before.as_ref());
            let is_found = next.is_some();
            if let Some(event) = next {
                content.set_next_event(*gap, event);
            }
            !is_found
        });
    }

    /// Adds one entry about the loss of the connection, and one about the refusal of the token.
    fn report_outage(&mut self, source: &SourceFacts, content: &mut HistoryContent) {
        if source.is_connected() {
            self.reported = Reported::Nothing;
            return;
        }
        let report = match source.state {
            SourceState::Refused => Reported::Refused,
            SourceState::Waiting => Reported::Disconnected,
            // The reason of the end of the connection is not known yet.
            _ => return,
        };
        if report <= self.reported {
            return;
        }
        let label = source.open_gap.map_or("not_connected", |(_, reason)| reason);
        let reason = source.reason.as_deref();
        content.add(match (report, self.reported) {
            (Reported::Refused, _) => {
                let text = format!("not connected: {}", reason.unwrap_or("the token is refused"));
                Entry::new(Kind::SourceRefused, source.since, &text)
                    .of_source(&source.name)
                    .with_reason("token_refused")
            }
            _ => disconnected(&source.name, source.since, label, reason),
        });
        self.reported = report;
    }

    /// Records the last proof of life once all events that were received before it are stored.
    fn update_proof_of_life(&mut self, source: &SourceFacts, content: &mut HistoryContent) {
        // While another member leads, its proofs of life replace the last one of this member.
        let is_outdated = |at: Timestamp, content: &HistoryContent| {
            let known = content.alive.get(&source.name);
            source.state == SourceState::Standby && known.is_some_and(|known| at <= known.at)
        };
        let stored = source.received.saturating_sub(source.in_flight);
        if let Some((_, received)) = &self.candidate
            && stored >= *received
            && let Some((alive, _)) = self.candidate.take()
            && !is_outdated(alive.at, content)
        {
            content.alive.insert(source.name.clone(), alive);
        }
        // The last event may follow a gap that is not detected yet.
        let can_prove = self.candidate.is_none() && !source.may_hide_gap;
        let Some(at) = source.proof_of_life.filter(|_| can_prove) else {
            return;
        };
        let known = content.alive.get(&source.name);
        if known.is_some_and(|known| known.at == at) || is_outdated(at, content) {
            return;
        }
        let event = source
            .last_event
            .clone()
            .or_else(|| known.and_then(|known| known.event.clone()));
        let alive = ProofOfLife::new(at, event);
        if source.in_flight == 0 {
            content.alive.insert(source.name.clone(), alive);
        } else {
            self.candidate = Some((alive, source.received));
        }
    }
}
