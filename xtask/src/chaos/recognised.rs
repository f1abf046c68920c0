//! Compares the received events with all events that the platform recognised: a missing event must lie in a gap that the
//! bridge reported.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::relay::Relay;
use serde::Deserialize;

use super::bridge_runs::BridgeRuns;
use super::clock::Clock;
use super::schedule::{self, Fault, Victim};
use super::{Args, STOP, cut, guarded, join};
use crate::shell::{log, print};

/// The maximum time of an event from its recognition to the bridge, on a busy machine. An event that is lost at the start of a
/// gap was recognised up to this time before the gap.
const TRANSIT: SignedDuration = SignedDuration::from_millis(500);
/// The maximum time from the platform's answer to AUTH to its first event. The gap ends with the answer.
const START_OF_FEED: SignedDuration = SignedDuration::from_millis(100);
/// The maximum number of missing events outside of all gaps that are listed.
const MAX_DESCRIBED: usize = 5;
/// Faults of the feed in addition to those of the schedule: an orderly close, a connection that hangs, a wrong answer to a
/// ping, a reset, and a refused token.
const FAULTS: [&str; 5] = [
    "close=1001,every=17s",
    "half-open,every=41s",
    "wrong-pong,every=29s",
    "reset,every=23s",
    "refuse-token,every=37s",
];

/// The faults of the REST interface.
const REST_FAULTS: [&str; 6] = [
    "rest-http=503,every=7s",
    "rest-http=429,retry-after=1,every=13s",
    "rest-cut,every=11s",
    "rest-no-json,every=19s",
    "rest-slow=3s,every=23s",
    "rest-http=401,every=31s",
];
/// The REST interface refuses every request.
const REST_DOWN: [&str; 1] = ["rest-http=503"];
/// The time for which the last gap is filled.
const FILL_LIMIT: Duration = Duration::from_secs(120);

/// The state of the platform's REST interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Rest {
    /// The bridge does not use it.
    Off,
    /// It works, with faults: every missed event has to be fetched.
    Up,
    /// It refuses every request: every missing event has to lie in a gap with the outcome `unrecovered`.
    Down,
}

/// An event that the platform recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct RecognisedEvent {
    id: u64,
    at: Timestamp,
}

/// A gap as `neurobridge gaps ls --json` prints it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Gap {
    began: Timestamp,
    ended: Option<Timestamp>,
    reason: String,
    outcome: String,
}

impl Gap {
    /// Returns whether a missing event may have been lost in this gap, and the gap does not claim that all were fetched.
    fn explains(&self, event: RecognisedEvent) -> bool {
        self.outcome != "recovered"
            && event.at >= self.began - TRANSIT
            && self.ended.is_none_or(|ended| event.at <= ended + START_OF_FEED)
    }
}

/// The result of the comparison.
#[derive(Debug, Default, PartialEq)]
struct Comparison {
    recognised: usize,
    received: usize,
    /// Further copies of received events.
    twice: usize,
    /// Missing events inside of gaps.
    inside: usize,
    /// Missing events that no gap explains.
    outside: Vec<RecognisedEvent>,
    /// Received events that the platform did not recognise.
    foreign: usize,
    /// The longest time by which a missing event was recognised before its gap began.
    earliest: SignedDuration,
    /// Received events within the bounds of gaps.
    received_inside: usize,
}

impl Comparison {
    fn of(recognised: &[RecognisedEvent], received: &[u64], gaps: &[Gap]) -> Self {
        let ids: HashSet<u64> = received.iter().copied().collect();
        let mut found = Self {
            recognised: recognised.len(),
            ..Self::default()
        };
        for event in recognised {
            let begins: Vec<Timestamp> = gaps
                .iter()
                .filter(|gap| gap.explains(*event))
                .map(|gap| gap.began)
                .collect();
            if ids.contains(&event.id) {
                found.received += 1;
                found.received_inside += usize::from(begins.iter().any(|began| event.at > *began));
            } else if let Some(early) = begins.iter().map(|began| began.duration_since(event.at)).min() {
                found.inside += 1;
                found.earliest = found.earliest.max(early);
            } else {
                found.outside.push(*event);
            }
        }
        found.foreign = ids.len() - found.received;
        found.twice = received.len() - ids.len();
        found
    }

    /// Returns whether each missing event lies in a gap whose events were not fetched, and no event was received twice.
    const fn holds(&self) -> bool {
        self.outside.is_empty() && self.foreign == 0 && self.twice == 0
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} recognised = {} received + {} missing inside gaps + {} missing outside; {} twice, {} foreign\n\
             a missing event was recognised at most {:.0} ms before its gap; {} events were received inside gaps",
            self.recognised,
            self.received,
            self.inside,
            self.outside.len(),
            self.twice,
            self.foreign,
            self.earliest.as_secs_f64() * 1000.0,
            self.received_inside,
        )?;
        for event in self.outside.iter().take(MAX_DESCRIBED) {
            write!(
                f,
                "\n  {} recognised at {} lies outside of all gaps",
                event.id, event.at
            )?;
        }
        Ok(())
    }
}

/// Performs a run with faults of the feed and of the bridge, and returns whether all guarantees held.
pub(super) fn run_in(dir: &Scratch, args: &Args) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let duration = Duration::from_secs_f64(args.minutes * 60.0);
    let faults = schedule::draw_of_feed(seed, duration);
    print(&format!(
        "seed {seed}, {} minutes, {} events per second, compared with everything that the platform recognised",
        args.minutes, args.rate
    ))?;
    let of = |victim| -> Vec<Fault> {
        let of = faults.iter().filter(|fault| fault.victim == victim);
        of.copied().collect()
    };

    let record = dir.join("recognised.jsonl");
    let (rate, path) = (args.rate.to_string(), record.display().to_string());
    let mut options = vec!["--rate", &rate, "--recognised", &path];
    options.extend(FAULTS.iter().flat_map(|rule| ["--fault", rule]));
    let of_rest: &[&str] = match args.rest {
        Rest::Off => &[],
        Rest::Up => &REST_FAULTS,
        Rest::Down => &REST_DOWN,
    };
    options.extend(of_rest.iter().flat_map(|rule| ["--fault", rule]));
    let mut platform = Platform::start(dir, &options)?;
    let relay = Relay::to(platform.address().to_owned())?;
    let output = dir.join("events.jsonl");
    let mut config = configuration(&format!("ws://{}/", relay.address()), &output);
    if args.rest != Rest::Off {
        config.push_str(&backfill(platform.address(), args.rest));
    }
    let mut runs = BridgeRuns::begin(dir, config)?;

    print("\nthe run")?;
    let clock = Clock::start(duration);
    thread::scope(|scope| -> Result<()> {
        let clock = &clock;
        let feed = scope.spawn(|| guarded(clock, || cut(&relay, &of(Victim::Feed), clock)));
        let bridge = guarded(clock, || runs.run(&of(Victim::Bridge), clock));
        bridge.and(join(feed))
    })?;
    log("end of the faults");
    if args.rest != Rest::Off {
        wait_until_filled(&dir.join("neurobridge.toml"))?;
    }
    platform.process().terminate(STOP)?;
    let (_, spool, kills) = runs.end()?;
    let gaps = reported_gaps(&dir.join("neurobridge.toml"))?;
    let (received, unread) = spool.into_ids();
    ensure!(unread == 0, "{unread} events were deleted before they were read");

    let found = Comparison::of(&read_record(&record)?, &received, &gaps);
    print("\nresult")?;
    print(&format!("kill -9: the bridge {kills} times"))?;
    print(&summary(&gaps))?;
    print(&found.to_string())?;
    // The platform ends before the bridge, so that the last gap stays open.
    let is_filled = |gap: &Gap| gap.ended.is_none() || gap.outcome == "recovered";
    let holds = found.holds() && (args.rest != Rest::Up || gaps.iter().all(is_filled));
    print(&format!(
        "seed {seed}: {}",
        if holds && args.rest == Rest::Up {
            "every event was received once, up to the end of the platform"
        } else if holds {
            "every event was received, or lies in a reported gap"
        } else {
            "guarantees VIOLATED"
        }
    ))?;
    Ok(holds)
}

fn configuration(feed: &str, output: &Path) -> String {
    format!(
        r#"
[sources.main]
url = "{feed}"
token = "chaos"
backoff = {{ min = "50ms", max = "1s" }}

[spool]
type = "disk"
segment_size = "16 MiB"

[sinks.file]
type = "file"
path = {output:?}
"#
    )
}

fn backfill(platform: &str, rest: Rest) -> String {
    let give_up_after = if rest == Rest::Down { "1s" } else { "1h" };
    format!(
        r#"
[sources.main.backfill]
url = "http://{platform}"
rate = 1000
timeout = "2s"
give_up_after = "{give_up_after}"
"#
    )
}

/// Waits until the bridge is connected, and each gap has a final outcome.
fn wait_until_filled(config: &Path) -> Result<()> {
    let is_final = |gap: &Gap| gap.ended.is_some() && gap.outcome != "filling";
    wait_for("the end of all gaps", FILL_LIMIT, || {
        Ok(reported_gaps(config)?.iter().all(is_final).then_some(()))
    })
}

/// Returns the gaps that the bridge reported.
fn reported_gaps(config: &Path) -> Result<Vec<Gap>> {
    let mut command = Command::new(neurobridge());
    command.args(["gaps", "ls", "--json", "--config"]).arg(config);
    let output = command.output().context("running neurobridge gaps ls")?;
    ensure!(
        output.status.success(),
        "neurobridge gaps ls exited with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout)?;
    lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("a gap: {line}")))
        .collect()
}

fn read_record(path: &Path) -> Result<Vec<RecognisedEvent>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    BufReader::new(file)
        .lines()
        .map(|line| serde_json::from_str(&line?).context("a line of the record of recognised events"))
        .collect()
}

/// Returns the number of gaps by reason and outcome.
fn summary(gaps: &[Gap]) -> String {
    let mut kinds: Vec<String> = gaps
        .iter()
        .map(|gap| format!("{} {}", gap.reason, gap.outcome))
        .collect();
    kinds.sort_unstable();
    let counted: Vec<String> = kinds
        .chunk_by(|one, other| one == other)
        .map(|alike| format!("{} {}", alike.len(), alike[0]))
        .collect();
    format!("{} gaps: {}", gaps.len(), counted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64, milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(seconds * 1000 + milliseconds).unwrap()
    }

    fn gap(began: Timestamp, ended: Option<Timestamp>) -> Gap {
        Gap {
            began,
            ended,
            reason: "crash".to_owned(),
            outcome: "unrecovered".to_owned(),
        }
    }

    #[test]
    fn missing_event_has_to_lie_in_a_gap() {
        let recognised: Vec<RecognisedEvent> = (1..=10_u64)
            .map(|id| RecognisedEvent {
                id,
                at: time(i64::try_from(id).unwrap(), 0),
            })
            .collect();
        let gaps = [gap(time(3, 100), Some(time(4, 950))), gap(time(9, 0), None)];
        let found = Comparison::of(&recognised, &[1, 2, 4, 6, 7, 8], &gaps);
        assert!(found.holds(), "{found}");
        assert_eq!((found.received, found.inside, found.received_inside), (6, 4, 1));
        assert_eq!(found.earliest, SignedDuration::from_millis(100));

        let found = Comparison::of(&recognised, &[1, 4, 6, 7, 8, 9, 10, 11], &gaps);
        assert_eq!(found.outside, recognised[1..2]);
        assert_eq!(found.foreign, 1);
        assert!(!found.holds());

        let recovered = Gap {
            outcome: "recovered".to_owned(),
            ..gap(time(3, 100), Some(time(4, 950)))
        };
        let found = Comparison::of(&recognised, &[1, 2, 4, 5, 6, 7, 8, 9, 10], &[recovered]);
        assert_eq!(
            found.outside,
            recognised[2..3],
            "a recovered gap has no missing event"
        );
        let found = Comparison::of(&recognised[..2], &[1, 2, 2], &[]);
        assert!(found.twice == 1 && !found.holds());
    }
}
