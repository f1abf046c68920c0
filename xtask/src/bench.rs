//! `cargo xtask bench`: compares the bridge with a bare loop of the same clients, in alternating runs against a real
//! broker.
//!
//! On a machine with few cores, the broker and the simulator share the cores with the measured program, so the number
//! of events per second has little meaning. The cost of the bridge is its CPU time per million events, and the ratio to
//! a bare loop measured within the same hour. `--instructions` needs no broker and no quiet machine.

mod case;
mod destination;
mod feed;
mod instructions;
mod latency;
mod machine;
mod program;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use neurobridge_tests::kafka::{Kafka, KafkaOptions};
use neurobridge_tests::paths::{Scratch, sweep_scratch};
use neurobridge_tests::program::{Profile, build};
use neurobridge_tests::shared::Broker;

use self::case::{Case, Format, Sink};
use self::program::{Cost, Program};
use crate::brokers;
use crate::shell::{log, print};

/// The programs to measure and the number of runs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Events per run
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Bytes per event, at least 768 [default: the simulator's usual entries, about 600]
    #[arg(long)]
    size: Option<u32>,
    /// Runs per program; the median is reported
    #[arg(long, default_value_t = 3)]
    turns: u32,
    /// Events per second during the latency measurement
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Duration of the latency measurement in seconds; 0 skips it
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Sinks to measure [default: all]
    #[arg(long, value_enum)]
    sink: Vec<Sink>,
    /// Message formats to measure [default: both]
    #[arg(long, value_enum)]
    format: Vec<Format>,
    /// Programs to measure [default: all]
    #[arg(long, value_enum)]
    program: Vec<Program>,
    /// Count the instructions for each event in valgrind instead, without brokers, and compare them with xtask/instructions.toml
    #[arg(long)]
    instructions: bool,
    /// Store the counted instructions as the new reference
    #[arg(long, requires = "instructions")]
    accept: bool,
}

/// The programs to measure, and the broker that all runs share.
pub(crate) struct Bench {
    args: Args,
    neurobridge: PathBuf,
    bare_loop: PathBuf,
    /// Kafka, if a case needs it. NATS is started for each run, since it starts within a tenth of a second.
    kafka: Option<Kafka>,
    scratch: Scratch,
}

/// Builds the programs, starts the brokers, measures, and prints the results.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.instructions {
        return instructions::run(args.accept);
    }
    ensure!(
        args.turns > 0 && args.events > 0,
        "--turns and --events must be at least 1"
    );
    sweep_scratch()?;
    log("building the programs");
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
        "{events} events of about {} bytes per run",
        size.unwrap_or(600)
    ))?;
    print("")?;
    for case in &cases {
        bench.measure(*case)?;
    }
    if args.seconds > 0 {
        for case in cases {
            for program in Program::of(case, &args.program) {
                if program.is_bridge() {
                    let latency = bench.latency(program, case)?;
                    print(&report::latency(program, case, args, &latency))?;
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
    log("starting Kafka");
    // The heap size is that of Kafka's own start script.
    let options = KafkaOptions {
        heap_mib: 1024,
        optimised: true,
        ..KafkaOptions::default()
    };
    Kafka::start(options).map(Some)
}

impl Bench {
    /// Measures the programs in alternating runs, so that other load on the machine affects all of them equally.
    fn measure(&self, case: Case) -> Result<()> {
        let mut programs: Vec<(Program, Vec<Cost>)> = Program::of(case, &self.args.program)
            .into_iter()
            .map(|program| (program, Vec::new()))
            .collect();
        print(report::HEADING)?;
        for turn in 0..self.args.turns {
            for (program, costs) in &mut programs {
                let name = format!("bench-{}-{case}-{turn}", program.word());
                let cost = self.turn(*program, case, &name)?;
                print(&report::turn(*program, case, &cost))?;
                costs.push(cost);
            }
        }
        for line in report::summary(case, &programs) {
            print(&line)?;
        }
        print("")
    }
}
