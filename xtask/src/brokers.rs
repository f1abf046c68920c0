//! `cargo xtask brokers`: runs real brokers on this machine.

mod container;
mod kafka;
mod nats;
mod provide;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use neurobridge_tests::kafka::{Kafka, KafkaOptions};
use neurobridge_tests::nats::{Nats, NatsOptions};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::running_broker::RunningBroker;
use neurobridge_tests::shared::Broker;

pub(crate) use self::provide::{Provided, provide};
use crate::shell::{log, print};

/// The action to take.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Download what the brokers need, without starting them
    Install(Args),
    /// Start the brokers on free ports; they run until `down`, and the tests use them automatically
    Up(Args),
    /// Stop the brokers and remove their data
    Down(Args),
    /// Show which brokers run, and their addresses
    Status(Args),
}

/// The selected brokers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Brokers [default: all]
    brokers: Vec<Which>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    Kafka,
    Nats,
}

impl Args {
    fn brokers(&self) -> Vec<Broker> {
        if self.brokers.is_empty() {
            return vec![Broker::Kafka, Broker::Nats];
        }
        let broker = |which: &Which| match which {
            Which::Kafka => Broker::Kafka,
            Which::Nats => Broker::Nats,
        };
        self.brokers.iter().map(broker).collect()
    }
}

/// Runs a command.
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Install(args) => args.brokers().into_iter().try_for_each(install)?,
        Command::Up(args) => args.brokers().into_iter().try_for_each(up)?,
        Command::Down(args) => args.brokers().into_iter().try_for_each(down)?,
        Command::Status(args) => return status(&args.brokers()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Downloads a broker unless it is installed.
pub(crate) fn install(broker: Broker) -> Result<()> {
    match broker {
        Broker::Kafka => kafka::install(),
        Broker::Nats => nats::install(),
    }
}

fn up(broker: Broker) -> Result<()> {
    let running = match RunningBroker::find(broker) {
        Some(running) => running,
        None => start(broker)?,
    };
    print(&format!("{}={}", broker.variable(), running.address))
}

fn start(broker: Broker) -> Result<RunningBroker> {
    install(broker)?;
    log(&format!("starting {broker}"));
    let dir = Scratch::at(RunningBroker::dir(broker))?;
    let running = match broker {
        Broker::Kafka => {
            let kafka = Kafka::start_in(dir, KafkaOptions::shared())?;
            let address = kafka.bootstrap();
            RunningBroker {
                address,
                pid: kafka.detach()?,
            }
        }
        Broker::Nats => {
            let nats = Nats::start_in(dir, NatsOptions::default())?;
            let address = nats.url();
            RunningBroker {
                address,
                pid: nats.detach()?,
            }
        }
    };
    running.note(broker)?;
    Ok(running)
}

fn down(broker: Broker) -> Result<()> {
    match RunningBroker::find(broker) {
        Some(running) => {
            running.stop(broker)?;
            log(&format!("{broker} at {} is stopped", running.address));
        }
        None => {
            let dir = RunningBroker::dir(broker);
            if dir.exists() {
                fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
            }
            log(&format!("{broker} was not running"));
        }
    }
    Ok(())
}

/// Prints the state of each broker; the exit code is 1 if a broker does not run or does not answer.
fn status(brokers: &[Broker]) -> Result<ExitCode> {
    let mut all_answer = true;
    for &broker in brokers {
        let line = match RunningBroker::find(broker) {
            None => {
                all_answer = false;
                format!("{broker}: not running")
            }
            Some(RunningBroker { pid, address }) => match broker.answers(&address) {
                Ok(()) => format!("{broker}: answers at {address}, process {pid}"),
                Err(error) => {
                    all_answer = false;
                    format!("{broker}: process {pid}, but no answer at {address}: {error:#}")
                }
            },
        };
        print(&line)?;
    }
    Ok(if all_answer {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
