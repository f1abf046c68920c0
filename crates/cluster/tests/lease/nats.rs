//! Tests the lease of a cluster in a real nats-server: takeover after a crash, hand-over, a member cut off, a frozen and a
//! killed server, and buckets that are unsuitable.
//!
//! A crash is the end of a member's runtime with all its tasks and sockets, which the server cannot distinguish from the end
//! of a process.
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use neurobridge_cluster::JoinState;
use neurobridge_tests::{
    nats::{NatsOptions, client::connect},
    poll::wait_until,
    relay::Relay,
    shared::own_nats,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::member::{LIMIT, Member, assert_within, takeover};

const TTL: Duration = Duration::from_secs(5);

fn join(server: &str, name: &str, options: &Value) -> Member {
    let mut lease = json!({
        "type": "nats", "servers": [server], "bucket": "CLUSTER", "ttl": "5s", "create": true, "replicas": 1,
    });
    for (key, value) in options.as_object().unwrap() {
        lease[key] = value.clone();
    }
    Member::join(&lease, name, "same")
}

/// Starts a leader and a follower that know each other.
fn leader_and_follower(leader_server: &str, follower_server: &str) -> (Member, Member) {
    let leader = join(leader_server, "a", &json!({}));
    wait_until("a leader", LIMIT, || leader.leads()).unwrap();
    let follower = join(follower_server, "b", &json!({}));
    wait_until("a follower", LIMIT, || {
        follower.join_state() == JoinState::Joined && leader.sees(2) && follower.sees(2)
    })
    .unwrap();
    (leader, follower)
}

#[test]
fn follower_leads_within_the_ttl_after_a_crash() {
    assert_within(TTL + Duration::from_secs(2), |_| {
        let Some(nats) = own_nats(NatsOptions::default()) else {
            return Duration::ZERO;
        };
        let (leader, follower) = leader_and_follower(&nats.url(), &nats.url());
        let term = leader.term();
        leader.crash();
        let took = takeover(&follower, &[]);
        assert!(follower.term() > term);

        // The crashed member is restarted with the same name and follows.
        let restarted = join(&nats.url(), "a", &json!({}));
        wait_until("the restarted member", LIMIT, || {
            restarted.join_state() == JoinState::Joined
        })
        .unwrap();
        assert!(follower.leads() && !restarted.leads());
        took
    });
}

#[test]
fn hand_over_and_stop_take_less_than_a_second() {
    assert_within(Duration::from_secs(1), |_| {
        let Some(nats) = own_nats(NatsOptions::default()) else {
            return Duration::ZERO;
        };
        let (first, second) = leader_and_follower(&nats.url(), &nats.url());
        first.resign();
        assert!(!first.leads());
        let took = takeover(&second, &[&first]);

        second.end();
        // The first member rests after its hand-over until it knows that it is alone.
        takeover(&first, &[]);
        wait_until("the second member has left", LIMIT, || first.sees(1)).unwrap();
        took
    });
}

#[test]
fn member_that_is_cut_off_follows_before_another_leads() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let relay = Relay::to(nats.address()).unwrap();
    let (leader, follower) = leader_and_follower(&format!("nats://{}", relay.address()), &nats.url());
    relay.cut();
    takeover(&follower, &[&leader]);
    wait_until("the reason", LIMIT, || {
        matches!(leader.join_state(), JoinState::Unreachable(_))
    })
    .unwrap();
    relay.restore();
    wait_until("it follows", LIMIT, || leader.join_state() == JoinState::Joined).unwrap();
    assert!(follower.leads() && !leader.leads());
}

#[test]
fn frozen_and_killed_servers_leave_one_leader() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let members = leader_and_follower(&nats.url(), &nats.url());
    let members = [members.0, members.1];
    let leaders = || members.iter().filter(|member| member.leads()).count();
    nats.freeze().unwrap();
    wait_until("no member leads", LIMIT, || leaders() == 0).unwrap();
    nats.thaw().unwrap();
    wait_until("one leads", LIMIT, || {
        assert!(leaders() < 2);
        leaders() == 1
    })
    .unwrap();
    nats.kill().unwrap();
    wait_until("no member leads", LIMIT, || leaders() == 0).unwrap();
    nats.start_again().unwrap();
    wait_until("one leads", LIMIT, || {
        assert!(leaders() < 2);
        leaders() == 1
    })
    .unwrap();
}

#[test]
fn second_process_with_the_same_name_is_refused() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let first = join(&nats.url(), "a", &json!({}));
    wait_until("a leader", LIMIT, || first.leads()).unwrap();
    let second = join(&nats.url(), "a", &json!({}));
    second.refusal();
    assert!(first.leads() && !second.leads());
}

#[test]
fn unsuitable_buckets_are_refused_with_a_reason() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let runtime = Runtime::new().unwrap();
    let api = runtime.block_on(async { jetstream::new(connect(&nats.url()).await.unwrap()) });
    let bucket = |name: &str| stream::Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        ..stream::Config::default()
    };
    let buckets = [
        stream::Config {
            max_age: TTL,
            ..bucket("AGE")
        },
        stream::Config {
            max_bytes: 1024,
            ..bucket("BYTES")
        },
        stream::Config {
            max_messages: 2,
            ..bucket("VALUES")
        },
        stream::Config {
            subjects: vec!["other".into()],
            ..bucket("STREAM")
        },
        bucket("FOREIGN"),
    ];
    for config in buckets {
        runtime.block_on(api.create_stream(config)).unwrap();
    }
    runtime
        .block_on(async {
            let stored = api.publish("$KV.FOREIGN.faces.lease", "hello".into()).await?;
            anyhow::Ok(stored.await?)
        })
        .unwrap();
    let reasons = [
        ("MISSING", "the bucket \"MISSING\" of the lease does not exist"),
        ("AGE", "deletes keys after 5s (max_age)"),
        ("BYTES", "holds 1024 bytes (max_bytes)"),
        ("VALUES", "holds 2 values (max_msgs)"),
        ("STREAM", "expected a key-value bucket"),
        ("FOREIGN", "found \"hello\" as the lease"),
    ];
    for (name, expected) in reasons {
        let member = join(
            &nats.url(),
            "a",
            &json!({ "bucket": name, "create": false, "replicas": null }),
        );
        wait_until(expected, LIMIT, || {
            matches!(member.join_state(), JoinState::Unreachable(reason) | JoinState::Refused(reason) if reason.contains(expected))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:?}", member.join_state()));
        assert!(!member.leads());
        member.crash();
    }
}
