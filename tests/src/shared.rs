//! Provides the broker of a test: the shared one or a separate one, unless the test is to be skipped.
//!
//! Without a broker a test fails with instructions on how to get one, because a silently skipped test proves nothing.
//! Tests are skipped only by `NEUROBRIDGE_TEST_SKIP=kafka,nats`, or if the environment names a broker and the machine
//! has no program to start a separate one. Each skipped test is named on standard error and in the summary of `cargo
//! xtask test`.

use std::env;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::http::is_late;
use crate::kafka::{self, Kafka, KafkaInstallation, KafkaOptions};
use crate::nats::{self, Nats, NatsInstallation, NatsOptions};
use crate::poll::wait_for;
use crate::running_broker::RunningBroker;

/// The variable that lists the tests to skip, separated by commas: `kafka`, `nats`, or a word that a test passes to
/// [`skipped_by_name`].
pub const SKIP_VARIABLE: &str = "NEUROBRIDGE_TEST_SKIP";

/// The time limit for a broker's response.
const PATIENCE: Duration = Duration::from_secs(30);

/// The variable with the path of a file to which the name of every skipped test is appended.
pub const SKIPPED_FILE_VARIABLE: &str = "NEUROBRIDGE_TEST_SKIPPED_FILE";

/// The types of brokers that tests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// Apache Kafka.
    Kafka,
    /// nats-server.
    Nats,
}

impl Broker {
    /// Returns the environment variable with the address of a running broker: `host:port`, or a URL for NATS.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Kafka => "NEUROBRIDGE_TEST_KAFKA",
            Self::Nats => "NEUROBRIDGE_TEST_NATS",
        }
    }

    /// Returns the broker's word for [`SKIP_VARIABLE`] and for file names.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Nats => "nats",
        }
    }

    /// Returns the address from the environment variable, if it is set.
    pub fn named(self) -> Option<String> {
        env::var(self.variable())
            .ok()
            .filter(|address| !address.is_empty())
    }

    /// Checks that the broker at this address answers. Repeats the request after a timeout.
    ///
    /// # Errors
    /// Returns an error if the port is closed, or if no response arrives in time (see [`crate::poll::Patience`]).
    pub fn answers(self, address: &str) -> Result<()> {
        // The address may be a list of brokers, of which any is sufficient.
        let first = address.split(',').next().unwrap_or(address);
        wait_for(&format!("an answer of {self}"), PATIENCE, || {
            let answer = match self {
                Self::Kafka => kafka::answers(first),
                Self::Nats => nats::answers(first),
            };
            match answer {
                Err(error) if is_late(&error) => Ok(None),
                answer => answer.map(Some),
            }
        })
    }

    fn installed(self) -> Result<()> {
        match self {
            Self::Kafka => KafkaInstallation::find().map(drop),
            Self::Nats => NatsInstallation::find().map(drop),
        }
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "Kafka",
            Self::Nats => "NATS",
        })
    }
}

/// Returns `host:port` of the shared Kafka's unencrypted listener, or `None` if the test is to be skipped.
///
/// Every test uses its own topics with random names and leaves the broker running.
///
/// # Panics
/// Panics if there is no shared Kafka, or if it does not answer.
pub fn kafka_bootstrap() -> Option<String> {
    shared(Broker::Kafka)
}

/// Returns the URL of the shared nats-server with JetStream, or `None` if the test is to be skipped.
///
/// Every test uses its own streams and subjects and leaves the server running.
///
/// # Panics
/// Panics if there is no shared server, or if it does not answer.
pub fn nats_url() -> Option<String> {
    shared(Broker::Nats)
}

/// Starts a separate Kafka, which the test may stop, kill and freeze; returns `None` if the test is to be skipped.
///
/// # Panics
/// Panics if Kafka cannot be started.
pub fn own_kafka(options: KafkaOptions) -> Option<Kafka> {
    with_own_kafka(|| Kafka::start(options))
        .map(|started| started.unwrap_or_else(|error| panic!("{error:#}")))
}

/// Starts a separate nats-server, which the test may stop, kill and freeze; returns `None` if the test is to be
/// skipped.
///
/// # Panics
/// Panics if nats-server cannot be started.
pub fn own_nats(options: NatsOptions) -> Option<Nats> {
    with_own_nats(|| Nats::start(options)).map(|started| started.unwrap_or_else(|error| panic!("{error:#}")))
}

/// Calls `start`, which starts a separate Kafka; returns `None` if the test is to be skipped.
///
/// # Panics
/// Panics if Kafka is not installed.
pub fn with_own_kafka<T>(start: impl FnOnce() -> T) -> Option<T> {
    own(Broker::Kafka).then(start)
}

/// Calls `start`, which starts a separate nats-server; returns `None` if the test is to be skipped.
///
/// # Panics
/// Panics if nats-server is not installed.
pub fn with_own_nats<T>(start: impl FnOnce() -> T) -> Option<T> {
    own(Broker::Nats).then(start)
}

/// Returns whether [`SKIP_VARIABLE`] contains `word`, and if so reports that this test is skipped.
pub fn skipped_by_name(word: &str) -> bool {
    let list = env::var(SKIP_VARIABLE).unwrap_or_default();
    let skipped = list.split(',').any(|skipped| skipped.trim() == word);
    if skipped {
        report_skipped(&format!("{SKIP_VARIABLE} names {word}"));
    }
    skipped
}

/// Reports that the current test is skipped: in the file of [`SKIPPED_FILE_VARIABLE`], and on standard error, where the test
/// harness does not capture the report.
pub fn report_skipped(reason: &str) {
    let thread = thread::current();
    let line = format!("skipped: {}: {reason}\n", thread.name().unwrap_or("unnamed test"));
    // A failed write must not fail the test; at worst the report is missing in the summary.
    let _ = io::stderr().write_all(line.as_bytes());
    if let Some(path) = env::var_os(SKIPPED_FILE_VARIABLE) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

fn shared(broker: Broker) -> Option<String> {
    if skipped_by_name(broker.word()) {
        return None;
    }
    let found = broker
        .named()
        .or_else(|| Some(RunningBroker::find(broker)?.address));
    let Some(address) = found else {
        panic!("{}", instructions(broker));
    };
    if let Err(error) = broker.answers(&address) {
        panic!(
            "the {broker} at {address} (from {} or `cargo xtask brokers up`) does not answer: {error:#}",
            broker.variable()
        );
    }
    Some(address)
}

fn own(broker: Broker) -> bool {
    if skipped_by_name(broker.word()) {
        return false;
    }
    let Err(error) = broker.installed() else {
        return true;
    };
    if broker.named().is_some() {
        let variable = broker.variable();
        report_skipped(&format!(
            "the test needs to stop and kill {broker}, which is not permitted with the broker of {variable}: {error:#}"
        ));
        return false;
    }
    panic!("this test starts a separate {broker}: {error:#}");
}

fn instructions(broker: Broker) -> String {
    format!(
        "this test needs a running {broker}: `cargo xtask test` starts one, `cargo xtask brokers up` starts one that \
         stays, {} names one, and {SKIP_VARIABLE}={} skips the test",
        broker.variable(),
        broker.word()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_name_every_way_to_get_a_broker() {
        let sentence = instructions(Broker::Kafka);
        for way in [
            "cargo xtask test",
            "cargo xtask brokers up",
            "NEUROBRIDGE_TEST_KAFKA",
            "NEUROBRIDGE_TEST_SKIP=kafka",
        ] {
            assert!(sentence.contains(way), "{sentence}");
        }
    }

    #[test]
    fn shared_brokers_answer() {
        if let Some(bootstrap) = kafka_bootstrap() {
            kafka::answers(&bootstrap).unwrap();
        }
        if let Some(url) = nats_url() {
            nats::answers(&url).unwrap();
        }
    }
}
