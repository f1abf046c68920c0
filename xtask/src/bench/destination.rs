//! The destination of one run: a new topic, or a new NATS server.

use anyhow::{Context, Result};
use neurobridge_tests::kafka::Kafka;
use neurobridge_tests::nats::{Nats, NatsOptions};

use super::Bench;
use super::case::{Case, Sink};

/// Enough partitions to use every core of a broker, and few enough for large batches.
const PARTITIONS: u32 = 4;

/// The default subject of NeuroIO's events, set explicitly because a declared feed has another default.
const SUBJECT: &str = "neuroio.entries.{space.id}.{source.id}.{result}";

/// A topic in the shared Kafka, or a NATS server of this run.
pub(super) struct Destination<'a> {
    case: Case,
    /// The name of the topic or stream.
    pub(super) name: String,
    broker: Broker<'a>,
}

enum Broker<'a> {
    Kafka(&'a Kafka),
    Nats(Box<Nats>),
}

impl Bench {
    /// Creates a topic in Kafka, or starts a NATS server, in which the measured program creates the stream itself.
    pub(super) fn destination(&self, case: Case, name: &str) -> Result<Destination<'_>> {
        let broker = match case.sink {
            Sink::Kafka => {
                let kafka = self.kafka.as_ref().context("Kafka was not started")?;
                kafka.create_topic_by_tool(name, PARTITIONS, &[])?;
                Broker::Kafka(kafka)
            }
            Sink::Core | Sink::Relaxed | Sink::Strict => {
                Broker::Nats(Box::new(Nats::start(NatsOptions::default())?))
            }
        };
        Ok(Destination {
            case,
            name: name.to_owned(),
            broker,
        })
    }
}

impl Destination<'_> {
    /// Returns the address of the server.
    pub(super) fn server(&self) -> String {
        match &self.broker {
            Broker::Kafka(kafka) => kafka.bootstrap(),
            Broker::Nats(nats) => nats.url(),
        }
    }

    /// Returns the sink table for the bridge's configuration.
    pub(super) fn sink(&self) -> String {
        let (server, name, format) = (self.server(), &self.name, self.case.format.word());
        let stream =
            format!("stream = {{ name = \"{name}\", create = true, max_age = \"1h\", replicas = 1 }}");
        let how = match self.case.sink {
            Sink::Kafka => {
                format!("type = \"kafka\"\nbootstrap_servers = \"{server}\"\ntopic = \"{name}\"")
            }
            Sink::Core => {
                format!("type = \"nats\"\nservers = [\"{server}\"]\nmode = \"core\"\nsubject = \"{SUBJECT}\"")
            }
            Sink::Relaxed | Sink::Strict => {
                let order = self.case.sink.word();
                format!(
                    "type = \"nats\"\nservers = [\"{server}\"]\norder = \"{order}\"\nsubject = \"{SUBJECT}\"\n{stream}"
                )
            }
        };
        format!("{how}\nformat = \"{format}\"\n")
    }

    /// Removes the written data.
    pub(super) fn remove(self) -> Result<()> {
        match self.broker {
            Broker::Kafka(kafka) => kafka.delete_topic_by_tool(&self.name),
            // A dropped server removes its folder.
            Broker::Nats(_) => Ok(()),
        }
    }
}
