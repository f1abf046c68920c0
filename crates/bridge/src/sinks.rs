//! The list of sink types: the only place of the program that names them.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use neurobridge_core::{
    connect::ConnectSteps,
    delivery::{self, DeliveryEnd, DeliveryOptions, Progress, Shutdown},
    reader::ReadError,
    sink::SinkFault,
    sink_type::{BuildContext, SinkConfig, SinkType},
};
use neurobridge_spool::ReplayReader;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::sink_reader::SinkReader;

/// The sink types of this build. A new sink type needs one line here.
const BUILT_IN: &[RegisteredSink] = &[
    RegisteredSink::of::<neurobridge_sink_file::FileConfig>(),
    #[cfg(feature = "kafka")]
    RegisteredSink::of::<neurobridge_sink_kafka::KafkaConfig>(),
    #[cfg(feature = "nats")]
    RegisteredSink::of::<neurobridge_sink_nats::NatsConfig>(),
];

/// The sink types that this build leaves out. Each has a cargo feature of the same name.
pub(crate) const LEFT_OUT: &[&str] = &[
    #[cfg(not(feature = "kafka"))]
    "kafka",
    #[cfg(not(feature = "nats"))]
    "nats",
];

/// The sink types that a program with custom sinks has added; see [`main_with`](crate::main_with).
static ADDED: OnceLock<&'static [RegisteredSink]> = OnceLock::new();

/// Adds sink types to those of this build. Only the first call has an effect; returns whether this was the first.
pub(crate) fn add(types: &'static [RegisteredSink]) -> bool {
    ADDED.set(types).is_ok()
}

/// Returns all sink types, in the order in which they are listed to people.
pub(crate) fn all() -> impl Iterator<Item = &'static RegisteredSink> {
    let added = ADDED.get().copied().unwrap_or_default();
    BUILT_IN.iter().chain(added)
}

/// Returns the sink type with this value of the key `type`.
pub(crate) fn find(name: &str) -> Option<&'static RegisteredSink> {
    all().find(|sink_type| sink_type.name == name)
}

/// A sink type as the program knows it: its name, its schema and how its configuration is read.
#[derive(Clone, Copy, Debug)]
pub struct RegisteredSink {
    pub(crate) name: &'static str,
    /// As [`SinkType::CLIENT_LOG_TARGETS`].
    pub(crate) client_log_targets: &'static [&'static str],
    pub(crate) schema: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) parse: fn(&Value) -> Result<Arc<dyn AnySink>, ParseError>,
}

/// The error of a value that is not a valid configuration of a sink type, with the path of the invalid value.
pub(crate) type ParseError = serde_path_to_error::Error<serde_json::Error>;

impl RegisteredSink {
    /// Returns the registration of a sink type.
    pub const fn of<T: SinkType + DeserializeOwned + JsonSchema>() -> Self {
        Self {
            name: T::NAME,
            client_log_targets: T::CLIENT_LOG_TARGETS,
            schema: T::json_schema,
            parse: parse::<T>,
        }
    }
}

fn parse<T: SinkType + DeserializeOwned>(value: &Value) -> Result<Arc<dyn AnySink>, ParseError> {
    let config: T = serde_path_to_error::deserialize(value)?;
    Ok(Arc::new(config))
}

/// A running delivery, until it has drained or was ended.
pub(crate) type Delivery = Pin<Box<dyn Future<Output = Result<DeliveryEnd, ReadError>> + Send>>;

/// The events that a sink delivers.
#[expect(clippy::large_enum_variant, reason = "moved once, into the delivery")]
#[derive(Debug)]
pub enum AnyReader {
    /// The events of the spool after the sink's cursor.
    Spool(SinkReader),
    /// The events of a replay.
    Replay(ReplayReader),
}

/// The configuration of a sink of any type.
pub trait AnySink: SinkConfig + Any {
    /// Returns the value of the key `type`.
    fn type_name(&self) -> &'static str;

    /// Delivers the events of a reader. As [`delivery::deliver`].
    fn deliver(
        &self,
        context: &BuildContext<'_>,
        reader: AnyReader,
        options: DeliveryOptions,
        progress: Arc<Progress>,
        shutdown: Shutdown,
    ) -> Delivery;

    /// Checks whether the sink could deliver. As [`SinkType::probe`].
    fn probe<'a>(
        &'a self,
        context: &'a BuildContext<'a>,
        steps: &'a ConnectSteps,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<String>, SinkFault>> + Send + 'a>>;
}

impl<T: SinkType> AnySink for T {
    fn type_name(&self) -> &'static str {
        T::NAME
    }

    fn deliver(
        &self,
        context: &BuildContext<'_>,
        reader: AnyReader,
        options: DeliveryOptions,
        progress: Arc<Progress>,
        shutdown: Shutdown,
    ) -> Delivery {
        let sink = self.build(context);
        match reader {
            AnyReader::Spool(reader) => {
                Box::pin(delivery::deliver(sink, reader, options, progress, shutdown))
            }
            AnyReader::Replay(reader) => {
                Box::pin(delivery::deliver(sink, reader, options, progress, shutdown))
            }
        }
    }

    fn probe<'a>(
        &'a self,
        context: &'a BuildContext<'a>,
        steps: &'a ConnectSteps,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<String>, SinkFault>> + Send + 'a>> {
        Box::pin(SinkType::probe(self, context, steps))
    }
}
