//! Reloads that change, add and remove sinks, also during an outage and with kills of the bridge.

use std::fs;

use neurobridge_tests::audit;
use neurobridge_tests::kafka::{admin::KafkaAdmin, records::read_topic};
use neurobridge_tests::nats::{NatsOptions, client::read_stream};
use neurobridge_tests::shared::{kafka_bootstrap, own_nats};
use neurobridge_tests::status::SinkState;

use super::*;

const STREAM: &str = "RELOAD";

#[test]
fn changed_sinks_continue_at_their_cursors() {
    let Some(bootstrap) = kafka_bootstrap() else {
        return;
    };
    for (name, spool, delivery, create) in [
        ("reload-memory", "memory", "at_least_once", ""),
        // The last element has the settings with which the sink creates the topic of its cursors.
        (
            "reload-disk",
            "disk",
            "exactly_once",
            "create = true\npartitions = 1\nreplicas = 1",
        ),
    ] {
        let dir = Scratch::new(name).unwrap();
        let topic = format!("{name}-{}", std::process::id());
        KafkaAdmin::new(&bootstrap)
            .unwrap()
            .create_topic(&topic, 1, &[])
            .unwrap();
        let platform = Platform::start(&dir, &["--rate", "2000"]).unwrap();
        let config = source("main", &platform.url(), "")
            + &format!("[spool]\ntype = \"{spool}\"\n")
            + &format!(
                "[sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"{bootstrap}\"\ntopic = \"{topic}\"\n\
                 delivery = \"{delivery}\"\n{create}\n# kafka\n"
            )
            + &file_sink("events", "# file")
            + &file_sink("unchanged", "");
        let bridge = Bridge::start(&dir, &config).unwrap();
        let mut unchanged = None;
        for limit in 50..54 {
            more_events(&bridge, "main", 2000);
            // The reload happens while events are delivered.
            let before = bridge.status().unwrap().delivered("kafka");
            bridge
                .wait("events in Kafka", SOON, |status| {
                    status.delivered("kafka") > before + 500
                })
                .unwrap();
            let setting = format!("max_dead_letters_in_a_row = {limit}");
            change(&bridge, "# kafka", &format!("{setting} # kafka"));
            change(&bridge, "# file", &format!("{setting} # file"));
            assert_eq!(
                reload(&bridge),
                "sinks.events: reopened at its cursor\nsinks.kafka: reopened at its cursor\n"
            );
            change(&bridge, &format!("{setting} # kafka"), "# kafka");
            change(&bridge, &format!("{setting} # file"), "# file");
            let up = bridge.status().unwrap().sink("unchanged").since.clone();
            assert_eq!(
                *unchanged.get_or_insert_with(|| up.clone()),
                up,
                "the sink was reopened"
            );
        }
        let status = bridge.status().unwrap();
        assert_eq!(status.source("main").connections, 1, "{status}");
        assert_eq!(status.sink("kafka").resent, 0, "{status}");
        bridge
            .wait("Kafka", SOON, |status| {
                status.sink("kafka").state == SinkState::Up
            })
            .unwrap();
        let folder = bridge.data_dir().to_owned();
        let (text, log) = stop(bridge, "events");
        let sent = audit::received(platform, &log, "main").unwrap();
        for (sink, text) in [
            ("events", text),
            (
                "unchanged",
                fs::read_to_string(folder.join("unchanged.jsonl")).unwrap(),
            ),
        ] {
            let audited = audit::audit(&sent, &[audit::structured(&text).unwrap()]).unwrap();
            assert_eq!(audited.duplicates, 0, "{name}: {sink}");
        }
        let records = read_topic(&bootstrap, &topic, SOON).unwrap();
        let audited = audit::audit(&sent, &audit::kafka(&records, "main").unwrap()).unwrap();
        assert_eq!(audited.duplicates, 0, "{name}: Kafka");
    }
}

#[test]
fn reload_during_an_outage_of_a_sink_loses_nothing() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let dir = Scratch::new("reload-outage").unwrap();
    let platform = Platform::start(&dir, &["--rate", "1000"]).unwrap();
    let url = nats.url();
    let config = source("main", &platform.url(), "# source")
        + "[spool]\ntype = \"disk\"\n"
        + &file_sink("events", "")
        + &format!(
            "[sinks.stream]\ntype = \"nats\"\nservers = [\"{url}\"]\nstream = {{ name = \"{STREAM}\", create = true, max_age = \"1h\", replicas = 1 }}\n# sink\n"
        );
    let bridge = Bridge::start(&dir, &config).unwrap();
    more_events(&bridge, "main", 1000);
    nats.stop().unwrap();
    bridge
        .wait("outage", SOON, |status| {
            status.sink("stream").state == SinkState::Down
        })
        .unwrap();
    // The source is replaced and the sink that is down is changed; neither waits for the end of the outage.
    change(&bridge, "# source", "ping_interval = \"7s\"");
    change(&bridge, "# sink", "max_dead_letters_in_a_row = 50");
    let answer = reload(&bridge);
    assert!(
        answer.contains("sinks.stream: reopened at its cursor")
            && answer.contains("sources.main: replaced by an authenticated connection"),
        "{answer}"
    );
    more_events(&bridge, "main", 1000);
    nats.start_again().unwrap();
    bridge
        .wait("end of the outage", SOON, |status| {
            status.sink("stream").state == SinkState::Up && status.sink("stream").lag_events < 1000
        })
        .unwrap();
    assert_eq!(bridge.status().unwrap().source("main").gaps, 0);
    let (text, _) = stop(bridge, "events");
    let messages = read_stream(&url, STREAM, SOON).unwrap();
    let arrived = audit::nats_binary(&messages, "main", true).unwrap();
    let mut in_stream: Vec<u64> = arrived.iter().map(|event| event.id).collect();
    in_stream.sort_unstable();
    let expected = check_complete(&text, "main");
    let first = in_stream[0];
    let all: Vec<u64> = (first..first + expected as u64).collect();
    assert!(
        in_stream == all,
        "{expected} in the file, {} in the stream",
        in_stream.len()
    );
}

#[test]
fn sink_added_again_continues_at_its_cursor() {
    let dir = Scratch::new("reload-sinks").unwrap();
    let platform = Platform::start(&dir, &["--rate", "500"]).unwrap();
    let config = source("main", &platform.url(), "")
        + "[spool]\ntype = \"disk\"\n# sinks\n"
        + &file_sink("events", "");
    let bridge = Bridge::start(&dir, &config).unwrap();
    more_events(&bridge, "main", 500);
    let added = file_sink("more", "start = \"oldest\"");
    change(&bridge, "# sinks\n", &format!("# sinks\n{added}"));
    assert_eq!(reload(&bridge), "sinks.more: added\n");
    more_events(&bridge, "main", 500);
    bridge
        .wait("all events from the oldest one on", SOON, |status| {
            let more = status.sink("more");
            more.ledger.delivered >= 1000
                && more.ledger.delivered + more.ledger.pending == status.spool.durable_sequence
        })
        .unwrap();
    change(&bridge, &added, "");
    assert_eq!(reload(&bridge), "sinks.more: removed\n");
    let status = bridge.status().unwrap();
    assert!(!status.sinks.contains_key("more"), "{status}");
    let more = fs::read_to_string(bridge.data_dir().join("more.jsonl")).unwrap();
    let in_more = check_complete(&more, "main");
    // The next sink of this name continues at the cursor.
    more_events(&bridge, "main", 500);
    change(&bridge, "# sinks\n", &format!("# sinks\n{added}"));
    assert_eq!(reload(&bridge), "sinks.more: added\n");
    more_events(&bridge, "main", 500);
    let path = bridge.data_dir().join("more.jsonl");
    let (text, _) = stop(bridge, "events");
    let all = check_complete(&text, "main");
    assert!(in_more < all);
    assert_eq!(check_complete(&fs::read_to_string(path).unwrap(), "main"), all);
}

#[test]
fn kill_during_a_reload_repeats_no_event() {
    let dir = Scratch::new("reload-kill").unwrap();
    let platform = Platform::start(&dir, &["--rate", "2000"]).unwrap();
    let config = source("main", &platform.url(), "# source")
        + "[spool]\ntype = \"disk\"\n"
        + &file_sink("events", "# sink");
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    for round in 0..6_u32 {
        more_events(&bridge, "main", 1000);
        let (source, sink) = (
            format!("ping_interval = \"{}s\"", 10 + round),
            format!("max_dead_letters_in_a_row = {}", 50 + round),
        );
        change(&bridge, "# source", &format!("{source} # source"));
        change(&bridge, "# sink", &format!("{sink} # sink"));
        let mut command = Command::new(neurobridge());
        command.arg("reload").arg("-c").arg(file(&bridge));
        let mut reloading = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // The kill has to hit moments before, during and after the change, none of which can be observed from outside.
        std::thread::sleep(Duration::from_millis(u64::from(round) * 15));
        bridge.process().kill().unwrap();
        reloading.wait().unwrap();
        change(&bridge, &format!("{source} # source"), "# source");
        change(&bridge, &format!("{sink} # sink"), "# sink");
        bridge.start_again().unwrap();
    }
    more_events(&bridge, "main", 1000);
    let (text, _) = stop(bridge, "events");
    let mut ids: Vec<&str> = text
        .lines()
        .map(|line| line.split_once("\"id\":\"").unwrap().1.split('"').next().unwrap())
        .collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an event is in the file twice");
}
