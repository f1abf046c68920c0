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
mod members;
mod program;
mod rate;
mod report;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Result, ensure};
use neurobridge_tests::kafka::{Kafka, KafkaOptions};
use neurobridge_tests::paths::{Scratch, sweep_scratch};
use neurobridge_tests::program::{Profile, build};
use neurobridge_tests::shared::Broker;

use self::case::{Case, Format, Sink};
use self::program::{Cost, Program};
use self::rate::RateCost;
use crate::brokers;
use crate::shell::{log, print};

/// The rate at which the latency is measured after the measurement at saturation, in events per second.
const SATURATION_LATENCY_RATE: u64 = 10_000;

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
    /// Measure at these constant rates, in events per second, such as 10,1000,10000 [default: measure at saturation, then the
    /// latency at 10,000 events per second]
    #[arg(long, value_delimiter = ',')]
    rate: Vec<u64>,
    /// Duration of a measurement at a constant rate in seconds; 0 skips it
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Number of sources of the bridge; the rate is that of all sources together
    #[arg(long, default_value_t = 1, requires = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    sources: u32,
    /// read_interval of the bridge's sources, such as 20ms [default: that of the configuration]
    #[arg(long)]
    read_interval: Option<String>,
    /// Measure the leader and a follower of a cluster, at --rate, or at 1,000 events per second
    #[arg(long)]
    members: bool,
    /// With --members: number of messages in the destination before the members start
    #[arg(long, default_value_t = 0, requires = "members")]
    existing: u64,
    /// Another build of the bridge to compare with, such as that of an earlier commit
    #[arg(long)]
    before: Option<PathBuf>,
    /// A Python interpreter with the packages neuroio, nats-py and uvloop, to compare with at a constant rate
    #[arg(long, default_value = "python3")]
    python: PathBuf,
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
    /// A Python interpreter that has the platform's client.
    python: Option<PathBuf>,
    /// Kafka, if a case needs it. NATS is started for each run, because it starts within a tenth of a second.
    kafka: Option<Kafka>,
    scratch: Scratch,
}

/// Builds the programs, starts the brokers, measures, and prints the results.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.instructions {
        return instructions::run(args.accept);
    }
    ensure!(
        args.turns > 0 && args.events > 0 && args.rate.iter().all(|rate| *rate > 0),
        "--turns, --events and --rate must be at least 1"
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
        python: python(args)?,
        kafka: brokers(&cases)?,
        scratch: Scratch::new("bench")?,
    };
    for line in machine::describe() {
        print(&line)?;
    }
    let size = args.size.unwrap_or(600);
    if args.rate.is_empty() && !args.members {
        print(&format!("{} events of about {size} bytes per run", args.events))?;
    } else {
        print(&format!(
            "events of about {size} bytes for {} s per run, {} sources",
            args.seconds, args.sources
        ))?;
    }
    print("")?;
    if args.members {
        for case in cases.iter().filter(|case| case.sink.is_stored()) {
            for rate in members::rates(&args.rate) {
                bench.measure_members(*case, rate)?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    for case in &cases {
        if args.rate.is_empty() {
            bench.measure(*case)?;
        }
        for rate in &args.rate {
            bench.measure_at_rate(*case, *rate)?;
        }
    }
    if args.rate.is_empty() && args.seconds > 0 {
        print(report::RATE_HEADING)?;
        for case in cases {
            let programs = bench.programs(case).into_iter();
            for program in programs.filter(|program| program.is_bridge()) {
                let name = format!("bench-latency-{}-{case}", program.word());
                let cost = bench.at_rate(program, case, SATURATION_LATENCY_RATE, &name)?;
                print(&report::at_rate(program, case, SATURATION_LATENCY_RATE, &cost))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the Python interpreter if the platform's client is installed. This client is compared at constant rates only.
fn python(args: &Args) -> Result<Option<PathBuf>> {
    if args.rate.is_empty() {
        return Ok(None);
    }
    let mut command = Command::new(&args.python);
    command
        .args(["-c", "import neuroio, nats, uvloop"])
        .stderr(Stdio::null());
    let found = command.status().is_ok_and(|status| status.success());
    if !found {
        log(&format!(
            "the Python client is not compared, because {} lacks it; run: pip install neuroio nats-py uvloop",
            args.python.display()
        ));
    }
    ensure!(
        found || !args.program.contains(&Program::Python),
        "--program python needs the packages neuroio, nats-py and uvloop; run: pip install neuroio nats-py uvloop"
    );
    Ok(found.then(|| args.python.clone()))
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
        let programs = self.programs(case).into_iter();
        let programs = programs.filter(|program| *program != Program::Python);
        let mut programs: Vec<(Program, Vec<Cost>)> = programs.map(|program| (program, Vec::new())).collect();
        print(report::HEADING)?;
        for turn in 0..self.args.turns {
            for (program, costs) in &mut programs {
                let name = format!("bench-{}-{case}-{turn}", program.word());
                let cost = self.run_once(*program, case, &name)?;
                print(&report::turn(*program, case, &cost))?;
                costs.push(cost);
            }
        }
        for line in report::summary(case, &programs) {
            print(&line)?;
        }
        print("")
    }

    /// Like [`measure`](Self::measure), at a constant rate.
    fn measure_at_rate(&self, case: Case, rate: u64) -> Result<()> {
        let programs = self.programs(case).into_iter();
        let mut programs: Vec<(Program, Vec<RateCost>)> =
            programs.map(|program| (program, Vec::new())).collect();
        print(report::RATE_HEADING)?;
        for turn in 0..self.args.turns {
            for (program, costs) in &mut programs {
                let name = format!("bench-{}-{case}-{rate}-{turn}", program.word());
                let cost = self.at_rate(*program, case, rate, &name)?;
                print(&report::at_rate(*program, case, rate, &cost))?;
                costs.push(cost);
            }
        }
        for line in report::rate_summary(case, rate, &programs) {
            print(&line)?;
        }
        print("")
    }
}
