//! Tests of the nats-server processes that other tests use.

use std::time::Duration;

use super::*;
use crate::poll::wait_until;
use crate::shared::own_nats;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn server_survives_stop_kill_and_freeze() {
    let Some(mut nats) = own_nats(NatsOptions {
        sync_always: true,
        ..NatsOptions::default()
    }) else {
        return;
    };
    let url = nats.url();
    answers(&url).unwrap();
    assert!(
        nats.get("/jsz").unwrap().contains("\"config\""),
        "JetStream must be enabled"
    );

    nats.freeze().unwrap();
    assert!(answers(&url).is_err(), "a frozen server must not send a greeting");
    nats.thaw().unwrap();
    wait_until("the thawed server", SOON, || answers(&url).is_ok()).unwrap();

    nats.kill().unwrap();
    assert!(answers(&url).is_err());
    nats.start_again().unwrap();
    answers(&url).unwrap();
    nats.stop().unwrap();
    assert!(nats.freeze().unwrap_err().to_string().contains("not running"));
    nats.start_again().unwrap();

    nats.reconfigure("max_payload: 4096").unwrap();
    assert!(nats.get("/varz").unwrap().contains("\"max_payload\": 4096"));
    let dir = nats.dir().to_path_buf();
    drop(nats);
    assert!(answers(&url).is_err() && !dir.exists());
}

#[test]
fn failed_start_error_contains_the_log() {
    let scratch = Scratch::new("nats-fails").unwrap();
    let path = scratch.path().to_path_buf();
    let Some(result) =
        crate::shared::with_own_nats(|| Nats::start_in(scratch, NatsOptions::default().config("nonsense {")))
    else {
        return;
    };
    let error = format!("{:#}", result.unwrap_err());
    assert!(
        error.contains("during its start") && error.contains("Parse error"),
        "{error}"
    );
    assert!(!path.exists());
}

#[test]
fn three_servers_form_a_cluster() {
    let Some(cluster) = crate::shared::with_own_nats(|| NatsCluster::start(&NatsOptions::default())) else {
        return;
    };
    let mut cluster = cluster.unwrap();
    assert_eq!(cluster.urls().len(), 3);
    cluster.server("n1").unwrap().kill().unwrap();
    cluster.server("n1").unwrap().start_again().unwrap();
    assert!(cluster.server("n3").is_err());
}
