//! `cargo xtask bench`: the bridge beside a bare loop, both into a real Kafka, by turns.
//!
//! On a machine of few cores the broker and the simulator share them with what is weighed, so events a second say
//! little; CPU-seconds a million events, and their ratio to a bare loop in the same hour, say what the bridge costs.

mod contender;
mod feed;
mod latency;
mod machine;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use neurobridge_tests::kafka::{Kafka, KafkaOptions};
use neurobridge_tests::paths::{Scratch, sweep_scratch};
use neurobridge_tests::program::{Profile, build};
use neurobridge_tests::shared::Broker;

use self::contender::{Contender, Weight};
use crate::brokers;
use crate::shell::{print, say};

/// Enough for every core of a broker, few enough that batches stay large.
const PARTITIONS: u32 = 4;

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
    /// For how many seconds latency is measured
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Message formats; both, when none is named
    #[arg(long, value_enum)]
    format: Vec<Format>,
    /// Weigh the bare loops alone
    #[arg(long)]
    bare_only: bool,
}

/// The format in which messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A key, the frame as it came
    Raw,
    /// A key, seven headers, the entry
    Cloudevents,
}

impl Format {
    /// Returns the word for it, in the configuration and for the bare loop.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Cloudevents => "cloudevents",
        }
    }
}

/// The programs, and the broker that all turns share.
pub(crate) struct Bench {
    args: Args,
    neurobridge: PathBuf,
    bare_loop: PathBuf,
    kafka: Kafka,
    scratch: Scratch,
}

/// Builds, starts a Kafka, weighs, prints.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        args.turns > 0 && args.events > 0 && args.seconds > 0,
        "turns, events and seconds are at least 1"
    );
    sweep_scratch()?;
    say("building the programs to weigh");
    let neurobridge = build("neurobridge", "neurobridge", Profile::Release)?;
    let bare_loop = build("neurobridge-tests", "bare-loop", Profile::Release)?;
    brokers::install(Broker::Kafka)?;
    say("starting Kafka");
    // The heap as Kafka's own script sets it.
    let kafka = Kafka::start(KafkaOptions {
        heap_mib: 1024,
        optimised: true,
        ..KafkaOptions::default()
    })?;
    let bench = Bench {
        args: args.clone(),
        neurobridge,
        bare_loop,
        kafka,
        scratch: Scratch::new("bench")?,
    };
    for line in machine::describe() {
        print(&line)?;
    }
    let (events, size) = (args.events, args.size);
    print(&format!(
        "{events} events of about {} bytes in each turn, {PARTITIONS} partitions",
        size.unwrap_or(600)
    ))?;
    print("")?;
    for format in bench.formats() {
        bench.weigh(format)?;
    }
    if !args.bare_only {
        for format in bench.formats() {
            for contender in [Contender::Bridge, Contender::Disk] {
                let latency = bench.latency(contender, format)?;
                print(&report::latency(contender, format, args, &latency))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    fn formats(&self) -> Vec<Format> {
        if self.args.format.is_empty() {
            vec![Format::Raw, Format::Cloudevents]
        } else {
            self.args.format.clone()
        }
    }

    /// By turns, so that what else the machine does falls on all of them alike.
    fn weigh(&self, format: Format) -> Result<()> {
        let mut contenders = vec![(Contender::Bare, Vec::<Weight>::new())];
        if !self.args.bare_only {
            contenders.extend([Contender::Bridge, Contender::Disk].map(|one| (one, Vec::new())));
        }
        print(report::HEADING)?;
        for turn in 0..self.args.turns {
            for (contender, weights) in &mut contenders {
                let topic = format!("bench-{}-{}-{turn}", contender.word(), format.word());
                self.kafka.create_topic_by_tool(&topic, PARTITIONS, &[])?;
                let weight = self.turn(*contender, format, &topic)?;
                self.kafka.delete_topic_by_tool(&topic)?;
                print(&report::turn(*contender, format, &weight))?;
                weights.push(weight);
            }
        }
        for line in report::summary(format, &contenders) {
            print(&line)?;
        }
        print("")
    }
}
