//! The brokers, the simulated platform, and the configuration of each member.

use std::time::Duration;

use anyhow::Result;
use neurobridge_tests::kafka::{Kafka, KafkaOptions, Relayed};
use neurobridge_tests::nats::{NatsCluster, NatsOptions};
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::relay::Relay;

use super::super::{CURSORS, PARTITIONS, STREAM, TOPIC};
use super::member::Links;

/// The `ttl` of the lease: after this time without a renewal by the leader, another member takes over.
pub(super) const TTL: Duration = Duration::from_secs(10);
/// The token of the feed, which all members share.
const TOKEN: &str = "chaos";

/// Starts Kafka with a relay for each member.
pub(super) fn start_kafka(members: usize) -> Result<(Kafka, Vec<Relay>)> {
    let mut relays = Vec::new();
    // A small heap, because several runs share the machine.
    let mut options = KafkaOptions {
        heap_mib: 256,
        ..KafkaOptions::default()
    };
    for _ in 0..members {
        let [port] = free_ports()?;
        let relay = Relay::to(format!("127.0.0.1:{port}"))?;
        options.relayed.push(Relayed {
            port,
            advertised: relay.address().to_owned(),
        });
        relays.push(relay);
    }
    let kafka = Kafka::start(options)?;
    // The broker sets the times of the messages, because takeovers are measured by these times.
    let times = ("message.timestamp.type", "LogAppendTime");
    kafka.create_topic_by_tool(TOPIC, PARTITIONS, &[times])?;
    kafka.create_topic_by_tool(CURSORS, 1, &[("cleanup.policy", "compact")])?;
    Ok((kafka, relays))
}

/// Starts three servers of NATS.
pub(super) fn start_nats() -> Result<NatsCluster> {
    NatsCluster::start(&NatsOptions::default())
}

/// Returns the arguments of the simulator, which recognises events only for the duration of the run. The last events can be
/// delivered after that.
pub(super) fn platform(rate: u64, duration: Duration, record: &str) -> Vec<String> {
    let count = (rate * duration.as_secs()).max(1);
    let options = [
        ("--rate", rate.to_string()),
        ("--count", count.to_string()),
        ("--token", TOKEN.to_owned()),
        ("--recognised", record.to_owned()),
    ];
    let flags = options
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value]);
    flags.collect()
}

/// Returns the configuration of a member. A single bridge has no table `cluster`.
pub(super) fn configuration(member: &str, links: &Links, members: usize) -> String {
    let servers: Vec<String> = links
        .nats
        .iter()
        .map(|relay| format!("nats://{}", relay.address()))
        .collect();
    let cluster = if members == 1 {
        String::new()
    } else {
        format!(
            r#"
[cluster]
name = "chaos"
member = "{member}"
standby = "hot"

[cluster.lease]
type = "nats"
servers = {servers:?}
bucket = "neurobridge-lease"
create = true
replicas = 3
ttl = "{}s"
"#,
            TTL.as_secs()
        )
    };
    format!(
        r#"
# A member that cannot reach a broker must not wait for it: its spool is on the disk.
drain_timeout = "10s"

[sources.main]
url = "ws://{}/"
token = "{TOKEN}"
backoff = {{ min = "50ms", max = "1s" }}

[spool]
type = "disk"
sync = "always"
retain = "1m"
segment_size = "16 MiB"

[sinks.kafka]
type = "kafka"
bootstrap_servers = "{}"
topic = "{TOPIC}"
delivery = "exactly_once"

[sinks.nats]
type = "nats"
servers = {servers:?}
order = "strict"
stream = {{ name = "{STREAM}", create = true, max_age = "7d", replicas = 3 }}
{cluster}"#,
        links.feed.address(),
        links.kafka.address(),
    )
}
