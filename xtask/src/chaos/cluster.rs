//! A cluster of bridges under faults of its members, their connections and the brokers: each event that the platform
//! recognised must be in each broker once and in order.

mod comparison;
mod drain;
mod faults;
mod feeds;
mod member;
mod schedule;
mod servers;
mod setup;
mod status;
mod takeovers;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use neurobridge_tests::kafka::Kafka;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::relay::Relay;

use self::comparison::{Compared, Spool};
use self::drain::Drained;
use self::faults::{Cluster, Journal};
use self::feeds::Feeds;
use self::member::{Links, Member};
use self::schedule::Lanes;
use self::servers::{Recorded, Replicas};
use self::takeovers::Injected;
use super::clock::Clock;
use super::recognised::read_record;
use super::schedule::Link;
use super::sent::Reading;
use super::server::apply_faults;
use super::{Args, STOP, STREAM, TOPIC, guarded, join};
use crate::shell::{log, print};

/// The names of the members.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// The interval of the requests to the `/status` of each member.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// Performs a run with this number of members, and returns whether all guarantees held.
pub(super) fn run_in(dir: &Scratch, args: &Args, members: usize, read_back: &Path) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let duration = Duration::from_secs_f64(args.minutes * 60.0);
    let lanes = if args.takeovers {
        Lanes::draw_takeovers(seed, duration)
    } else {
        Lanes::draw(seed, duration, members)
    };
    print(&format!(
        "seed {seed}, {} minutes, {} events per second, {members} members; exactly once in Kafka, strict order in JetStream",
        args.minutes,
        args.rate()
    ))?;
    print("\nthe schedule; a fault waits until the members are ready for it")?;
    for fault in lanes.all() {
        print(&fault.to_string())?;
    }

    log("starting Kafka and three servers of NATS");
    let (mut kafka, relays) = setup::start_kafka(members)?;
    let nats = setup::start_nats()?;
    let urls = nats.urls();
    let mut nats = Replicas::new(nats);
    let reading = Reading::of(&dir.join("sent.jsonl"))?;
    let record = dir.join("recognised.jsonl");
    let options = setup::platform(args.rate(), duration, &record.display().to_string());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut platform = Platform::start(dir, &options)?;
    let members = start_members(dir, platform.address(), relays, &urls)?;

    let ended = run_with_faults(&members, &lanes, duration, &mut kafka, &mut nats)?;
    platform.process().terminate(STOP)?;
    let mut violations = ended.drained.violations;
    let ends = members.iter().filter_map(|member| member.end().err());
    violations.extend(ends.map(|error| format!("{error:#}")));
    let answers: u64 = members.iter().map(Member::answers).sum();
    let spools = members
        .into_iter()
        .map(|member| member.into_events().map(Spool::new));
    let mut recognised = read_record(&record)?;
    // Earlier events are not compared, because not all members were connected yet.
    recognised.retain(|event| event.at.as_millisecond() >= ended.started);
    ensure!(
        !recognised.is_empty(),
        "no event was recognised while all members were connected"
    );
    ensure!(
        !ended.faults.is_empty(),
        "no fault was injected; use a larger value of --minutes"
    );
    let compared = Compared {
        recognised,
        sent: reading.end()?.contents,
        spools: spools.collect::<Result<_>>()?,
        faults: ended.faults,
        started: ended.started,
    };
    let found = [
        compared.with(Link::Kafka, read_back, &["kafka", &kafka.bootstrap(), TOPIC])?,
        compared.with(Link::Nats, read_back, &["nats", &nats.urls(), STREAM])?,
    ];
    print("\nresult")?;
    print(&faults::summary(&compared.faults))?;
    print(&format!(
        "{} hand-overs after the faults; {answers} responses of /status, all balanced",
        ended.drained.hand_overs
    ))?;
    let holds = compared.report(found)? && violations.is_empty();
    for violation in &violations {
        print(violation)?;
    }
    let statement = if holds {
        "every event is stored once and in order"
    } else {
        "guarantees VIOLATED"
    };
    print(&format!("seed {seed}: {statement}"))?;
    Ok(holds)
}

/// Starts the members, each with its own relays to the feed, Kafka and NATS.
fn start_members(dir: &Scratch, feed: &str, kafka: Vec<Relay>, nats: &[String]) -> Result<Vec<Member>> {
    let members = kafka.len();
    let start = |(kafka, name): (Relay, &'static str)| {
        let servers = nats
            .iter()
            .map(|url| url.trim_start_matches("nats://").to_owned());
        let links = Links {
            feed: Relay::to(feed.to_owned())?,
            kafka,
            nats: servers.map(Relay::to).collect::<Result<_>>()?,
        };
        let config = setup::configuration(name, &links, members);
        Member::start(name, Scratch::at(dir.join(name))?, links, &config)
    };
    kafka.into_iter().zip(NAMES).map(start).collect()
}

/// The result of the faults, before the events are read from the brokers.
struct Ended {
    /// The start of the faults, in milliseconds since 1970.
    started: i64,
    drained: Drained,
    faults: Vec<Injected>,
}

/// Injects the faults, with one thread for each lane and for the status of each member; then waits until all members have
/// settled all events.
fn run_with_faults(
    members: &[Member],
    lanes: &Lanes,
    duration: Duration,
    kafka: &mut Kafka,
    nats: &mut Replicas,
) -> Result<Ended> {
    for member in members {
        member.await_connection()?;
    }
    print("\nthe run")?;
    let (feeds, journal) = (Mutex::new(Feeds::new(members.len())), Journal::default());
    let (started, clock) = (Journal::now(), Clock::start(duration));
    let cluster = Cluster {
        members,
        feeds: &feeds,
        journal: &journal,
        clock: &clock,
    };
    let have_ended = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let (cluster, clock, have_ended) = (&cluster, &clock, &have_ended);
        let observers: Vec<_> = (0..members.len())
            .map(|member| scope.spawn(move || guarded(clock, || observe(cluster, member, have_ended))))
            .collect();
        let of_members = lanes.members.iter().chain([&lanes.links]);
        let mut injected: Vec<_> = of_members
            .map(|faults| scope.spawn(move || guarded(clock, || cluster.inject(faults))))
            .collect();
        let mut kafka = Recorded::new(kafka, Link::Kafka, cluster.journal);
        let mut nats = Recorded::new(nats, Link::Nats, cluster.journal);
        injected.push(
            scope.spawn(move || guarded(clock, || apply_faults(&mut kafka, &lanes.kafka, clock).map(drop))),
        );
        injected.push(
            scope.spawn(move || guarded(clock, || apply_faults(&mut nats, &lanes.nats, clock).map(drop))),
        );
        let results: Vec<Result<()>> = injected.into_iter().map(join).collect();
        have_ended.store(true, Ordering::Relaxed);
        let observed = observers.into_iter().map(join);
        results.into_iter().chain(observed).collect()
    })?;
    log("end of the faults; waiting until all members have settled all events");
    let drained = drain::drain(&cluster)?;
    Ok(Ended {
        started,
        drained,
        faults: journal.into_faults(),
    })
}

/// Observes a member until the faults have ended.
fn observe(cluster: &Cluster<'_>, member: usize, have_ended: &AtomicBool) -> Result<()> {
    while !have_ended.load(Ordering::Relaxed) && !cluster.clock.has_stopped() {
        cluster.observe(member)?;
        // A bridge reports its state only in the response to a request, so this polls at an interval.
        thread::sleep(STATUS_INTERVAL);
    }
    Ok(())
}
