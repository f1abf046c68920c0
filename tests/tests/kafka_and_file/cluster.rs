//! A Kafka cluster of three brokers, of which one at a time is killed.

use std::{fs, process::Command};

use neurobridge_tests::{
    bridge::Bridge,
    kafka::{KafkaOptions, cluster::KafkaCluster},
    paths::Scratch,
    platform::Platform,
    program::neurobridge,
    shared::with_own_kafka,
};

use super::{DELIVERY, config, finish, furthest};

#[test]
fn killed_leaders_lose_no_event() {
    let options = KafkaOptions {
        heap_mib: 256,
        ..KafkaOptions::default()
    };
    let Some(cluster) = with_own_kafka(|| KafkaCluster::start(&options)) else {
        return;
    };
    let mut cluster = cluster.unwrap();
    let bootstrap = cluster.bootstrap();
    let dir = Scratch::new("leaders").unwrap();
    let platform = Platform::start(&dir, &["--rate", "1000"]).unwrap();
    // With three partitions on three brokers, each broker leads one partition.
    let creation = |replicas: u16| format!("create = true\npartitions = 3\nreplicas = {replicas}\n");
    let config = format!(
        "{}\n[sinks.safe]\ntype = \"kafka\"\nbootstrap_servers = \"{bootstrap}\"\ntopic = \"safe\"\n{}\
         [sinks.single]\ntype = \"kafka\"\nbootstrap_servers = \"{bootstrap}\"\ntopic = \"single\"\n\
         filter = {{ result = [\"nm\"] }}\n{}",
        config(&platform.url(), &bootstrap, "entries").replace(
            "topic = \"entries\"",
            &format!("topic = \"entries\"\n{}", creation(3))
        ),
        creation(3),
        creation(1),
    );
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    let flows = |bridge: &Bridge, beyond: u64| {
        let status = bridge
            .wait("events to flow", DELIVERY, |status| {
                status.delivered("kafka") > beyond && status.delivered("safe") > beyond
            })
            .unwrap();
        furthest(&status)
    };
    let mut reached = flows(&bridge, 1_000);
    for number in 0..2 {
        cluster.followers()[number].kill().unwrap();
        // Another broker is the leader now and acknowledges.
        reached = flows(&bridge, reached + 2_000);
        cluster.followers()[number].start_again().unwrap();
        reached = flows(&bridge, reached + 1_000);
    }
    let log = bridge.process().logged().unwrap();
    for warning in [
        "the topic \"single\" is stored on only one broker and is lost with it",
        "min.insync.replicas of the topic \"safe\" is 1",
        "min.insync.replicas of the topic \"entries\" is 1",
    ] {
        assert!(log.contains(warning), "{warning}: {log}");
    }
    let only_single = dir.join("only-single.toml");
    let config = format!(
        "[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n[sinks.single]\ntype = \"kafka\"\n\
         bootstrap_servers = \"{bootstrap}\"\ntopic = \"single\"\n",
        platform.url()
    );
    fs::write(&only_single, config).unwrap();
    let check = Command::new(neurobridge())
        .args(["check", "--connect", "-c"])
        .arg(only_single)
        .output()
        .unwrap();
    let answers = String::from_utf8_lossy(&check.stdout);
    let words: Vec<_> = answers.split_whitespace().collect();
    let row = "⚠ sink single the topic \"single\" is stored on only one broker";
    assert!(
        check.status.success() && words.join(" ").contains(row),
        "{check:?}"
    );
    let (in_file, in_kafka) = finish(bridge, platform, &bootstrap, "entries");
    assert!(
        in_kafka.sent == in_file.sent && in_file.sent > 7_000,
        "{in_file:?} {in_kafka:?}"
    );
}
