//! The NATS sink without JetStream: an event counts as delivered after the server has accepted it.

use std::time::Duration;

use futures_util::StreamExt;
use neurobridge_core::sink::FaultKind;
use neurobridge_sink_nats::{Mode, NatsConfig};
use neurobridge_tests::{nats::NatsOptions, poll::within, shared::own_nats};

use super::support::{Delivery, Feed, LIMIT, blocking, client};

fn core(url: &str) -> NatsConfig {
    let mut config = NatsConfig::new(url, "");
    config.mode = Mode::Core;
    config.stream = None;
    config
}

pub(crate) fn without_jetstream() -> NatsOptions {
    let mut options = NatsOptions::default();
    options.jetstream = false;
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriber_receives_all_events_in_order() {
    let Some(nats) = own_nats(without_jetstream()) else {
        return;
    };
    let listener = client(&nats.url()).await;
    let mut messages = listener.subscribe("neuroio.>").await.unwrap();
    // The server handles the commands of a connection in order: when it has answered this request with the error that
    // nobody responds, the subscription exists.
    assert!(listener.request("nobody.answers", "".into()).await.is_err());
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, core(&nats.url()));
    feed.append_over(Duration::from_secs(1), 10_000).await;
    let ending = delivery.finish(&feed).await;
    assert_eq!(ending.cursor.counts.delivered, feed.appended());
    for id in 1..=feed.appended() {
        let message = within("the next message", LIMIT, messages.next())
            .await
            .unwrap()
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(body["id"], id);
        assert!(message.headers.unwrap().get("Nats-Msg-Id").is_none());
    }
}

/// An echo is a message to the sink itself, which the server returns after it has processed all earlier messages. A
/// second echo takes a round trip, and is needed only after a possible refusal.
#[tokio::test(flavor = "multi_thread")]
async fn one_echo_confirms_a_batch() {
    let Some(nats) = own_nats(without_jetstream()) else {
        return;
    };
    let listener = client(&nats.url()).await;
    let mut messages = listener.subscribe(">").await.unwrap();
    // The answer shows that the subscription exists.
    assert!(listener.request("nobody.answers", "".into()).await.is_err());
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, core(&nats.url()));
    for count in 1..=50 {
        feed.append_many(1).await;
        delivery.until_settled(count).await;
    }
    let (mut events, mut echoes) = (0, 0);
    while events < 50 || echoes < 50 {
        let message = within("the next message", LIMIT, messages.next())
            .await
            .unwrap()
            .unwrap();
        events += u64::from(message.subject.starts_with("neuroio."));
        echoes += u64::from(message.subject.starts_with("_INBOX.") && &message.payload[..] == b"1");
    }
    assert_eq!((events, echoes), (50, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_not_accepted_by_the_server_are_resent() {
    let Some(mut nats) = own_nats(without_jetstream()) else {
        return;
    };
    let url = nats.url();
    let mut config = core(&url);
    config.ack_timeout = Duration::from_secs(1);
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, config);
    feed.append_many(1000).await;
    delivery.until_settled(1000).await;
    blocking(|| nats.freeze().unwrap());
    feed.append_many(1000).await;
    let down = delivery.until_down("no acknowledgement").await;
    assert_eq!(down.cursor.counts.settled(), 1000);
    blocking(|| nats.kill().unwrap());
    blocking(|| nats.start_again().unwrap());
    let ending = delivery.finish(&feed).await;
    assert_eq!(ending.cursor.counts.delivered, 2000);
    assert!(ending.resent >= 1000, "{ending:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn event_on_a_denied_subject_is_not_delivered() {
    let options = without_jetstream().config(
        "authorization { users: [ { user: u, password: p, permissions: { publish: { deny: \"neuroio.entries.5.3.junk\" } } } ] }",
    );
    let Some(nats) = own_nats(options) else { return };
    let mut config = core(&nats.url());
    config.auth = Some(super::security::password("u", "p"));
    let mut feed = Feed::new();
    feed.append_many(10).await;
    let delivery = Delivery::start(&feed, config);
    delivery.until_settled(10).await;
    feed.append("main", &super::support::frame(11).replace("\"new\"", "\"junk\""))
        .await;
    let down = delivery.until_down("Permissions Violation").await;
    assert_eq!(down.cursor.counts.settled(), 10);
    assert!(down.faults.get(FaultKind::Unauthorised) > 0, "{down:?}");
}
