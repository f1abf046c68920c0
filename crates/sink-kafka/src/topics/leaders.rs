//! Checks whether the brokers that lead the partitions can be reached at their advertised addresses.
//!
//! A client begins with `bootstrap_servers` and continues with the addresses in the metadata, which each broker takes from its
//! `advertised.listeners`. If these addresses cannot be reached, the metadata arrives, but no event is ever acknowledged.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use neurobridge_core::{
    connect::ConnectStep,
    sink::{FaultKind, SinkFault},
};
use rdkafka::{
    metadata::{Metadata, MetadataBroker},
    producer::Producer,
    types::RDKafkaErrorCode as Code,
};

use super::{Inspection, PAUSE, SLICE};
use crate::{
    error::{self, Blame},
    reach::{self, Unreached},
};

/// The time limit for all leaders together. Longer than a broker takes after it has just become the leader.
const LEADERS_LIMIT: Duration = Duration::from_secs(5);

/// The number of leaders that have to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// One: events for the others wait, and the log names the unreachable leaders.
    One,
    /// All, for a user who checks the whole cluster.
    All,
}

/// A broker of the metadata.
#[derive(Clone, Debug)]
struct Broker {
    id: i32,
    /// `host:port`.
    address: String,
    /// One of the partitions that the broker leads.
    partition: Option<(String, i32)>,
}

impl Broker {
    fn new(broker: &MetadataBroker) -> Self {
        let host = broker.host();
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        Self {
            id: broker.id(),
            address: format!("{host}:{}", broker.port()),
            partition: None,
        }
    }

    fn unreached(self, why: String) -> Unreached {
        Unreached {
            id: self.id,
            address: self.address,
            why,
        }
    }
}

impl Inspection {
    /// Checks that the leaders of the topics answer at their advertised addresses; without topics, that all brokers accept
    /// connections there.
    ///
    /// # Errors
    /// Too few of the brokers answer: the fault names each address that fails.
    pub(super) fn reach_leaders(&self, topics: &[String], demand: Demand) -> Result<(), SinkFault> {
        let failed = if topics.is_empty() {
            self.dial_brokers(demand)?
        } else {
            self.probe_leaders(topics, demand)?
        };
        let Some(reason) = reach::unreached_reason(&self.servers, &failed.unreached) else {
            return Ok(());
        };
        if demand == Demand::One && failed.reached > 0 {
            self.health.warn(&reason);
            return Ok(());
        }
        Err(SinkFault::new(FaultKind::Unreachable, reason))
    }

    /// Returns what is wrong with the advertised addresses of the brokers, for a request that had no answer.
    pub(super) fn advertised_fault(&self) -> Option<String> {
        match self.dial_brokers(Demand::All) {
            Ok(failed) => reach::unreached_reason(&self.servers, &failed.unreached)
                .or_else(|| self.advertised_silence().map(|fault| fault.reason)),
            Err(fault) => Some(fault.reason),
        }
    }

    /// Returns the fault of brokers that the client could not reach at their advertised addresses: a client leaves the bootstrap
    /// servers once it has metadata, and may then wait for these brokers with every request.
    pub(super) fn advertised_silence(&self) -> Option<SinkFault> {
        let brokers = self.health.brokers_without_connection();
        let brokers: Vec<_> = brokers
            .into_iter()
            .filter(|broker| self.is_only_advertised(&broker.address))
            .map(|broker| Broker {
                id: broker.id,
                address: broker.address,
                partition: None,
            })
            .collect();
        let reason = reach::unreached_reason(&self.servers, &self.with_reasons(brokers))?;
        Some(SinkFault::new(FaultKind::Unreachable, reason))
    }

    /// Determines why brokers do not answer.
    fn with_reasons(&self, brokers: Vec<Broker>) -> Vec<Unreached> {
        let addresses: Vec<_> = brokers.iter().map(|broker| broker.address.clone()).collect();
        let dialled = reach::dial(&addresses, false);
        brokers
            .into_iter()
            .map(|broker| {
                let dialled = dialled.iter().find(|(address, _)| *address == broker.address);
                let why = match dialled {
                    Some((_, Err(why))) => why.clone(),
                    _ => self
                        .health
                        .error_at(&broker.address)
                        .unwrap_or_else(|| reach::SILENT.into()),
                };
                broker.unreached(why)
            })
            .collect()
    }

    /// Sends a request to each leader, for which the right to publish suffices.
    fn probe_leaders(&self, topics: &[String], demand: Demand) -> Result<Reached, SinkFault> {
        let mut leaders = self.leaders(topics)?;
        let mut reached = 0;
        let deadline = Instant::now() + LEADERS_LIMIT;
        loop {
            let mut index = 0;
            while index < leaders.len() {
                let leader = &leaders[index];
                let (id, address) = (leader.id, &leader.address);
                self.steps.begin(
                    ConnectStep::Topic,
                    format_args!(
                        "broker {id} at {address}{}",
                        reach::origin(&self.servers, address)
                    ),
                );
                if self.is_only_advertised(address) {
                    self.steps.advise(reach::ADVERTISED_ADVICE);
                }
                let answer = match &leader.partition {
                    Some((topic, partition)) => {
                        let answer = self.producer.client().fetch_watermarks(topic, *partition, SLICE);
                        answer.err().and_then(|error| error.rdkafka_error_code())
                    }
                    None => None,
                };
                self.handle_events();
                if let Some(fault) = self.producer.context().take_fault() {
                    return Err(fault);
                }
                if answer.is_some_and(is_silence) {
                    index += 1;
                } else {
                    reached += 1;
                    leaders.remove(index);
                }
                if Instant::now() >= deadline {
                    break;
                }
            }
            let is_enough = leaders.is_empty() || demand == Demand::One && reached > 0;
            if is_enough || Instant::now() >= deadline {
                let unreached = self.with_reasons(leaders);
                return Ok(Reached { reached, unreached });
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn dial_brokers(&self, demand: Demand) -> Result<Reached, SinkFault> {
        let metadata = self.metadata(None)?;
        let brokers: Vec<_> = metadata.brokers().iter().map(Broker::new).collect();
        let addresses: Vec<_> = brokers.iter().map(|broker| broker.address.clone()).collect();
        let text = addresses.join(", ");
        self.steps.begin(
            ConnectStep::Topic,
            format_args!("the brokers at {text}, their advertised.listeners"),
        );
        let dialled = reach::dial(&addresses, demand == Demand::One);
        let reached = dialled.iter().filter(|(_, answer)| answer.is_ok()).count();
        let unreached = dialled
            .into_iter()
            .filter_map(|(address, answer)| {
                let broker = brokers.iter().find(|broker| broker.address == address)?;
                Some(broker.clone().unreached(answer.err()?))
            })
            .collect();
        Ok(Reached { reached, unreached })
    }

    /// Requests the metadata until an answer arrives.
    fn metadata(&self, topic: Option<&str>) -> Result<Metadata, SinkFault> {
        loop {
            let error = match self.producer.client().fetch_metadata(topic, SLICE) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => error,
            };
            self.handle_events();
            let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
            if let Some(fault) = self.refusal(topic.unwrap_or_default(), code) {
                return Err(fault);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Returns the brokers that lead partitions of the topics, each once.
    fn leaders(&self, topics: &[String]) -> Result<Vec<Broker>, SinkFault> {
        let mut leaders = BTreeMap::new();
        for topic in topics {
            let metadata = self.metadata(Some(topic))?;
            let brokers = metadata.brokers();
            let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            for partition in partitions {
                if let Some(broker) = brokers.iter().find(|one| one.id() == partition.leader()) {
                    leaders.entry(broker.id()).or_insert_with(|| Broker {
                        partition: Some((topic.clone(), partition.id())),
                        ..Broker::new(broker)
                    });
                }
            }
        }
        Ok(leaders.into_values().collect())
    }

    /// Returns whether an address is known from the metadata only.
    fn is_only_advertised(&self, address: &str) -> bool {
        !self.servers.iter().any(|server| server == address)
    }
}

/// The result of checking the brokers: the number of those that answer, and the unreached ones.
#[derive(Debug)]
struct Reached {
    reached: usize,
    unreached: Vec<Unreached>,
}

/// Returns whether a code means that the broker has not answered. Any answer counts, even a refusal.
fn is_silence(code: Code) -> bool {
    matches!(
        error::blame(code),
        Blame::Sink(FaultKind::Unreachable | FaultKind::Timeout)
    )
}
