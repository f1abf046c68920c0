//! A topic or stream that is removed while the bridge is stopped: the next run creates it again and reports the
//! recreation.

use std::time::Duration;

use async_nats::jetstream;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::kafka::admin::KafkaAdmin;
use neurobridge_tests::nats::{NatsOptions, client};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::shared::{kafka_bootstrap, own_nats};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(120);

/// Runs a bridge, removes the destination while no bridge runs, and checks the report of the next run.
fn assert_reported(name: &str, sink: &str, what: &str, remove: impl FnOnce()) {
    let dir = Scratch::new("recreated").unwrap();
    let platform = Platform::start(&dir, &["--rate", "100"]).unwrap();
    let config = format!(
        "[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n[spool]\ntype = \"disk\"\n[sinks.{name}]\n{sink}",
        platform.url()
    );
    let recreated = |bridge: &Bridge| {
        bridge
            .metric("neurobridge_sink_destination_recreated_total", &[])
            .unwrap()
    };
    let delivered = |bridge: &Bridge, more: u64| {
        let before = bridge.status().unwrap().delivered(name);
        let many = |status: &neurobridge_tests::status::Status| status.delivered(name) > before + more;
        bridge.wait("events", SOON, many).unwrap()
    };
    let first = Bridge::start(&dir, &config).unwrap();
    delivered(&first, 100);
    let (status, log) = first.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success(), "{log}");
    let second = Bridge::start(&dir, &config).unwrap();
    delivered(&second, 10);
    assert_eq!(recreated(&second), 0.0, "a restart alone is no loss");
    let (status, log) = second.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(status.success() && !log.contains("was recreated"), "{log}");

    remove();
    let third = Bridge::start(&dir, &config).unwrap();
    delivered(&third, 10);
    wait_until("the metric", SOON, || recreated(&third) == 1.0).unwrap();
    let status = third.get("/status").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let text = status["sinks"][name]["last_recreation"].as_str().unwrap();
    assert!(text.starts_with(what), "{text}");
    let because = status["losing_events"]["because"].to_string();
    assert!(because.contains("was recreated"), "{because}");
    let history = status["history"].as_array().unwrap();
    let entry = history
        .iter()
        .find(|entry| entry["kind"] == "destination_recreated");
    assert_eq!(entry.unwrap()["text"], text);
    let (ended, log) = third.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(ended.success(), "{log}");
    assert!(log.contains("was recreated"), "{log}");
}

#[test]
fn stream_removed_while_the_bridge_is_stopped_is_reported() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let sink = format!(
        "type = \"nats\"\nservers = [\"{url}\"]\nstream = {{ name = \"AGAIN\", create = true, replicas = 1, max_age = \"1h\" }}\n"
    );
    assert_reported("nats", &sink, "the stream \"AGAIN\" was recreated", || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let context = jetstream::new(client::connect(&url).await.unwrap());
            context.delete_stream("AGAIN").await.unwrap();
        });
    });
}

#[test]
fn topic_removed_while_the_bridge_is_stopped_is_reported() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    let topic = format!("test.stopped.{}", std::process::id());
    let sink = format!(
        "type = \"kafka\"\nbootstrap_servers = \"{bootstrap}\"\ntopic = \"{topic}\"\ncreate = true\n\
         partitions = 2\nreplicas = 1\n"
    );
    assert_reported(
        "kafka",
        &sink,
        &format!("the topic \"{topic}\" was recreated"),
        || {
            let admin = KafkaAdmin::new(&bootstrap).unwrap();
            admin.delete_topic(&topic).unwrap();
        },
    );
}
