//! A system clock that is two hours ahead is corrected: a Kafka sink recovers without intervention.
//!
//! librdkafka waits until times of the system clock. A wait that began while the clock was ahead lasts two hours too long.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::kafka::KafkaOptions;
use neurobridge_tests::kafka::records::read_topic;
use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::platform::Platform;
use neurobridge_tests::shared::own_kafka;
use neurobridge_tests::status::SinkState;
use nix::sys::signal::Signal;

/// The time limit of the recovery: a fraction of the two hours.
const RECOVERY: Duration = Duration::from_secs(60);
const TWO_HOURS: &str = "7200";
/// The number of events, sufficient to show that delivery continues.
const SOME: u64 = 300;
const TOPIC: &str = "events";

/// Compiles the library that changes the clock of a program.
fn wrong_clock(dir: &Scratch) -> PathBuf {
    let library = dir.join("wrong-clock.so");
    let mut compile = Command::new("cc");
    compile
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(workspace_root().join("tests/data/wrong_clock.c"));
    let compiled = compile.output();
    assert!(
        compiled.as_ref().is_ok_and(|output| output.status.success()),
        "this test needs a C compiler: {compiled:?}"
    );
    library
}

/// Sets the clock atomically, so that a program never reads an incomplete value.
fn set_clock(file: &Path, seconds: &str) {
    let new = file.with_extension("new");
    fs::write(&new, seconds).unwrap();
    fs::rename(&new, file).unwrap();
}

fn await_more(bridge: &Bridge, what: &str) {
    let before = bridge.status().unwrap().delivered("kafka");
    bridge
        .wait(what, RECOVERY, |status| {
            status.sink("kafka").state == SinkState::Up && status.delivered("kafka") >= before + SOME
        })
        .unwrap();
}

#[test]
fn kafka_sink_recovers_after_the_clock_was_ahead() {
    let Some(mut kafka) = own_kafka(KafkaOptions::shared()) else {
        return;
    };
    let dir = Scratch::new("wrong-clock").unwrap();
    let (library, clock) = (wrong_clock(&dir), dir.join("clock"));
    let platform = Platform::start(&dir, &["--rate", "50"]).unwrap();
    let config = format!(
        "[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n[sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"{}\"\n\
         topic = \"{TOPIC}\"\ncreate = true\npartitions = 1\nreplicas = 1\n",
        platform.url(),
        kafka.bootstrap()
    );
    let variables = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("NEUROBRIDGE_TEST_CLOCK", clock.to_str().unwrap()),
    ];

    // The sink waits for answers while it connects.
    kafka.freeze().unwrap();
    set_clock(&clock, TWO_HOURS);
    let bridge = Bridge::start_with(&dir, &config, &variables).unwrap();
    bridge
        .wait("the sink to be down", RECOVERY, |status| {
            let sink = status.sink("kafka");
            sink.state == SinkState::Down && sink.reason.is_some()
        })
        .unwrap();
    kafka.thaw().unwrap();
    set_clock(&clock, "0");
    await_more(&bridge, "delivery after a wrong clock while the sink connected");

    // The sink is connected. Kafka refuses timestamps that are more than an hour ahead.
    set_clock(&clock, TWO_HOURS);
    bridge
        .wait("the refusal of the timestamps", RECOVERY, |status| {
            let reason = status.sink("kafka").reason.as_deref().unwrap_or_default();
            reason.contains("Invalid timestamp") && reason.contains("correct the clocks")
        })
        .unwrap();
    set_clock(&clock, "0");
    await_more(&bridge, "delivery after a wrong clock while the sink delivered");

    let bootstrap = kafka.bootstrap();
    let (status, log) = bridge.stop(Signal::SIGTERM, RECOVERY * 2).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(read_topic(&bootstrap, TOPIC, RECOVERY).unwrap().len() as u64 >= 2 * SOME);
}
