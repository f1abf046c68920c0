//! A broker for as long as a chore runs, by the first way that is open.

use anyhow::{Context, Result};
use neurobridge_tests::kafka::{Kafka, KafkaOptions};
use neurobridge_tests::nats::{Nats, NatsOptions};
use neurobridge_tests::shared::Broker;
use neurobridge_tests::standing::Standing;

use super::container::Container;
use super::install;
use crate::shell::say;

/// A broker that answers; dropped, it is stopped unless it is somebody else's.
#[derive(Debug)]
pub(crate) enum Provided {
    /// Named by the environment, or left running by `cargo xtask brokers up`.
    Foreign(String),
    /// Started here. Boxed, since it is many times the size of the others.
    Kafka(Box<Kafka>),
    /// Started here.
    Nats(Box<Nats>),
    /// Started here, in a container.
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

/// Takes the broker that the environment names, or that stands already, or starts one: as a process, or where the
/// program can't be had, in a container.
///
/// # Errors
/// When none of these ways is open; the error says which command opens one.
pub(crate) fn provide(broker: Broker) -> Result<Provided> {
    if let Some(address) = broker.named() {
        let variable = broker.variable();
        broker
            .answers(&address)
            .with_context(|| format!("{variable} names {address}"))?;
        say(&format!("{broker} at {address}, named by {variable}"));
        return Ok(Provided::Foreign(address));
    }
    if let Some(Standing { address, .. }) = Standing::find(broker) {
        broker
            .answers(&address)
            .with_context(|| format!("the {broker} of `cargo xtask brokers up`"))?;
        say(&format!("{broker} at {address}, of `cargo xtask brokers up`"));
        return Ok(Provided::Foreign(address));
    }
    if let Err(error) = install(broker) {
        if Container::engine_answers() {
            say(&format!(
                "{broker} can't be installed ({error:#}), a container will do"
            ));
            return Container::start(broker).map(Provided::Container);
        }
        return Err(error);
    }
    say(&format!("starting {broker}"));
    Ok(match broker {
        Broker::Kafka => Provided::Kafka(Box::new(Kafka::start(KafkaOptions::shared())?)),
        Broker::Nats => Provided::Nats(Box::new(Nats::start(NatsOptions::default())?)),
    })
}
