//! `/metrics`: generated at each scrape from the same view as `/status`, so that every series exists from the start.

mod history;

use neurobridge_core::{
    connect::ConnectStep,
    histogram::{self, BOUNDS},
    sink::{FaultKind, RejectionReason},
};
use prometheus::{
    Encoder, TextEncoder,
    core::Collector,
    process_collector::ProcessCollector,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use super::Refusal;
use crate::state::{SinkView, SourceView, View};

/// Writes all metrics in Prometheus' text format.
///
/// # Errors
/// Returns the encoder's errors; none is known.
pub(crate) fn render(view: &View<'_>) -> prometheus::Result<String> {
    let mut families = ProcessCollector::for_self().collect();
    families.push(build_info());
    families.extend(program(view));
    families.extend(sources(&view.sources));
    families.extend(history::history(view));
    families.extend(spool(view));
    families.extend(sinks(&view.sinks));
    families.push(dead_letters(view));
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

fn build_info() -> MetricFamily {
    let mut family = Family::gauge("build_info", "The version that runs; always 1.");
    family.add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    family.done()
}

fn dead_letters(view: &View<'_>) -> MetricFamily {
    let mut family = Family::counter(
        "dead_letters_not_kept_total",
        "Dead letters that were not stored because dead_letters.max_size_per_day was exceeded.",
    );
    family.add(&[], view.dead_letters_not_kept as f64);
    family.done()
}

/// Writes the metrics of the program as a whole.
fn program(view: &View<'_>) -> [MetricFamily; 3] {
    let mut lines = Family::counter(
        "log_lines_dropped_total",
        "Log lines that were not written, because standard error was blocked or refused writes.",
    );
    lines.add(&[], view.dropped_log_lines as f64);
    let mut open = Family::gauge(
        "http_open_connections",
        "HTTP connections open at this moment, the one of this scrape among them.",
    );
    open.add(&[], view.http.open() as f64);
    let mut refusals = Family::counter(
        "http_refusals_total",
        "HTTP connections closed and requests refused by the bridge, by reason.",
    );
    for reason in Refusal::ALL {
        refusals.add(&[("reason", reason.label())], view.http.refused(reason) as f64);
    }
    [lines, open, refusals].map(Family::done)
}

fn sources(sources: &[SourceView<'_>]) -> Vec<MetricFamily> {
    let mut open = Family::gauge("source_open_connections", "Connections open at this moment.");
    let mut connections = Family::counter(
        "source_connections_total",
        "Attempts to connect, by how they ended.",
    );
    let mut disconnections = Family::counter(
        "source_disconnections_total",
        "Connections that ended, by reason.",
    );
    let mut unread = Family::counter(
        "source_unread_disconnections_total",
        "Connections given up before all that the server had sent was read.",
    );
    let mut frames = Family::counter("source_frames_total", "Frames read, by kind.");
    let mut bytes = Family::counter("source_received_bytes_total", "Bytes of frames read.");
    let mut events = Family::counter("source_events_total", "Events, by result at the intake.");
    let mut in_flight = Family::gauge(
        "source_in_flight_events",
        "Events on the way from the socket to the spool.",
    );
    let mut conflicts = Family::counter(
        "source_id_conflicts_total",
        "Events whose id came before with another body.",
    );
    let mut errors = Family::counter(
        "source_platform_errors_total",
        "Errors that the platform sent after authorisation.",
    );
    let mut rtt = Family::histogram("source_ping_rtt_seconds", "Time from a ping to its pong.");
    let mut last = Family::gauge(
        "source_last_event_timestamp_seconds",
        "When the last event came; 0 before the first.",
    );
    let mut blocked = Family::counter(
        "source_blocked_seconds_total",
        "Time for which the spool held back reading.",
    );
    let mut skew = Family::gauge(
        "source_clock_skew_seconds",
        "This machine's clock less the platform's, known to a second; 0 while it is not known.",
    );
    let mut age = Family::histogram(
        "event_age_seconds",
        "Time from an entry's creation to its receipt; one event of each wake-up.",
    );
    for source in sources {
        let name = ("source", source.name);
        let snapshot = &source.snapshot;
        open.add(&[name], snapshot.open_connections as f64);
        for (outcome, count) in snapshot.outcomes.iter() {
            connections.add(&[name, ("outcome", outcome.into())], count as f64);
        }
        for (reason, count) in snapshot.disconnections.iter() {
            disconnections.add(&[name, ("reason", reason.into())], count as f64);
        }
        unread.add(&[name], snapshot.unread_disconnections as f64);
        for (kind, count) in snapshot.frames.iter() {
            frames.add(&[name, ("kind", kind.into())], count as f64);
        }
        bytes.add(&[name], snapshot.received_bytes as f64);
        let ledger = source.ledger;
        for (outcome, count) in [
            ("stored", ledger.stored),
            ("filtered", ledger.filtered),
            ("duplicate", ledger.duplicate),
            ("dead_lettered", ledger.dead_lettered),
        ] {
            events.add(&[name, ("outcome", outcome)], count as f64);
        }
        in_flight.add(&[name], ledger.in_flight as f64);
        let intake = &source.handle.intake.stats;
        conflicts.add(
            &[name],
            intake.id_conflicts.load(std::sync::atomic::Ordering::Relaxed) as f64,
        );
        errors.add(&[name], snapshot.platform_errors as f64);
        rtt.add_histogram(&[name], &snapshot.ping_rtt);
        last.add(
            &[name],
            snapshot
                .last_event
                .map_or(0.0, |at| at.as_microsecond() as f64 / 1e6),
        );
        blocked.add(&[name], snapshot.blocked.as_secs_f64());
        skew.add(&[name], snapshot.clock_skew_seconds.unwrap_or(0.0));
        age.add_histogram(&[name], &intake.event_age.snapshot());
    }
    [
        open,
        connections,
        disconnections,
        unread,
        frames,
        bytes,
        events,
        in_flight,
        conflicts,
        errors,
        rtt,
        last,
        blocked,
        skew,
        age,
    ]
    .map(Family::done)
    .into()
}

fn spool(view: &View<'_>) -> Vec<MetricFamily> {
    let spool = &view.spool;
    let mut size = Family::gauge(
        "spool_size_bytes",
        "Bytes of the disk or of memory that the spool takes. On disk whole segments: also what is reserved for the next events, \
         and what is kept for `retain`.",
    );
    let mut pending = Family::gauge(
        "spool_pending_bytes",
        "Bytes of the spool from the oldest event that a sink has not settled to the end. Estimated within a segment.",
    );
    let mut limit = Family::gauge("spool_limit_bytes", "Bytes that the spool may hold.");
    let mut durable = Family::gauge(
        "spool_durable_sequence",
        "Sequence of the last durable event; 0 before the first.",
    );
    let mut full = Family::gauge(
        "spool_full",
        "1 while the spool waits for room, within its limit or on its disk; 0 else.",
    );
    let mut dropped = Family::counter("spool_dropped_events_total", "Events that a full spool dropped.");
    let mut damaged = Family::counter(
        "spool_damaged_records_total",
        "Events that the spool could not read.",
    );
    let mut cursors = Family::counter(
        "spool_damaged_cursors_total",
        "Cursors of sinks found missing or damaged at the start.",
    );
    let mut retrying = Family::gauge(
        "spool_retrying",
        "1 while the spool waits for a resource of the system, such as open files; 0 else.",
    );
    let mut sync = Family::histogram(
        "spool_sync_duration_seconds",
        "Time that the spool's disk took for a sync.",
    );
    size.add(&[], spool.size_bytes as f64);
    pending.add(&[], spool.pending_bytes as f64);
    limit.add(&[], spool.limit_bytes as f64);
    durable.add(&[], spool.durable_sequence as f64);
    full.add(&[], f64::from(u8::from(spool.is_full)));
    dropped.add(&[], spool.dropped_events as f64);
    damaged.add(&[], spool.damaged_events as f64);
    cursors.add(&[], spool.damaged_cursors as f64);
    retrying.add(&[], f64::from(u8::from(spool.is_retrying)));
    sync.add_histogram(&[], &view.spool_sync);
    [
        size, pending, limit, durable, full, dropped, damaged, cursors, retrying, sync,
    ]
    .map(Family::done)
    .into()
}

fn sinks(sinks: &[SinkView<'_>]) -> Vec<MetricFamily> {
    let mut up = Family::gauge("sink_up", "Whether the sink delivers: 1, or 0.");
    let mut stopped = Family::gauge(
        "sink_stopped",
        "1 after a fault for which the sink stops until the bridge is restarted; 0 else.",
    );
    let mut events = Family::counter("sink_events_total", "Events, by result at the sink.");
    let mut dead_letters = Family::counter("sink_dead_letters_total", "Dead letters, by reason.");
    let mut errors = Family::counter("sink_errors_total", "Faults of the sink as a whole, by kind.");
    let mut connect_failures = Family::counter(
        "sink_connect_failures_total",
        "Connection attempts that failed, or were not connected after 5 seconds, by the step at which they were.",
    );
    let mut resent = Family::counter(
        "sink_resent_events_total",
        "Events published again after a fault.",
    );
    let mut lost = Family::counter(
        "sink_lost_events_total",
        "Events that the destination lost after they were acknowledged: lines that another program removed from a file.",
    );
    let mut recreated = Family::counter(
        "sink_destination_recreated_total",
        "Times that the topic or stream was found to be removed and recreated after events were delivered into it.",
    );
    let mut replacements = Family::counter(
        "sink_client_replacements_total",
        "Clients of the sink that were replaced because they settled no event for too long while events waited.",
    );
    let mut queued_messages = Family::gauge(
        "sink_client_queued_messages",
        "Messages that the client library holds and that have no acknowledgement; NaN without a measurement (file sinks).",
    );
    let mut queued_bytes = Family::gauge(
        "sink_client_queued_bytes",
        "Bytes of the messages that the client library holds; NaN without a measurement (file and NATS sinks).",
    );
    let mut round_trip = Family::gauge(
        "sink_client_round_trip_seconds",
        "Kafka: mean time from a request to its response at the slowest broker. NATS: time from the last answered message to its answer. NaN without a measurement.",
    );
    let mut in_flight = Family::gauge(
        "sink_inflight_events",
        "Events published and not yet acknowledged.",
    );
    let mut lag_events = Family::gauge("sink_lag_events", "Events stored and not yet settled.");
    let mut lag_seconds = Family::gauge("sink_lag_seconds", "Age of the oldest event not yet settled.");
    let mut latency = Family::histogram(
        "sink_delivery_latency_seconds",
        "Time from receipt to acknowledgement.",
    );
    for sink in sinks {
        let name = ("sink", sink.name);
        up.add(&[name], f64::from(u8::from(sink.is_up())));
        stopped.add(&[name], f64::from(u8::from(sink.snapshot.is_stopped)));
        let counts = sink.ledger.counts;
        for (outcome, count) in [
            ("delivered", counts.delivered),
            ("filtered", counts.filtered),
            ("duplicate", counts.duplicate),
            ("dead_lettered", counts.dead_lettered),
            ("dropped", counts.dropped),
            ("damaged", counts.damaged),
        ] {
            events.add(&[name, ("outcome", outcome)], count as f64);
        }
        for (reason, count) in RejectionReason::ALL.iter().zip(sink.snapshot.dead_letters) {
            dead_letters.add(&[name, ("reason", reason.label())], count as f64);
        }
        for (kind, count) in FaultKind::ALL.iter().zip(sink.snapshot.faults) {
            errors.add(&[name, ("kind", kind.label())], count as f64);
        }
        for (step, count) in ConnectStep::ALL.iter().zip(sink.snapshot.connect_failures) {
            connect_failures.add(&[name, ("step", step.key())], count as f64);
        }
        resent.add(&[name], sink.snapshot.resent as f64);
        lost.add(&[name], sink.snapshot.lost as f64);
        recreated.add(&[name], sink.snapshot.recreations.count as f64);
        replacements.add(&[name], sink.snapshot.client_replacements as f64);
        let client = sink.snapshot.client;
        // NaN without a measurement: a 0 would be a false one.
        for (family, value) in [
            (
                &mut queued_messages,
                client.queued_messages.map(|count| count as f64),
            ),
            (&mut queued_bytes, client.queued_bytes.map(|bytes| bytes as f64)),
            (&mut round_trip, client.round_trip.map(|time| time.as_secs_f64())),
        ] {
            family.add(&[name], value.unwrap_or(f64::NAN));
        }
        in_flight.add(&[name], sink.snapshot.in_flight as f64);
        lag_events.add(&[name], sink.ledger.pending as f64);
        lag_seconds.add(&[name], sink.lag_seconds);
        latency.add_histogram(&[name], &sink.handle.progress.latency());
    }
    [
        up,
        stopped,
        events,
        dead_letters,
        errors,
        connect_failures,
        resent,
        lost,
        recreated,
        replacements,
        queued_messages,
        queued_bytes,
        round_trip,
        in_flight,
        lag_events,
        lag_seconds,
        latency,
    ]
    .map(Family::done)
    .into()
}

/// A metric family that is being built.
struct Family {
    family: MetricFamily,
    kind: MetricType,
    metrics: Vec<Metric>,
}

impl Family {
    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(format!("neurobridge_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self {
            family,
            kind,
            metrics: Vec::new(),
        }
    }

    fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::COUNTER)
    }

    fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::GAUGE)
    }

    fn histogram(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::HISTOGRAM)
    }

    fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = Metric::from_label(pairs(labels));
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    fn add_histogram(&mut self, labels: &[(&str, &str)], snapshot: &histogram::Snapshot) {
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
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn done(mut self) -> MetricFamily {
        self.family.set_metric(self.metrics);
        self.family
    }
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}
