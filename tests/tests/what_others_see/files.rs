//! Redacted and pseudonymised values in the files of the bridge.

use super::*;

#[test]
fn redacted_values_are_in_no_file() {
    let dir = Scratch::new("redacted").unwrap();
    let key = dir.join("key");
    fs::write(&key, "0f".repeat(32)).unwrap();
    let faults = [
        &["--count", "1000", "--fault", "huge=100KiB,after=100,times=1"][..],
        &FAULTS,
    ]
    .concat();
    let platform = Platform::start(&dir, &faults).unwrap();
    let config = format!(
        r#"
        [sources.main]
        url = "{}"
        token = "{TOKEN}"

        [event]
        redact = ["*_image"]
        pseudonymise = {{ fields = ["pid"], key_file = {key:?} }}

        [sinks.events]
        type = "file"

        [sinks.nameless]
        type = "file"
        path = "nameless.jsonl"
        redact = ["pid", "source.name"]
        "#,
        platform.url()
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("all", SOON, |status| {
            status.delivered("events") == 1001 && status.sink("nameless").ledger.delivered == 1001
        })
        .unwrap();
    let data_dir = bridge.data_dir().to_owned();
    stop(bridge);

    let secrets = personal(&platform.stop().unwrap());
    let files = files_below(&data_dir);
    assert!(files.len() >= 3, "{files:?}");
    for file in &files {
        let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
        let found = secrets.iter().find(|secret| text.contains(secret.as_str()));
        assert!(found.is_none(), "{found:?} is in {}", file.display());
    }
    let dead_letters = fs::read_to_string(data_dir.join("dead-letters.jsonl")).unwrap();
    assert_eq!(dead_letters.lines().count(), 2);
    assert!(
        !dead_letters.contains("\"frame\""),
        "malformed frames cannot be redacted and must not be stored: {dead_letters}"
    );
}

#[test]
fn same_person_has_the_same_pseudonym() {
    let dir = Scratch::new("pseudonyms").unwrap();
    let key = dir.join("key");
    fs::write(&key, "0f".repeat(32)).unwrap();
    let platform = Platform::start(&dir, &["--count", "1000"]).unwrap();
    let config = format!(
        "[sources.main]\nurl = \"{}\"\ntoken = \"t\"\n\
         [event]\nredact = [\"*_image\"]\npseudonymise = {{ fields = [\"pid\"], key_file = {key:?} }}\n",
        platform.url()
    );
    let bridge = Bridge::start(&dir, &config).unwrap();
    bridge
        .wait("all", SOON, |status| status.delivered("events") == 1000)
        .unwrap();
    let file = bridge.data_dir().join("events.jsonl");
    stop(bridge);

    let mut pseudonyms = BTreeMap::new();
    let sent = platform.stop().unwrap();
    let written = fs::read_to_string(file).unwrap();
    for (line, event) in written.lines().zip(&sent) {
        let arrived: Value = serde_json::from_str::<Value>(line).unwrap()["data"].take();
        let mut expected: Value = serde_json::from_str(&event.data).unwrap();
        if let Some(pid) = &event.pid {
            let pseudonym = arrived["pid"].as_str().unwrap().to_owned();
            let known = pseudonyms.entry(pid.clone()).or_insert_with(|| pseudonym.clone());
            assert_eq!(*known, pseudonym, "of {pid}");
            expected["pid"] = pseudonym.into();
        }
        for image in IMAGES {
            if let Some(value) = expected.get_mut(image) {
                *value = Value::Null;
            }
        }
        assert_eq!(arrived, expected, "all other fields must be unchanged");
    }
    let distinct: BTreeSet<_> = pseudonyms.values().collect();
    assert_eq!(
        distinct.len(),
        pseudonyms.len(),
        "two persons must not share a pseudonym"
    );
    assert!(
        pseudonyms.len() < sent.len(),
        "some events must be of the same person"
    );
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
