//! Provides a broker for the duration of a task: an existing one, a child process, or a container.

use anyhow::{Context, Result};
use neurobridge_tests::kafka::{Kafka, KafkaOptions};
use neurobridge_tests::nats::{Nats, NatsOptions};
use neurobridge_tests::running_broker::RunningBroker;
use neurobridge_tests::shared::Broker;

use super::container::Container;
use super::install;
use crate::shell::log;

/// A running broker. When dropped, it is stopped unless another process owns it.
#[derive(Debug)]
pub(crate) enum Provided {
    /// Given by the environment, or started by `cargo xtask brokers up`.
    Foreign(String),
    /// Started by this process. Boxed, because it is much larger than the other variants.
    Kafka(Box<Kafka>),
    /// Started by this process.
    Nats(Box<Nats>),
    /// Started by this process in a container.
    Container(Container),
}

impl Provided {
    /// Returns `host:port`, or a URL for NATS.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Foreign(address) => address.clone(),
            Self::Kafka(kafka) => kafka.bootstrap(),
            Self::Nats(nats) => nats.url(),
            Self::Container(container) => container.address().to_owned(),
        }
    }
}

/// Uses the broker given by the environment, or one that runs already, or starts one: as a process or, if the program
/// cannot be installed, in a container.
///
/// # Errors
/// Returns an error if none of these ways works; the message names a command that enables one.
pub(crate) fn provide(broker: Broker) -> Result<Provided> {
    if let Some(address) = broker.named() {
        let variable = broker.variable();
        broker
            .answers(&address)
            .with_context(|| format!("{variable} names {address}"))?;
        log(&format!("{broker} at {address}, given by {variable}"));
        return Ok(Provided::Foreign(address));
    }
    if let Some(RunningBroker { address, .. }) = RunningBroker::find(broker) {
        broker
            .answers(&address)
            .with_context(|| format!("the {broker} of `cargo xtask brokers up`"))?;
        log(&format!("{broker} at {address}, of `cargo xtask brokers up`"));
        return Ok(Provided::Foreign(address));
    }
    if let Err(error) = install(broker) {
        if Container::engine_answers() {
            log(&format!(
                "{broker} cannot be installed ({error:#}); using a container"
            ));
            return Container::start(broker).map(Provided::Container);
        }
        return Err(error);
    }
    log(&format!("starting {broker}"));
    Ok(match broker {
        Broker::Kafka => Provided::Kafka(Box::new(Kafka::start(KafkaOptions::shared())?)),
        Broker::Nats => Provided::Nats(Box::new(Nats::start(NatsOptions::default())?)),
    })
}
