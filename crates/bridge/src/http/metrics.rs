//! `/metrics`: generated at each scrape from the same view as `/status`, so that every series exists from the start.

use std::{slice, sync::atomic::Ordering::Relaxed};

use jiff::Timestamp;
use neurobridge_cluster::JoinState;
use neurobridge_core::{
    histogram::{BOUNDS, Snapshot},
    labels::Label,
};
use prometheus::{
    Encoder, TextEncoder,
    core::Collector,
    process_collector::ProcessCollector,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{
    cluster::ClusterView,
    gaps::{OUTCOMES, gap_reasons},
    history::Kind,
    http_connections::Refusal,
    state::View,
    tokens::Tokens,
    view::{SinkView, SourceView},
};

/// Writes all metrics in Prometheus' text format.
///
/// # Errors
/// Returns an error of the encoder; none is expected.
pub(crate) fn render(view: &View<'_>) -> prometheus::Result<String> {
    let mut families = ProcessCollector::for_self().collect();
    families.extend(of_bridge(slice::from_ref(view)));
    families.extend(of_sources(&view.sources));
    families.extend(of_cluster(view.cluster.as_slice()));
    families.extend(of_spool(slice::from_ref(view)));
    families.extend(of_sinks(&view.sinks));
    // A bridge outside of a cluster has no metrics of a cluster.
    families.retain(|family| !family.get_metric().is_empty());
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

/// Declares metrics of a part of the bridge. Each row has the help text, the type, the name without the prefix, and the value.
macro_rules! metrics {
    (
        fn $function:ident($part:ident: &$type:ty);
        $($(#[doc = $help:literal])+ $kind:ident $name:ident = $value:expr;)+
    ) => {
        fn $function(parts: &[$type]) -> Vec<MetricFamily> {
            vec![$({
                let name = concat!("neurobridge_", stringify!($name));
                // Each line of a doc comment begins with a space.
                let help = concat!($($help),+).trim_start();
                family(name, help, MetricType::$kind, parts, |$part| Value::from($value))
            },)+]
        }
    };
}

metrics! {
    fn of_bridge(view: &View<'_>);

    /// The version that runs; always 1.
    GAUGE build_info = build_info(view);
    /// A hash of the running configuration without its secrets; always 1.
    GAUGE configuration_info = Value::Labelled(vec![(vec![pair("hash", &view.configuration.hash)], 1.0)]);
    /// Time at which the running configuration was loaded, at the start or by a reload.
    GAUGE configuration_loaded_timestamp_seconds = seconds(Some(view.configuration.loaded_at));
    /// Whether the last reload failed, so that the configuration file is not the running configuration; 1 or 0.
    GAUGE configuration_reload_failed = view.configuration.last_failed_reload.is_some();
    /// Reloads that failed and changed nothing.
    COUNTER configuration_reload_failures_total = view.configuration.failed_reloads;
    /// Log lines that were not written, because standard error was blocked or refused writes.
    COUNTER log_lines_dropped_total = view.dropped_log_lines;
    /// Worker threads that run tasks: one at a low load, and at a high one as many as cores, or as TOKIO_WORKER_THREADS.
    GAUGE active_workers = view.active_workers as u64;
    /// HTTP connections open at this moment, the one of this scrape among them.
    GAUGE http_open_connections = view.http.open() as u64;
    /// HTTP connections closed and requests refused by the bridge, by reason.
    COUNTER http_refusals_total = counts("reason", Refusal::ALL.iter().map(|reason| (*reason, view.http.refused(*reason))));
    /// Time of the newest entry of the history, by change and part (`bridge`, `spool`, `sources.NAME`, `sinks.NAME`); 0
    /// without one.
    GAUGE history_entry_timestamp_seconds = newest_entries(view);
    /// Failed attempts to write the history. They are repeated; no event is affected.
    COUNTER history_write_errors_total = view.history.write_errors;
    /// Dead letters that were not stored because dead_letters.max_size_per_day was exceeded.
    COUNTER dead_letters_not_kept_total = view.discarded_dead_letters;
}

metrics! {
    fn of_cluster(cluster: &ClusterView);

    /// Whether this member publishes; 1 or 0.
    GAUGE cluster_leader = cluster.term.is_some();
    /// Term of this member's leadership, which grows with each change of the leader; 0 for a follower.
    GAUGE cluster_term = cluster.term.unwrap_or(0);
    /// State of the membership: 1 for the current one, 0 for the others. A member that is refused or cannot reach the lease does
    /// not lead.
    GAUGE cluster_join_state = join_states(cluster);
    /// Members alive within the ttl of the lease, this one among them; with a lease in Kafka, the members of the consumer group.
    GAUGE cluster_members = cluster.members.iter().filter(|member| member.is_alive).count() as u64;
    /// Takeovers by this member since the start.
    COUNTER cluster_takeovers_total = cluster.takeovers;
    /// Time of the last change of the role; 0 before the first one.
    GAUGE cluster_role_timestamp_seconds = seconds(cluster.role_since);
}

metrics! {
    fn of_sources(source: &SourceView);

    /// Connections open at this moment.
    GAUGE source_open_connections = source.snapshot.open_connections;
    /// Whether the source does not connect, because another member of the cluster leads (`standby = "cold"`); 1 or 0.
    GAUGE source_standby = source.stands_by();
    /// Attempts to connect, by how they ended.
    COUNTER source_connections_total = counts("outcome", source.snapshot.outcomes.iter());
    /// Connections that ended, by reason.
    COUNTER source_disconnections_total = counts("reason", source.snapshot.disconnections.iter());
    /// Connections that were closed before all received bytes were read.
    COUNTER source_unread_disconnections_total = source.snapshot.unread_disconnections;
    /// Frames read, by kind.
    COUNTER source_frames_total = counts("kind", source.snapshot.frames.iter());
    /// Events and malformed frames read, by kind. A frame of a declared feed may contain several.
    COUNTER source_read_total = counts("kind", [
        ("event", source.snapshot.events),
        ("malformed", source.snapshot.malformed),
    ]);
    /// Malformed and ignored frames before the first event; 0 from the first event on.
    GAUGE source_frames_without_event = source.snapshot.frames_without_event;
    /// Bytes of frames read.
    COUNTER source_received_bytes_total = source.snapshot.received_bytes;
    /// Events, by result at the intake.
    COUNTER source_events_total = counts("outcome", [
        ("stored", source.ledger.stored),
        ("filtered", source.ledger.filtered),
        ("duplicate", source.ledger.duplicate),
        ("dead_lettered", source.ledger.dead_lettered),
    ]);
    /// Events between the socket and the spool.
    GAUGE source_in_flight_events = source.ledger.in_flight;
    /// Events whose id was seen earlier with another body.
    COUNTER source_id_conflicts_total = source.handle.intake.stats.id_conflicts.load(Relaxed);
    /// Errors that the feed sent after authentication.
    COUNTER source_platform_errors_total = source.snapshot.platform_errors;
    /// Time at which the token that the bridge created expires, by its own clock; 0 without such a token.
    GAUGE source_token_expiry_timestamp_seconds = seconds(tokens(source, |tokens| tokens.shown().expires));
    /// Created tokens that may be valid: the current one, and the old one until it is deleted.
    GAUGE source_tokens = tokens(source, |tokens| tokens.shown().alive as u64);
    /// Requests to create or delete a token, by outcome.
    COUNTER source_token_requests_total = counts("outcome", tokens(source, Tokens::outcomes).iter());
    /// Failures to read or write the file of the created tokens. A restart creates another token then.
    COUNTER source_token_file_errors_total = tokens(source, Tokens::file_errors);
    /// Time from a ping to its pong.
    HISTOGRAM source_ping_rtt_seconds = source.snapshot.ping_rtt.clone();
    /// Time of the last event; 0 before the first.
    GAUGE source_last_event_timestamp_seconds = seconds(source.snapshot.last_event);
    /// Time for which reading was blocked by the spool.
    COUNTER source_blocked_seconds_total = source.snapshot.blocked.as_secs_f64();
    /// Clock of this machine minus the platform's, to a second; 0 while it is unknown.
    GAUGE source_clock_skew_seconds = source.snapshot.clock_skew_seconds.unwrap_or(0.0);
    /// Time from an entry's creation to its receipt; one event of each wake-up.
    HISTOGRAM event_age_seconds = source.handle.intake.stats.event_age.snapshot();
    /// Gaps with a final outcome, by reason (a refused token, otherwise the first cause) and outcome, with
    /// those of earlier runs. A gap is a time without an authenticated connection, or with dead ones only, after the first one,
    /// also across a restart.
    COUNTER source_gaps_total = ended_gaps(source);
    /// Gaps that are open at this moment: 0 or 1.
    GAUGE source_open_gaps = source.gaps.open_seconds.is_some();
    /// Gaps that have ended and whose missed events are being fetched.
    GAUGE source_filling_gaps = source.gaps.filling;
    /// Missed events that were fetched from the platform's list and stored; without duplicates.
    COUNTER source_backfilled_events_total = source.handle.intake.stats.backfilled.load(Relaxed);
    /// Failed attempts to fetch missed events. Temporary failures are retried until `backfill.give_up_after`.
    COUNTER source_backfill_failures_total = source.handle.intake.stats.backfill_failures.load(Relaxed);
    /// Duration of all gaps, with those of earlier runs and the open one.
    COUNTER source_gap_seconds_total = source.gaps.total_seconds;
}

metrics! {
    fn of_spool(view: &View<'_>);

    /// Bytes of the disk or of memory used by the spool. On disk whole segments: also what is reserved for the next events,
    /// and what is kept for `retain`.
    GAUGE spool_size_bytes = view.spool.size_bytes;
    /// Bytes of the spool from the oldest event that a sink has not settled to the end. Estimated within a segment.
    GAUGE spool_pending_bytes = view.spool.pending_bytes;
    /// Bytes that the spool may hold.
    GAUGE spool_limit_bytes = view.spool.limit_bytes;
    /// Sequence of the last durable event; 0 before the first.
    GAUGE spool_durable_sequence = view.spool.durable_sequence;
    /// 1 while the spool waits for room, within its limit or on its disk; otherwise 0.
    GAUGE spool_full = view.spool.is_full;
    /// Events that a full spool dropped.
    COUNTER spool_dropped_events_total = view.spool.dropped_events;
    /// Events that the spool could not read.
    COUNTER spool_damaged_records_total = view.spool.damaged_events;
    /// Cursors of sinks found missing or damaged at the start.
    COUNTER spool_damaged_cursors_total = view.spool.damaged_cursors;
    /// 1 while the spool waits for a resource of the system, such as open files; otherwise 0.
    GAUGE spool_retrying = view.spool.is_retrying;
    /// Duration of a sync of the spool's disk.
    HISTOGRAM spool_sync_duration_seconds = view.spool_sync.clone();
}

metrics! {
    fn of_sinks(sink: &SinkView);

    /// Whether the sink delivers: 1, or 0.
    GAUGE sink_up = sink.is_up();
    /// 1 after a fault for which the sink stops until the bridge is restarted; otherwise 0.
    GAUGE sink_stopped = sink.snapshot.is_stopped;
    /// Events, by result at the sink.
    COUNTER sink_events_total = counts("outcome", [
        ("delivered", sink.ledger.counts.delivered),
        ("filtered", sink.ledger.counts.filtered),
        ("duplicate", sink.ledger.counts.duplicate),
        ("dead_lettered", sink.ledger.counts.dead_lettered),
        ("dropped", sink.ledger.counts.dropped),
        ("damaged", sink.ledger.counts.damaged),
    ]);
    /// Dead letters, by reason.
    COUNTER sink_dead_letters_total = counts("reason", sink.snapshot.dead_letters.iter());
    /// Faults of the sink as a whole, by kind.
    COUNTER sink_errors_total = counts("kind", sink.snapshot.faults.iter());
    /// Connection attempts that failed, or were not connected after 5 seconds, by the step at which they were.
    COUNTER sink_connect_failures_total = counts("step", sink.snapshot.connect_failures.iter());
    /// Events published again after a fault.
    COUNTER sink_resent_events_total = sink.snapshot.resent;
    /// Messages of other members of a cluster that were discarded before their events were received, because there were more
    /// than a million. Such an event may be published twice. Expected for a follower with `standby = "cold"`, which receives no
    /// events.
    COUNTER sink_discarded_messages_total = sink.snapshot.copies.discarded_messages;
    /// Events that this member of a cluster published after a takeover, and that the former leader may have had in flight. Each
    /// of them may be in the destination twice. Always 0 with exactly-once delivery and strict order.
    COUNTER sink_possible_duplicates_total = sink.snapshot.copies.possible_duplicates;
    /// Events that the destination lost after they were acknowledged: lines that another program removed from a file.
    COUNTER sink_lost_events_total = sink.snapshot.file_changes.lost;
    /// Times that another program moved, truncated or removed the file of the sink.
    COUNTER sink_file_changes_total = sink.snapshot.file_changes.count;
    /// Times that the topic or stream was found to be removed and recreated after events were delivered into it.
    COUNTER sink_destination_recreated_total = sink.snapshot.recreations.count;
    /// Clients of the sink that were replaced because they settled no event for too long while events waited.
    COUNTER sink_client_replacements_total = sink.snapshot.client_replacements;
    /// Messages that the client library holds and that have no acknowledgement; NaN without a measurement (file sinks).
    GAUGE sink_client_queued_messages = measured(sink.snapshot.client.queued_messages.map(|count| count as f64));
    /// Bytes of the messages that the client library holds; NaN without a measurement (file and NATS sinks).
    GAUGE sink_client_queued_bytes = measured(sink.snapshot.client.queued_bytes.map(|bytes| bytes as f64));
    /// Kafka: mean time from a request to its response at the slowest broker. NATS: time from the last answered message to its
    /// answer. NaN without a measurement.
    GAUGE sink_client_round_trip_seconds = measured(sink.snapshot.client.round_trip.map(|time| time.as_secs_f64()));
    /// Events published and not yet acknowledged.
    GAUGE sink_inflight_events = sink.snapshot.in_flight;
    /// Events stored and not yet settled.
    GAUGE sink_lag_events = sink.ledger.pending;
    /// Age of the oldest event not yet settled.
    GAUGE sink_lag_seconds = sink.lag_seconds;
    /// Time from receipt to acknowledgement.
    HISTOGRAM sink_delivery_latency_seconds = sink.handle.progress.latency();
}

/// Returns a time in seconds since 1970, the unit of Prometheus; 0 for `None`.
fn seconds(at: Option<Timestamp>) -> f64 {
    at.map_or(0.0, |at| at.as_microsecond() as f64 / 1e6)
}

/// Returns a measurement; NaN for `None`, because 0 would look like a measurement.
fn measured(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

fn join_states(cluster: &ClusterView) -> Value {
    let state = cluster.join_state.name();
    let states = JoinState::NAMES.iter();
    Value::Labelled(
        states
            .map(|name| (vec![pair("state", name)], f64::from(u8::from(*name == state))))
            .collect(),
    )
}

fn build_info(_: &View<'_>) -> Value {
    Value::Labelled(vec![(vec![pair("version", env!("CARGO_PKG_VERSION"))], 1.0)])
}

fn ended_gaps(source: &SourceView) -> Value {
    let mut gaps = Vec::new();
    for reason in gap_reasons() {
        for outcome in OUTCOMES {
            let count = source.gaps.totals.get(&(reason.into(), outcome.into()));
            let labels = vec![pair("reason", reason), pair("outcome", outcome)];
            gaps.push((labels, count.copied().unwrap_or(0) as f64));
        }
    }
    Value::Labelled(gaps)
}

fn newest_entries(view: &View<'_>) -> Value {
    let sources = view
        .sources
        .iter()
        .map(|source| format!("sources.{}", source.name));
    let sinks = view.sinks.iter().map(|sink| format!("sinks.{}", sink.name));
    let mut parts = vec![("bridge".to_owned(), &Kind::OF_BRIDGE[..])];
    parts.extend(sources.map(|part| (part, &Kind::OF_SOURCE[..])));
    parts.push(("spool".to_owned(), &Kind::OF_SPOOL));
    parts.extend(sinks.map(|part| (part, &Kind::OF_SINK[..])));
    let mut entries = Vec::new();
    for (part, kinds) in parts {
        for kind in kinds {
            let at = view.history.newest.get(&(part.clone(), kind.as_str().into()));
            let labels = vec![pair("change", kind.as_str()), pair("part", &part)];
            entries.push((labels, seconds(at.copied())));
        }
    }
    Value::Labelled(entries)
}

/// The value of a metric in one part of the bridge.
enum Value {
    Single(f64),
    Labelled(Vec<(Vec<LabelPair>, f64)>),
    Histogram(Snapshot),
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Single(value)
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Single(count as f64)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Single(u8::from(flag).into())
    }
}

impl From<Snapshot> for Value {
    fn from(snapshot: Snapshot) -> Self {
        Self::Histogram(snapshot)
    }
}

/// Returns a value of the tokens of a source; the default value for a source that creates no tokens.
fn tokens<T>(source: &SourceView, value: impl FnOnce(&Tokens) -> T) -> T {
    match &source.handle.tokens {
        Some(tokens) => value(tokens),
        None => value(&Tokens::default()),
    }
}

/// Returns one count for each value of a label.
fn counts(label: &str, counts: impl IntoIterator<Item = (impl Into<&'static str>, u64)>) -> Value {
    let counts = counts.into_iter();
    Value::Labelled(
        counts
            .map(|(value, count)| (vec![pair(label, value.into())], count as f64))
            .collect(),
    )
}

/// A part of the bridge that has metrics.
trait Part {
    /// Returns the label that distinguishes this part from others of the same type; `None` if there is only one.
    fn label(&self) -> Option<LabelPair>;
}

impl Part for View<'_> {
    fn label(&self) -> Option<LabelPair> {
        None
    }
}

impl Part for ClusterView {
    fn label(&self) -> Option<LabelPair> {
        Some(pair("cluster", &self.name))
    }
}

impl Part for SourceView {
    fn label(&self) -> Option<LabelPair> {
        Some(pair("source", &self.name))
    }
}

impl Part for SinkView {
    fn label(&self) -> Option<LabelPair> {
        Some(pair("sink", &self.name))
    }
}

fn family<P: Part>(
    name: &str,
    help: &str,
    kind: MetricType,
    parts: &[P],
    read: impl Fn(&P) -> Value,
) -> MetricFamily {
    let mut metrics = Vec::new();
    for part in parts {
        let label = || part.label().into_iter();
        match read(part) {
            Value::Single(value) => metrics.push(metric(kind, label().collect(), value)),
            Value::Labelled(values) => metrics.extend(
                values
                    .into_iter()
                    .map(|(labels, value)| metric(kind, label().chain(labels).collect(), value)),
            ),
            Value::Histogram(snapshot) => {
                let mut metric = Metric::from_label(label().collect());
                metric.set_histogram(histogram(&snapshot));
                metrics.push(metric);
            }
        }
    }
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn metric(kind: MetricType, labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut metric = Metric::from_label(labels);
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

fn histogram(snapshot: &Snapshot) -> Histogram {
    let mut cumulative = 0;
    let buckets = BOUNDS.iter().zip(snapshot.buckets).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(snapshot.count());
    histogram.set_sample_sum(snapshot.sum);
    histogram
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
