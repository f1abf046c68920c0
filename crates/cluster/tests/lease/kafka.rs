//! Tests the lease of a cluster as a consumer group of a real Kafka: takeover after a kill and a stop of the leader's
//! process, hand-over, refused members, and topics that are unsuitable.

use std::{
    env,
    process::Command,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use neurobridge_cluster::{JoinState, Role};
use neurobridge_tests::{
    kafka::{Kafka, KafkaOptions, admin::KafkaAdmin},
    paths::Scratch,
    poll::wait_until,
    process::Process,
    shared::own_kafka,
};
use serde_json::{Value, json};

use crate::member::{LIMIT, Member, assert_within, takeover};

const TTL: Duration = Duration::from_secs(6);
/// The environment variable with the configuration of the lease for a member in a process of its own.
const LEASE_VARIABLE: &str = "NEUROBRIDGE_TEST_LEASE";

/// Returns the broker of all tests, or `None` if they are to be skipped. It ends with this program.
fn bootstrap() -> Option<String> {
    static KAFKA: OnceLock<Option<Mutex<Kafka>>> = OnceLock::new();
    let kafka = KAFKA.get_or_init(|| own_kafka(KafkaOptions::default()).map(Mutex::new));
    Some(kafka.as_ref()?.lock().unwrap().bootstrap())
}

/// Creates a topic with this number of partitions (none for 0), and returns a lease whose group has the same name.
fn lease(bootstrap: &str, name: &str, partitions: u16) -> Value {
    if partitions > 0 {
        let admin = KafkaAdmin::new(bootstrap).unwrap();
        admin.create_topic(name, partitions, &[]).unwrap();
    }
    json!({ "type": "kafka", "bootstrap_servers": bootstrap, "group": name, "topic": name, "ttl": "6s" })
}

fn joined(lease: &Value, name: &str) -> Member {
    let member = Member::join(lease, name, "same");
    wait_until("a member", LIMIT, || member.join_state() == JoinState::Joined)
        .unwrap_or_else(|error| panic!("{error:#}: {:?}", member.join_state()));
    member
}

/// The program of the process that [`in_process`] starts. Does nothing in an ordinary run of the tests.
#[test]
fn process_with_a_lease_variable_runs_a_member() {
    let Ok(lease) = env::var(LEASE_VARIABLE) else {
        return;
    };
    let member = Member::join(&serde_json::from_str(&lease).unwrap(), "process", "same");
    let mut roles = member.membership.role();
    member.runtime.block_on(async {
        loop {
            let line = match *roles.borrow_and_update() {
                Role::Leader(leadership) => format!("leader of term {}", leadership.term),
                Role::Follower => "follower".to_owned(),
            };
            eprintln!("{line}");
            roles.changed().await.unwrap();
        }
    });
}

/// Starts a member in a process that can be stopped and killed.
fn in_process(lease: &Value, scratch: &Scratch) -> Process {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "kafka::process_with_a_lease_variable_runs_a_member",
            "--nocapture",
        ])
        .env(LEASE_VARIABLE, lease.to_string());
    Process::spawn("member", &mut command, &scratch.join("member.log")).unwrap()
}

fn last_role(process: &Process) -> String {
    let log = process.logged().unwrap();
    let mut roles = log
        .lines()
        .filter(|line| line.starts_with("leader") || line.starts_with("follower"));
    roles.next_back().unwrap_or_default().to_owned()
}

/// Stops or kills the process of the leader with `fault`, expects the follower to lead within the ttl, and calls `then`.
fn replaced_after(name: &str, fault: impl Fn(&mut Process), then: impl Fn(&mut Process, &Member)) {
    assert_within(TTL + Duration::from_secs(2), |attempt| {
        let Some(bootstrap) = bootstrap() else {
            return Duration::ZERO;
        };
        let lease = lease(&bootstrap, &format!("{name}-{attempt}"), 1);
        let scratch = Scratch::new("member").unwrap();
        let mut process = in_process(&lease, &scratch);
        wait_until("the process leads", LIMIT, || {
            last_role(&process).starts_with("leader")
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", process.log_tail()));
        let follower = joined(&lease, "b");
        assert!(!follower.leads());
        fault(&mut process);
        let took = takeover(&follower, &[]);
        assert!(follower.term() > 1, "{}", follower.term());
        then(&mut process, &follower);
        follower.end();
        took
    });
}

#[test]
fn follower_leads_within_the_ttl_after_a_kill() {
    replaced_after("killed", |leader| leader.kill().unwrap(), |_, _| {});
}

#[test]
fn stopped_leader_follows_when_it_continues() {
    replaced_after(
        "stopped",
        |leader| leader.freeze().unwrap(),
        |former, follower| {
            former.thaw().unwrap();
            wait_until("the former leader follows", LIMIT, || {
                last_role(former) == "follower"
            })
            .unwrap();
            assert!(follower.leads());
        },
    );
}

#[test]
fn hand_over_needs_no_session_time_out() {
    assert_within(TTL / 2, |attempt| {
        let Some(bootstrap) = bootstrap() else {
            return Duration::ZERO;
        };
        let lease = lease(&bootstrap, &format!("handed-over-{attempt}"), 1);
        let first = joined(&lease, "a");
        takeover(&first, &[]);
        let second = joined(&lease, "b");
        wait_until("both members are known", LIMIT, || first.sees(2)).unwrap();
        assert!(first.leads(), "a new member takes no leadership");
        let term = first.term();
        first.resign();
        let took = takeover(&second, &[&first]);
        assert_eq!(second.term(), term + 1);
        second.end();
        takeover(&first, &[]);
        first.end();
        took
    });
}

#[test]
fn same_name_and_other_configuration_are_refused() {
    let Some(bootstrap) = bootstrap() else { return };
    let lease = lease(&bootstrap, "refused", 1);
    let first = joined(&lease, "a");
    takeover(&first, &[]);
    let same_name = Member::join(&lease, "a", "same");
    let reason = same_name.refusal();
    assert!(
        reason.starts_with("found another process with the member name \"a\""),
        "{reason}"
    );
    same_name.end();
    let other = Member::join(&lease, "b", "other");
    let reason = other.refusal();
    assert!(
        reason.starts_with("the leader \"a\" of the cluster \"faces\" has another configuration"),
        "{reason}"
    );
    // A member with another configuration leads after an orderly stop.
    first.end();
    takeover(&other, &[]);
    other.end();
}

#[test]
fn unsuitable_topics_are_refused_with_a_reason() {
    let Some(bootstrap) = bootstrap() else { return };
    for (name, partitions, expected) in [
        (
            "no-topic",
            0,
            "the topic \"no-topic\" of the lease does not exist",
        ),
        ("two-partitions", 2, "has 2 partitions, expected 1"),
    ] {
        let member = Member::join(&lease(&bootstrap, name, partitions), "a", "same");
        wait_until(
            expected,
            LIMIT,
            || matches!(member.join_state(), JoinState::Unreachable(reason) if reason.contains(expected)),
        )
        .unwrap_or_else(|error| panic!("{error:#}: {:?}", member.join_state()));
        member.end();
    }
}
