//! How a test gets its broker: the shared one, one of its own, or the word that it is to be skipped.
//!
//! Without a broker a test fails, with the sentence that says how to get one: a silent skip is a hole. Only
//! `NEUROBRIDGE_TEST_SKIP=kafka,nats` skips, and a broker named by the environment on a machine that has no program
//! to start one's own from; each skipped test is then named on standard error and in the summary of
//! `cargo xtask test`.

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
use crate::standing::Standing;

/// Names what is to be skipped, with commas between: `kafka`, `nats`, or what a test passes to [`skipped_by_name`].
pub const SKIP_VARIABLE: &str = "NEUROBRIDGE_TEST_SKIP";

/// For an answer of a broker.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file to which the name of every skipped test is appended.
pub const SKIPPED_FILE_VARIABLE: &str = "NEUROBRIDGE_TEST_SKIPPED_FILE";

/// The brokers that tests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// Apache Kafka.
    Kafka,
    /// nats-server.
    Nats,
}

impl Broker {
    /// Returns the environment variable that names a running broker: `host:port`, or a URL for NATS.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Kafka => "NEUROBRIDGE_TEST_KAFKA",
            Self::Nats => "NEUROBRIDGE_TEST_NATS",
        }
    }

    /// Returns the word for it in [`SKIP_VARIABLE`] and in file names.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Nats => "nats",
        }
    }

    /// Returns the broker that the environment names, if it does.
    pub fn named(self) -> Option<String> {
        env::var(self.variable())
            .ok()
            .filter(|address| !address.is_empty())
    }

    /// Checks that the broker at this address answers. A late answer, as of a busy machine, is requested again.
    ///
    /// # Errors
    /// When nobody listens, or no answer comes in time (see [`crate::poll::Patience`]).
    pub fn answers(self, address: &str) -> Result<()> {
        // A list of brokers: any of them will do.
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

/// Returns `host:port` of the shared Kafka, over plain text; nothing when the test is to be skipped.
///
/// Every test uses topics of its own there, under random names, and leaves the broker running.
///
/// # Panics
/// When there is none, or it does not answer.
pub fn kafka_bootstrap() -> Option<String> {
    shared(Broker::Kafka)
}

/// Returns the URL of the shared nats-server with JetStream; nothing when the test is to be skipped.
///
/// Every test uses streams and subjects of its own there, and leaves the server running.
///
/// # Panics
/// When there is none, or it does not answer.
pub fn nats_url() -> Option<String> {
    shared(Broker::Nats)
}

/// Starts a Kafka that this test may stop, kill and freeze; nothing when the test is to be skipped.
///
/// # Panics
/// When it can't be started.
pub fn own_kafka(options: KafkaOptions) -> Option<Kafka> {
    with_own_kafka(|| Kafka::start(options))
        .map(|started| started.unwrap_or_else(|error| panic!("{error:#}")))
}

/// Starts a nats-server that this test may stop, kill and freeze; nothing when the test is to be skipped.
///
/// # Panics
/// When it can't be started.
pub fn own_nats(options: NatsOptions) -> Option<Nats> {
    with_own_nats(|| Nats::start(options)).map(|started| started.unwrap_or_else(|error| panic!("{error:#}")))
}

/// Calls `start`, which starts a Kafka of the test's own, unless the test is to be skipped.
///
/// # Panics
/// When Kafka is not installed.
pub fn with_own_kafka<T>(start: impl FnOnce() -> T) -> Option<T> {
    own(Broker::Kafka).then(start)
}

/// Calls `start`, which starts a nats-server of the test's own, unless the test is to be skipped.
///
/// # Panics
/// When nats-server is not installed.
pub fn with_own_nats<T>(start: impl FnOnce() -> T) -> Option<T> {
    own(Broker::Nats).then(start)
}

/// Returns whether [`SKIP_VARIABLE`] names `word`, and if so says that this test is skipped.
pub fn skipped_by_name(word: &str) -> bool {
    let list = env::var(SKIP_VARIABLE).unwrap_or_default();
    let skipped = list.split(',').any(|skipped| skipped.trim() == word);
    if skipped {
        say_skipped(&format!("{SKIP_VARIABLE} names {word}"));
    }
    skipped
}

/// Says on standard error, past the test harness's capture, that the current test is skipped and why.
pub fn say_skipped(reason: &str) {
    let thread = thread::current();
    let line = format!(
        "skipped: {}: {reason}\n",
        thread.name().unwrap_or("a test without a name")
    );
    // Neither may fail a test; what can't be told here is at most missing from a summary.
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
    let found = broker.named().or_else(|| Some(Standing::find(broker)?.address));
    let Some(address) = found else {
        panic!("{}", how_to_get(broker));
    };
    if let Err(error) = broker.answers(&address) {
        panic!(
            "the {broker} at {address} (from {} or `cargo xtask brokers up`) is not there: {error:#}",
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
        say_skipped(&format!(
            "it stops and kills its {broker}, and the one that {variable} names is not ours: {error:#}"
        ));
        return false;
    }
    panic!("this test starts a {broker} of its own: {error:#}");
}

fn how_to_get(broker: Broker) -> String {
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
    fn the_sentence_names_every_way() {
        let sentence = how_to_get(Broker::Kafka);
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
    fn the_shared_brokers_answer() {
        if let Some(bootstrap) = kafka_bootstrap() {
            kafka::answers(&bootstrap).unwrap();
        }
        if let Some(url) = nats_url() {
            nats::answers(&url).unwrap();
        }
    }
}
