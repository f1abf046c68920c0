//! `cargo xtask chaos`: runs the bridge between a simulated platform, a real Kafka and a real NATS, while a schedule
//! kills, freezes and disconnects all of them; then audits the result of each event.

mod audit;
mod bridge_runs;
mod clock;
mod cluster;
mod history;
mod recognised;
mod recovery;
mod schedule;
mod sent;
mod server;
mod spool_reader;

use std::collections::HashSet;
use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use neurobridge_spool::inspect;
use neurobridge_tests::fingerprint::Copy;
use neurobridge_tests::kafka::{Kafka, KafkaOptions};
use neurobridge_tests::nats::{Nats, NatsOptions};
use neurobridge_tests::paths::{Scratch, sweep_scratch, target_dir};
use neurobridge_tests::platform::Platform;
use neurobridge_tests::program::{BINARY_VARIABLE, Profile, build, neurobridge};
use neurobridge_tests::relay::Relay;
use neurobridge_tests::shared::Broker;
use neurobridge_tests::small_disk::SmallDisk;

use self::audit::{Audit, AuditResult, Promise};
use self::bridge_runs::{BridgeRuns, Ended};
use self::clock::Clock;
use self::history::StatusHistory;
use self::schedule::{Fault, Victim};
use self::sent::{Reading, Sent};
use self::spool_reader::{EventHash, SpoolReader};
use crate::brokers;
use crate::shell::{log, print};

const TOPIC: &str = "chaos";
/// The default topic in which the sink stores its cursor with transactions.
const CURSORS: &str = "neurobridge.cursors";
const STREAM: &str = "CHAOS";
/// The number of partitions. The persons are distributed over them; all events of a person are in one partition.
const PARTITIONS: u32 = 6;
/// The size of the disk, which has room for the events of some minutes, so that the spool fills it with retained events.
const DISK_MIB: u64 = 256;
/// The time limit for stopping the simulated platform.
const STOP: Duration = Duration::from_secs(30);

/// The duration and the faults of a run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exits with 1, and keeps the run's folder, if
  - a durable event is lost, out of order, or duplicated although duplicates are excluded,
  - a ledger does not balance at any time,
  - a sink does not recover after the last fault,
  - with --recognised, a missing event lies in no reported gap, or a late event is not marked,
  - with --rest up, any event is missing,
  - with --connections 2, there is any gap,
  - with --members, any event is missing, duplicated or out of order.

Each run has its own brokers, ports and folder, so that several can run at the same time.

NEUROBRIDGE_TEST_BINARY=path sets the program to test; by default, the program is built.")]
pub(crate) struct Args {
    /// Duration of the faults in minutes
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Seed of the schedule [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Events per second [default: 5000; 100 with --recognised; 2000 with --members]
    #[arg(long)]
    rate: Option<u64>,
    /// Publish to Kafka in transactions, and allow no duplicates
    #[arg(long)]
    exactly_once: bool,
    /// Compare with all events that the platform recognised, also while the bridge was not connected; the faults are those of
    /// the platform and of the bridge, with reloads and expiring tokens
    #[arg(long, conflicts_with = "exactly_once")]
    recognised: bool,
    /// State of the platform's REST interface, from which the bridge fetches the events of gaps
    #[arg(long, value_enum, requires = "recognised", default_value = "off")]
    rest: recognised::Rest,
    /// Number of connections to the feed. With 2, only single connections are cut: there must be no gap
    #[arg(long, requires = "recognised", conflicts_with = "rest", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    connections: u8,
    /// Number of bridges in a cluster: members are killed, frozen, stopped for an upgrade, and cut from the feed, Kafka or NATS,
    /// and brokers are killed; each event that the platform recognised must be stored once and in order. With 1, a single
    /// bridge with the same faults of the brokers
    #[arg(long, value_name = "N", conflicts_with_all = ["exactly_once", "recognised"], value_parser = clap::value_parser!(u8).range(1..=3))]
    members: Option<u8>,
    /// Inject only faults that end the leadership of a member, one at a time, to measure the times without a leader
    #[arg(long, requires = "members")]
    takeovers: bool,
}

impl Args {
    /// Returns the number of events per second. The default is lower with `--recognised`, which tests faults and not load.
    fn rate(&self) -> u64 {
        self.rate.unwrap_or(match (self.recognised, self.members) {
            (true, _) => 100,
            (_, Some(_)) => 2_000,
            _ => 5_000,
        })
    }
}

/// The result of a run, before the events are read from the brokers.
struct RunResult {
    history: StatusHistory,
    durable: Vec<Option<EventHash>>,
    spool: String,
    sent: Sent,
    kills: Kills,
}

/// The number of kills of each program.
struct Kills {
    bridge: u64,
    kafka: u64,
    nats: u64,
}

/// Builds the programs, starts all servers, injects the faults, drains the spool, audits, and prints the result.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        args.minutes > 0.0 && args.minutes < 10_000.0,
        "--minutes must be positive"
    );
    sweep_scratch()?;
    log("building the programs");
    brokers::install(Broker::Kafka)?;
    brokers::install(Broker::Nats)?;
    let read_back = read_back_program()?;

    // Not one of the temporary folders, because another run would remove the folder of a failed run.
    let folder = target_dir().join("chaos").join(process::id().to_string());
    let mut dir = Scratch::at(folder)?;
    let result = match args.members {
        Some(members) => cluster::run_in(&dir, args, usize::from(members), &read_back),
        None if args.recognised => recognised::run_in(&dir, args, &read_back),
        None => run_in(&dir, args, &read_back),
    };
    if !matches!(result, Ok(true)) {
        dir.keep();
        log(&format!("all files are kept in {}", dir.path().display()));
    }
    Ok(if result? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns the path of the program that reads the events from the brokers. Builds the program unless it was built together with
/// the program under test.
fn read_back_program() -> Result<PathBuf> {
    let beside = neurobridge().with_file_name("read-back");
    if env::var_os(BINARY_VARIABLE).is_some() && beside.is_file() {
        return Ok(beside);
    }
    build("neurobridge-tests", "read-back", Profile::Dev)
}

/// Performs a run and returns whether all guarantees held.
fn run_in(dir: &Scratch, args: &Args, read_back: &Path) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let duration = Duration::from_secs_f64(args.minutes * 60.0);
    let disk = SmallDisk::mount(dir.path(), &dir.join("data"), DISK_MIB)?;
    if disk.is_none() {
        log(
            "cannot mount a small file system, which needs root: the disk is never full in this run; the spool is full \
             only at its max_size, if a broker is unavailable for long",
        );
    }
    let faults = schedule::draw(seed, duration, disk.is_some());
    print(&format!(
        "seed {seed}, {} minutes, {} events per second, {} for Kafka",
        args.minutes,
        args.rate(),
        if args.exactly_once {
            "exactly once"
        } else {
            "at least once"
        }
    ))?;
    print("\nthe schedule")?;
    for fault in &faults {
        print(&fault.to_string())?;
    }

    log("starting Kafka and NATS");
    let options = KafkaOptions {
        fenceable: true,
        ..KafkaOptions::default()
    };
    // A short session timeout, so that the run has time for many fences.
    let session = schedule::KAFKA_SESSION.as_millis();
    let options = options
        .property("broker.session.timeout.ms", &session.to_string())
        .property("broker.heartbeat.interval.ms", &(session / 4).to_string());
    let mut kafka = Kafka::start(options)?;
    kafka.create_topic_by_tool(TOPIC, PARTITIONS, &[])?;
    if args.exactly_once {
        kafka.create_topic_by_tool(CURSORS, 1, &[("cleanup.policy", "compact")])?;
    }
    let mut nats = Nats::start(NatsOptions::default())?;
    let result = run_with_faults(dir, args, duration, &faults, &mut kafka, &mut nats, disk.as_ref())
        .inspect_err(|_| keep_spool(dir))?;

    let report = inspect::verify(&dir.join("data/spool"))?;
    ensure!(
        report.findings.is_empty(),
        "the spool is damaged: {:?}",
        report.findings
    );
    let read = |found: &mut Audit<'_>, what: &[&str]| {
        read_broker(read_back, what, &[&result.spool], |copy| {
            found.add(copy.fingerprint)
        })
    };
    let promise = if args.exactly_once {
        Promise::Once
    } else {
        Promise::AtLeastOnce
    };
    let mut of_kafka = Audit::new("Kafka", promise, &result.durable);
    read(&mut of_kafka, &["kafka", &kafka.bootstrap(), TOPIC])?;
    let mut of_nats = Audit::new("NATS", Promise::OnceInOrder, &result.durable);
    read(&mut of_nats, &["nats", &nats.url(), STREAM])?;
    report_all(&result, &[of_kafka.end(), of_nats.end()], seed)
}

/// Runs the bridge for the duration, with one thread per victim that injects the faults; then waits until the spool is drained.
fn run_with_faults(
    dir: &Scratch,
    args: &Args,
    duration: Duration,
    faults: &[Fault],
    kafka: &mut Kafka,
    nats: &mut Nats,
    disk: Option<&SmallDisk>,
) -> Result<RunResult> {
    let reading = Reading::of(&dir.join("sent.jsonl"))?;
    let rate = args.rate().to_string();
    let mut platform = Platform::start(dir, &["--rate", &rate, "--seed", "1"])?;
    let relay = Relay::to(platform.address().to_owned())?;
    let feed = format!("ws://{}/", relay.address());
    let config = configuration(&feed, &kafka.bootstrap(), &nats.url(), args.exactly_once);
    let mut runs = BridgeRuns::begin(dir, &config, None)?;

    print("\nthe run")?;
    let clock = Clock::start(duration);
    let of = |victim| -> Vec<Fault> {
        let of = faults.iter().filter(|fault| fault.victim == victim);
        of.copied().collect()
    };
    let (killed_kafka, killed_nats) = thread::scope(|scope| -> Result<(u64, u64)> {
        let clock = &clock;
        let kafka = scope.spawn(|| guarded(clock, || server::apply_faults(kafka, &of(Victim::Kafka), clock)));
        let nats = scope.spawn(|| guarded(clock, || server::apply_faults(nats, &of(Victim::Nats), clock)));
        let feed = scope.spawn(|| guarded(clock, || cut(&relay, &of(Victim::Feed), clock)));
        let disk = scope.spawn(|| guarded(clock, || fill(disk, &of(Victim::Disk), clock)));
        let bridge = guarded(clock, || runs.run(&of(Victim::Bridge), clock));
        let kills = (join(kafka), join(nats));
        bridge.and(join(feed)).and(join(disk))?;
        Ok((kills.0?, kills.1?))
    })?;

    log("end of the faults; draining");
    let started = Instant::now();
    platform.process().terminate(STOP)?;
    let sent = reading.end()?;
    let Ended {
        history,
        spool_reader,
        kills: killed,
        ..
    } = runs.end()?;
    log(&format!("drained in {:.1?}", started.elapsed()));
    let (spool, durable) = SpoolReader::into_events(spool_reader)?;
    Ok(RunResult {
        history,
        durable,
        spool,
        sent,
        kills: Kills {
            bridge: killed,
            kafka: killed_kafka,
            nats: killed_nats,
        },
    })
}

/// Stops all other threads if `run` fails.
fn guarded<T>(clock: &Clock, run: impl FnOnce() -> Result<T>) -> Result<T> {
    run().inspect_err(|_| clock.stop())
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow!("a thread has panicked; its message is above"))?
}

fn cut(relay: &Relay, faults: &[Fault], clock: &Clock) -> Result<()> {
    for fault in faults {
        if clock.wait_until(fault.at) {
            relay.cut();
            clock.log(fault.victim, "disconnected")?;
            clock.pause(fault.lasts);
            relay.restore();
            clock.log(fault.victim, "available again")?;
        }
    }
    Ok(())
}

fn fill(disk: Option<&SmallDisk>, faults: &[Fault], clock: &Clock) -> Result<()> {
    let Some(ballast) = disk.map(SmallDisk::ballast) else {
        return Ok(());
    };
    for fault in faults {
        if clock.wait_until(fault.at) {
            clock.log(fault.victim, "full")?;
            let until = Instant::now() + fault.lasts;
            ballast.fill(|| Instant::now() < until && !clock.has_stopped())?;
            clock.log(fault.victim, "no longer full")?;
        }
    }
    Ok(())
}

/// Returns the bridge's configuration. The maximum size of the spool exceeds its file system, so the disk is full before
/// the spool is.
fn configuration(feed: &str, bootstrap: &str, nats: &str, exactly_once: bool) -> String {
    let delivery = if exactly_once {
        "exactly_once"
    } else {
        "at_least_once"
    };
    format!(
        r#"
[sources.main]
url = "{feed}"
token = "chaos"
backoff = {{ min = "50ms", max = "1s" }}

[spool]
type = "disk"
sync = "always"
max_size = "1 GiB"
segment_size = "16 MiB"

[sinks.kafka]
type = "kafka"
bootstrap_servers = "{bootstrap}"
topic = "{TOPIC}"
delivery = "{delivery}"

[sinks.nats]
type = "nats"
servers = ["{nats}"]
stream = {{ name = "{STREAM}", create = true, max_age = "7d", replicas = 1 }}
"#
    )
}

/// Copies the spool for later inspection, because its file system is going to be unmounted.
fn keep_spool(dir: &Scratch) {
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(dir.join("data")).arg(dir.join("data-kept"));
    if let Err(error) = copy.status() {
        log(&format!("cannot copy the spool for later inspection: {error}"));
    }
}

/// Calls `add` with each copy of an event that a broker stores, in the order in which a consumer receives the copies. A copy of
/// another spool is an error.
fn read_broker(program: &Path, what: &[&str], spools: &[&str], mut add: impl FnMut(Copy)) -> Result<()> {
    log(&format!("reading the events of {}", what[0]));
    let mut command = Command::new(program);
    command.args(what).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let output = child.stdout.take().context("the pipe is missing")?;
    for line in BufReader::new(output).lines() {
        let copy: Copy = line?.parse()?;
        ensure!(
            spools.contains(&copy.spool.as_str()),
            "event {} has the spool {}, expected one of {spools:?}",
            copy.id,
            copy.spool
        );
        add(copy);
    }
    let status = child
        .wait()
        .context("waiting for the program that reads the broker")?;
    ensure!(status.success(), "{} exited with {status}", program.display());
    Ok(())
}

/// Prints the result and returns whether all guarantees held.
fn report_all(result: &RunResult, found: &[AuditResult], seed: u64) -> Result<bool> {
    let RunResult {
        history,
        durable,
        sent,
        kills,
        ..
    } = result;
    let contents: Vec<u64> = durable.iter().flatten().map(|event| event.content).collect();
    let unsent = contents
        .iter()
        .filter(|content| !sent.contents.contains(content))
        .count();
    let distinct: HashSet<u64> = contents.iter().copied().collect();
    let twice = contents.len() - distinct.len();
    let unread = durable.len() - contents.len();
    print("\nresult")?;
    print(&format!(
        "kill -9: the bridge {} times, Kafka {}, NATS {}",
        kills.bridge, kills.kafka, kills.nats
    ))?;
    print(&format!(
        "{} events sent, {} made durable ({unsent} of them never sent, {twice} twice, {unread} deleted before they were read)",
        sent.events,
        durable.len()
    ))?;
    for found in found {
        print(&found.to_string())?;
    }
    let mut balances = true;
    for (name, sink) in history.sinks() {
        let all = durable.len() as u64;
        let is_right = sink.ledger.stored == all
            && sink.ledger.delivered + sink.ledger.duplicate == all
            && sink.ledger.pending == 0;
        balances &= is_right;
        print(&format!(
            "ledger of {name}: {} stored = {} delivered + {} duplicate + {} pending{}",
            sink.ledger.stored,
            sink.ledger.delivered,
            sink.ledger.duplicate,
            sink.ledger.pending,
            if is_right {
                ""
            } else {
                ", which differs from the durable events"
            }
        ))?;
    }
    print(&format!(
        "{} responses of /status, all balanced; in {} of them the spool was full",
        history.answers(),
        history.full()
    ))?;
    let holds = balances && unsent == 0 && twice == 0 && found.iter().all(AuditResult::holds);
    print(&format!(
        "seed {seed}: {}",
        if holds {
            "all guarantees held"
        } else {
            "guarantees VIOLATED"
        }
    ))?;
    Ok(holds)
}
