//! Compares the events in Kafka and in JetStream with all events that the platform recognised: a missing event must lie in a gap
//! that the bridge reported.

mod comparison;
mod gaps;
mod reloads;
mod schedule;
mod setup;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use neurobridge_spool::inspect;
use neurobridge_tests::fingerprint::Copy;
use neurobridge_tests::kafka::{Kafka, KafkaOptions};
use neurobridge_tests::nats::{Nats, NatsOptions};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::relay::Relay;

pub(super) use self::comparison::{Comparison, Received, RecognisedEvent, Table};
pub(super) use self::gaps::GapLog;
use self::gaps::{Gap, summary};
pub(super) use self::reloads::{ReloadCounts, Reloads};
use self::setup::{Addresses, token_end};
use super::audit::{Audit, AuditResult, Promise};
use super::bridge_runs::{BridgeRuns, CONFIG_FILE, Ended};
use super::clock::Clock;
use super::schedule::{Fault, Kind, Victim};
use super::spool_reader::{EventHash, SpoolReader};
use super::{Args, CURSORS, PARTITIONS, STOP, STREAM, TOPIC, cut, guarded, join, read_broker};
use crate::shell::{log, print};

/// The time limit for filling the last gaps.
const FILL_LIMIT: Duration = Duration::from_secs(300);
/// The number of received bytes after which a connection counts as working: it has received several events.
pub(super) const WORKS: u64 = 10_000;
/// The longest wait until all connections work.
const WORKS_LIMIT: Duration = Duration::from_secs(60);
/// The time for which all connections work before one of them is cut. The bridge assumes that a platform allows only one
/// connection per token if connections repeatedly end within two seconds after the authentication of another one.
const STEADY: Duration = Duration::from_secs(3);

/// The state of the platform's REST interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Rest {
    /// The bridge does not use the interface.
    Off,
    /// The interface works, with faults: the bridge must fetch every missed event.
    Up,
    /// The interface refuses every request: every missing event must lie in a gap with the outcome `unrecovered`.
    Down,
}

/// The kind of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    RestOff,
    RestUp,
    RestDown,
    /// One source with two connections, one of which is cut at a time.
    TwoConnections,
}

impl Mode {
    fn of(args: &Args) -> Self {
        match (args.connections, args.rest) {
            (2, _) => Self::TwoConnections,
            (_, Rest::Off) => Self::RestOff,
            (_, Rest::Up) => Self::RestUp,
            (_, Rest::Down) => Self::RestDown,
        }
    }

    const fn sources(self) -> &'static [&'static str] {
        match self {
            Self::TwoConnections => &["main"],
            _ => &["main", "other"],
        }
    }

    const fn statement(self) -> &'static str {
        match self {
            Self::RestOff => "every event was received, or lies in a reported gap",
            Self::RestUp => "every event was received once",
            Self::RestDown => "every event was received, or lies in a gap that is not recovered",
            Self::TwoConnections => "every event was received once and live, without a gap",
        }
    }
}

/// Performs a run with faults of the platform and of the bridge, and returns whether all guarantees held.
pub(super) fn run_in(dir: &Scratch, args: &Args, read_back: &Path) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let duration = Duration::from_secs_f64(args.minutes * 60.0);
    let mode = Mode::of(args);
    print(&format!(
        "seed {seed}, {} minutes, {} events per second, {mode:?}, compared with all events that the platform recognised; \
         behaviour of the platform when a token expires: {}",
        args.minutes,
        args.rate(),
        token_end(seed)
    ))?;
    log("starting Kafka and NATS");
    // A small heap, because several runs share the machine.
    let kafka = Kafka::start(KafkaOptions {
        heap_mib: 256,
        ..KafkaOptions::shared()
    })?;
    kafka.create_topic_by_tool(TOPIC, PARTITIONS, &[])?;
    kafka.create_topic_by_tool(CURSORS, 1, &[("cleanup.policy", "compact")])?;
    let nats = Nats::start(NatsOptions::default())?;

    let record = dir.join("recognised.jsonl");
    let options = setup::platform(mode, seed, args.rate(), duration, &record.display().to_string());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut platform = Platform::start(dir, &options)?;
    let feed = Relay::to(platform.address().to_owned())?;
    let iam = Relay::to(platform.address().to_owned())?;
    let config = setup::configuration(
        mode,
        &Addresses {
            feed: feed.address(),
            rest: platform.address(),
            iam: iam.address(),
            kafka: &kafka.bootstrap(),
            nats: &nats.url(),
        },
    );
    let mut gaps = GapLog::new(dir.join(CONFIG_FILE));
    let ended = run_with_faults(dir, mode, seed, duration, (&feed, &iam), &config, &mut gaps)?;
    platform.process().terminate(STOP)?;

    let report = inspect::verify(&dir.join("data/spool"))?;
    ensure!(
        report.findings.is_empty(),
        "the spool is damaged: {:?}",
        report.findings
    );
    let tokens = occurrences(&dir.join("bridge.log"), "token created")?;
    let counts = counts(&ended, tokens);
    let (spool, durable) = SpoolReader::into_events(ended.spool_reader)?;
    let compared = Compared {
        mode,
        recognised: read_record(&record)?,
        gaps: gaps.gaps(),
        durable,
    };
    let read = |place: &[&str], add: &mut dyn FnMut(Copy)| read_broker(read_back, place, &[&spool], add);
    let found = [
        compared.with("Kafka", Promise::Once, |add| {
            read(&["kafka", &kafka.bootstrap(), TOPIC], add)
        })?,
        compared.with("NATS", Promise::OnceInOrder, |add| {
            read(&["nats", &nats.url(), STREAM], add)
        })?,
    ];
    print("\nresult")?;
    print(&counts)?;
    let holds = compared.report(found)?;
    let statement = if holds {
        mode.statement()
    } else {
        "guarantees VIOLATED"
    };
    print(&format!("seed {seed}: {statement}"))?;
    Ok(holds)
}

/// The events of the spool and of the platform, with which the events in a broker are compared.
struct Compared {
    mode: Mode,
    recognised: Vec<RecognisedEvent>,
    gaps: Vec<Gap>,
    durable: Vec<Option<EventHash>>,
}

impl Compared {
    /// Compares a broker with the spool, and each source with the platform. `read` calls its argument with each copy.
    fn with(
        &self,
        broker: &'static str,
        promise: Promise,
        read: impl FnOnce(&mut dyn FnMut(Copy)) -> Result<()>,
    ) -> Result<(AuditResult, Vec<Comparison>)> {
        let mut audit = Audit::new(broker, promise, &self.durable);
        let mut received: BTreeMap<String, Received> = BTreeMap::new();
        read(&mut |copy| {
            audit.add(copy.fingerprint);
            received.entry(copy.source.clone()).or_default().add(&copy);
        })?;
        let compare = |source: &&str| {
            let received = received.remove(&format!("/neuroio/{source}")).unwrap_or_default();
            let gaps: Vec<&Gap> = self.gaps.iter().filter(|gap| gap.source == **source).collect();
            received.compare(format!("{source} in {broker}"), &self.recognised, &gaps)
        };
        let comparisons = self.mode.sources().iter().map(compare).collect();
        ensure!(
            received.is_empty(),
            "{broker} has events of other sources: {:?}",
            received.keys()
        );
        Ok((audit.end(), comparisons))
    }

    /// Prints the results, and returns whether all guarantees held.
    fn report(&self, found: [(AuditResult, Vec<Comparison>); 2]) -> Result<bool> {
        print(&summary(&self.gaps))?;
        print("compared with the spool:")?;
        let mut holds = true;
        let mut comparisons = Vec::new();
        for (audit, of_sources) in found {
            print(&audit.to_string())?;
            holds &= audit.holds();
            comparisons.extend(of_sources);
        }
        print("compared with the platform:")?;
        print(&Table(&comparisons).to_string())?;
        Ok(holds
            && comparisons
                .iter()
                .all(|found| satisfies_guarantees(self.mode, found, &self.gaps)))
    }
}

/// Runs the bridge with the faults of the schedule, then without faults until all gaps have a final outcome and all events are
/// delivered.
fn run_with_faults(
    dir: &Scratch,
    mode: Mode,
    seed: u64,
    duration: Duration,
    (feed, iam): (&Relay, &Relay),
    config: &str,
    gaps: &mut GapLog,
) -> Result<Ended> {
    let faults = match mode {
        Mode::TwoConnections => schedule::draw_single_cuts(seed, duration),
        _ => schedule::draw_mixed(seed, duration),
    };
    let of = |victim| -> Vec<Fault> {
        let of = faults.iter().filter(|fault| fault.victim == victim);
        of.copied().collect()
    };
    let mut runs = BridgeRuns::begin(dir, config, Some(gaps))?;
    print("\nthe run")?;
    let clock = Clock::start(duration);
    thread::scope(|scope| -> Result<()> {
        let clock = &clock;
        let feed = scope.spawn(|| {
            guarded(clock, || match mode {
                Mode::TwoConnections => cut_singly(feed, &of(Victim::Feed), clock),
                _ => cut(feed, &of(Victim::Feed), clock),
            })
        });
        let iam = scope.spawn(|| guarded(clock, || cut(iam, &of(Victim::Iam), clock)));
        let bridge = guarded(clock, || runs.run(&of(Victim::Bridge), clock));
        bridge.and(join(feed)).and(join(iam))
    })?;
    log("end of the faults; filling the last gaps");
    runs.wait_until_filled(FILL_LIMIT)?;
    runs.end()
}

/// Cuts single connections, each one only while all connections work.
fn cut_singly(relay: &Relay, faults: &[Fault], clock: &Clock) -> Result<()> {
    for fault in faults {
        if !clock.wait_until(fault.at) {
            return Ok(());
        }
        while !wait_until_all_work(relay, clock)? {
            if clock.has_stopped() || clock.has_ended() {
                return Ok(());
            }
        }
        if fault.kind == Kind::StallOne {
            relay.stall_one();
            clock.log(fault.victim, "one connection half-open")?;
        } else {
            relay.cut_one();
            clock.log(fault.victim, "one connection disconnected")?;
        }
    }
    Ok(())
}

/// Waits until two connections work, and returns whether both still work after [`STEADY`].
fn wait_until_all_work(relay: &Relay, clock: &Clock) -> Result<bool> {
    let deadline = Instant::now() + WORKS_LIMIT;
    while relay.working(WORKS) < 2 {
        if clock.has_stopped() || clock.has_ended() {
            return Ok(false);
        }
        ensure!(
            Instant::now() < deadline,
            "two connections did not work within {WORKS_LIMIT:?}"
        );
        clock.pause(STEADY);
    }
    clock.pause(STEADY);
    Ok(relay.working(WORKS) >= 2)
}

/// Returns whether the events of a source in a broker satisfy the guarantees of this kind of run.
fn satisfies_guarantees(mode: Mode, found: &Comparison, gaps: &[Gap]) -> bool {
    found.holds()
        && match mode {
            Mode::RestOff | Mode::RestDown => true,
            Mode::RestUp => found.in_gaps == 0 && gaps.iter().all(|gap| gap.outcome == "recovered"),
            Mode::TwoConnections => gaps.is_empty() && found.backfilled + found.late == 0,
        }
}

fn counts(ended: &Ended, tokens: usize) -> String {
    let ReloadCounts {
        of_source,
        of_sinks,
        refused,
        too_early,
        interrupted,
    } = ended.reloads;
    format!(
        "kill -9 of the bridge: {}; tokens created: {tokens}\n\
         reloads: {of_source} of a source and {of_sinks} of a sink applied, {refused} invalid files refused, \
         {too_early} before the last one was complete, {interrupted} interrupted by a kill\n\
         {} responses of /status, all balanced",
        ended.kills,
        ended.history.answers()
    )
}

/// Returns the number of lines of a log that contain a text.
fn occurrences(path: &Path, text: &str) -> Result<usize> {
    let log = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let lines = log.split(|byte| *byte == b'\n');
    Ok(lines
        .filter(|line| String::from_utf8_lossy(line).contains(text))
        .count())
}

/// Reads the events that the platform recognised.
pub(super) fn read_record(path: &Path) -> Result<Vec<RecognisedEvent>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    BufReader::new(file)
        .lines()
        .map(|line| serde_json::from_str(&line?).context("a line of the record of recognised events"))
        .collect()
}
