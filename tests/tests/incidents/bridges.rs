//! Incidents of the bridge and its machine: a kill, a stop, a changed configuration, a full disk.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use neurobridge_tests::paths::Scratch;
use neurobridge_tests::shared::report_skipped;
use neurobridge_tests::small_disk::SmallDisk;

use super::{
    SOON, Scene,
    Seen::{Alert, History, Log, Metric, Page},
    moment, source,
};

const CONFIG: &str = "[spool]\ntype = \"disk\"\n[sinks.events]\ntype = \"file\"\n";

fn scene(name: &str) -> Option<Scene> {
    Scene::start(Scratch::new(name).unwrap(), "events", |dir, platform| {
        source(dir, platform.address()) + CONFIG
    })
}

#[test]
fn killed_bridge_reports_the_gap_of_the_crash() {
    let Some(mut scene) = scene("incident-killed") else {
        return;
    };
    scene.bridge.process().kill().unwrap();
    scene.alert("NeurobridgeDown");
    scene.bridge.start_again().unwrap();
    scene.delivers("events");
    scene.sees(&[
        Log("events since the crash of the bridge are missed"),
        History(
            "bridge_started",
            "bridge",
            "the last run ended without an orderly stop",
        ),
    ]);
    scene.gap("crash");
    scene.lists(&["bridge_started", "configuration_loaded", "gap"]);
}

#[test]
fn stopped_bridge_reports_the_gap_of_the_restart() {
    let Some(mut scene) = scene("incident-stopped") else {
        return;
    };
    let status = scene.bridge.process().terminate(SOON).unwrap();
    assert!(status.success(), "{status}");
    scene.sees(&[Log("source main: "), Log(" dropped + 0 damaged + 0 pending")]);
    scene.alert("NeurobridgeDown");
    scene.bridge.start_again().unwrap();
    scene.delivers("events");
    scene.sees(&[
        Log("events since the stop of the bridge are missed"),
        History("bridge_stopped", "bridge", "bridge stopped: SIGTERM"),
        History("bridge_started", "bridge", ""),
    ]);
    scene.gap("restart");
    scene.lists(&["bridge_stopped", "bridge_started", "gap"]);
}

#[test]
fn changed_configuration_is_in_log_and_history() {
    let Some(mut scene) = scene("incident-configuration") else {
        return;
    };
    scene.bridge.process().terminate(SOON).unwrap();
    let file = scene.dir.join("neurobridge.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "[event.filter]\nresult = [\"new\", \"exact\"]\n").unwrap();
    scene.bridge.start_again().unwrap();
    scene.sees(&[
        Log("configuration loaded: "),
        Log("since_last_run=\"changed\""),
        History("configuration_loaded", "bridge", "neurobridge.toml"),
    ]);
    let change = scene.change("configuration_loaded", "bridge", "");
    assert_eq!(change["reason"], "changed", "{change}");
    let filtered = |scene: &Scene| scene.status()["sources"]["main"]["ledger"]["filtered"].as_u64();
    scene
        .bridge
        .wait("filtered events", SOON, |_| filtered(&scene) > Some(0))
        .unwrap();
    scene.gap("restart");
    scene.lists(&["bridge_stopped", "configuration_loaded", "gap"]);
}

/// Stops the thread that fills the disk when dropped, also after a failed assertion: the scope waits for this thread.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn full_disk_is_reported_until_there_is_space() {
    let dir = Scratch::new("incident-disk").unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), &dir.join("data"), 24).unwrap() else {
        report_skipped("a file system can be mounted only by root");
        return;
    };
    // The sink's file is on the same disk, so that the sink settles nothing while the disk is full, and no segment is
    // freed. Otherwise the spool could use the space of a freed segment before the ballast file does.
    let scene = Scene::start(dir, "events", |dir, platform| {
        format!(
            "{}[spool]\ntype = \"disk\"\nmax_size = \"64 MiB\"\nsegment_size = \"1 MiB\"\n\
             [sinks.events]\ntype = \"file\"\npath = {:?}\n",
            source(dir, platform.address()),
            dir.join("data/events.jsonl")
        )
    });
    let Some(scene) = scene else {
        return;
    };
    let ballast = disk.ballast();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let filling = scope.spawn(|| ballast.fill(|| !is_over.load(Ordering::Relaxed)));
        let over = Over(&is_over);
        scene.sees(&[
            Page(
                "at_risk",
                "The disk is full: main is not read, and the platform may discard events",
            ),
            Log("the disk is full; the spool stores no events until there is room"),
            Metric("neurobridge_spool_full", &[], 1.0),
            Alert("NeurobridgeSpoolFull"),
            History(
                "disk_full",
                "spool",
                "the disk is full; the spool stores no events until there is room",
            ),
        ]);
        let status = scene.status();
        assert_eq!(status["spool"]["is_disk_full"], true, "{status}");
        drop(over);
        filling.join().unwrap().unwrap();
    });
    scene.delivers("events");
    scene.sees(&[
        Page("no", ""),
        Log("the spool has room again"),
        Metric("neurobridge_spool_full", &[], 0.0),
        History("spool_recovered", "spool", "the spool has room again"),
    ]);
    let [full, room] = ["disk_full", "spool_recovered"].map(|kind| scene.change(kind, "spool", ""));
    assert!(room["seconds"].as_f64() > Some(0.0), "{room}");
    assert!(moment(&room["began"]) <= moment(&room["at"]) && moment(&full["at"]) >= scene.began);
    assert_eq!(scene.status()["losing_events"]["lost_events"], 0);
    scene.lists(&["disk_full", "spool_recovered"]);
}
