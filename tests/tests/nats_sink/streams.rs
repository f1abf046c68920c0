//! Streams of JetStream: their creation and settings, and the outcomes of events when a stream is missing, full,
//! deleted or changed, or when a message is too large.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use neurobridge_core::{
    delivery::SinkState,
    sink::FaultKind,
    sink_config::{Format, OversizeAction},
};
use neurobridge_sink_nats::{DeadLetterConfig, NatsConfig, Order, StreamConfig};
use neurobridge_tests::{nats::NatsOptions, poll::Patience, shared::own_nats};

use super::support::{
    Delivery, Feed, assert_complete, assert_once_and_in_order, blocking, client, connect, creating, frame,
    stored, stream_of, tried,
};

const STREAM: &str = "ENTRIES";

#[tokio::test(flavor = "multi_thread")]
async fn event_is_stored_with_all_attributes() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    for (format, content_type) in [
        (Format::Cloudevents, None),
        (Format::CloudeventsJson, Some("application/cloudevents+json")),
        (Format::Raw, None),
    ] {
        let mut config = creating(&url, STREAM);
        config.format = format;
        let mut feed = Feed::new();
        feed.append_many(3).await;
        let ending = Delivery::start(&feed, config).finish(&feed).await;
        assert_eq!(ending.cursor.counts.delivered, 3);
        let all = stored(&url, STREAM).await;
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].message.subject, "neuroio.entries.5.3.new");
        assert_eq!(all[0].header("Nats-Msg-Id"), Some("main/1"));
        assert_eq!(all[0].header("content-type"), content_type);
        match format {
            Format::Cloudevents => {
                assert_eq!(all[1].header("ce-id"), Some("2"));
                assert_eq!(all[1].header("ce-type"), Some("com.neuroio.entry.new"));
                assert_eq!(all[1].header("ce-datacontenttype"), Some("application/json"));
                assert_eq!(all[1].body["pid"], "person-2");
            }
            Format::CloudeventsJson => assert_eq!(all[1].body["data"]["pid"], "person-2"),
            Format::Raw => assert_eq!(all[1].body["data"]["pid"], "person-2"),
        }
        jetstream::new(client(&url).await)
            .delete_stream(STREAM)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn created_stream_has_the_configured_settings() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    connect(creating(&url, STREAM)).await.unwrap();
    let context = jetstream::new(client(&url).await);
    let stream = context.get_stream(STREAM).await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!(config.subjects, ["neuroio.entries.*.*.*"]);
    assert_eq!(config.max_age, Duration::from_secs(3600));
    assert_eq!(config.duplicate_window, Duration::from_secs(120));
    assert_eq!(
        (config.num_replicas, config.storage),
        (1, stream::StorageType::File)
    );
    // The stream exists now, so the sink does not change its settings.
    let mut other = creating(&url, STREAM);
    other.stream.as_mut().unwrap().max_age = Some(Duration::from_secs(60));
    connect(other).await.unwrap();
    let stream = context.get_stream(STREAM).await.unwrap();
    assert_eq!(stream.cached_info().config.max_age, Duration::from_secs(3600));
}

#[tokio::test(flavor = "multi_thread")]
async fn nonexistent_stream_is_reported_as_missing() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    // A trial creates nothing, and reports what would be created.
    for _ in 0..2 {
        assert_eq!(
            tried(creating(&nats.url(), STREAM)).await.unwrap(),
            ["the stream \"ENTRIES\" does not exist; the bridge creates the stream when it starts"]
        );
    }
    let fault = connect(NatsConfig::new(nats.url(), STREAM)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing, "{fault}");
    assert!(
        fault.reason.contains("\"ENTRIES\"") && fault.reason.contains("create"),
        "{fault}"
    );

    // The stream has other subjects; and overlapping subjects of another stream prevent the creation of a stream.
    let context = jetstream::new(client(&nats.url()).await);
    let other = stream::Config {
        name: STREAM.into(),
        subjects: vec!["other.>".into()],
        ..stream::Config::default()
    };
    context.create_stream(other).await.unwrap();
    let fault = connect(NatsConfig::new(nats.url(), STREAM)).await.unwrap_err();
    assert!(
        fault.kind == FaultKind::Missing && fault.reason.contains("neuroio.entries.*.*.*"),
        "{fault}"
    );
    let mut config = creating(&nats.url(), "SECOND");
    config.subject = "other.{result}".parse().unwrap();
    let fault = connect(config).await.unwrap_err();
    assert!(fault.reason.contains("overlap"), "{fault}");

    // No stream stores the dead letters.
    context.create_stream(stream_of("THIRD")).await.unwrap();
    let mut config = NatsConfig::new(nats.url(), "THIRD");
    config.dead_letter = dead_letters("nobody.keeps.these");
    let fault = connect(config).await.unwrap_err();
    assert!(
        fault.kind == FaultKind::Missing && fault.reason.contains("dead letters"),
        "{fault}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_jetstream_is_named_in_the_error() {
    let Some(nats) = own_nats(super::core_mode::without_jetstream()) else {
        return;
    };
    let fault = connect(NatsConfig::new(nats.url(), STREAM)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing, "{fault}");
    assert!(
        fault.reason.contains("JetStream") && fault.reason.contains("disabled"),
        "{fault}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_server_is_unreachable() {
    let port = neurobridge_tests::ports::free_ports::<1>().unwrap()[0];
    let fault = connect(NatsConfig::new(format!("127.0.0.1:{port}"), STREAM))
        .await
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unreachable, "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn oversize_event_becomes_a_dead_letter() {
    let Some(nats) = own_nats(NatsOptions::default().config("max_payload: 8192")) else {
        return;
    };
    let url = nats.url();
    for order in [Order::Strict, Order::Relaxed] {
        let mut config = creating(&url, STREAM);
        config.order = Some(order);
        let mut feed = Feed::new();
        feed.append_many(10).await;
        feed.append("main", &large(11, 8192)).await;
        // The payload is within the limit, and exceeds it together with the headers.
        feed.append("main", &large(12, 8000)).await;
        feed.append_many(10).await;
        let delivery = Delivery::start(&feed, config.clone());
        delivery.until_settled(22).await;
        let dead_letters = delivery.dead_letters();
        let ending = delivery.finish(&feed).await;
        assert_eq!(
            (ending.cursor.counts.delivered, ending.cursor.counts.dead_lettered),
            (20, 2)
        );
        assert!(
            dead_letters[0].contains("too_large") && dead_letters[0].contains("max_payload"),
            "{}",
            dead_letters[0]
        );
        assert_eq!(stored(&url, STREAM).await.len(), 20);
        if order == Order::Strict {
            // Simulates a restart after a crash before the dead letters were stored. The rejected events must not
            // count as delivered although later events are stored.
            let delivery = Delivery::start(&feed, config);
            let ending = delivery.finish(&feed).await;
            assert_eq!(
                (ending.cursor.counts.delivered, ending.cursor.counts.dead_lettered),
                (20, 2)
            );
            assert_eq!(stored(&url, STREAM).await.len(), 20);
        }
        jetstream::new(client(&url).await)
            .delete_stream(STREAM)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_over_stream_limit_is_stripped_or_dead_lettered() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let context = jetstream::new(client(&url).await);
    let small = stream::Config {
        max_message_size: 2048,
        ..stream_of(STREAM)
    };
    context.create_stream(small).await.unwrap();
    let stream = stream::Config {
        name: "LETTERS".into(),
        subjects: vec!["dead.>".into()],
        ..stream::Config::default()
    };
    context.create_stream(stream).await.unwrap();
    for order in [Order::Strict, Order::Relaxed] {
        let mut config = NatsConfig::new(&url, STREAM);
        config.order = Some(order);
        config.oversize = OversizeAction::Strip;
        config.dead_letter = dead_letters("dead.letters");
        let mut feed = Feed::new();
        feed.append("main", &large(1, 4000)).await;
        feed.append("main", &frame(2)).await;
        feed.append("main", &large(3, 4000).replace("face_image", "no_picture"))
            .await;
        feed.append("main", &frame(4)).await;
        let ending = Delivery::start(&feed, config).finish(&feed).await;
        assert_eq!(
            (ending.cursor.counts.delivered, ending.cursor.counts.dead_lettered),
            (3, 1)
        );
        let all = stored(&url, STREAM).await;
        assert_eq!(all[0].header("ce-strippedfields"), Some("face_image"));
        assert!(all[0].body["face_image"].is_null());
        let dead_letters = stored(&url, "LETTERS").await;
        assert_eq!(dead_letters.len(), 1);
        assert_eq!(dead_letters[0].body["event"]["id"], 3);
        for name in [STREAM, "LETTERS"] {
            context.get_stream(name).await.unwrap().purge().await.unwrap();
        }
        // A new stream, in which the events published with the second order are not duplicates of the first ones.
        context.delete_stream(STREAM).await.unwrap();
        let small = stream::Config {
            max_message_size: 2048,
            ..stream_of(STREAM)
        };
        context.create_stream(small).await.unwrap();
    }
}

/// The sink must not publish later events: if they were stored, the rejected event would count as stored too when it is
/// published again.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_event_without_dead_letter_blocks_later_events() {
    let Some(nats) = own_nats(NatsOptions::default().config("max_payload: 8192")) else {
        return;
    };
    let url = nats.url();
    let context = jetstream::new(client(&url).await);
    let full = stream::Config {
        name: "LETTERS".into(),
        subjects: vec!["dead.>".into()],
        max_messages: 1,
        discard: stream::DiscardPolicy::New,
        ..stream::Config::default()
    };
    context.create_stream(full).await.unwrap();
    let published = context.publish("dead.other", "".into()).await.unwrap();
    published.await.unwrap();

    let mut config = creating(&url, STREAM);
    config.dead_letter = dead_letters("dead.letters");
    let mut feed = Feed::new();
    feed.append_many(10).await;
    feed.append("main", &large(11, 8192)).await;
    for id in 12..=20 {
        feed.append("main", &frame(id)).await;
    }
    let delivery = Delivery::start(&feed, config.clone());
    let down = delivery.until_down("\"dead.letters\"").await;
    assert!(
        down.reason.unwrap().contains("maximum messages"),
        "the reason must contain the server's error"
    );
    // The rejection of the dead letter may arrive before the acknowledgements of the events. The next connection then
    // detects that these events are stored.
    delivery.until_settled(10).await;
    delivery.until_down("\"dead.letters\"").await;
    let cursor = delivery.crash().await;
    assert_eq!(cursor.next.get(), 11);
    assert_eq!(stored(&url, STREAM).await.len(), 10);

    // Applies the advice in the reason: without the picture the event is small enough.
    config.oversize = OversizeAction::Strip;
    let ending = Delivery::resume(&feed, config, cursor).finish(&feed).await;
    assert_eq!(ending.cursor.counts.delivered, 20);
    assert_once_and_in_order(&stored(&url, STREAM).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn lowered_limit_dead_letters_only_oversize_events() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let context = jetstream::new(client(&url).await);
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, creating(&url, STREAM));
    feed.append_many(100).await;
    delivery.until_settled(100).await;
    let mut config = context
        .get_stream(STREAM)
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.max_message_size = 1500;
    context.update_stream(config).await.unwrap();
    feed.append("main", &large(101, 4000)).await;
    feed.append_many(100).await;
    delivery.until_settled(201).await;
    assert_eq!(delivery.dead_letters().len(), 1);
    let ending = delivery.finish(&feed).await;
    assert_eq!(ending.cursor.counts.dead_lettered, 1);
    let ids: Vec<_> = stored(&url, STREAM)
        .await
        .iter()
        .map(|stored| stored.body["id"].as_u64().unwrap())
        .collect();
    let expected: Vec<_> = (1..=201).filter(|id| *id != 101).collect();
    assert_eq!(ids, expected);
}

/// Creates a stream, and repeats the request while the server still removes the files of a deleted stream with the same name.
async fn create_again(context: &jetstream::Context, config: stream::Config) {
    let mut patience = Patience::new("the stream to be created", Duration::from_secs(30));
    loop {
        match context.create_stream(config.clone()).await {
            Ok(_) => return,
            Err(error) => patience.check().unwrap_or_else(|late| panic!("{late}: {error}")),
        }
        // The server does not report when it has removed the files, so only another attempt shows it.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_while_the_stream_is_full() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let context = jetstream::new(client(&url).await);
    for order in [Order::Strict, Order::Relaxed] {
        let full = stream::Config {
            max_messages: 50,
            discard: stream::DiscardPolicy::New,
            ..stream_of(STREAM)
        };
        create_again(&context, full.clone()).await;
        let mut config = NatsConfig::new(&url, STREAM);
        config.order = Some(order);
        let mut feed = Feed::new();
        feed.append_many(200).await;
        let delivery = Delivery::start(&feed, config);
        let down = delivery.until_down("full").await;
        assert!(down.cursor.counts.settled() <= 50, "{down:?}");
        let roomy = stream::Config {
            max_messages: -1,
            ..full
        };
        context.update_stream(roomy).await.unwrap();
        delivery.finish(&feed).await;
        let all = stored(&url, STREAM).await;
        assert_complete(&all, 200);
        assert_eq!(all.len(), 200);
        if order == Order::Strict {
            assert_once_and_in_order(&all, 200);
        }
        context.delete_stream(STREAM).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_while_the_stream_is_deleted() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let context = jetstream::new(client(&url).await);
    for order in [Order::Strict, Order::Relaxed] {
        create_again(&context, stream_of(STREAM)).await;
        let mut config = NatsConfig::new(&url, STREAM);
        config.order = Some(order);
        let mut feed = Feed::new();
        let delivery = Delivery::start(&feed, config);
        feed.append_many(100).await;
        delivery.until_settled(100).await;
        context.delete_stream(STREAM).await.unwrap();
        feed.append_many(100).await;
        let down = delivery.until_down("does not exist").await;
        assert_eq!(down.cursor.counts.settled(), 100);
        context.create_stream(stream_of(STREAM)).await.unwrap();
        delivery.finish(&feed).await;
        super::support::assert_run(&stored(&url, STREAM).await, 101, 200);
        context.delete_stream(STREAM).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_idle_connection_is_detected() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, creating(&url, STREAM));
    feed.append_many(100).await;
    delivery.until_settled(100).await;
    blocking(|| nats.kill().unwrap());
    delivery
        .until("the sink to report the fault", |snapshot| {
            snapshot.reason.is_some()
        })
        .await;
    blocking(|| nats.start_again().unwrap());
    delivery
        .until("the sink to recover", |snapshot| snapshot.state == SinkState::Up)
        .await;
    feed.append_many(100).await;
    let ending = delivery.finish(&feed).await;
    assert_eq!(ending.resent, 0);
    assert_once_and_in_order(&stored(&url, STREAM).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_faults_lose_no_event_in_relaxed_order() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut config = creating(&url, STREAM);
    config.order = Some(Order::Relaxed);
    config.ack_timeout = Duration::from_secs(2);
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, config);
    for round in 0..3 {
        feed.append_over(Duration::from_secs(1), 3000).await;
        blocking(|| match round {
            0 => nats.kill().unwrap(),
            1 => nats.freeze().unwrap(),
            _ => nats.stop().unwrap(),
        });
        let before = delivery.faults();
        feed.append_until("the sink to report the fault", 500, || delivery.faults() > before)
            .await;
        blocking(|| match round {
            1 => nats.thaw().unwrap(),
            _ => nats.start_again().unwrap(),
        });
    }
    delivery.finish(&feed).await;
    let all = stored(&url, STREAM).await;
    assert_complete(&all, feed.appended());
    // Within the duplicate window, no event is stored twice either.
    assert_eq!(all.len() as u64, feed.appended());
}

fn dead_letters(subject: &str) -> Option<DeadLetterConfig> {
    Some(DeadLetterConfig {
        subject: Some(subject.into()),
        path: None,
    })
}

fn large(id: u64, size: usize) -> String {
    format!(
        r#"{{"id":{id},"data":{{"id":{id},"result":"new","face_image":"{}"}}}}"#,
        "A".repeat(size)
    )
}

#[test]
fn stream_is_not_created_by_default() {
    assert!(!StreamConfig::new(STREAM).create);
}
