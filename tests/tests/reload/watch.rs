//! `run --watch` reloads when the content of the file has changed, independent of the method by which the file was replaced.

use std::os::unix::fs::symlink;
use std::path::Path;

use neurobridge_tests::poll::wait_for;

use super::*;

/// Waits until the part of the status about the configuration satisfies a condition, and returns it.
fn reloads(bridge: &Bridge, condition: impl Fn(&Value) -> bool) -> Value {
    wait_for("reload", SOON, || {
        let status: Value = serde_json::from_str(&bridge.get("/status")?)?;
        let found = status["configuration"].clone();
        Ok(condition(&found).then_some(found))
    })
    .unwrap()
}

/// Writes a file under another name and renames it.
fn replace(path: &Path, text: &str) {
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, text).unwrap();
    fs::rename(unfinished, path).unwrap();
}

#[test]
fn watched_file_is_reloaded_however_it_is_replaced() {
    let dir = Scratch::new("reload-watch").unwrap();
    let platform = Platform::start(&dir, &["--rate", "200"]).unwrap();
    let config = source("main", &platform.url(), "# here") + &file_sink("events", "");
    let bridge = Bridge::start_watching(&dir, &config).unwrap();
    more_events(&bridge, "main", 100);
    let path = file(&bridge);
    let text = fs::read_to_string(&path).unwrap();
    let with = |setting: &str| text.replace("# here", setting);

    fs::write(&path, with("ping_interval = \"11s\"")).unwrap();
    reloads(&bridge, |found| found["reloads"] == 1);
    replace(&path, &with("ping_interval = \"12s\""));
    reloads(&bridge, |found| found["reloads"] == 2);

    replace(&path, &with("ping_intervall = \"12s\""));
    let found = reloads(&bridge, |found| found["failed_reloads"] == 1);
    let reason = found["last_failed_reload"]["reason"].as_str().unwrap();
    assert!(reason.contains("ping_intervall"), "{reason}");

    // As Kubernetes mounts a ConfigMap: the link to the folder is replaced.
    let folder = path.parent().unwrap();
    for (version, seconds) in [("v1", 13), ("v2", 14)] {
        fs::create_dir(folder.join(version)).unwrap();
        let text = with(&format!("ping_interval = \"{seconds}s\""));
        fs::write(folder.join(version).join("neurobridge.toml"), text).unwrap();
        symlink(version, folder.join("..data.new")).unwrap();
        fs::rename(folder.join("..data.new"), folder.join("..data")).unwrap();
        if version == "v1" {
            symlink("..data/neurobridge.toml", folder.join("link")).unwrap();
            fs::rename(folder.join("link"), &path).unwrap();
        }
        let expected = if version == "v1" { 3 } else { 4 };
        let found = reloads(&bridge, |found| found["reloads"] == expected);
        assert_eq!(found["last_failed_reload"], Value::Null);
    }
    bridge
        .wait("connections", SOON, |status| {
            status.source("main").connections == 5
        })
        .unwrap();
    let status = bridge.status().unwrap();
    assert_eq!(status.source("main").gaps, 0, "{status}");
    let (text, _) = stop(bridge, "events");
    check_complete(&text, "main");
}
