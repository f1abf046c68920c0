//! Brokers in containers, for machines on which the programs cannot be installed.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::Guardian;
use neurobridge_tests::shared::Broker;
use neurobridge_tests::{kafka, nats};

use crate::shell::{log, output, run_quietly, succeeds};

/// The time limit, which includes the download of the image.
const LIMIT: Duration = Duration::from_secs(900);

const START_TIMEOUT: Duration = Duration::from_secs(90);

/// A broker in a container, which is removed when this value is dropped or when this process dies.
#[derive(Debug)]
pub(crate) struct Container {
    name: String,
    address: String,
    guardian: Option<Guardian>,
}

impl Container {
    /// Returns whether a Docker engine answers.
    pub(super) fn engine_answers() -> bool {
        succeeds("docker", &["info"])
    }

    /// Starts the broker and waits until it answers.
    pub(super) fn start(broker: Broker) -> Result<Self> {
        let [port] = free_ports::<1>()?;
        let name = format!("neurobridge-{}-{}", broker.word(), std::process::id());
        log(&format!("starting {broker} in the container {name}"));
        let mut command = Command::new("docker");
        command
            .args(["run", "--detach", "--rm", "--name", &name])
            .args(arguments(broker, port));
        let address = match broker {
            Broker::Kafka => format!("127.0.0.1:{port}"),
            Broker::Nats => format!("nats://127.0.0.1:{port}"),
        };
        let guardian = Some(Guardian::new(&["docker", "rm", "--force", &name])?);
        let container = Self {
            name,
            address,
            guardian,
        };
        run_quietly("docker run", &mut command, LIMIT)?;
        wait_until("the first response of the broker", START_TIMEOUT, || {
            broker.answers(&container.address).is_ok()
        })
        .map_err(|error| error.context(container.logs()))?;
        Ok(container)
    }

    /// Returns `host:port`, or a URL for NATS.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn logs(&self) -> String {
        let logs = output("docker", &["logs", "--tail", "40", &self.name]);
        format!(
            "the container {} logged:\n{}",
            self.name,
            logs.unwrap_or_default()
        )
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        succeeds("docker", &["rm", "--force", &self.name]);
        if let Some(guardian) = self.guardian.take() {
            guardian.retire();
        }
    }
}

fn arguments(broker: Broker, port: u16) -> Vec<String> {
    match broker {
        Broker::Nats => {
            let (publish, image) = (
                format!("127.0.0.1:{port}:4222"),
                format!("nats:{}", nats::VERSION),
            );
            ["--publish", &publish, &image, "--jetstream"]
                .map(str::to_owned)
                .to_vec()
        }
        Broker::Kafka => {
            // The default settings of the image, except for an advertised address that is reachable from outside.
            let settings = [
                "KAFKA_NODE_ID=1".to_owned(),
                "KAFKA_PROCESS_ROLES=broker,controller".to_owned(),
                "KAFKA_LISTENERS=PLAINTEXT://:9092,CONTROLLER://:9093".to_owned(),
                format!("KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:{port}"),
                "KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER".to_owned(),
                "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned(),
                "KAFKA_CONTROLLER_QUORUM_VOTERS=1@localhost:9093".to_owned(),
                "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=1".to_owned(),
                "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1".to_owned(),
                "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR=1".to_owned(),
                "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS=0".to_owned(),
                "KAFKA_AUTO_CREATE_TOPICS_ENABLE=false".to_owned(),
            ];
            let mut arguments = vec!["--publish".to_owned(), format!("127.0.0.1:{port}:9092")];
            arguments.extend(
                settings
                    .into_iter()
                    .flat_map(|setting| ["--env".to_owned(), setting]),
            );
            arguments.push(format!("apache/kafka:{}", kafka::VERSION));
            arguments
        }
    }
}
