//! Measures the costs of the members of a cluster: the processor time of the leader and of a follower, and the time that
//! a member needs to start when the destination already has many messages.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use neurobridge_tests::cluster::cluster_table;
use neurobridge_tests::nats::{Nats, NatsOptions};
use neurobridge_tests::poll::wait_for;

use super::Bench;
use super::case::Case;
use super::destination::Destination;
use super::program::{Bridge, Program, START_LIMIT};
use super::rate::WARM_UP;
use super::report::middle;
use crate::shell::print;

/// The names of the members. The first one is started first, and leads.
const NAMES: [&str; 2] = ["leader", "follower"];
/// The default of `cluster.lease.ttl` in the configuration.
const DEFAULT_TTL: &str = "10s";
/// The number of pending events with which a member counts as started, as a part of the events of one second.
const SETTLED: f64 = 0.5;

/// Returns the rates to measure.
pub(super) fn rates(selected: &[u64]) -> Vec<u64> {
    if selected.is_empty() {
        vec![1_000]
    } else {
        selected.to_vec()
    }
}

/// The results of one run.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Microseconds of processor time for each event, by member.
    cpu: [f64; 2],
    /// The time from the start of the process until the member has settled what it received.
    start: [Duration; 2],
    /// The same time for the second start of the follower, which then has the files of the first start.
    restart: Duration,
}

impl Bench {
    /// Measures a cluster of two members in several runs, each with a new destination, and prints the results.
    pub(super) fn measure_members(&self, case: Case, rate: u64) -> Result<()> {
        let mut turns = Vec::new();
        for number in 0..self.args.turns {
            let turn = self.members_turn(case, rate, &format!("bench-members-{case}-{rate}-{number}"))?;
            for (member, name) in NAMES.iter().enumerate() {
                print(&format!(
                    "{:<20} {rate:>10}  {name:<8} {:>12.1}  started in {:.1} s",
                    case.to_string(),
                    turn.cpu[member],
                    turn.start[member].as_secs_f64()
                ))?;
            }
            print(&format!(
                "{:<20} {rate:>10}  follower, started again in {:.1} s",
                case.to_string(),
                turn.restart.as_secs_f64()
            ))?;
            turns.push(turn);
        }
        let ratios: Vec<f64> = turns.iter().map(|turn| turn.cpu[1] / turn.cpu[0]).collect();
        let bounds = ratios.iter().fold((f64::MAX, f64::MIN), |(low, high), ratio| {
            (low.min(*ratio), high.max(*ratio))
        });
        print(&format!(
            "{case} at {rate} events/s, follower: {:.2} times the CPU of the leader, per run {:.2} to {:.2}\n",
            middle(ratios),
            bounds.0,
            bounds.1
        ))
    }

    fn members_turn(&self, case: Case, rate: u64, name: &str) -> Result<Turn> {
        let destination = self.destination(case, name)?;
        if self.args.existing > 0 {
            self.fill(&destination, case)?;
        }
        let lease = Nats::start(NatsOptions::default())?;
        let feed = self.feed(None, Some(rate as f64))?;
        let start = |member: &str| {
            let cluster = cluster_table("bench", member, &lease.url(), DEFAULT_TTL);
            let started = Instant::now();
            let dir = format!("{name}-{member}");
            let bridge = self.bridge(Program::Disk, &destination, feed.url(), &dir, &cluster)?;
            bridge.await_settled(rate)?;
            Ok::<_, anyhow::Error>((bridge, started.elapsed()))
        };
        let (leader, leader_start) = start(NAMES[0])?;
        let (follower, follower_start) = start(NAMES[1])?;
        // The measurement covers a fixed period, so there is no condition to wait for.
        sleep(WARM_UP);
        ensure!(
            leader.leads()? && !follower.leads()?,
            "the member that was started first does not lead"
        );
        let before = (
            leader.delivered()?,
            leader.process.usage()?.cpu,
            follower.process.usage()?.cpu,
        );
        sleep(Duration::from_secs(self.args.seconds));
        let after = (
            leader.delivered()?,
            leader.process.usage()?.cpu,
            follower.process.usage()?.cpu,
        );
        ensure!(leader.leads()?, "the leader changed during the measurement");
        let events = (after.0 - before.0) as f64;
        let each = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / events;
        let cpu = [each(before.1, after.1), each(before.2, after.2)];
        drop(follower);
        let (follower, restart) = start(NAMES[1])?;
        drop((leader, follower, feed, lease));
        destination.remove()?;
        Ok(Turn {
            cpu,
            start: [leader_start, follower_start],
            restart,
        })
    }

    /// Publishes messages to the destination with the bare loop, which is not a member of the cluster.
    fn fill(&self, destination: &Destination<'_>, case: Case) -> Result<()> {
        let events = self.args.existing;
        let feed = self.feed(Some(events), None)?;
        let mut running = self.start(Program::Bare, destination, case, feed.url(), events)?;
        running.await_delivered(events)
    }
}

impl Bridge {
    /// Returns whether this member leads.
    fn leads(&self) -> Result<bool> {
        let status = self.status()?;
        Ok(status["cluster"]["role"].as_str() == Some("leader"))
    }

    /// Waits until the member has joined the cluster and has settled nearly all events that it received.
    fn await_settled(&self, rate: u64) -> Result<()> {
        wait_for("the member to settle its events", START_LIMIT, || {
            let Ok(status) = self.status() else {
                return Ok(None);
            };
            let ledger = &status["sinks"]["out"]["ledger"];
            let number = |key: &str| {
                ledger[key]
                    .as_u64()
                    .with_context(|| format!("/status without {key}"))
            };
            let (stored, pending) = (number("stored")?, number("pending")?);
            let is_settled = stored > rate && pending as f64 <= rate as f64 * SETTLED;
            let has_joined = status["cluster"]["join_state"].as_str() == Some("joined");
            Ok((has_joined && is_settled).then_some(()))
        })
        .with_context(|| self.process.log_tail())
    }
}
