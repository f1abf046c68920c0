//! The NATS sink as a kind of sink of the program.

use std::{path::Path, time::Duration};

use neurobridge_core::{
    address,
    connect::ConnectSteps,
    event::Event,
    identity::{self, SpoolId},
    sink::SinkFault,
    sink_type::{self, BuildContext, DeadLetterPlace, InCluster, SinkConfig, SinkType},
    template::Template,
    units,
};
use serde_json::json;

use crate::{
    config::{Mode, NatsConfig, Order},
    encode::Encoder,
    sink::NatsSink,
};

/// The duplicate window that nats-server gives a stream for which none is configured.
const DEFAULT_DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// An outage that has to be expected, such as the repair of a broker.
const LONG_OUTAGE: Duration = Duration::from_secs(3600);

impl SinkConfig for NatsConfig {
    fn errors(&self) -> Vec<(String, String)> {
        self.check()
    }

    fn warnings(&self, _spool_is_durable: bool) -> Vec<(&'static str, String)> {
        let mut warnings = Vec::new();
        if self.mode == Mode::Core {
            let message = "events are not stored: a client that is not subscribed when an event is published never receives it; \
                           mode = \"jetstream\" stores them in a stream";
            warnings.push(("mode", message.to_owned()));
        }
        let Some(stream) = self.stream.as_ref().filter(|stream| stream.create) else {
            return warnings;
        };
        if stream.replicas == Some(1) {
            let message = "a stream with one replica is lost with its server; 3 replicas survive the loss of one server";
            warnings.push(("stream.replicas", message.to_owned()));
        }
        let window = stream.duplicate_window.unwrap_or(DEFAULT_DUPLICATE_WINDOW);
        if self.order() == Order::Relaxed && window < LONG_OUTAGE {
            let message = format!(
                "events that are sent again after an outage of more than {} are stored twice; a window longer than the longest \
                 expected outage, or order = \"strict\", prevents these duplicates",
                units::format_duration(window)
            );
            warnings.push(("stream.duplicate_window", message));
        }
        warnings
    }

    fn destination(&self, _data_dir: &Path) -> String {
        let stream = self.stream.as_ref().map_or_else(
            || "no stream".to_owned(),
            |stream| format!("stream {}", stream.name),
        );
        let servers: Vec<String> = self.servers.iter().map(|server| address::shown(server)).collect();
        format!("{} in {stream} at {}", self.subject, servers.join(", "))
    }

    fn templates(&self) -> Vec<(&'static str, &Template)> {
        vec![("subject", &self.subject)]
    }

    fn files(&self) -> Vec<(&'static str, &Path)> {
        Vec::new()
    }

    fn dead_letter_place(&self) -> DeadLetterPlace<'_> {
        let dead_letter = self.dead_letter.as_ref();
        let subject = self
            .dead_letter_subject()
            .map(|subject| format!("subject {subject}"));
        DeadLetterPlace::of(
            subject,
            dead_letter.and_then(|dead_letter| dead_letter.path.as_deref()),
        )
    }

    fn in_cluster(&self) -> InCluster {
        match self.mode {
            Mode::Jetstream => {
                let stream = self.stream.as_ref().map(|stream| &stream.name);
                // Hashed as JSON, because members of different versions must compute the same hash.
                let settings = json!([stream, self.order, self.oversize]).to_string();
                InCluster::Shared {
                    settings: identity::body_hash(&settings),
                    needs_reports: false,
                }
            }
            Mode::Core => {
                let settings = json!(["core", self.oversize]).to_string();
                InCluster::Shared {
                    settings: identity::body_hash(&settings),
                    needs_reports: true,
                }
            }
        }
    }

    fn is_only_writer(&self) -> bool {
        self.is_strict()
    }

    fn preview(&self, event: &Event<'_>, spool: &SpoolId) -> String {
        match Encoder::new(self).encode(event, spool, None) {
            Ok(message) => message.describe(),
            Err(rejection) => format!("a dead letter: {}", rejection.detail),
        }
    }
}

impl SinkType for NatsConfig {
    type Sink = NatsSink;

    const NAME: &'static str = "nats";
    const CLIENT_LOG_TARGETS: &'static [&'static str] = &["async_nats"];

    fn build(&self, context: &BuildContext<'_>) -> NatsSink {
        let sink = NatsSink::new(context.name, self.clone());
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
        let mut sink = NatsSink::trial(context.name, self.clone());
        sink_type::probe(&mut sink, steps).await?;
        Ok(sink.warnings().to_vec())
    }
}
