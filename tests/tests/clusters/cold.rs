//! Members that connect to the feed only while they lead, for a platform that allows one connection.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::http::get_any;
use neurobridge_tests::nats::messages::Message;
use serde_json::Value;

use super::*;

const RATE: &str = "100";
const EVENTS: u64 = 10_000;
/// The default `ttl`. A leader has a fifth of it to close its connections, and a busy machine needs these two seconds.
const LEASE: Duration = Duration::from_secs(10);
/// The longest time between the settled position in a lease and the crash of its leader, on a busy machine.
const MOST_SETTLING_SECONDS: f64 = 20.0;

/// A platform that records what it recognised, and two members.
struct Scene {
    dir: Scratch,
    platform: Platform,
    members: Vec<Member>,
}

impl Scene {
    fn start(cluster: &str, nats: &str, sinks: &str, backfill: &str, faults: &[&str]) -> Self {
        let dir = Scratch::new(cluster).unwrap();
        let (record, count) = (
            dir.join("recognised.jsonl").display().to_string(),
            EVENTS.to_string(),
        );
        let args = ["--rate", RATE, "--count", &count, "--recognised", &record];
        let platform = Platform::start(&dir, &[&args, faults].concat()).unwrap();
        let member = |name: &&str| {
            let config = Member::config(cluster, name, (&platform, nats), sinks);
            let address = platform.address();
            let cold = format!(
                "[sources.main.backfill]\nurl = \"http://{address}\"\nrate = 500\n{backfill}\n[cluster]\nstandby = \"cold\"\n"
            );
            Member::start(
                cluster,
                name,
                config.replace("[cluster]\n", &cold).replace("\"5s\"", "\"10s\""),
            )
        };
        let members = ["a", "b"].iter().map(member).collect();
        Self {
            dir,
            platform,
            members,
        }
    }

    /// Waits until one member publishes, and the other member has joined and knows the leader. Returns the index of the leader.
    fn leader(&self) -> usize {
        let leading = leader(&self.members);
        wait_until_publishing(&self.members[leading]);
        let knows_leader = |status: &Status| {
            let mut members = status.cluster.iter().flat_map(|cluster| &cluster.members);
            status
                .cluster
                .as_ref()
                .is_some_and(|cluster| cluster.join_state == "joined")
                && members.any(|member| member.alive && member.term.is_some())
        };
        let follower = self.members[1 - leading].bridge();
        follower.wait("a follower", SOON, knows_leader).unwrap();
        leading
    }

    /// Stops the platform. Returns the largest number of connections that were open at the same time.
    fn most_connections(mut self) -> String {
        let process = self.platform.process();
        process.terminate(SOON).unwrap();
        let log = process.logged().unwrap();
        let most = log.split("most_at_once=").nth(1).unwrap();
        most.split_whitespace().next().unwrap().to_owned()
    }
}

fn kill(bridge: &mut Bridge) {
    bridge.process().kill().unwrap();
}

/// Checks that a follower reports its unconnected source as on standby, and not as a fault.
fn assert_standby_is_no_fault(follower: &Member) {
    let bridge = follower.bridge();
    let is_fine = || {
        let status = bridge.status().unwrap();
        let source = status.source("main");
        let is_ready = get_any(bridge.address(), "/readyz").is_ok_and(|(code, _)| code == 200);
        let is_losing = status.losing_events.answer != "no";
        source.state == SourceState::Standby && source.reason.is_none() && is_ready && !is_losing
    };
    wait_until("a follower without a fault", SOON, is_fine).unwrap();
    assert_eq!(bridge.metric("neurobridge_source_standby", &[]).unwrap(), 1.0);
    assert_eq!(bridge.metric("neurobridge_source_open_gaps", &[]).unwrap(), 0.0);
}

#[test]
fn takeovers_without_standby_connections_miss_no_event() {
    let (Some(bootstrap), Some(nats)) = (kafka_bootstrap(), own_nats(NatsOptions::default())) else {
        return;
    };
    let topic = format!("cold-{}", std::process::id());
    let sinks = KafkaAndStream {
        bootstrap: &bootstrap,
        topic: &topic,
        nats: &nats.url(),
        stream: "COLD",
        subject: "cold.{result}",
    }
    .tables();
    let mut scene = Scene::start("cold", &nats.url(), &sinks, "", &[]);
    for round in 0..4 {
        let leading = scene.leader();
        assert_standby_is_no_fault(&scene.members[1 - leading]);
        let member = &mut scene.members[leading];
        match round {
            0 => kill(member.running()),
            1 => member.restart(),
            2 => {
                let (code, text) = cluster_command(member, &["--hand-over"]);
                assert_eq!(code, Some(0), "{text}");
            }
            _ => member.restart(),
        }
        scene.members[1 - leading]
            .bridge()
            .wait("another leader", SOON, Status::leads)
            .unwrap();
        if round == 0 {
            scene.members[leading].running().start_again().unwrap();
        }
    }
    wait_until("all events in the topic", 2 * SOON, || {
        read_topic(&bootstrap, &topic, SOON).is_ok_and(|records| records.len() as u64 >= EVENTS)
    })
    .unwrap();
    wait_until("all events in the stream", SOON, || {
        read_stream(&nats.url(), "COLD", SOON).is_ok_and(|messages| messages.len() as u64 >= EVENTS)
    })
    .unwrap();
    let records = read_topic(&bootstrap, &topic, SOON).unwrap();
    let mut in_topic = ids(records.iter().map(|record| record.header("ce_id")));
    in_topic.sort_unstable();
    let all = (1..=EVENTS).collect::<Vec<_>>();
    assert_eq!(in_topic, all, "an event is twice, or missing, in the topic");
    let messages = read_stream(&nats.url(), "COLD", SOON).unwrap();
    let in_order = messages
        .iter()
        .filter(|message| message.header("ce-late") != Some("true"));
    let in_order = ids(in_order.map(|message| message.header("ce-id")));
    assert!(in_order.is_sorted(), "{in_order:?}");
    let mut in_stream = ids(messages.iter().map(|message| message.header("ce-id")));
    in_stream.sort_unstable();
    assert_eq!(in_stream, all, "an event is twice, or missing, in the stream");
    let gaps = scene.members.iter().flat_map(outcomes).collect::<Vec<_>>();
    assert!(gaps.len() >= 4, "{gaps:?}");
    // A leader that loses its lease before it has connected leaves its gap to the next leader.
    let is_filled = |(reason, outcome): &(String, String)| {
        reason == "takeover" && ["recovered", "left_to_leader"].contains(&outcome.as_str())
    };
    assert!(gaps.iter().all(is_filled), "{gaps:?}");
    assert_eq!(scene.most_connections(), "1");
}

fn is_report(message: &&Message) -> bool {
    message.header("ce-type") == Some("neurobridge.gap")
}

/// Returns the recognised events by id, with their times in seconds.
fn recognised(record: &Path) -> BTreeMap<u64, f64> {
    let text = fs::read_to_string(record).unwrap();
    let line = |line: &str| -> Option<(u64, f64)> {
        let line: Value = serde_json::from_str(line).ok()?;
        Some((line["id"].as_u64()?, seconds(&line["at"])))
    };
    text.lines().filter_map(line).collect()
}

fn seconds(time: &Value) -> f64 {
    let time: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
    time.as_microsecond() as f64 / 1e6
}

#[test]
fn takeover_reports_the_gap_if_the_list_is_unavailable() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let sinks = format!(
        "[sinks.stream]\ntype = \"nats\"\nservers = [\"{}\"]\nsubject = \"cold.events\"\n\
         stream = {{ name = \"COLD\", create = true, max_age = \"1h\", replicas = 1 }}\n",
        nats.url()
    );
    let rest_is_down = ["--fault", "rest-http=503"];
    let mut scene = Scene::start(
        "cold-reports",
        &nats.url(),
        &sinks,
        "give_up_after = \"1s\"",
        &rest_is_down,
    );
    let mut crashed = 0.0;
    for is_crash in [true, false] {
        let leading = scene.leader();
        let at = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
        if is_crash {
            crashed = at;
            kill(scene.members[leading].running());
        } else {
            scene.members[leading].restart();
        }
        let leader = &scene.members[1 - leading];
        leader
            .bridge()
            .wait("another leader", SOON, Status::leads)
            .unwrap();
        wait_until("the outcome of the gap", SOON, || {
            outcomes(leader).last() == Some(&("takeover".to_owned(), "unrecovered".to_owned()))
        })
        .unwrap();
        if is_crash {
            scene.members[leading].running().start_again().unwrap();
        }
    }
    wait_until_publishing(&scene.members[scene.leader()]);
    let messages = read_stream(&nats.url(), "COLD", SOON).unwrap();
    let reports = messages.iter().filter(is_report);
    let gaps: Vec<(f64, f64)> = reports
        .map(|report| {
            let body: Value = serde_json::from_slice(&report.payload).unwrap();
            (seconds(&body["began"]), seconds(&body["ended"]))
        })
        .collect();
    // The killed member restarts with unpublished events, for which the leader may hand over once more.
    assert!(gaps.len() >= 2, "{gaps:?}");
    let is_of_crash = |(began, until): &&(f64, f64)| (*began..*until).contains(&crashed);
    let (began, _) = gaps.iter().find(is_of_crash).unwrap();
    assert!(crashed - began < MOST_SETTLING_SECONDS, "{gaps:?} {crashed}");
    let mut published = ids(messages
        .iter()
        .filter(|message| !is_report(message))
        .map(|message| message.header("ce-id")));
    published.sort_unstable();
    let before = published.len();
    published.dedup();
    assert_eq!(published.len(), before, "an event is twice in the stream");
    let recognised = recognised(&scene.dir.join("recognised.jsonl"));
    let last = published.last().unwrap();
    let missing = (1..*last).filter(|id| published.binary_search(id).is_err());
    let missing: Vec<f64> = missing.map(|id| recognised[&id]).collect();
    assert!(missing.len() > 50, "{}", missing.len());
    let is_reported = |at: &f64| gaps.iter().any(|(began, until)| began <= at && at <= until);
    assert!(missing.iter().all(is_reported), "{missing:?} {gaps:?}");
    assert_eq!(scene.most_connections(), "1");
}

#[test]
fn leader_that_regains_its_lease_connects_again() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let mut scene = Scene::start("cold-alone", &nats.url(), FILE, "", &[]);
    scene.members.truncate(1);
    assert_eq!(leader(&scene.members), 0);
    wait_until_publishing(&scene.members[0]);
    let frozen = Instant::now();
    scene.members[0].running().process().freeze().unwrap();
    wait_until("the end of the lease", SOON, || frozen.elapsed() > 2 * LEASE).unwrap();
    scene.members[0].running().process().thaw().unwrap();
    wait_until("the gap of the frozen leader", SOON, || {
        outcomes(&scene.members[0]).contains(&("takeover".to_owned(), "recovered".to_owned()))
    })
    .unwrap();
    wait_until_publishing(&scene.members[0]);
}
