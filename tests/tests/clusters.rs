//! Clusters of bridges: processes with a lease in NATS, of which one publishes.

use std::collections::HashSet;
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::kafka::records::read_topic;
use neurobridge_tests::nats::{Nats, NatsOptions, client::read_stream};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::{wait_for, wait_until};
use neurobridge_tests::shared::{kafka_bootstrap, own_nats};
use neurobridge_tests::status::{SourceState, Status};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(120);
const EVENTS: u64 = 12_000;
const RATE: &str = "200";
/// Shorter than the default, so that the tests wait less. Longer than the pauses of a busy machine.
const TTL: &str = "5s";

/// A bridge in a cluster, with a folder of its own.
struct Member {
    dir: Scratch,
    config: String,
    bridge: Option<Bridge>,
}

impl Member {
    fn new(cluster: &str, name: &str, (platform, nats): (&Platform, &Nats), sinks: &str) -> Self {
        let address = platform.address();
        let config = format!(
            r#"
[sources.main]
url = "ws://{address}/"
token = "t"
backoff = {{ min = "20ms", max = "200ms" }}
[spool]
type = "disk"
[cluster]
name = "{cluster}"
member = "{name}"
[cluster.lease]
type = "nats"
servers = ["{}"]
bucket = "LEASES"
create = true
replicas = 1
ttl = "{TTL}"
{sinks}"#,
            nats.url()
        );
        let dir = Scratch::new(&format!("{cluster}-{name}")).unwrap();
        let bridge = Some(Bridge::start(&dir, &config).unwrap());
        Self { dir, config, bridge }
    }

    fn bridge(&self) -> &Bridge {
        self.bridge.as_ref().unwrap()
    }

    fn status(&self) -> Option<Status> {
        self.bridge.as_ref()?.status().ok()
    }

    /// Waits until it receives events and has joined.
    fn wait_until_ready(&self) {
        let is_ready = |status: &Status| {
            let source = status.source("main");
            source.state == SourceState::Authenticated
                && source.ledger.stored > 0
                && status
                    .cluster
                    .as_ref()
                    .is_some_and(|cluster| cluster.join_state == "joined")
        };
        self.bridge()
            .wait("a member that receives", SOON, is_ready)
            .unwrap();
    }

    /// Stops it in an orderly way, and starts it again as an update does.
    fn update(&mut self) {
        let (status, log) = self.bridge.take().unwrap().stop(Signal::SIGTERM, SOON).unwrap();
        assert!(status.success(), "{log}");
        self.bridge = Some(Bridge::start(&self.dir, &self.config).unwrap());
    }
}

/// Waits for a leader among the members, and returns its index.
fn leader(members: &[Member]) -> usize {
    wait_for("a leader", SOON, || {
        let leads = |member: &Member| member.status().is_some_and(|status| status.leads());
        Ok(members.iter().position(leads))
    })
    .unwrap()
}

/// Waits until the member publishes.
fn wait_until_publishing(member: &Member) {
    let before = member.status().map_or(0, |status| status.delivered("stream"));
    let publishes = |status: &Status| status.delivered("stream") > before + 50;
    member
        .bridge()
        .wait("a leader that publishes", SOON, publishes)
        .unwrap();
}

fn ids<'a>(ids: impl Iterator<Item = Option<&'a str>>) -> Vec<u64> {
    ids.map(|id| id.unwrap().parse().unwrap()).collect()
}

#[test]
fn cluster_publishes_each_event_once_whatever_ends_its_leaders() {
    let (Some(bootstrap), Some(nats)) = (kafka_bootstrap(), own_nats(NatsOptions::default())) else {
        return;
    };
    let dir = Scratch::new("cluster").unwrap();
    let topic = format!("cluster-{}", std::process::id());
    let record = dir.join("recognised.jsonl").display().to_string();
    let count = EVENTS.to_string();
    let args = ["--rate", RATE, "--count", &count, "--recognised", &record];
    let platform = Platform::start(&dir, &args).unwrap();
    let sinks = format!(
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
servers = ["{}"]
subject = "faces.{{result}}"
stream = {{ name = "FACES", create = true, max_age = "1h", replicas = 1 }}
"#,
        nats.url()
    );
    let mut members: Vec<Member> = ["a", "b"]
        .iter()
        .map(|name| Member::new("faces", name, (&platform, &nats), &sinks))
        .collect();
    members.iter().for_each(Member::wait_until_ready);
    for round in 0..4 {
        let leading = leader(&members);
        wait_until_publishing(&members[leading]);
        let member = &mut members[leading];
        match round % 3 {
            0 => {
                member.bridge.as_mut().unwrap().process().kill().unwrap();
                member.bridge.as_mut().unwrap().start_again().unwrap();
            }
            1 => member.update(),
            _ => {
                member.bridge.as_mut().unwrap().process().freeze().unwrap();
                let follower = &members[1 - leading];
                follower
                    .bridge()
                    .wait("another leader", SOON, Status::leads)
                    .unwrap();
                wait_until_publishing(follower);
                members[leading]
                    .bridge
                    .as_mut()
                    .unwrap()
                    .process()
                    .thaw()
                    .unwrap();
            }
        }
        members.iter().for_each(Member::wait_until_ready);
    }

    let is_settled = |member: &Member| {
        member
            .status()
            .is_some_and(|status| status.sinks.values().all(|sink| sink.ledger.pending == 0))
    };
    let records = wait_for("all events in the topic", SOON, || {
        let records = read_topic(&bootstrap, &topic, SOON)?;
        Ok((records.len() as u64 >= EVENTS).then_some(records))
    })
    .unwrap();
    wait_until("settled members", SOON, || members.iter().all(is_settled)).unwrap();
    let in_topic = ids(records.iter().map(|record| record.header("ce_id")));
    assert_eq!(
        in_topic.iter().copied().collect::<HashSet<u64>>(),
        (1..=EVENTS).collect()
    );
    assert_eq!(in_topic.len() as u64, EVENTS, "an event is twice in the topic");
    let messages = read_stream(&nats.url(), "FACES", SOON).unwrap();
    let in_stream = ids(messages.iter().map(|message| message.header("ce-id")));
    assert_eq!(in_stream, (1..=EVENTS).collect::<Vec<_>>());
}
