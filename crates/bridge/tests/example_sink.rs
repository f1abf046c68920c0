//! Runs the example sink as a program, and checks the functions that the bridge adds to a sink in one file.

use std::{
    collections::BTreeSet,
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use neurobridge_simulator::{Options, Simulator};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);

/// A running program, which is killed when dropped, also after a failed assertion.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the path of the example, relative to the executable of this test.
fn example() -> PathBuf {
    let mut example = env::current_exe().unwrap_or_default();
    example.pop();
    example.pop();
    example.push("examples/ndjson_tcp");
    assert!(
        example.exists(),
        "{} is missing; `cargo test` without a choice of targets builds it",
        example.display()
    );
    example
}

#[tokio::test]
async fn example_sink_delivers_each_event_after_a_broken_connection() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let simulator = Simulator::bind(Options {
        rate: Some(200.0),
        ..Options::default()
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("neurobridge.toml");
    let text = format!(
        "data_dir = \"data\"\n[http]\nlisten = \"127.0.0.1:0\"\n[sources.main]\nurl = \"ws://{}/\"\ntoken = \"t\"\n\
         [sinks.tcp]\ntype = \"ndjson_tcp\"\naddress = \"{}\"\n",
        simulator.handle().local_addr(),
        receiver.local_addr().unwrap()
    );
    fs::write(&config, text).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(simulator.run(stop.clone()));

    let checked = Command::new(example())
        .args(["check", "-c"])
        .arg(&config)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{output}");
    assert!(
        output.contains("ndjson_tcp") && output.contains("all events are sent unencrypted"),
        "{output}"
    );

    let program = Command::new(example())
        .args(["run", "-c"])
        .arg(&config)
        .current_dir(folder.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let program = Program(program);

    // The first connection answers 50 lines and breaks after 70: 20 events are published again.
    let mut stored = Vec::new();
    let mut broken = BTreeSet::new();
    for (lines, answered) in [(70, 50), (200, 200)] {
        let (connection, _) = timeout(LIMIT, receiver.accept()).await.unwrap().unwrap();
        let (reading, mut writing) = connection.into_split();
        let mut reading = BufReader::new(reading).lines();
        for number in 0..lines {
            let line = timeout(LIMIT, reading.next_line())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            let id = event["id"].as_str().unwrap().to_owned();
            if number < answered {
                writing.write_all(b"ok\n").await.unwrap();
                stored.push(id);
            } else {
                broken.insert(id);
            }
        }
    }
    let distinct: BTreeSet<&String> = stored.iter().collect();
    assert_eq!(distinct.len(), stored.len(), "an answered line came again");
    assert!(broken.iter().all(|id| distinct.contains(id)), "an event was lost");

    drop(program);
    stop.cancel();
    running.await.unwrap().unwrap();
}
