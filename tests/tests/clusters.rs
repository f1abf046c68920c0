//! Clusters of bridges: processes with a lease in NATS, of which one publishes.

mod cold;
mod core_nats;
mod states;

use std::process::Command;
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::cluster::cluster_table;
use neurobridge_tests::kafka::records::read_topic;
use neurobridge_tests::nats::{NatsOptions, client::read_stream};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::{wait_for, wait_until};
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::shared::{kafka_bootstrap, own_nats};
use neurobridge_tests::sinks::KafkaAndStream;
use neurobridge_tests::status::{SourceState, Status};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(120);
const EVENTS: u64 = 12_000;
const RATE: &str = "200";
/// The time of the lease: shorter than the default, so that the tests wait less, and longer than the pauses of a busy machine.
const TTL: &str = "5s";
/// A sink that needs no broker, so that only the lease needs one.
const FILE: &str = "[sinks.stream]\ntype = \"file\"\n";

/// A bridge in a cluster, with a folder of its own.
struct Member {
    dir: Scratch,
    config: String,
    bridge: Option<Bridge>,
}

impl Member {
    fn new(cluster: &str, name: &str, (platform, nats): (&Platform, &str), sinks: &str) -> Self {
        let config = Self::config(cluster, name, (platform, nats), sinks);
        Self::start(cluster, name, config)
    }

    fn config(cluster: &str, name: &str, (platform, nats): (&Platform, &str), sinks: &str) -> String {
        let address = platform.address();
        format!(
            r#"
[sources.main]
url = "ws://{address}/"
token = "t"
backoff = {{ min = "20ms", max = "200ms" }}
[spool]
type = "disk"
{}{sinks}"#,
            cluster_table(cluster, name, nats, TTL)
        )
    }

    fn start(cluster: &str, name: &str, config: String) -> Self {
        let dir = Scratch::new(&format!("{cluster}-{name}")).unwrap();
        let bridge = Some(Bridge::start(&dir, &config).unwrap());
        Self { dir, config, bridge }
    }

    fn running(&mut self) -> &mut Bridge {
        self.bridge.as_mut().unwrap()
    }

    fn bridge(&self) -> &Bridge {
        self.bridge.as_ref().unwrap()
    }

    fn status(&self) -> Option<Status> {
        self.bridge.as_ref()?.status().ok()
    }

    /// Waits until the member has received some events and has joined the cluster.
    fn wait_until_ready(&self) {
        let is_ready = |status: &Status| {
            let source = status.source("main");
            source.state == SourceState::Authenticated
                && source.ledger.stored > 200
                && status
                    .cluster
                    .as_ref()
                    .is_some_and(|cluster| cluster.join_state == "joined")
        };
        self.bridge()
            .wait("a member that receives", SOON, is_ready)
            .unwrap();
    }

    /// Stops the bridge with SIGTERM and starts it again, as an upgrade does.
    fn restart(&mut self) {
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

/// Waits until the member publishes events as they arrive. By then, the other members have received the few unpublished events
/// of this member too, so that a fault causes no late event.
fn wait_until_publishing(member: &Member) {
    let before = member.status().map_or(0, |status| status.delivered("stream"));
    let publishes =
        |status: &Status| status.delivered("stream") > before + 50 && status.sink("stream").lag_events < 50;
    member
        .bridge()
        .wait("a leader that publishes", SOON, publishes)
        .unwrap();
}

fn ids<'a>(ids: impl Iterator<Item = Option<&'a str>>) -> Vec<u64> {
    ids.map(|id| id.unwrap().parse().unwrap()).collect()
}

/// Runs `neurobridge cluster` for a member. Returns the exit code and the output.
fn cluster_command(member: &Member, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(neurobridge());
    command.arg("cluster").args(args).arg("-c");
    let output = command.arg(member.dir.join("neurobridge.toml")).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Starts two members with a sink of the type `file` each, so that only the lease needs a broker.
fn members_with_files(cluster: &str, platform: &Platform, nats: &str) -> Vec<Member> {
    let members = ["a", "b"].iter();
    let members: Vec<Member> = members
        .map(|name| Member::new(cluster, name, (platform, nats), FILE))
        .collect();
    members.iter().for_each(Member::wait_until_ready);
    members
}

#[test]
fn command_shows_members_and_hands_the_leadership_over() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let dir = Scratch::new("cluster-command").unwrap();
    let platform = Platform::start(&dir, &["--rate", RATE]).unwrap();
    let members = members_with_files("commands", &platform, &nats.url());
    let leading = leader(&members);
    let (leader, follower) = (&members[leading], &members[1 - leading]);
    let sees_both = |status: &Status| {
        let members = &status.cluster.as_ref().unwrap().members;
        members.iter().filter(|member| member.alive).count() == 2
    };
    leader.bridge().wait("both members", SOON, sees_both).unwrap();
    let sees_leader = |status: &Status| {
        let mut members = status.cluster.iter().flat_map(|cluster| &cluster.members);
        members.any(|member| member.term.is_some())
    };
    follower.bridge().wait("the leader", SOON, sees_leader).unwrap();

    let (code, text) = cluster_command(leader, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("leader, joined") && text.contains("EVENTS OF LAG"),
        "{text}"
    );
    let (code, text) = cluster_command(follower, &["--hand-over"]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("run this command on the leader"), "{text}");
    let file = follower.dir.join("neurobridge.toml");
    let backfill = Command::new(neurobridge())
        .args(["backfill", "--source", "main", "--from", "1h", "-c"])
        .arg(file)
        .output()
        .unwrap();
    assert_eq!(backfill.status.code(), Some(64), "{backfill:?}");
    let (code, text) = cluster_command(leader, &["--hand-over"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with("leads\n"), "{text}");
    follower
        .bridge()
        .wait("the other leader", SOON, Status::leads)
        .unwrap();
    leader
        .bridge()
        .wait("a follower", SOON, |status| !status.leads())
        .unwrap();
}

/// Returns the reasons and outcomes of the recorded gaps.
fn outcomes(member: &Member) -> Vec<(String, String)> {
    let output = Command::new(neurobridge())
        .args(["gaps", "ls", "--json", "-c"])
        .arg(member.dir.join("neurobridge.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let gap = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
    let text_of = |gap: &Value, key: &str| gap[key].as_str().unwrap().to_owned();
    text.lines()
        .map(gap)
        .map(|gap| (text_of(&gap, "reason"), text_of(&gap, "outcome")))
        .collect()
}

#[test]
fn gap_is_unrecovered_only_if_no_member_was_connected() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let dir = Scratch::new("cluster-gaps").unwrap();
    let platform = Platform::start(&dir, &["--rate", RATE]).unwrap();
    let mut members = members_with_files("gaps", &platform, &nats.url());
    let leading = leader(&members);
    members[leading].restart();
    let has_outcome = |member: &Member| outcomes(member).iter().any(|(_, outcome)| outcome == "recovered");
    wait_until("the gap of one member", SOON, || has_outcome(&members[leading])).unwrap();
    assert_eq!(
        outcomes(&members[leading]),
        [("restart".into(), "recovered".into())]
    );
    assert_eq!(outcomes(&members[1 - leading]), []);

    let address = platform.address().to_owned();
    drop(platform);
    let are_down = || {
        let is_down = |member: &Member| {
            let status = member.status();
            status.is_some_and(|status| status.source("main").state != SourceState::Authenticated)
        };
        members.iter().all(is_down)
    };
    wait_until("members without a feed", SOON, are_down).unwrap();
    let _platform = Platform::start_at(&dir, &address, &["--rate", RATE]).unwrap();
    let has_last =
        |member: &Member, outcome: &str| outcomes(member).last().is_some_and(|(_, last)| last == outcome);
    let leads = |member: &&Member| member.status().is_some_and(|status| status.leads());
    wait_until("the outcome of the gap at each member", 2 * SOON, || {
        let leader = members.iter().position(|member| leads(&member));
        leader.is_some_and(|leader| {
            has_last(&members[leader], "unrecovered") && has_last(&members[1 - leader], "left_to_leader")
        })
    })
    .unwrap();
}

#[test]
fn takeovers_publish_each_event_once_and_in_order() {
    let (Some(bootstrap), Some(nats)) = (kafka_bootstrap(), own_nats(NatsOptions::default())) else {
        return;
    };
    let dir = Scratch::new("cluster").unwrap();
    let topic = format!("cluster-{}", std::process::id());
    let record = dir.join("recognised.jsonl").display().to_string();
    let count = EVENTS.to_string();
    let args = ["--rate", RATE, "--count", &count, "--recognised", &record];
    let platform = Platform::start(&dir, &args).unwrap();
    let sinks = KafkaAndStream {
        bootstrap: &bootstrap,
        topic: &topic,
        nats: &nats.url(),
        stream: "FACES",
        subject: "faces.{result}",
    }
    .tables();
    let mut members: Vec<Member> = ["a", "b"]
        .iter()
        .map(|name| Member::new("faces", name, (&platform, &nats.url()), &sinks))
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
            1 => member.restart(),
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
    wait_until("all events in the topic", SOON, || {
        read_topic(&bootstrap, &topic, SOON).is_ok_and(|records| records.len() as u64 >= EVENTS)
    })
    .unwrap();
    wait_until("settled members", SOON, || members.iter().all(is_settled)).unwrap();
    let records = read_topic(&bootstrap, &topic, SOON).unwrap();
    for partition in 0..3 {
        let in_order = records
            .iter()
            .filter(|record| record.partition == partition && record.header("ce_late") != Some("true"));
        let in_partition = ids(in_order.map(|record| record.header("ce_id")));
        assert!(
            in_partition.is_sorted(),
            "partition {partition}: {in_partition:?}"
        );
    }
    let mut in_topic = ids(records.iter().map(|record| record.header("ce_id")));
    in_topic.sort_unstable();
    assert_eq!(
        in_topic,
        (1..=EVENTS).collect::<Vec<_>>(),
        "an event is twice, or missing, in the topic"
    );
    let messages = read_stream(&nats.url(), "FACES", SOON).unwrap();
    let in_stream = ids(messages.iter().map(|message| message.header("ce-id")));
    assert_eq!(in_stream, (1..=EVENTS).collect::<Vec<_>>());
}
