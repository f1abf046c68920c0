//! Searches for pictures, names, persons and secrets in every byte that the program writes.
//!
//! A bridge with redaction and pseudonyms receives normal and unusual messages of a platform, with the most verbose log
//! level and with every type of sink. It is then killed, its spool is damaged, and it is restarted.

mod feed;
mod known;
mod platform;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::{FutureExt, StreamExt};
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::http::{self, EventStream};
use neurobridge_tests::kafka::{admin::KafkaAdmin, records::read_topic};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::shared::{kafka_bootstrap, nats_url};
use neurobridge_tests::status::Status;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use tokio::task::block_in_place;

use self::known::{Known, Search};
use self::platform::Gate;

/// The time limit of each wait: far longer than any wait of these tests takes.
const SOON: Duration = Duration::from_secs(120);

/// The `tail` commands that run while the events arrive.
const TAILS: [(&str, &[&str]); 4] = [
    ("tail-events", &[]),
    ("tail-raw", &["--raw"]),
    ("tail-kafka", &["--sink", "kafka"]),
    ("tail-nats", &["--sink", "nats"]),
];

/// The folder of a bridge and its inputs, separate from its outputs.
struct Site {
    dir: Scratch,
    inputs: Scratch,
    kafka: String,
    nats: String,
    topic: String,
    url: String,
    gate: Gate,
}

impl Site {
    fn new(kafka: String, nats: String) -> Self {
        let gate = Gate::default();
        let site = Self {
            dir: Scratch::new("privacy").unwrap(),
            inputs: Scratch::new("privacy-inputs").unwrap(),
            kafka,
            nats,
            topic: format!("privacy-{}", std::process::id()),
            url: platform::serve(feed::scripts(), &gate),
            gate,
        };
        for (name, text) in [
            ("token", feed::TOKEN),
            ("password", feed::PASSWORD),
            ("key", feed::PSEUDONYM_KEY),
            ("event.json", &feed::last()),
            ("broken.json", &feed::last()[..200]),
        ] {
            fs::write(site.inputs.join(name), text).unwrap();
        }
        site
    }

    fn config(&self, log_format: &str) -> String {
        let [closed_port] = free_ports().unwrap();
        let input = |name: &str| self.inputs.join(name);
        format!(
            r#"
            # The sink `away` has no server and cannot drain.
            drain_timeout = "1s"

            [sources.main]
            url = "{url}"
            token_file = {token:?}
            max_frame_size = "1 MiB"
            backoff = {{ min = "10ms", max = "50ms" }}

            [sources.behind_a_proxy]
            url = "ws://127.0.0.1:{closed_port}/"
            token_file = {token:?}
            proxy = "http://someone:{proxy_password}@127.0.0.1:{closed_port}"

            [event]
            redact = ["*_image", "name"]
            pseudonymise = {{ fields = ["pid"], key_file = {key:?} }}

            [spool]
            type = "disk"
            max_size = "8 MiB"
            segment_size = "64 KiB"

            [sinks.kafka]
            type = "kafka"
            bootstrap_servers = "{kafka}"
            topic = "{topic}"
            redact = ["memo"]
            properties = {{ debug = "broker,topic,msg" }}

            [sinks.nats]
            type = "nats"
            servers = ["{nats}"]
            subject = "{topic}.{{space.id}}.{{result}}"
            stream = {{ name = "{topic}", create = true, max_age = "1h", replicas = 1 }}
            auth = {{ user = "someone", password_file = {password:?} }}

            [sinks.archive]
            type = "file"
            max_size = "64 KiB"

            [sinks.away]
            type = "kafka"
            bootstrap_servers = "127.0.0.1:{closed_port}"
            topic = "{topic}"
            required = false
            tls = {{}}
            sasl = {{ mechanism = "plain", username = "someone", password_file = {password:?} }}
            properties = {{ debug = "all" }}

            [log]
            level = "trace"
            format = "{log_format}"
            "#,
            url = self.url,
            kafka = self.kafka,
            nats = self.nats,
            topic = self.topic,
            token = input("token"),
            password = input("password"),
            key = input("key"),
            proxy_password = feed::PROXY_PASSWORD,
        )
    }

    /// Stores all responses of the bridge in a file next to its log.
    fn store_responses(&self, bridge: &Bridge, when: &str) {
        for path in [
            "/", "/metrics", "/status", "/livez", "/readyz", "/nothing", "/?pid=1",
        ] {
            let (_, body) = http::get_any(bridge.address(), path).unwrap();
            let name = format!("{when}-{}.answer", path.replace('/', "-"));
            fs::write(self.dir.join(name), body).unwrap();
        }
        let stream = EventStream::open(bridge.address(), "/status/stream").unwrap();
        let event = stream
            .expect("the server refused the subscription")
            .next_event()
            .unwrap();
        fs::write(self.dir.join(format!("{when}-stream.answer")), event).unwrap();
    }

    /// Starts a `tail` of the running bridge and waits until it is connected.
    fn tail(&self, name: &str, events: u64, arguments: &[&str]) -> Process {
        let mut command = Command::new(neurobridge());
        command
            .args(["tail", "-n", &events.to_string(), "-c"])
            .arg(self.dir.join("neurobridge.toml"))
            .args(arguments);
        let (stdout, log) = (self.tailed(name), self.dir.join(format!("{name}.log")));
        let tail = Process::spawn_split(name, &mut command, &stdout, &log).unwrap();
        wait_until("the tail to be connected", SOON, || {
            tail.logged()
                .is_ok_and(|log| log.contains("reading events from the running bridge"))
        })
        .unwrap();
        tail
    }

    fn tailed(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.stdout"))
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Runs a command until it exits and stores its output.
    fn run(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(neurobridge());
        command.args(arguments).current_dir(self.inputs.path());
        let output = command.output().unwrap();
        fs::write(self.dir.join(format!("{name}.stdout")), &output.stdout).unwrap();
        fs::write(self.dir.join(format!("{name}.stderr")), &output.stderr).unwrap();
        output
    }
}

fn settled(status: &Status, sink: &str) -> u64 {
    let ledger = &status.sink(sink).ledger;
    ledger.delivered + ledger.dead_lettered
}

#[tokio::test(flavor = "multi_thread")]
async fn redacted_fields_and_secrets_are_never_written() {
    let (Some(kafka), Some(nats)) = (kafka_bootstrap(), nats_url()) else {
        return;
    };
    // The bridge sets the modes of its files, independent of its umask.
    umask(Mode::empty());
    let site = Site::new(kafka, nats);
    let listener = async_nats::connect(&site.nats).await.unwrap();
    let mut messages = listener.subscribe(format!("{}.>", site.topic)).await.unwrap();
    listener.flush().await.unwrap();
    block_in_place(|| {
        let limit = feed::TOO_LARGE_FOR_THE_TOPIC.to_string();
        KafkaAdmin::new(&site.kafka)
            .unwrap()
            .create_topic(&site.topic, 1, &[("max.message.bytes", &limit)])
            .unwrap();
        run_and_kill(&site);
        for format in ["json", "logfmt"] {
            damage_the_spool(&site.data_dir());
            run_again(&site, format);
        }
        commands(&site);
        store_kafka_records(&site);
    });
    store_nats_messages(&site, &mut messages);

    let search = Search::new(&feed::secrets());
    let files = files(site.dir.path());
    assert!(files.len() > 40, "{files:?}");
    for file in files {
        // This file was written by the test and contains a password.
        if file.ends_with("neurobridge.toml") {
            continue;
        }
        let found = search.find(&fs::read(&file).unwrap());
        assert!(found.is_empty(), "{}: {found:?}", file.display());
    }
    check_redaction_per_sink(&site);
    check_pseudonyms(&site);
}

/// Runs the bridge for the first time, and kills it (SIGKILL) while events are pending for a sink without a server.
fn run_and_kill(site: &Site) {
    let events = feed::events().len() as u64 + 1;
    let received = events + feed::no_events().len() as u64;
    let mut bridge = Bridge::start(&site.dir, &site.config("text")).unwrap();
    let tails = TAILS.map(|(name, arguments)| (name, site.tail(name, events, arguments)));
    site.gate.open();
    let status = bridge
        .wait("all events to be received and settled", SOON, |status| {
            let source = &status.source("main").ledger;
            source.received >= received
                && source.in_flight == 0
                && ["kafka", "nats", "archive"]
                    .iter()
                    .all(|sink| settled(status, sink) == events)
        })
        .unwrap();
    let source = &status.source("main").ledger;
    assert_eq!(source.dead_lettered, feed::no_events().len() as u64, "{status:#}");
    assert_eq!(status.sink("kafka").ledger.dead_lettered, 1, "{status:#}");
    assert_eq!(status.sink("away").ledger.pending, events, "{status:#}");
    for (name, mut tail) in tails {
        let ended = tail.wait(SOON).unwrap();
        assert!(ended.success(), "{name}: {}", tail.log_tail());
        let lines = fs::read_to_string(site.tailed(name)).unwrap().lines().count() as u64;
        assert!(lines >= events, "{name}: {lines} of {events}");
    }
    site.store_responses(&bridge, "killed");
    bridge.process().kill().unwrap();
    assert!(bridge.process().logged().unwrap().contains("DEBUG"));
    check_modes(&site.data_dir());
}

/// Runs the bridge again with the data of the first run, and shuts it down.
fn run_again(site: &Site, log_format: &str) {
    let bridge = Bridge::start(&site.dir, &site.config(log_format)).unwrap();
    bridge
        .wait("the repeated feed", SOON, |status| {
            status.source("main").ledger.received >= 1
        })
        .unwrap();
    site.store_responses(&bridge, log_format);
    let (_, log) = bridge.stop(Signal::SIGTERM, SOON).unwrap();
    assert!(log.contains("debug") || log.contains("DEBUG"), "{log}");
    check_modes(&site.data_dir());
}

/// Changes a byte in the first segment, so that the bridge moves the unreadable part to a separate file.
fn damage_the_spool(data_dir: &Path) {
    let mut segments: Vec<PathBuf> = files(&data_dir.join("spool"));
    segments.retain(|file| file.extension().is_some_and(|kind| kind == "segment"));
    segments.sort();
    let first = segments.first().expect("the spool has no segments");
    let mut bytes = fs::read(first).unwrap();
    let middle = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    bytes[middle] = bytes[middle].wrapping_add(1);
    fs::write(first, bytes).unwrap();
}

/// Runs the commands that print something, with valid and invalid arguments, and with configuration errors next to
/// secrets.
fn commands(site: &Site) {
    let config = site.dir.join("neurobridge.toml");
    let run = |name: &str, expected: i32, arguments: &[&str]| {
        let output = site.run(name, &[arguments, &["-c", config.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(expected), "{name}: {output:?}");
    };
    run("check", 0, &["check"]);
    // The sink `away` has no server.
    run("check-connect", 69, &["check", "--connect"]);
    for sink in ["kafka", "nats", "archive"] {
        run(
            &format!("event-{sink}"),
            0,
            &["check", "--event", "event.json", "--sink", sink],
        );
        run(
            &format!("no-event-{sink}"),
            64,
            &["check", "--event", "broken.json", "--sink", sink],
        );
    }
    run("tail", 0, &["tail", "-n", "1"]);
    run("spool-ls", 0, &["spool", "ls"]);
    run("spool-verify", 74, &["spool", "verify"]);
    let (token, password) = (feed::TOKEN, feed::PASSWORD);
    for (number, invalid) in [
        format!("[sources.main]\ntoken = \"{token}\" \"\n"),
        format!("[sources.main]\ntoken = {token}\n"),
        format!("[sources.main]\ntoken = \"{token}\n"),
        format!("[sources.main]\ntoken = [\"{token}\"]\n"),
        format!("[sources.main]\ntokn = \"{token}\"\n"),
        format!("[sources.main]\ntoken = \"{token}\"\ntoken = \"{token}\"\n"),
        format!("[sources.main]\ntoken = \"{token}\"\ntoken_file = \"token\"\n"),
        format!("[sources.main]\ntoken_file = {{ is = \"{token}\" }}\n"),
        format!("[sources.main]\ntoken = \"{token}\"\nproxy = \"ftp://a:{password}@b\"\n"),
        format!("sources = \"{token}\"\n"),
        format!(
            "[sinks.kafka]\ntype = \"kafka\"\nsasl = {{ mechanism = \"plain\", password = \"{password}\" }}\n"
        ),
        format!("[sinks.kafka]\ntype = \"kafka\"\nsasl = \"{password}\"\n"),
        format!(
            "[sinks.nats]\ntype = \"nats\"\nauth = {{ user = 5, password = {{ is = \"{password}\" }} }}\n"
        ),
        format!("[sinks.kafka]\ntype = \"kafka\"\nproperties = {{ \"sasl.password\" = \"{password}\" }}\n"),
    ]
    .iter()
    .enumerate()
    {
        let file = site.inputs.join(format!("invalid-{number}.toml"));
        fs::write(&file, invalid).unwrap();
        for command in ["check", "run"] {
            let output = site.run(
                &format!("{command}-{number}"),
                &[command, "-c", file.to_str().unwrap()],
            );
            assert_eq!(output.status.code(), Some(78), "{invalid}: {output:?}");
        }
    }
}

/// Checks that files have the mode 0600 and folders 0700.
fn check_modes(data_dir: &Path) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(data_dir), 0o700);
    for file in files(data_dir) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        let folder = file.parent().unwrap();
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
}

/// Returns all files in and below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn store_kafka_records(site: &Site) {
    let records = read_topic(&site.kafka, &site.topic, SOON).unwrap();
    // All events except the one that is too large; some are duplicated, because the bridge was killed.
    assert!(records.len() >= feed::events().len(), "{records:?}");
    let mut stored = Vec::new();
    for record in &records {
        stored.extend([record.key.clone(), record.value.clone()].into_iter().flatten());
        for (name, value) in &record.headers {
            stored.extend([name.clone().into_bytes(), value.clone().unwrap_or_default()]);
        }
    }
    fs::write(site.dir.join("kafka.records"), stored.join(&b'\n')).unwrap();
}

fn store_nats_messages(site: &Site, messages: &mut Subscriber) {
    let mut stored = Vec::new();
    let mut count = 0;
    while let Some(Some(message)) = messages.next().now_or_never() {
        stored.push(message.subject.as_bytes().to_vec());
        stored.push(format!("{:?}", message.headers).into_bytes());
        for (name, values) in message.headers.iter().flat_map(|headers| headers.iter()) {
            stored.push(name.to_string().into_bytes());
            stored.extend(values.iter().map(|value| value.as_str().as_bytes().to_vec()));
        }
        stored.push(message.payload.to_vec());
        count += 1;
    }
    assert!(count > feed::events().len(), "{count}");
    fs::write(site.dir.join("nats.messages"), stored.join(&b'\n')).unwrap();
}

/// Checks that a field redacted only for Kafka is neither in Kafka nor in Kafka's dead letters, but in the other sinks.
fn check_redaction_per_sink(site: &Site) {
    let search = Search::new(&[Known::new("the memo", feed::MEMO)]);
    let is_in = |file: &str| !search.find(&fs::read(site.dir.join(file)).unwrap()).is_empty();
    assert!(!is_in("kafka.records"));
    assert!(!is_in("event-kafka.stdout"));
    assert!(!is_in("tail-kafka.stdout"));
    assert!(!is_in("data/dead-letters.jsonl"));
    assert!(is_in("nats.messages"));
    assert!(is_in("event-nats.stdout"));
    assert!(is_in("tail-nats.stdout"));
}

/// Checks that all events of a person have the same pseudonym.
fn check_pseudonyms(site: &Site) {
    let text = fs::read_to_string(site.dir.join("kafka.records")).unwrap();
    let keys: Vec<&str> = text
        .lines()
        .filter(|line| line.len() == 64 && line.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .collect();
    // All events except the one whose person is an object.
    assert!(keys.len() >= feed::events().len() - 1, "{text}");
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

/// Without redaction the search finds the personal data in every file, which proves that the search works.
#[test]
fn search_finds_secrets_without_redaction() {
    let dir = Scratch::new("no-privacy").unwrap();
    let gate = Gate::default();
    gate.open();
    let url = platform::serve(feed::scripts(), &gate);
    let config = format!(
        "[sources.main]\nurl = \"{url}\"\ntoken = \"{}\"\nmax_frame_size = \"1 MiB\"\n\
         backoff = {{ min = \"10ms\", max = \"50ms\" }}\n[spool]\ntype = \"disk\"\n",
        feed::TOKEN
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    let events = feed::events().len() as u64 + 1;
    bridge
        .wait("all events to be delivered", SOON, |status| {
            settled(status, "events") == events
        })
        .unwrap();
    let data_dir = bridge.data_dir().to_owned();
    bridge.stop(Signal::SIGTERM, SOON).unwrap();
    let search = Search::new(&feed::secrets());
    let found_in = |folder: &str| -> Vec<&str> {
        let mut found: Vec<&str> = files(&data_dir)
            .iter()
            .filter(|file| file.strip_prefix(&data_dir).unwrap().starts_with(folder))
            .flat_map(|file| search.find(&fs::read(file).unwrap()))
            .map(|(what, _)| what)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    for site in ["spool", "events.jsonl", "dead-letters.jsonl"] {
        assert_eq!(
            found_in(site),
            ["the name", "the person", "the picture"],
            "{site}"
        );
    }
}
