//! The tables of sinks for the configuration of a bridge under test.

/// The sinks `kafka`, exactly once into a topic, and `stream`, with strict order into a stream of JetStream.
#[derive(Clone, Copy, Debug)]
pub struct KafkaAndStream<'a> {
    /// The address of a Kafka broker.
    pub bootstrap: &'a str,
    /// The topic, which is also the transactional id.
    pub topic: &'a str,
    /// The URL of a NATS server.
    pub nats: &'a str,
    /// The name of the stream.
    pub stream: &'a str,
    /// The template of the subject, with placeholders such as `{result}`.
    pub subject: &'a str,
}

impl KafkaAndStream<'_> {
    /// Returns the tables of the configuration.
    pub fn tables(&self) -> String {
        let Self {
            bootstrap,
            topic,
            nats,
            stream,
            subject,
        } = self;
        format!(
            r#"
[sinks.kafka]
type = "kafka"
bootstrap_servers = "{bootstrap}"
topic = "{topic}"
delivery = "exactly_once"
transaction = {{ id = "{topic}" }}
create = true
partitions = 3
replicas = 1
[sinks.stream]
type = "nats"
servers = ["{nats}"]
subject = "{subject}"
stream = {{ name = "{stream}", create = true, max_age = "1h", replicas = 1 }}
"#
        )
    }
}
