//! `cargo xtask bench`: the bridge beside a bare loop of the same clients, both into a real broker, by turns.
//!
//! On a machine of few cores the broker and the simulator share them with what is weighed, so events a second say
//! little; CPU-seconds a million events, and their ratio to a bare loop in the same hour, say what the bridge costs.

mod case;
mod contender;
mod destination;
mod feed;
mod latency;
mod machine;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use neurobridge_tests::kafka::{Kafka, KafkaOptions};
use neurobridge_tests::paths::{Scratch, sweep_scratch};
use neurobridge_tests::program::{Profile, build};
use neurobridge_tests::shared::Broker;

use self::case::{Case, Format, Sink};
use self::contender::{Contender, Weight};
use crate::brokers;
use crate::shell::{print, say};

/// What to weigh, and how often.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Events in each turn
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Bytes of each event, from 768 on [default: the simulator's usual entries, about 600]
    #[arg(long)]
    size: Option<u32>,
    /// Turns of each contender; the median counts
    #[arg(long, default_value_t = 3)]
    turns: u32,
    /// Events a second while latency is measured
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// For how many seconds latency is measured; 0 leaves it out
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Where the events go; everywhere, when nothing is named
    #[arg(long, value_enum)]
    sink: Vec<Sink>,
    /// Message formats; both, when none is named
    #[arg(long, value_enum)]
    format: Vec<Format>,
    /// What is weighed; all, when nothing is named
    #[arg(long, value_enum)]
    program: Vec<Contender>,
}

/// The programs, and the broker that all turns share.
pub(crate) struct Bench {
    args: Args,
    neurobridge: PathBuf,
    bare_loop: PathBuf,
    /// There when a case needs it. Of nats-server each turn has one of its own: it starts in a tenth of a second.
    kafka: Option<Kafka>,
    scratch: Scratch,
}

/// Builds, starts the brokers, weighs, prints.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        args.turns > 0 && args.events > 0,
        "turns and events are at least 1"
    );
    sweep_scratch()?;
    say("building the programs to weigh");
    let neurobridge = build("neurobridge", "neurobridge", Profile::Release)?;
    let bare_loop = build("neurobridge-tests", "bare-loop", Profile::Release)?;
    let cases = Case::all(&args.sink, &args.format);
    let bench = Bench {
        args: args.clone(),
        neurobridge,
        bare_loop,
        kafka: brokers(&cases)?,
        scratch: Scratch::new("bench")?,
    };
    for line in machine::describe() {
        print(&line)?;
    }
    let (events, size) = (args.events, args.size);
    print(&format!(
        "{events} events of about {} bytes in each turn",
        size.unwrap_or(600)
    ))?;
    print("")?;
    for case in &cases {
        bench.weigh(*case)?;
    }
    if args.seconds > 0 {
        for case in cases {
            for contender in Contender::of(case, &args.program) {
                if contender.is_bridge() {
                    let latency = bench.latency(contender, case)?;
                    print(&report::latency(contender, case, args, &latency))?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn brokers(cases: &[Case]) -> Result<Option<Kafka>> {
    if cases.iter().any(|case| case.sink != Sink::Kafka) {
        brokers::install(Broker::Nats)?;
    }
    if cases.iter().all(|case| case.sink != Sink::Kafka) {
        return Ok(None);
    }
    brokers::install(Broker::Kafka)?;
    say("starting Kafka");
    // The heap as Kafka's own script sets it.
    let options = KafkaOptions {
        heap_mib: 1024,
        optimised: true,
        ..KafkaOptions::default()
    };
    Kafka::start(options).map(Some)
}

impl Bench {
    /// By turns, so that what else the machine does falls on all of them alike.
    fn weigh(&self, case: Case) -> Result<()> {
        let mut contenders: Vec<(Contender, Vec<Weight>)> = Contender::of(case, &self.args.program)
            .into_iter()
            .map(|contender| (contender, Vec::new()))
            .collect();
        print(report::HEADING)?;
        for turn in 0..self.args.turns {
            for (contender, weights) in &mut contenders {
                let name = format!("bench-{}-{case}-{turn}", contender.word());
                let weight = self.turn(*contender, case, &name)?;
                print(&report::turn(*contender, case, &weight))?;
                weights.push(weight);
            }
        }
        for line in report::summary(case, &contenders) {
            print(&line)?;
        }
        print("")
    }
}
