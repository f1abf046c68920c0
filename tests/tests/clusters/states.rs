//! The answers of a member to probes, checks and reloads, for its states in the cluster.

use std::fs;

use neurobridge_tests::http::get_any;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::shared::nats_url;
use serde_json::{Map, Value};

use super::*;

/// Returns a name that no other run uses on the shared server.
fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// Returns the URL of a server that does not exist.
fn no_server() -> String {
    let [port] = free_ports().unwrap();
    format!("nats://127.0.0.1:{port}")
}

/// Returns the status of `/readyz`, and the parts that are not ready with their reasons.
fn readiness(member: &Member) -> (u16, Map<String, Value>) {
    let (status, body) = get_any(member.bridge().address(), "/readyz").unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    (status, body["unready"].as_object().unwrap().clone())
}

#[test]
fn member_is_unready_only_if_the_lease_is_unreachable() {
    let Some(nats) = nats_url() else {
        return;
    };
    let cluster = unique("readiness");
    let dir = Scratch::new(&cluster).unwrap();
    let platform = Platform::start(&dir, &["--rate", RATE]).unwrap();
    let members = members_with_files(&cluster, &platform, &nats);
    let follower = &members[1 - leader(&members)];
    assert_eq!(readiness(follower), (200, Map::new()));

    let config = |name| Member::config(&cluster, name, (&platform, &nats), FILE);
    let lost = Member::start(&cluster, "lost", config("lost").replace(&nats, &no_server()));
    wait_until("a member without a lease", SOON, || {
        let (status, unready) = readiness(&lost);
        let reason = unready.get("cluster").and_then(Value::as_str);
        let is_reason = reason.is_some_and(|reason| reason.starts_with("the lease cannot be reached: "));
        status == 503 && is_reason && unready.len() == 1
    })
    .unwrap();

    let filter = "filter = { result = [\"new\"] }\n";
    let other = Member::start(&cluster, "other", config("other") + filter);
    let is_refused = |status: &Status| {
        let cluster = status.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.join_state == "refused")
            && status.source("main").state == SourceState::Authenticated
    };
    let status = other.bridge().wait("a refused member", SOON, is_refused).unwrap();
    let reason = status.cluster.and_then(|cluster| cluster.reason).unwrap();
    assert!(reason.contains("has another configuration"), "{reason}");
    assert_eq!(
        readiness(&other),
        (200, Map::new()),
        "a refused member is ready, so that a rolling change of the configuration continues"
    );
}

/// Returns the average number of events received in a wake-up of the source. The bridge measures the age of one event in each
/// wake-up, so the count of these measurements is the number of wake-ups.
fn events_per_wake_up(member: &Member) -> f64 {
    let received = member.bridge().status().unwrap().source("main").ledger.received;
    let wake_ups = member
        .bridge()
        .metric("neurobridge_event_age_seconds_count", &[])
        .unwrap();
    received as f64 / wake_ups
}

#[test]
fn follower_reads_more_events_per_wake_up_than_leader() {
    let Some(nats) = nats_url() else {
        return;
    };
    let cluster = unique("together");
    let dir = Scratch::new(&cluster).unwrap();
    let platform = Platform::start(&dir, &["--rate", "1000"]).unwrap();
    let members = members_with_files(&cluster, &platform, &nats);
    let leading = leader(&members);
    for member in &members {
        let has_received = |status: &Status| status.source("main").ledger.received > 20_000;
        member.bridge().wait("events", SOON, has_received).unwrap();
    }
    let of_leader = events_per_wake_up(&members[leading]);
    let of_follower = events_per_wake_up(&members[1 - leading]);
    // Between two reads, about 4 events arrive at the leader and about 50 at the follower. The leader was a follower at first,
    // which increases its average.
    assert!(of_leader > 2.0, "{of_leader}");
    assert!(
        of_follower > 15.0 && of_follower > 2.0 * of_leader,
        "{of_follower}, {of_leader}"
    );
}

#[test]
fn check_connect_reports_the_state_of_the_lease() {
    let Some(nats) = nats_url() else {
        return;
    };
    let cluster = unique("check");
    let dir = Scratch::new(&cluster).unwrap();
    let platform = Platform::start(&dir, &["--rate", RATE]).unwrap();
    let bucket = format!("CHECK{}", std::process::id());
    let config = Member::config(&cluster, "a", (&platform, &nats), FILE).replace("LEASES", &bucket);
    let check = |config: &str| {
        let [port] = free_ports().unwrap();
        let file = dir.join("checked.toml");
        let data = dir.join("checked");
        let whole = format!("data_dir = {data:?}\n{config}\n[http]\nlisten = \"127.0.0.1:{port}\"\n");
        fs::write(&file, whole).unwrap();
        let mut command = Command::new(neurobridge());
        command.args(["check", "--connect", "-c"]).arg(file);
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        (output.status.code(), words.join(" "))
    };
    let (code, text) = check(&config);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains(&format!(
            "the bucket \"{bucket}\" does not exist; the bridge creates the bucket when it starts"
        )),
        "{text}"
    );

    let member = Member::start(&cluster, "a", config.clone());
    leader(std::slice::from_ref(&member));
    let (code, text) = check(&config);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("lease {cluster} ok, ")), "{text}");

    let server = no_server();
    let (code, text) = check(&config.replace(&nats, &server));
    assert_eq!(code, Some(69), "{text}");
    let host = server.trim_start_matches("nats://");
    assert!(
        text.contains(&format!("✗ lease {cluster} ")) && text.contains(host),
        "{text}"
    );
}

#[test]
fn reload_that_changes_what_is_published_is_refused() {
    let Some(nats) = nats_url() else {
        return;
    };
    let cluster = unique("reloads");
    let dir = Scratch::new(&cluster).unwrap();
    let platform = Platform::start(&dir, &["--rate", RATE]).unwrap();
    let member = Member::new(&cluster, "a", (&platform, &nats), FILE);
    leader(std::slice::from_ref(&member));
    let file = member.dir.join("neurobridge.toml");
    let config = fs::read_to_string(&file).unwrap();
    let reload = |config: String| {
        fs::write(&file, config).unwrap();
        let mut command = Command::new(neurobridge());
        let output = command.args(["reload", "-c"]).arg(&file).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let with_filter = config.replace(FILE, &format!("{FILE}filter = {{ result = [\"new\"] }}\n"));
    let (code, text) = reload(with_filter);
    assert_eq!(code, Some(78), "{text}");
    let sentence = "it changes what the cluster publishes (sources, sinks, filters or redaction): restart the members one after the \
                    other, the leader last";
    assert!(text.contains(sentence), "{text}");
    assert!(member.status().unwrap().leads());
    let (code, text) = reload(config.replace("200ms", "300ms"));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("sources.main: "), "{text}");
}
