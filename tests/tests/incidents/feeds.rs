//! Incidents of the feed: a refused token, a silent connection, a cut connection.

use std::fs;
use std::time::Duration;

use neurobridge_tests::paths::Scratch;
use neurobridge_tests::poll::wait_until;
use neurobridge_tests::relay::Relay;

use super::{
    MAIN, SOON, Scene,
    Seen::{Alert, History, Log, Metric, Page},
    moment, source,
};

const SINK: &str = "[sinks.events]\ntype = \"file\"\n";

/// Starts a scene whose bridge reads the feed through a relay.
fn scene(name: &str) -> Option<(Scene, Relay)> {
    let mut relay = None;
    let scene = Scene::start(Scratch::new(name).unwrap(), "events", |dir, platform| {
        let made = Relay::to(platform.address().to_owned()).unwrap();
        let config = source(dir, made.address()) + SINK;
        relay = Some(made);
        config
    });
    Some((scene?, relay?))
}

#[test]
fn refused_token_is_reported_as_the_cause_of_the_gap() {
    let Some((scene, relay)) = scene("incident-token") else {
        return;
    };
    let token = scene.dir.join("token");
    fs::write(&token, "wrong\n").unwrap();
    relay.cut();
    relay.restore();
    scene.sees(&[
        Page(
            "yes",
            "main is not connected: events that the platform sends now are missed",
        ),
        Log("the platform refused the token: invalid token"),
        Metric("neurobridge_source_open_connections", &[], 0.0),
        Alert("NeurobridgeTokenRefused"),
        History("source_refused", MAIN, "token"),
    ]);
    let refused = scene.change("source_refused", MAIN, "");
    let refusals = || {
        let outcome = "outcome=\"token_refused\"";
        scene
            .bridge
            .metric("neurobridge_source_connections_total", &[outcome])
            .unwrap()
    };
    let shown = |key: &str| scene.status()["sources"]["main"][key].clone();
    let (before, since) = (refusals(), shown("since"));
    wait_until("further refusals", SOON, || refusals() >= before + 2.0).unwrap();
    assert_eq!(shown("since"), since, "a further refusal must not change `since`");
    assert_eq!(refused["at"], since);
    assert!(shown("reason").as_str().unwrap().contains("token"));
    assert!(shown("unconnected_seconds").as_f64() > Some(0.0));

    fs::write(&token, "right\n").unwrap();
    scene.delivers("events");
    scene.sees(&[Log("authenticated again")]);
    scene.gap("token_refused");
    scene.lists(&["source_refused", "gap"]);
}

#[test]
fn silent_feed_reports_a_gap_from_its_last_byte() {
    let Some((mut scene, _relay)) = scene("incident-silent") else {
        return;
    };
    scene.platform.process().freeze().unwrap();
    scene.sees(&[
        Page("yes", "main is not connected"),
        Log("no answer to a ping within 3s"),
        Metric("neurobridge_source_open_connections", &[], 0.0),
        Alert("NeurobridgeNoOpenConnection"),
        History("source_disconnected", MAIN, "no answer to a ping"),
    ]);
    scene.platform.process().thaw().unwrap();
    scene.delivers("events");
    scene.sees(&[Log("authenticated again")]);
    scene.gap("pong_timeout");
    let gap = scene.change("gap", MAIN, "");
    assert!(gap["seconds"].as_f64() > Some(3.0), "{gap}");
    let began = moment(&gap["began"]).duration_since(scene.began).unsigned_abs();
    assert!(
        began < Duration::from_secs(2),
        "the gap must begin at the last byte: {gap}, not {}",
        scene.began
    );
    scene.lists(&["source_disconnected", "gap"]);
}

#[test]
fn cut_feed_reports_an_open_gap_until_it_reconnects() {
    let Some((scene, relay)) = scene("incident-cut") else {
        return;
    };
    relay.cut();
    scene.sees(&[
        Page("yes", "main is not connected"),
        Log("not connected: "),
        Metric("neurobridge_source_open_connections", &[], 0.0),
        Metric("neurobridge_source_open_gaps", &[], 1.0),
        Alert("NeurobridgeNoOpenConnection"),
        History("source_disconnected", MAIN, ""),
    ]);
    let status = scene.status();
    let open = &status["sources"]["main"]["newest_gaps"][0];
    assert!(
        open["ended"].is_null() && open["seconds"].as_f64() > Some(0.0),
        "{open}"
    );
    relay.restore();
    scene.delivers("events");
    scene.sees(&[
        Log("authenticated again"),
        Metric("neurobridge_source_open_gaps", &[], 0.0),
    ]);
    scene.gap("broken");
    scene.lists(&["source_disconnected", "gap"]);
}
