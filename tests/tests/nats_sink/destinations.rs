//! Events whose subject no stream and no server accepts.

use async_nats::jetstream::{self, stream};
use neurobridge_core::sink::FaultKind;
use neurobridge_sink_nats::{MissingStream, NatsConfig, Order};
use neurobridge_tests::{nats::NatsOptions, shared::own_nats};

use super::support::{
    Delivery, Feed, assert_once_and_in_order, client, connect, creating, frame, stored, stream_of,
};

const STREAM: &str = "ENTRIES";
const JUNK: &str = "neuroio.entries.5.3.junk";

/// Returns eleven events, of which the sixth has a different subject.
async fn feed_with_one_other_subject() -> Feed {
    let mut feed = Feed::new();
    feed.append_many(5).await;
    feed.append("main", &frame(6).replace("\"new\"", "\"junk\""))
        .await;
    feed.append_many(5).await;
    feed
}

fn only_new() -> stream::Config {
    stream::Config {
        subjects: vec!["neuroio.entries.*.*.new".into()],
        ..stream_of(STREAM)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subject_outside_the_stream_becomes_a_dead_letter() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let context = jetstream::new(client(&url).await);
    for order in [Order::Strict, Order::Relaxed] {
        context.create_stream(only_new()).await.unwrap();
        let mut config = NatsConfig::new(&url, STREAM);
        config.order = Some(order);
        config.missing_stream = MissingStream::DeadLetter;
        let feed = feed_with_one_other_subject().await;
        let delivery = Delivery::start(&feed, config);
        delivery.until_settled(11).await;
        let dead_letters = delivery.dead_letters();
        let ending = delivery.finish(&feed).await;
        let counts = ending.cursor.counts;
        assert_eq!((counts.delivered, counts.dead_lettered), (10, 1));
        assert_eq!(ending.faults.total(), 0);
        assert!(
            dead_letters[0].contains("unroutable")
                && dead_letters[0].contains(JUNK)
                && dead_letters[0].contains("event 6"),
            "{dead_letters:?}"
        );
        context.delete_stream(STREAM).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_with_a_subject_outside_the_stream_waits() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let context = jetstream::new(client(&url).await);
    for order in [Order::Strict, Order::Relaxed] {
        context.create_stream(only_new()).await.unwrap();
        let mut config = NatsConfig::new(&url, STREAM);
        config.order = Some(order);
        let feed = feed_with_one_other_subject().await;
        let delivery = Delivery::start(&feed, config);
        let reason = delivery.until_down(JUNK).await.reason.unwrap();
        assert!(
            reason.contains("event 6") && reason.contains("missing_stream") && reason.contains(STREAM),
            "{reason}"
        );
        // Earlier events do not wait for the event with the other subject.
        assert_eq!(delivery.until_settled(5).await.cursor.counts.delivered, 5);
        context.update_stream(stream_of(STREAM)).await.unwrap();
        let ending = delivery.finish(&feed).await;
        assert_eq!(ending.cursor.counts.delivered, 11);
        assert_once_and_in_order(&stored(&url, STREAM).await, 11);
        context.delete_stream(STREAM).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subject_too_long_for_the_server_is_a_dead_letter() {
    let Some(nats) = own_nats(NatsOptions::default().config("max_control_line: 512")) else {
        return;
    };
    let url = nats.url();
    let mut feed = Feed::new();
    feed.append_many(20).await;
    for (id, length) in [(21, 600), (22, 900), (23, 700), (24, 2000)] {
        let long = format!("\"{}\"", "x".repeat(length));
        feed.append("main", &frame(id).replace("\"new\"", &long)).await;
    }
    feed.append_many(20).await;
    let delivery = Delivery::start(&feed, creating(&url, STREAM));
    delivery.until_settled(44).await;
    let dead_letters = delivery.dead_letters();
    let ending = delivery.finish(&feed).await;
    let counts = ending.cursor.counts;
    assert_eq!((counts.delivered, counts.dead_lettered), (40, 4));
    assert!(
        dead_letters
            .iter()
            .all(|dead_letter| dead_letter.contains("unroutable")),
        "{dead_letters:?}"
    );
    assert_eq!(stored(&url, STREAM).await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_subject_is_a_dead_letter() {
    let Some(nats) = own_nats(super::core_mode::without_jetstream()) else {
        return;
    };
    let mut config = NatsConfig::new(nats.url(), "");
    config.mode = neurobridge_sink_nats::Mode::Core;
    config.stream = None;
    config.subject = "{feed}.{result}".parse().unwrap();
    let mut feed = Feed::new();
    feed.append("_INBOX", &frame(1)).await;
    feed.append("main", &frame(2)).await;
    let ending = Delivery::start(&feed, config).finish(&feed).await;
    let counts = ending.cursor.counts;
    assert_eq!((counts.delivered, counts.dead_lettered), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn reason_for_a_mirror_does_not_advise_to_add_subjects() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let context = jetstream::new(client(&nats.url()).await);
    context.create_stream(stream_of("ORIGIN")).await.unwrap();
    let mirror = stream::Config {
        name: STREAM.into(),
        mirror: Some(stream::Source {
            name: "ORIGIN".into(),
            ..stream::Source::default()
        }),
        ..stream::Config::default()
    };
    context.create_stream(mirror).await.unwrap();
    let fault = connect(NatsConfig::new(nats.url(), STREAM)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Missing);
    assert!(
        fault.reason.contains("is a mirror of \"ORIGIN\"") && !fault.reason.contains("add it"),
        "{fault}"
    );
}
