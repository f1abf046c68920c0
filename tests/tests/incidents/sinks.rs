//! Incidents of the destinations: an outage of a broker, a deleted topic or stream, a moved or removed file.

use std::fs;

use async_nats::jetstream;
use neurobridge_tests::kafka::{KafkaOptions, admin::KafkaAdmin};
use neurobridge_tests::nats::{NatsOptions, client};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::shared::{kafka_bootstrap, own_kafka, own_nats};

use super::{
    Scene,
    Seen::{Alert, History, Log, Metric, Page},
    moment, source,
};

const ON_DISK: &str = "[spool]\ntype = \"disk\"\n";

fn scene(name: &str, sink: &str, lines: &str) -> Option<Scene> {
    let dir = Scratch::new(name).unwrap();
    Scene::start(dir, sink, |dir, platform: &Platform| {
        source(dir, platform.address()) + ON_DISK + lines
    })
}

/// Checks the reports during and after an outage of a broker: the cause, no lost events, and the duration. `heal` ends the
/// outage.
fn outage(scene: &Scene, sink: &str, heal: impl FnOnce()) {
    let part = format!("sinks.{sink}");
    scene.sees(&[
        Page(
            "at_risk",
            &format!("{sink} delivers no events: they wait in the spool"),
        ),
        Log("the sink is down"),
        Metric("neurobridge_sink_up", &[], 0.0),
        Alert("NeurobridgeSinkDown"),
        History("sink_down", &part, "the sink is down: "),
    ]);
    let down = scene.change("sink_down", &part, "");
    let status = scene.status();
    let shown = &status["sinks"][sink];
    assert_eq!(shown["since"], down["at"], "{shown}");
    assert!(
        shown["reason"].is_string() && down["reason"].is_string(),
        "{shown} {down}"
    );
    assert!(shown["lag_events"].as_u64() > Some(0), "{shown}");
    heal();
    scene.delivers(sink);
    scene.sees(&[
        Page("no", ""),
        Log("the sink has recovered"),
        Metric("neurobridge_sink_up", &[], 1.0),
        History("sink_recovered", &part, "the sink has recovered"),
    ]);
    let up = scene.change("sink_recovered", &part, "");
    assert_eq!(moment(&up["began"]), moment(&down["at"]));
    assert!(up["seconds"].as_f64() > Some(0.0), "{up}");
    let status = scene.status();
    assert_eq!(status["losing_events"]["lost_events"], 0, "{status}");
    assert_eq!(status["losing_events"]["missed_seconds"], 0.0, "{status}");
    scene.lists(&["sink_down", "sink_recovered"]);
}

#[test]
fn killed_broker_is_reported_until_the_sink_recovers() {
    let Some(mut kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let sink = kafka_sink(&kafka.bootstrap(), "entries");
    let Some(scene) = scene("incident-killed-broker", "kafka", &sink) else {
        return;
    };
    kafka.kill().unwrap();
    outage(&scene, "kafka", || kafka.start_again().unwrap());
}

#[test]
fn frozen_broker_is_reported_until_the_sink_recovers() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let Some(scene) = scene("incident-frozen-broker", "nats", &nats_sink(&nats.url())) else {
        return;
    };
    nats.freeze().unwrap();
    outage(&scene, "nats", || nats.thaw().unwrap());
}

/// Checks the reports about a destination that lost its events when it was removed and recreated. The reports must name the
/// command that publishes the events again.
fn recreated(scene: &Scene, sink: &str, what: &str) {
    let part = format!("sinks.{sink}");
    let text = format!("{what} was recreated");
    scene.sees(&[
        Page("no", &text),
        Page("no", &format!("neurobridge spool replay --sink {sink}")),
        Log(&text),
        Metric("neurobridge_sink_destination_recreated_total", &[], 1.0),
        Alert("NeurobridgeDestinationRecreated"),
        History("destination_recreated", &part, &text),
    ]);
    scene.delivers(sink);
    scene.lists(&["destination_recreated"]);
}

#[test]
fn deleted_topic_is_reported_with_the_replay_command() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let topic = format!("test.incident.{}", std::process::id());
    let sink = kafka_sink(&bootstrap, &topic);
    let Some(scene) = scene("incident-topic", "kafka", &sink) else {
        return;
    };
    KafkaAdmin::new(&bootstrap).unwrap().delete_topic(&topic).unwrap();
    recreated(&scene, "kafka", &format!("the topic \"{topic}\""));
}

#[test]
fn deleted_stream_is_reported_with_the_replay_command() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let Some(scene) = scene("incident-stream", "nats", &nats_sink(&url)) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let context = jetstream::new(client::connect(&url).await.unwrap());
        context.delete_stream("INCIDENTS").await.unwrap();
    });
    recreated(&scene, "nats", "the stream \"INCIDENTS\"");
}

#[test]
fn moved_and_removed_files_are_reported_with_lost_lines() {
    let Some(scene) = scene("incident-file", "events", "[sinks.events]\ntype = \"file\"\n") else {
        return;
    };
    let file = scene.bridge.data_dir().join("events.jsonl");
    fs::rename(&file, scene.dir.join("taken.jsonl")).unwrap();
    scene.sees(&[
        Log("was moved by another program; a new file was created; no event is lost"),
        Metric("neurobridge_sink_file_changes_total", &[], 1.0),
        Metric("neurobridge_sink_lost_events_total", &[], 0.0),
        History("file_changed", "sinks.events", "was moved by another program"),
        Page("no", ""),
    ]);
    scene.delivers("events");
    assert_eq!(scene.status()["losing_events"]["lost_events"], 0);
    assert!(!scene.has_alert("NeurobridgeEventsDropped"));

    fs::remove_file(&file).unwrap();
    scene.sees(&[
        Page("no", "delivered events were lost"),
        Log("was removed by another program; a new file was created; "),
        Metric("neurobridge_sink_file_changes_total", &[], 2.0),
        Alert("NeurobridgeEventsDropped"),
        History("file_changed", "sinks.events", "was removed by another program"),
    ]);
    let status = scene.status();
    let lost = &status["sinks"]["events"]["lost_from_file"];
    assert!(lost.as_u64() > Some(0), "{status}");
    assert_eq!(&status["losing_events"]["lost_events"], lost);
    let change = scene.change("file_changed", "sinks.events", "was removed");
    assert_eq!(&change["events"], lost, "{change}");
    scene.lists(&["file_changed"]);
}

fn kafka_sink(bootstrap: &str, topic: &str) -> String {
    format!(
        "[sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"{bootstrap}\"\ntopic = \"{topic}\"\ncreate = true\n\
         partitions = 1\nreplicas = 1\n"
    )
}

fn nats_sink(url: &str) -> String {
    format!(
        "[sinks.nats]\ntype = \"nats\"\nservers = [\"{url}\"]\n\
         stream = {{ name = \"INCIDENTS\", create = true, replicas = 1, max_age = \"1h\" }}\n"
    )
}
