//! The state of the brokers as librdkafka reports it, for `/status` and the log.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use neurobridge_core::sink::ClientGauges;
use serde::{Deserialize, de::IgnoredAny};
use tracing::warn;

use crate::{error::without_state, positions::Positions, recent_texts::RecentTexts};

/// Of so many brokers the last error is remembered.
const MAX_BROKERS: usize = 64;
/// So many topics' partitions are remembered; far more than anybody sends faces to.
const MAX_TOPICS: usize = 1_000;

/// How the brokers are, over all clients that one sink makes one after the other.
#[derive(Debug)]
pub(crate) struct Health {
    sink: String,
    /// Whether `unreachable` is set: looked at with every report, without the lock.
    is_unreachable: AtomicBool,
    inner: Mutex<Inner>,
    /// Locked for each report, so not with the rest.
    positions: Mutex<Positions>,
    /// Held by the context of each librdkafka client of this sink, until the client is destroyed.
    clients: Arc<()>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Set while no broker can be reached.
    unreachable: Option<String>,
    /// The last error that a connection had.
    last_error: Option<String>,
    /// The last error of each broker's connection, by `host:port`, with the broker's id where it is one of the metadata.
    errors: HashMap<String, (Option<i32>, String)>,
    /// The brokers of the metadata, as the newest statistics have them.
    brokers: Vec<KnownBroker>,
    logged: RecentTexts,
    partitions: HashMap<String, usize>,
    /// That a topic's partitions have grown, the last time they did.
    notice: Option<String>,
    gauges: ClientGauges,
}

/// A broker of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownBroker {
    pub(crate) id: i32,
    /// `host:port`, from its `advertised.listeners`.
    pub(crate) address: String,
    /// The state of its connection, in librdkafka's words.
    state: String,
}

/// The part of librdkafka's statistics that is read.
#[derive(Deserialize)]
struct Statistics {
    /// Messages in the queues of the producer, and their bytes.
    msg_cnt: Option<u64>,
    msg_size: Option<u64>,
    brokers: HashMap<String, BrokerStatistics>,
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    state: String,
    nodeid: i32,
    rtt: Option<WindowStatistics>,
}

/// A rolling window of measurements, in microseconds.
#[derive(Deserialize)]
struct WindowStatistics {
    avg: u64,
    cnt: u64,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: HashMap<i32, IgnoredAny>,
}

impl Health {
    pub(crate) fn new(sink: &str) -> Self {
        Self {
            sink: sink.to_owned(),
            is_unreachable: AtomicBool::new(false),
            inner: Mutex::default(),
            positions: Mutex::default(),
            clients: Arc::new(()),
        }
    }

    /// Counts a client for as long as the handle is held.
    pub(crate) fn count_client(&self) -> Arc<()> {
        Arc::clone(&self.clients)
    }

    /// Returns the number of clients that are not destroyed yet. librdkafka destroys a client when all of its threads have
    /// ended, which a name server or a hanging connection can delay.
    pub(crate) fn clients(&self) -> usize {
        Arc::strong_count(&self.clients) - 1
    }

    /// Returns the offsets of the stored records.
    pub(crate) fn positions(&self) -> MutexGuard<'_, Positions> {
        // Nothing within the lock can panic half-way through an update.
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the report of a stored record.
    pub(crate) fn stored(&self, topic: &str, partition: i32, offset: i64) {
        self.reachable();
        self.positions().stored(&self.sink, topic, partition, offset);
    }

    /// What has changed that a person should know.
    pub(crate) fn notice(&self) -> Option<String> {
        self.lock().notice.clone()
    }

    /// What keeps the brokers from being reached, in a sentence.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.lock().unreachable.clone()
    }

    /// The last error that a connection had, if it had one since [`forget`](Self::forget).
    pub(crate) fn last_error(&self) -> Option<String> {
        self.lock().last_error.clone()
    }

    /// The last error of the connection to `host:port`, if it had one since [`forget`](Self::forget) and is not up since.
    pub(crate) fn error_at(&self, address: &str) -> Option<String> {
        self.lock().errors.get(address).map(|(_, error)| error.clone())
    }

    /// Returns the brokers of the metadata that are not connected although it is tried, as the newest statistics have them.
    pub(crate) fn brokers_without_connection(&self) -> Vec<KnownBroker> {
        let inner = self.lock();
        let brokers = inner.brokers.iter();
        brokers
            .filter(|broker| broker.state != "UP" && broker.state != "INIT")
            .cloned()
            .collect()
    }

    /// Returns which brokers cannot be reached at an address that is not among the bootstrap servers, in a sentence.
    pub(crate) fn advertised_trouble(&self, servers: &[String]) -> Option<String> {
        let silent = self.brokers_without_connection();
        let inner = self.lock();
        if inner.errors.values().any(|(id, _)| id.is_none()) {
            // Nor can the bootstrap servers: then it is not the addresses.
            return None;
        }
        let silent = silent
            .iter()
            .filter(|broker| {
                !servers.contains(&broker.address) && !inner.errors.contains_key(&broker.address)
            })
            .map(|KnownBroker { id, address, state }| {
                format!("broker {id} at {address}: no answer in state {state}")
            });
        let mut failed: Vec<_> = inner
            .errors
            .iter()
            .filter(|(address, _)| !servers.contains(address))
            .filter_map(|(address, (id, error))| Some(format!("broker {} at {address}: {error}", (*id)?)))
            .chain(silent)
            .collect();
        if failed.is_empty() {
            return None;
        }
        failed.sort();
        Some(format!(
            "brokers cannot be reached at their advertised.listeners ({}); check that these run, and that this \
             machine can reach these addresses; events wait, it is tried again",
            failed.join("; ")
        ))
    }

    /// Forgets what concerns the connections of an earlier client.
    pub(crate) fn forget(&self) {
        self.reachable();
        let mut inner = self.lock();
        inner.last_error = None;
        inner.errors.clear();
        inner.brokers.clear();
        inner.gauges = ClientGauges::default();
    }

    /// Returns the queue and the round-trip time of the newest statistics.
    pub(crate) fn gauges(&self) -> ClientGauges {
        self.lock().gauges
    }

    /// Takes an error that concerns a connection.
    pub(crate) fn connection_failed(&self, reason: &str) {
        {
            let mut inner = self.lock();
            inner.last_error = Some(reason.to_owned());
            if let Some((address, id, error)) = parts(reason)
                && (inner.errors.len() < MAX_BROKERS || inner.errors.contains_key(address))
            {
                inner.errors.insert(address.to_owned(), (id, error.to_owned()));
            }
        }
        self.pass_on(reason);
    }

    /// Takes the news that no broker can be reached.
    pub(crate) fn all_down(&self, reason: &str) {
        let mut inner = self.lock();
        let cause = without_state(inner.last_error.as_deref().unwrap_or(reason));
        inner.unreachable = Some(format!(
            "no Kafka broker can be reached ({cause}); events wait, it is tried again"
        ));
        self.is_unreachable.store(true, Ordering::Relaxed);
    }

    /// Takes the news that a broker answers.
    pub(crate) fn reachable(&self) {
        // Relaxed: should news cross on the way, the next report or statistics correct it.
        if self.is_unreachable.load(Ordering::Relaxed) {
            let mut inner = self.lock();
            inner.unreachable = None;
            // No cause of what may come next: a broker that hangs then is not one that refuses connections.
            inner.last_error = None;
            self.is_unreachable.store(false, Ordering::Relaxed);
        }
    }

    /// Logs a warning of this sink, unless it was logged recently.
    pub(crate) fn warn(&self, text: &str) {
        if self.lock().logged.insert(text) {
            warn!(sink = self.sink, "{text}");
        }
    }

    /// Logs a message of librdkafka, unless it was logged recently. Its target is its own, so that commands that show the
    /// state of the sink can leave it out.
    pub(crate) fn pass_on(&self, text: &str) {
        if self.lock().logged.insert(text) {
            warn!(target: "neurobridge_sink_kafka::librdkafka", sink = self.sink, "librdkafka: {text}");
        }
    }

    /// Takes librdkafka's statistics. Only those of the client that publishes become [`gauges`](Self::gauges).
    pub(crate) fn statistics(&self, json: &[u8], publishes: bool) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(json) else {
            // Of another version, perhaps: nothing but the partitions and a late all-clear would be missed.
            self.warn("librdkafka's statistics can't be read");
            return;
        };
        // Brokers without an id are the addresses that we began with, which have no connection of their own later.
        let mut up = statistics
            .brokers
            .iter()
            .filter(|(_, broker)| broker.nodeid >= 0 && broker.state == "UP")
            .peekable();
        if up.peek().is_some() {
            self.reachable();
        }
        for (name, _) in up {
            if let Some((address, _)) = broker(name) {
                self.lock().errors.remove(address);
            }
        }
        let brokers: Vec<_> = statistics
            .brokers
            .iter()
            .filter_map(|(name, statistics)| {
                let (address, id) = broker(name)?;
                Some(KnownBroker {
                    id: id?,
                    address: address.to_owned(),
                    state: statistics.state.clone(),
                })
            })
            .take(MAX_BROKERS)
            .collect();
        let rtts = statistics.brokers.values().filter_map(|broker| {
            let rtt = broker.rtt.as_ref().filter(|rtt| rtt.cnt > 0)?;
            Some(Duration::from_micros(rtt.avg))
        });
        let mut inner = self.lock();
        if publishes {
            inner.gauges = ClientGauges {
                queued_messages: statistics.msg_cnt,
                queued_bytes: statistics.msg_size,
                // Without a request in the last interval, the last measurement stays.
                round_trip: rtts.max().or(inner.gauges.round_trip),
            };
        }
        if brokers.is_empty() {
            // After all connections have failed, librdkafka begins again with the bootstrap servers.
            for broker in &mut inner.brokers {
                "DOWN".clone_into(&mut broker.state);
            }
        } else {
            inner.brokers = brokers;
        }
        drop(inner);
        for (topic, statistics) in &statistics.topics {
            // -1 stands for messages without a partition yet.
            let partitions = statistics
                .partitions
                .keys()
                .filter(|partition| **partition >= 0)
                .count();
            self.partitions(topic, partitions);
        }
    }

    /// Takes the number of a topic's partitions, and says it when there are more than before: keys move then. Whether
    /// it was said.
    pub(crate) fn partitions(&self, topic: &str, partitions: usize) -> bool {
        // None means that the topic is not known yet, or not any more.
        if partitions == 0 {
            return false;
        }
        let mut inner = self.lock();
        if let Some(before) = inner.partitions.get_mut(topic) {
            let before = std::mem::replace(before, partitions);
            if partitions > before {
                inner.notice = Some(format!(
                    "the topic \"{topic}\" has {partitions} partitions, before it had {before}: keys have moved, \
                     and a person's order is kept within a partition only"
                ));
                warn!(
                    sink = self.sink,
                    topic,
                    before,
                    partitions,
                    "the topic has more partitions than before: keys move to others, and a person's order is kept within a partition only"
                );
                return true;
            }
        } else if inner.partitions.len() < MAX_TOPICS {
            inner.partitions.insert(topic.to_owned(), partitions);
        }
        false
    }

    /// How many partitions a topic is known to have.
    #[cfg(test)]
    pub(crate) fn known_partitions(&self, topic: &str) -> Option<usize> {
        self.lock().partitions.get(topic).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing within the lock can panic half-way through an update.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses an error that librdkafka reports for a connection: `[protocol://]host:port/id: error`.
fn parts(reason: &str) -> Option<(&str, Option<i32>, &str)> {
    let (name, error) = without_state(reason).split_once(": ")?;
    let (address, id) = broker(name)?;
    Some((address, id, error))
}

/// Takes apart librdkafka's name of a broker: `[protocol://]host:port/id`, with the word `bootstrap` in place of an id.
fn broker(name: &str) -> Option<(&str, Option<i32>)> {
    let name = name.split_once("://").map_or(name, |(_, name)| name);
    let (address, id) = name.rsplit_once('/')?;
    Some((address, id.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertised_address_that_fails_is_named_until_it_is_up() {
        let health = Health::new("kafka");
        let servers = ["b0:9092".to_owned()];
        health.connection_failed("b0:9092/0: Disconnected (after 9ms in state UP)");
        assert_eq!(health.advertised_trouble(&servers), None);
        health.connection_failed("sasl_ssl://inside:9093/1: Failed to resolve 'inside:9093': Name or service not known (after 1ms in state CONNECT, 2 identical error(s) suppressed)");
        insta::assert_snapshot!(health.advertised_trouble(&servers).unwrap(), @"brokers cannot be reached at their advertised.listeners (broker 1 at inside:9093: Failed to resolve 'inside:9093': Name or service not known); check that these run, and that this machine can reach these addresses; events wait, it is tried again");
        assert!(health.error_at("inside:9093").is_some());
        health.statistics(
            br#"{"brokers":{"sasl_ssl://inside:9093/1":{"state":"UP","nodeid":1}},"topics":{}}"#,
            true,
        );
        assert_eq!(health.advertised_trouble(&servers), None);
        // One that accepts connections and never answers has no error at first.
        health.statistics(
            br#"{"brokers":{"b0:9092/0":{"state":"CONNECT","nodeid":0},"b0:9092/bootstrap":{"state":"DOWN","nodeid":-1},"b2:9092/2":{"state":"INIT","nodeid":2},"b3:9092/3":{"state":"APIVERSION_QUERY","nodeid":3}},"topics":{}}"#, true
        );
        assert!(
            health
                .advertised_trouble(&servers)
                .unwrap()
                .contains("(broker 3 at b3:9092: no answer in state APIVERSION_QUERY)")
        );
        health.statistics(
            br#"{"brokers":{"b0:9092/bootstrap":{"state":"UP","nodeid":-1}},"topics":{}}"#,
            true,
        );
        assert_eq!(health.brokers_without_connection().len(), 3);
        health.connection_failed("b0:9092/bootstrap: Connect to ipv4#1.2.3.4:9092 failed: Connection refused (after 0ms in state CONNECT)");
        assert_eq!(health.advertised_trouble(&servers), None);
        health.forget();
        assert_eq!(health.brokers_without_connection(), []);
    }

    #[test]
    fn unavailability_lasts_until_a_broker_answers() {
        let health = Health::new("kafka");
        assert_eq!(health.trouble(), None);
        health.connection_failed("b1: Connection refused");
        health.all_down("1/1 brokers are down");
        insta::assert_snapshot!(health.trouble().unwrap(), @"no Kafka broker can be reached (b1: Connection refused); events wait, it is tried again");
        health.statistics(
            br#"{"brokers":{"b":{"state":"UP","nodeid":-1},"c":{"state":"DOWN","nodeid":1}},"topics":{}}"#,
            true,
        );
        assert!(health.trouble().is_some());
        health.statistics(
            br#"{"brokers":{"c":{"state":"UP","nodeid":1,"more":0}},"topics":{},"more":0}"#,
            true,
        );
        assert_eq!(health.trouble(), None);
        // Another time it is another cause.
        health.all_down("1/1 brokers are down");
        insta::assert_snapshot!(health.trouble().unwrap(), @"no Kafka broker can be reached (1/1 brokers are down); events wait, it is tried again");
    }

    #[test]
    fn gauges_are_of_the_slowest_broker_and_the_last_client() {
        let health = Health::new("kafka");
        assert_eq!(health.gauges(), ClientGauges::default());
        health.statistics(
            br#"{"msg_cnt":3,"msg_size":700,"topics":{},"brokers":{"a":{"state":"UP","nodeid":1,"rtt":{"avg":900,"cnt":2}},"b":{"state":"UP","nodeid":2,"rtt":{"avg":1500,"cnt":1}},"c":{"state":"INIT","nodeid":3,"rtt":{"avg":0,"cnt":0}}}}"#, true
        );
        let measured = ClientGauges {
            queued_messages: Some(3),
            queued_bytes: Some(700),
            round_trip: Some(Duration::from_micros(1500)),
        };
        assert_eq!(health.gauges(), measured);
        // Without a request since then.
        health.statistics(br#"{"msg_cnt":0,"msg_size":0,"topics":{},"brokers":{"a":{"state":"UP","nodeid":1,"rtt":{"avg":0,"cnt":0}}}}"#, true);
        assert_eq!(health.gauges().round_trip, measured.round_trip);
        health.forget();
        assert_eq!(health.gauges(), ClientGauges::default());
    }

    #[test]
    fn added_partitions_are_logged_once() {
        let health = Health::new("kafka");
        assert!(!health.partitions("t", 2));
        assert!(!health.partitions("t", 2));
        health.statistics(
            br#"{"brokers":{},"topics":{"t":{"partitions":{"0":{},"1":{},"-1":{}}}}}"#,
            true,
        );
        assert!(health.partitions("t", 3));
        assert!(!health.partitions("t", 3));
        assert!(
            health
                .notice()
                .unwrap()
                .starts_with("the topic \"t\" has 3 partitions, before it had 2")
        );
        // Deleted and made anew with fewer: no keys to keep.
        assert!(!health.partitions("t", 0) && !health.partitions("t", 1));
    }
}
