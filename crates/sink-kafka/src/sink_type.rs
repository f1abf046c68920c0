//! Registers Kafka as a sink type of the program.

use std::path::Path;

use neurobridge_core::{
    address,
    connect::ConnectSteps,
    event::Event,
    identity::{self, SpoolId},
    sink::SinkFault,
    sink_type::{self, BuildContext, DeadLetterPlace, InCluster, SinkConfig, SinkType},
    template::Template,
};
use serde_json::json;

use crate::{
    config::{Delivery, KafkaConfig},
    encode::{Encoder, describe},
    sink::KafkaSink,
};

impl SinkConfig for KafkaConfig {
    fn errors(&self) -> Vec<(String, String)> {
        self.check()
    }

    fn warnings(&self, spool_is_durable: bool) -> Vec<(&'static str, String)> {
        let mut warnings = Vec::new();
        let mut warn = |key: &'static str, message: &str| warnings.push((key, message.to_owned()));
        if self.sasl.is_some() && self.tls.is_none() {
            warn(
                "sasl",
                "the credentials and all events are sent unencrypted; a [tls] table encrypts them",
            );
        }
        if self.create && self.replicas == Some(1) {
            warn(
                "replicas",
                "a topic with one replica is lost with its broker; 3 replicas survive the loss of one broker",
            );
        }
        if self.delivery == Delivery::ExactlyOnce && !spool_is_durable {
            warn(
                "delivery",
                "with the spool in memory, \"exactly_once\" prevents duplicates in Kafka, but undelivered events are lost when \
                 the process ends; spool.type = \"disk\" loses none",
            );
        }
        warnings
    }

    fn destination(&self, _data_dir: &Path) -> String {
        format!(
            "{} at {}",
            self.topic,
            address::shown_list(&self.bootstrap_servers)
        )
    }

    fn templates(&self) -> Vec<(&'static str, &Template)> {
        vec![("topic", &self.topic), ("key", &self.key)]
    }

    fn files(&self) -> Vec<(&'static str, &Path)> {
        Vec::new()
    }

    fn dead_letter_place(&self) -> DeadLetterPlace<'_> {
        let place = self.dead_letter.as_ref();
        let topic = self.dead_letter_topic().map(|topic| format!("topic {topic}"));
        DeadLetterPlace::of(topic, place.and_then(|place| place.path.as_deref()))
    }

    fn in_cluster(&self) -> InCluster {
        match self.topic.constant() {
            Some(_) => {
                // Members of different versions compare a hash of this text. JSON, because the JSON of a setting does not change
                // in later versions.
                let settings = json!([self.delivery, self.transaction, self.oversize]).to_string();
                InCluster::Shared {
                    needs_reports: false,
                    settings: identity::body_hash(&settings),
                }
            }
            None => InCluster::Unsupported("a follower reads one topic; set a topic without placeholders"),
        }
    }

    fn is_only_writer(&self) -> bool {
        false
    }

    fn preview(&self, event: &Event<'_>, spool: &SpoolId) -> String {
        describe(&Encoder::new(self).encode(event, spool, None))
    }
}

impl SinkType for KafkaConfig {
    type Sink = KafkaSink;

    const NAME: &'static str = "kafka";
    const CLIENT_LOG_TARGETS: &'static [&'static str] = &["neurobridge_sink_kafka::librdkafka"];

    fn build(&self, context: &BuildContext<'_>) -> KafkaSink {
        let sink = KafkaSink::new(context.name, self.clone());
        match (context.replay, context.lead) {
            (Some(run), _) => sink.replaying(run),
            (None, Some(lead)) => sink.as_member(lead.clone()),
            (None, None) => sink,
        }
    }

    async fn probe(
        &self,
        context: &BuildContext<'_>,
        steps: &ConnectSteps,
    ) -> Result<Vec<String>, SinkFault> {
        let mut sink = KafkaSink::trial(context.name, self.clone());
        sink_type::probe(&mut sink, steps).await?;
        Ok(sink.warnings().to_vec())
    }
}
