//! The state of the brokers as librdkafka reports it, for `/status` and the log.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use neurobridge_core::{sink::ClientGauges, throttle::Throttle};
use tracing::warn;

use crate::{
    error::without_state,
    positions::Positions,
    reach::{self, Unreached},
    statistics::{KnownBroker, Statistics, broker_name},
};

/// The maximum number of brokers whose last error is stored.
const MAX_BROKERS: usize = 64;
/// The maximum number of topics whose partition count is stored; far more than a bridge usually publishes to.
const MAX_TOPICS: usize = 1_000;

/// The health of the brokers, across all clients that one sink creates one after the other.
#[derive(Debug)]
pub(crate) struct Health {
    sink: String,
    /// Whether `unreachable` is set. Read for every report, so without the lock.
    is_unreachable: AtomicBool,
    inner: Mutex<Inner>,
    /// Locked for each report, so separate from the rest.
    positions: Mutex<Positions>,
    /// A clone is held by the context of each librdkafka client of this sink, until the client is destroyed.
    clients: Arc<()>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Set while no broker can be reached.
    unreachable: Option<String>,
    /// The last error of any connection.
    last_error: Option<String>,
    /// The last error of each broker's connection, by `host:port`, with the broker's id if the broker is part of the metadata.
    errors: HashMap<String, (Option<i32>, String)>,
    /// The brokers of the metadata, according to the newest statistics.
    brokers: Vec<KnownBroker>,
    /// The ids of the brokers that lead partitions to which the client writes.
    leaders: BTreeSet<i32>,
    logged: Throttle,
    partitions: HashMap<String, usize>,
    /// The most recent increase of a topic's partition count.
    notice: Option<String>,
    gauges: ClientGauges,
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

    /// Counts a client for as long as the returned handle is held.
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
        // No code under the lock can panic halfway through an update, so a poisoned lock is still consistent.
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a broker has stored a record.
    pub(crate) fn stored(&self, topic: &str, partition: i32, offset: i64) {
        self.reachable();
        self.positions().stored(&self.sink, topic, partition, offset);
    }

    /// Returns a change that the operator should know.
    pub(crate) fn notice(&self) -> Option<String> {
        self.lock().notice.clone()
    }

    /// Returns why no broker can be reached, in a sentence.
    pub(crate) fn unreachable(&self) -> Option<String> {
        self.lock().unreachable.clone()
    }

    /// Returns the last error of any connection since [`forget`](Self::forget).
    pub(crate) fn last_error(&self) -> Option<String> {
        self.lock().last_error.clone()
    }

    /// Returns the last error of the connection to `host:port` since [`forget`](Self::forget), unless the connection was
    /// established afterwards.
    pub(crate) fn error_at(&self, address: &str) -> Option<String> {
        self.lock().errors.get(address).map(|(_, error)| error.clone())
    }

    /// Returns the brokers of the metadata whose connection was attempted and is not established, according to the newest
    /// statistics.
    pub(crate) fn brokers_without_connection(&self) -> Vec<KnownBroker> {
        let inner = self.lock();
        let brokers = inner.brokers.iter();
        brokers
            .filter(|broker| broker.is_without_connection())
            .cloned()
            .collect()
    }

    /// Returns which leaders of partitions have no connection, with the address and the connection error of each one. Other
    /// leaders may be available. `servers`: the addresses of `bootstrap_servers`.
    pub(crate) fn unreached_leaders(&self, servers: &[String]) -> Option<String> {
        let inner = self.lock();
        if inner.unreachable.is_some() && inner.errors.values().any(|(id, _)| id.is_none()) {
            // The bootstrap servers cannot be reached either, so the advertised addresses are not the reason.
            return None;
        }
        let unreached: Vec<_> = inner
            .brokers
            .iter()
            .filter(|broker| broker.is_without_connection() && inner.leaders.contains(&broker.id))
            .map(|KnownBroker { id, address, state }| Unreached {
                id: *id,
                address: address.clone(),
                why: match inner.errors.get(address) {
                    Some((_, error)) => error.clone(),
                    None => format!("no answer in state {state}"),
                },
            })
            .collect();
        let reason = reach::unreached_reason(servers, &unreached)?;
        Some(format!(
            "{reason}; events for the partitions of these brokers wait"
        ))
    }

    /// Clears the errors and states of an earlier client's connections.
    pub(crate) fn reset(&self) {
        self.reachable();
        let mut inner = self.lock();
        inner.last_error = None;
        inner.errors.clear();
        inner.brokers.clear();
        inner.leaders.clear();
        inner.gauges = ClientGauges::default();
    }

    /// Returns the queue and the round-trip time of the newest statistics.
    pub(crate) fn gauges(&self) -> ClientGauges {
        self.lock().gauges
    }

    /// Records an error of a connection.
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
        self.log_client_message(reason);
    }

    /// Records that no broker can be reached.
    pub(crate) fn all_down(&self, reason: &str) {
        let mut inner = self.lock();
        let cause = without_state(inner.last_error.as_deref().unwrap_or(reason));
        inner.unreachable = Some(format!(
            "no Kafka broker can be reached ({cause}); events wait; retrying"
        ));
        self.is_unreachable.store(true, Ordering::Relaxed);
    }

    /// Records that a broker responds.
    pub(crate) fn reachable(&self) {
        // Relaxed: if reports overtake each other, the next report or statistics correct the value.
        if self.is_unreachable.load(Ordering::Relaxed) {
            let mut inner = self.lock();
            inner.unreachable = None;
            // Cleared, because it would be reported as the cause of a later outage, which may have another one: a broker that hangs
            // refuses no connection.
            inner.last_error = None;
            self.is_unreachable.store(false, Ordering::Relaxed);
        }
    }

    /// Returns whether a message was not logged recently. librdkafka reports each error twice, and repeats it at every attempt.
    fn is_new(&self, text: &str) -> bool {
        // The text about the connection's state differs from one report to the next.
        self.lock().logged.allow(without_state(text)).is_some()
    }

    /// Returns the name of the sink.
    pub(crate) fn sink(&self) -> &str {
        &self.sink
    }

    /// Logs a warning of this sink, unless it was logged recently.
    pub(crate) fn warn(&self, text: &str) {
        if self.is_new(text) {
            warn!(sink = self.sink, "{text}");
        }
    }

    /// Logs a message of librdkafka, unless it was logged recently. The message has a log target of its own, so that commands
    /// that show the state of the sink can omit it.
    pub(crate) fn log_client_message(&self, text: &str) {
        if self.is_new(text) {
            warn!(target: "neurobridge_sink_kafka::librdkafka", sink = self.sink, "librdkafka: {text}");
        }
    }

    /// Updates the brokers, partitions and gauges from librdkafka's statistics. `publishes`: whether the statistics are of the
    /// client that publishes; only this client's queues become [`gauges`](Self::gauges) and its partitions those of
    /// [`unreached_leaders`](Self::unreached_leaders).
    pub(crate) fn statistics(&self, json: &[u8], publishes: bool) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(json) else {
            // The statistics may have another librdkafka version's format. Without them, added partitions and a late recovery are
            // not noticed.
            self.warn(
                "librdkafka's statistics have an unknown format: added partitions and recovered brokers may not be detected",
            );
            return;
        };
        let brokers: Vec<_> = statistics.brokers().take(MAX_BROKERS).collect();
        if brokers.iter().any(KnownBroker::is_up) {
            self.reachable();
        }
        let mut inner = self.lock();
        for broker in brokers.iter().filter(|broker| broker.is_up()) {
            inner.errors.remove(&broker.address);
        }
        if publishes {
            inner.gauges = statistics.gauges(inner.gauges);
        }
        if brokers.is_empty() {
            // After all connections have failed, librdkafka starts again with the bootstrap servers, and its statistics contain no
            // other broker.
            for broker in &mut inner.brokers {
                "DOWN".clone_into(&mut broker.state);
            }
        } else {
            if publishes {
                inner.leaders = statistics.leaders();
            }
            inner.brokers = brokers;
        }
        drop(inner);
        for (topic, partitions) in statistics.partitions() {
            self.partitions(topic, partitions);
        }
    }

    /// Records the number of a topic's partitions, and reports an increase, because keys then move to other partitions. Returns
    /// whether an increase was reported.
    pub(crate) fn partitions(&self, topic: &str, partitions: usize) -> bool {
        // Zero means that the topic is not known yet, or no longer exists.
        if partitions == 0 {
            return false;
        }
        let mut inner = self.lock();
        if let Some(before) = inner.partitions.get_mut(topic) {
            let before = std::mem::replace(before, partitions);
            if partitions > before {
                inner.notice = Some(format!(
                    "the topic \"{topic}\" has {partitions} partitions, previously {before}: keys have moved to other \
                     partitions, and order holds only within a partition"
                ));
                warn!(
                    sink = self.sink,
                    topic,
                    before,
                    partitions,
                    "the topic has more partitions than before: keys have moved to other partitions, and order holds only \
                     within a partition"
                );
                return true;
            }
        } else if inner.partitions.len() < MAX_TOPICS {
            inner.partitions.insert(topic.to_owned(), partitions);
        }
        false
    }

    /// Returns the recorded number of a topic's partitions.
    #[cfg(test)]
    pub(crate) fn known_partitions(&self, topic: &str) -> Option<usize> {
        self.lock().partitions.get(topic).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code under the locks can panic halfway through an update, so a poisoned lock is still consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses an error that librdkafka reports for a connection: `[protocol://]host:port/id: error`.
fn parts(reason: &str) -> Option<(&str, Option<i32>, &str)> {
    let (name, error) = without_state(reason).split_once(": ")?;
    let (address, id) = broker_name(name)?;
    Some((address, id, error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Returns statistics of a topic whose partition is led by broker 1, in this state; broker 2 leads none.
    fn statistics(state: &str) -> String {
        format!(
            r#"{{"brokers":{{"b0:9092/bootstrap":{{"state":"UP"}},"sasl_ssl://inside:9093/1":{{"state":"{state}"}},
            "b2:9092/2":{{"state":"DOWN"}}}},"topics":{{"t":{{"partitions":{{"0":{{"leader":1}},"-1":{{"leader":-1}}}}}}}}}}"#
        )
    }

    #[test]
    fn leaders_without_connection_are_named_until_they_are_up() {
        let health = Health::new("kafka");
        let servers = ["b0:9092".to_owned()];
        health.connection_failed("sasl_ssl://inside:9093/1: Failed to resolve 'inside:9093': Name or service not known (after 1ms in state CONNECT, 2 identical error(s) suppressed)");
        health.connection_failed(
            "b2:9092/2: Connect to ipv4#1.2.3.4:9092 failed: Connection refused (after 0ms in state CONNECT)",
        );
        let report = |state| health.statistics(statistics(state).as_bytes(), true);
        report("INIT");
        assert_eq!(health.unreached_leaders(&servers), None, "not tried yet");
        report("DOWN");
        insta::assert_snapshot!(health.unreached_leaders(&servers).unwrap(), @"Kafka answers at b0:9092 (bootstrap_servers), but not broker 1 at inside:9093 (its advertised.listeners): Failed to resolve 'inside:9093': Name or service not known; set advertised.listeners of the broker to an address that this machine can reach; events for the partitions of these brokers wait");
        assert!(health.error_at("inside:9093").is_some());
        report("UP");
        assert_eq!(health.unreached_leaders(&servers), None);
        assert_eq!(health.error_at("inside:9093"), None);
        // A broker that accepts connections and never answers has no error at first.
        report("APIVERSION_QUERY");
        let reason = health.unreached_leaders(&servers).unwrap();
        assert!(
            reason.contains(": no answer in state APIVERSION_QUERY;"),
            "{reason}"
        );
        // All connections have failed, and librdkafka starts again.
        health.statistics(
            br#"{"brokers":{"b0:9092/bootstrap":{"state":"UP"}},"topics":{}}"#,
            true,
        );
        assert_eq!(health.brokers_without_connection().len(), 2);
        assert!(health.unreached_leaders(&servers).is_some());
        health.all_down("1/1 brokers are down");
        health.connection_failed("b0:9092/bootstrap: Connect to ipv4#1.2.3.4:9092 failed: Connection refused (after 0ms in state CONNECT)");
        assert_eq!(
            health.unreached_leaders(&servers),
            None,
            "it is not the advertised address"
        );
        health.reset();
        assert_eq!(health.brokers_without_connection(), []);
    }

    #[test]
    fn unavailability_lasts_until_a_broker_answers() {
        let health = Health::new("kafka");
        assert_eq!(health.unreachable(), None);
        health.connection_failed("b1: Connection refused");
        health.all_down("1/1 brokers are down");
        insta::assert_snapshot!(health.unreachable().unwrap(), @"no Kafka broker can be reached (b1: Connection refused); events wait; retrying");
        health.statistics(
            br#"{"brokers":{"b:1/bootstrap":{"state":"UP"},"c:1/1":{"state":"DOWN"}},"topics":{}}"#,
            true,
        );
        assert!(health.unreachable().is_some());
        health.statistics(
            br#"{"brokers":{"c:1/1":{"state":"UP","more":0}},"topics":{},"more":0}"#,
            true,
        );
        assert_eq!(health.unreachable(), None);
        // A later outage has another cause.
        health.all_down("1/1 brokers are down");
        insta::assert_snapshot!(health.unreachable().unwrap(), @"no Kafka broker can be reached (1/1 brokers are down); events wait; retrying");
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
        // No request since the last statistics.
        health.statistics(br#"{"msg_cnt":0,"msg_size":0,"topics":{},"brokers":{"a":{"state":"UP","nodeid":1,"rtt":{"avg":0,"cnt":0}}}}"#, true);
        assert_eq!(health.gauges().round_trip, measured.round_trip);
        health.reset();
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
                .starts_with("the topic \"t\" has 3 partitions, previously 2")
        );
        // The topic was deleted and created again with fewer partitions: no keys move.
        assert!(!health.partitions("t", 0) && !health.partitions("t", 1));
    }
}
