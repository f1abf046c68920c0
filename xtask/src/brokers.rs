//! `cargo xtask brokers`: real brokers on this machine.

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
use neurobridge_tests::shared::Broker;
use neurobridge_tests::standing::Standing;

pub(crate) use self::provide::{Provided, provide};
use crate::shell::{print, say};

/// What to do with them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch what is needed to run them, start nothing
    Install(Args),
    /// Start them on free ports; they stay until `down`, and the tests find them by themselves
    Up(Args),
    /// Stop them and remove their data
    Down(Args),
    /// Say which run, and where
    Status(Args),
}

/// Which of them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// All, when none is named
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

/// Does what was asked.
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Install(args) => args.brokers().into_iter().try_for_each(install)?,
        Command::Up(args) => args.brokers().into_iter().try_for_each(up)?,
        Command::Down(args) => args.brokers().into_iter().try_for_each(down)?,
        Command::Status(args) => return status(&args.brokers()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Fetches what is not there yet.
pub(crate) fn install(broker: Broker) -> Result<()> {
    match broker {
        Broker::Kafka => kafka::install(),
        Broker::Nats => nats::install(),
    }
}

fn up(broker: Broker) -> Result<()> {
    let standing = match Standing::find(broker) {
        Some(standing) => standing,
        None => start(broker)?,
    };
    print(&format!("{}={}", broker.variable(), standing.address))
}

fn start(broker: Broker) -> Result<Standing> {
    install(broker)?;
    say(&format!("starting {broker}"));
    let dir = Scratch::at(Standing::dir(broker))?;
    let standing = match broker {
        Broker::Kafka => {
            let kafka = Kafka::start_in(dir, KafkaOptions::shared())?;
            let address = kafka.bootstrap();
            Standing {
                address,
                pid: kafka.detach()?,
            }
        }
        Broker::Nats => {
            let nats = Nats::start_in(dir, NatsOptions::default())?;
            let address = nats.url();
            Standing {
                address,
                pid: nats.detach()?,
            }
        }
    };
    standing.note(broker)?;
    Ok(standing)
}

fn down(broker: Broker) -> Result<()> {
    match Standing::find(broker) {
        Some(standing) => {
            standing.stop(broker)?;
            say(&format!("{broker} at {} is stopped", standing.address));
        }
        None => {
            let dir = Standing::dir(broker);
            if dir.exists() {
                fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
            }
            say(&format!("{broker} was not running"));
        }
    }
    Ok(())
}

/// Ends with 1 when one of them does not answer.
fn status(brokers: &[Broker]) -> Result<ExitCode> {
    let mut all_well = true;
    for &broker in brokers {
        let line = match Standing::find(broker) {
            None => {
                all_well = false;
                format!("{broker}: not running")
            }
            Some(Standing { pid, address }) => match broker.answers(&address) {
                Ok(()) => format!("{broker}: answers at {address}, process {pid}"),
                Err(error) => {
                    all_well = false;
                    format!("{broker}: process {pid}, but no answer at {address}: {error:#}")
                }
            },
        };
        print(&line)?;
    }
    Ok(if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
