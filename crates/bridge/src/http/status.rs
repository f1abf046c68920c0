//! `/status`, a stable interface: published keys are neither removed nor given another meaning.

use std::{collections::BTreeMap, fmt::Write, sync::atomic::Ordering::Relaxed};

use jiff::Timestamp;
use neurobridge_core::{
    clock,
    dead_letter::DeadLetterSummary,
    delivery::SinkState,
    histogram::{self, BOUNDS},
    ledger::SourceCounts,
};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::answer::Answer;
use crate::cluster::ClusterView;
use crate::gaps::Gap;
use crate::history::Entry;
use crate::reload::ConfigurationView;
use crate::state::View;
use crate::tokens;
use crate::view::{SinkLedger, SinkView, SourceView};

/// The content of `/status`.
#[derive(Debug, Serialize)]
pub(crate) struct Status<'a> {
    version: &'static str,
    instance: &'a str,
    /// The time of this status, by the same clock as all other times in it.
    time: Timestamp,
    uptime_seconds: f64,
    losing_events: Answer,
    sources: BTreeMap<&'a str, Source>,
    spool: Spool,
    sinks: BTreeMap<&'a str, Sink>,
    /// The newest changes of state, the newest first, with those of earlier runs.
    history: Vec<Entry>,
    configuration: &'a ConfigurationView,
    /// Null for a bridge outside of a cluster.
    cluster: Option<Cluster<'a>>,
}

/// The membership in a cluster of bridges.
#[derive(Debug, Serialize)]
struct Cluster<'a> {
    name: &'a str,
    member: &'a str,
    role: &'static str,
    /// The number of the own leadership; null for a follower.
    term: Option<u64>,
    /// The time of the last change of the role; null before the first one since the start.
    role_since: Option<Timestamp>,
    /// The number of times since the start that this member became the leader.
    takeovers: u64,
    /// `joining`, `joined`, `unreachable` or `refused`.
    join_state: &'static str,
    /// The reason of `unreachable` or `refused`; null otherwise.
    reason: Option<&'a str>,
    members: Vec<Member<'a>>,
}

/// A member as seen by this one.
#[derive(Debug, Serialize)]
struct Member<'a> {
    name: &'a str,
    /// Whether the member has shown within the ttl of the lease that it runs.
    alive: bool,
    this: bool,
    /// The number of the leadership that the member claims; null for a follower.
    term: Option<u64>,
    /// The number of events without an outcome in the sink that has the most of them; null if the lease does not transport it.
    lag_events: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Source {
    address: String,
    state: &'static str,
    reason: Option<String>,
    since: Timestamp,
    connections: u64,
    last_event: Option<Timestamp>,
    last_platform_error: Option<String>,
    /// The tokens that are created for the source; null if it is configured with a token.
    tokens: Option<tokens::Shown>,
    /// The round trip time of the last ping.
    round_trip_seconds: Option<f64>,
    /// The length of the current gap; null while a connection is authenticated.
    unconnected_seconds: Option<f64>,
    /// The number of gaps that ended since the start, with the gap between the last run and this one.
    gaps: u64,
    /// The number of these gaps whose events are missed: neither fetched, nor sent again by the feed, nor being fetched.
    lost_gaps: u64,
    /// The number of missed events that were fetched since the start.
    fetched_events: u64,
    /// The number of gaps whose events are being fetched.
    filling_gaps: u64,
    /// The total length of the gaps in `gaps`, and of the open gap.
    gap_seconds: f64,
    /// The newest gaps, the newest first, with the open one and those of earlier runs.
    newest_gaps: Vec<Gap>,
    /// The time since which the source was connected outside of the newest gaps, as far as is on record. Null before the first
    /// connection.
    connection_known_since: Option<Timestamp>,
    newest_dead_letters: Vec<DeadLetterSummary>,
    ledger: SourceCounts,
}

#[derive(Debug, Serialize)]
struct Spool {
    #[serde(rename = "type")]
    kind: &'static str,
    oldest_sequence: u64,
    durable_sequence: u64,
    size_bytes: u64,
    pending_bytes: u64,
    limit_bytes: u64,
    is_full: bool,
    is_disk_full: bool,
    is_retrying: bool,
    has_failed: bool,
    dropped_events: u64,
    damaged_events: u64,
    damaged_cursors: u64,
}

#[derive(Debug, Serialize)]
struct Sink {
    #[serde(rename = "type")]
    kind: &'static str,
    destination: String,
    required: bool,
    state: SinkState,
    reason: Option<String>,
    since: Timestamp,
    notice: Option<String>,
    lag_events: u64,
    lag_seconds: f64,
    in_flight: u64,
    resent: u64,
    client_replacements: u64,
    /// The number of messages of other members of the cluster that were discarded since the start before their events were
    /// received, because there were more than a million. Such an event may be published twice.
    discarded_messages: u64,
    /// The number of events that this member of a cluster published after takeovers since the start, and that the former leader
    /// may have had in flight: each of them may be in the destination twice.
    possible_duplicates: u64,
    /// The number of times since the start that the topic or stream was found to be recreated.
    destination_recreated: u64,
    /// The last of these times, in a sentence.
    last_recreation: Option<String>,
    /// The number of times since the start that another program moved, truncated or removed the sink's file.
    file_changes: u64,
    /// The last of these times, in a sentence.
    last_file_change: Option<String>,
    /// The number of delivered events that were lost from the file.
    lost_from_file: u64,
    latency: Latency,
    newest_dead_letters: Vec<DeadLetterSummary>,
    ledger: Ledger,
}

/// The latency from receipt to acknowledgement, since the start.
#[derive(Debug, Serialize)]
struct Latency {
    events: u64,
    sum_seconds: f64,
    /// The number of events by upper bound in seconds.
    within: Within,
}

#[derive(Debug)]
struct Within(histogram::Snapshot);

#[derive(Debug, Serialize)]
struct Ledger {
    stored: u64,
    delivered: u64,
    filtered: u64,
    duplicate: u64,
    dead_lettered: u64,
    dropped: u64,
    damaged: u64,
    pending: u64,
}

/// `/readyz`: the parts that are not ready, with reasons.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness<'a> {
    ready: bool,
    unready: BTreeMap<&'a str, &'a str>,
}

impl<'a> Status<'a> {
    pub(crate) fn of(view: &'a View<'a>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            instance: view.instance,
            time: clock::now(),
            uptime_seconds: view.uptime_seconds,
            losing_events: Answer::of(view),
            sources: view
                .sources
                .iter()
                .map(|source| (&*source.name, Source::of(source, view.uptime_seconds)))
                .collect(),
            spool: Spool {
                kind: view.spool.kind,
                oldest_sequence: view.spool.oldest_sequence,
                durable_sequence: view.spool.durable_sequence,
                size_bytes: view.spool.size_bytes,
                pending_bytes: view.spool.pending_bytes,
                limit_bytes: view.spool.limit_bytes,
                is_full: view.spool.is_full,
                is_disk_full: view.spool.is_disk_full,
                is_retrying: view.spool.is_retrying,
                has_failed: view.spool.has_failed,
                dropped_events: view.spool.dropped_events,
                damaged_events: view.spool.damaged_events,
                damaged_cursors: view.spool.damaged_cursors,
            },
            sinks: view
                .sinks
                .iter()
                .map(|sink| (&*sink.name, Sink::of(sink)))
                .collect(),
            history: view.history.entries.clone(),
            configuration: &view.configuration,
            cluster: view.cluster.as_ref().map(Cluster::of),
        }
    }

    /// Returns the ledger as text, with a line for each source and each sink.
    pub(crate) fn ledger(&self) -> String {
        let mut text = String::new();
        for (name, source) in &self.sources {
            let SourceCounts {
                received,
                stored,
                filtered,
                duplicate,
                dead_lettered,
                in_flight,
            } = source.ledger;
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "source {name}: {received} received = {stored} stored + {filtered} filtered + {duplicate} duplicate \
                 + {dead_lettered} dead-lettered + {in_flight} in flight"
            );
            text.push_str(&source.missed());
            text.push('\n');
        }
        for (name, sink) in &self.sinks {
            let Ledger {
                stored,
                delivered,
                filtered,
                duplicate,
                dead_lettered,
                dropped,
                damaged,
                pending,
            } = sink.ledger;
            let _ = writeln!(
                text,
                "sink {name}: {stored} stored = {delivered} delivered + {filtered} filtered + {duplicate} duplicate \
                 + {dead_lettered} dead-lettered + {dropped} dropped + {damaged} damaged + {pending} pending"
            );
        }
        text
    }
}

impl<'a> Cluster<'a> {
    fn of(view: &'a ClusterView) -> Self {
        let members = view.members.iter().map(|member| Member {
            name: &member.name,
            alive: member.is_alive,
            this: member.is_self,
            term: member.term,
            lag_events: member.report.as_ref().map(|report| report.lag_events),
        });
        Self {
            name: &view.name,
            member: &view.member,
            role: view.role(),
            term: view.term,
            role_since: view.role_since,
            takeovers: view.takeovers,
            join_state: view.join_state.name(),
            reason: view.reason(),
            members: members.collect(),
        }
    }
}

impl Source {
    fn of(source: &SourceView, uptime_seconds: f64) -> Self {
        let snapshot = &source.snapshot;
        Self {
            address: source.handle.address.clone(),
            state: snapshot.state.into(),
            reason: snapshot.reason.clone(),
            since: snapshot.since,
            connections: snapshot.connections,
            last_event: snapshot.last_event,
            last_platform_error: snapshot.last_platform_error.clone(),
            tokens: source.handle.tokens.as_ref().map(|tokens| tokens.shown()),
            round_trip_seconds: snapshot.last_ping_rtt.map(|time| time.as_secs_f64()),
            unconnected_seconds: source.unconnected_seconds(uptime_seconds),
            gaps: source.gaps.ended.gaps,
            lost_gaps: source.gaps.lost.gaps,
            fetched_events: source.handle.intake.stats.backfilled.load(Relaxed),
            filling_gaps: source.gaps.filling,
            gap_seconds: source.gap_seconds(),
            newest_gaps: source.gaps.newest.iter().map(shown).collect(),
            connection_known_since: source.gaps.known_since,
            newest_dead_letters: source
                .handle
                .intake
                .stats
                .newest_dead_letters()
                .iter()
                .cloned()
                .collect(),
            ledger: source.ledger,
        }
    }

    /// Describes the gaps, and whether the events sent in the gaps were fetched or missed; empty without a gap.
    fn missed(&self) -> String {
        if self.gaps == 0 {
            return String::new();
        }
        let count =
            |number: u64, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
        let sent = |fetched: u64| {
            format!(
                "{} sent in that time {}",
                count(fetched, "event"),
                if fetched == 1 { "was" } else { "were" }
            )
        };
        // Events that were not fetched cannot be counted, since the feed does not send them again.
        let effect = match (self.lost_gaps, self.fetched_events) {
            (0, 0) if self.filling_gaps == 0 => "no event sent in that time was missed".to_owned(),
            (0, _) if self.filling_gaps > 0 => "events sent in that time are being fetched".to_owned(),
            (0, fetched) => format!("{} fetched", sent(fetched)),
            (lost, 0) if lost == self.gaps => "events sent in that time were missed".to_owned(),
            (_, 0) => "events sent in a part of that time were missed".to_owned(),
            (_, fetched) => format!("{} fetched, others were missed", sent(fetched)),
        };
        format!(
            "; {}, {:.1} s: {effect}",
            count(self.gaps, "gap"),
            self.gap_seconds
        )
    }
}

/// Returns a gap with its length up to now, and without the id of an event.
fn shown(gap: &Gap) -> Gap {
    Gap {
        seconds: gap.seconds_at(clock::now()),
        last_event: None,
        next_event: None,
        ..gap.clone()
    }
}

impl Latency {
    fn of(snapshot: histogram::Snapshot) -> Self {
        Self {
            events: snapshot.count(),
            sum_seconds: snapshot.sum,
            within: Within(snapshot),
        }
    }
}

impl Serialize for Within {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(BOUNDS.len()))?;
        let mut events = 0;
        for (bound, more) in BOUNDS.iter().zip(self.0.buckets) {
            events += more;
            map.serialize_entry(&bound.to_string(), &events)?;
        }
        map.end()
    }
}

impl Sink {
    fn of(sink: &SinkView) -> Self {
        let SinkLedger {
            stored,
            counts,
            pending,
        } = sink.ledger;
        Self {
            kind: sink.handle.kind,
            destination: sink.handle.destination.clone(),
            required: sink.handle.required,
            state: sink.snapshot.state,
            reason: sink.snapshot.reason.clone(),
            since: sink.snapshot.since,
            notice: sink.snapshot.notice.clone(),
            lag_events: pending,
            lag_seconds: sink.lag_seconds,
            in_flight: sink.snapshot.in_flight,
            resent: sink.snapshot.resent,
            client_replacements: sink.snapshot.client_replacements,
            discarded_messages: sink.snapshot.copies.discarded_messages,
            possible_duplicates: sink.snapshot.copies.possible_duplicates,
            destination_recreated: sink.snapshot.recreations.count,
            last_recreation: sink.snapshot.recreations.last.clone(),
            file_changes: sink.snapshot.file_changes.count,
            last_file_change: sink.snapshot.file_changes.last.clone(),
            lost_from_file: sink.snapshot.file_changes.lost,
            latency: Latency::of(sink.handle.progress.latency()),
            newest_dead_letters: sink.snapshot.newest_dead_letters.iter().cloned().collect(),
            ledger: Ledger {
                stored,
                delivered: counts.delivered,
                filtered: counts.filtered,
                duplicate: counts.duplicate,
                dead_lettered: counts.dead_lettered,
                dropped: counts.dropped,
                damaged: counts.damaged,
                pending,
            },
        }
    }
}

impl<'a> Readiness<'a> {
    pub(crate) fn of(unready: &'a [(String, String)]) -> Self {
        Self {
            ready: unready.is_empty(),
            unready: unready
                .iter()
                .map(|(name, reason)| (name.as_str(), reason.as_str()))
                .collect(),
        }
    }
}
