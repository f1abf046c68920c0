//! Strict order: the chain of message ids alone ensures that each event is stored once and in order.

mod replicas;

use std::time::Duration;

use async_nats::jetstream;
use neurobridge_core::{
    epoch::{Epoch, Epochs},
    event::Sequence,
    reader::Cursor,
    sink_config::Format,
};
use neurobridge_sink_nats::{NatsConfig, Order};
use neurobridge_tests::{
    nats::{NatsCluster, NatsInstallation, NatsOptions},
    shared::{own_nats, report_skipped, skipped_by_name, with_own_nats},
};
use tokio::time::sleep;

use super::support::{
    Delivery, Feed, Stored, assert_once_and_in_order, assert_run, blocking, client, creating, eventually,
    stored, stream_of,
};

const STREAM: &str = "ENTRIES";
/// The shortest duplicate window that a server accepts, so that events are resent after the end of the window.
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);

/// Waits until the server has removed all ids from its duplicate window. A duplicate window ends only by time, and
/// the server does not report the end.
async fn past_the_window() {
    sleep(SHORTEST_WINDOW * 3).await;
}

fn strict(url: &str) -> NatsConfig {
    let mut config = creating(url, STREAM);
    config.stream.as_mut().unwrap().duplicate_window = Some(SHORTEST_WINDOW);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn server_restarts_keep_every_event_once_and_in_order() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    assert_server_faults_are_survived(&mut nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_server_keeps_the_order() {
    if skipped_by_name("old-nats") {
        return;
    }
    // Skipped where the distribution's server is missing: strict order relies on rules of the server, and the test
    // above verifies them for the current server.
    let Some(old) = NatsInstallation::of_distribution() else {
        return report_skipped(
            "the distribution's nats-server is missing; install it with `apt-get install nats-server`",
        );
    };
    let mut options = NatsOptions::default();
    options.binary = Some(old.binary);
    let Some(mut nats) = own_nats(options) else { return };
    assert_server_faults_are_survived(&mut nats).await;
}

/// Kills, stops and freezes the server while events are published. Checks that each event is stored once and in order.
async fn assert_server_faults_are_survived(nats: &mut neurobridge_tests::nats::Nats) {
    let url = nats.url();
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, strict(&url));
    for round in 0..4 {
        feed.append_over(Duration::from_secs(1), 3000).await;
        blocking(|| match round {
            0 | 2 => nats.kill().unwrap(),
            1 => nats.stop().unwrap(),
            _ => nats.freeze().unwrap(),
        });
        let before = delivery.faults();
        feed.append_until("the sink to report the fault", 1000, || {
            delivery.faults() > before
        })
        .await;
        blocking(|| match round {
            3 => nats.thaw().unwrap(),
            _ => nats.start_again().unwrap(),
        });
    }
    feed.append_over(Duration::from_secs(1), 3000).await;
    let ending = delivery.finish(&feed).await;
    assert!(ending.faults.total() >= 4, "{ending:?}");
    assert_once_and_in_order(&stored(&url, STREAM).await, feed.appended());
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_beyond_the_window_stores_no_event_twice() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    for format in [Format::Cloudevents, Format::Raw] {
        let mut config = strict(&url);
        config.format = format;
        let mut feed = Feed::new();
        let mut cursor = Cursor::starting_at(Sequence::FIRST);
        for round in 0..5 {
            feed.append_many(3000).await;
            let delivery = Delivery::resume(&feed, config.clone(), cursor.clone());
            delivery.until_settled(round * 2000 + 500).await;
            let committed = delivery.crash().await;
            // Every second crash discards the newest cursor, because a cursor on a disk may be older than the last
            // acknowledgement.
            if round % 2 == 0 {
                cursor = committed;
            }
            past_the_window().await;
        }
        let delivery = Delivery::resume(&feed, config, cursor);
        delivery.finish(&feed).await;
        let context = jetstream::new(client(&url).await);
        let all = stored(&url, STREAM).await;
        if format == Format::Cloudevents {
            assert_once_and_in_order(&all, feed.appended());
        } else {
            assert_eq!(all.len() as u64, feed.appended());
        }
        context.delete_stream(STREAM).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_beyond_the_window_stores_no_event_twice() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, strict(&url));
    feed.append_over(Duration::from_secs(1), 3000).await;
    for _ in 0..3 {
        feed.append_many(4000).await;
        // During publishing: some events are stored and not acknowledged.
        delivery.until_settled(feed.appended() - 3500).await;
        blocking(|| nats.kill().unwrap());
        past_the_window().await;
        blocking(|| nats.start_again().unwrap());
        delivery.until_settled(feed.appended()).await;
    }
    delivery.finish(&feed).await;
    assert_once_and_in_order(&stored(&url, STREAM).await, feed.appended());
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_lose_no_event() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, strict(&url));
    publish_foreign_messages(&mut feed, &delivery, &url).await;
    let ending = delivery.finish(&feed).await;
    assert!(ending.resent > 0, "no message was refused: {ending:?}");
    assert_eq!(ending.faults.total(), 0, "the sink has reconnected: {ending:?}");
    assert_once_and_in_order(&stored(&url, STREAM).await, feed.appended());
}

/// Publishes messages of another client to the stream, with and without ids, while events are published.
async fn publish_foreign_messages(feed: &mut Feed, delivery: &Delivery, url: &str) {
    feed.append_over(Duration::from_millis(200), 1000).await;
    delivery.until_settled(1).await;
    let other = jetstream::new(client(url).await);
    for number in 0..4 {
        let mut headers = async_nats::HeaderMap::new();
        if number % 2 == 0 {
            headers.insert("Nats-Msg-Id", format!("foreign/{number}"));
        }
        for _ in 0..=number {
            let subject = "neuroio.entries.other.other.other";
            // Replicas may have no leader for a moment, and then no server answers.
            eventually("a message of another client to be stored", async || {
                let answer = other
                    .publish_with_headers(subject, headers.clone(), "{}".into())
                    .await;
                answer.unwrap().await.ok()
            })
            .await;
        }
        feed.append_over(Duration::from_millis(500), 3000).await;
    }
}

/// Appends events, and repeats an earlier event after each twentieth one.
async fn append_with_duplicates(feed: &mut Feed, count: u64) {
    for id in 1..=count {
        feed.append("main", &super::support::frame(id)).await;
        if id % 20 == 0 {
            feed.append("main", &super::support::frame(id - 10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_continue_the_chain() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut feed = Feed::new();
    append_with_duplicates(&mut feed, 2000).await;
    let ending = Delivery::start(&feed, creating(&url, STREAM)).finish(&feed).await;
    assert_eq!(
        (ending.cursor.counts.delivered, ending.cursor.counts.duplicate),
        (2000, 100)
    );
    assert_eq!(ending.faults.total(), 0, "the sink has reconnected: {ending:?}");
    assert_once_and_in_order(&stored(&url, STREAM).await, 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_freezes_keep_every_event_once_and_in_order() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, strict(&url));
    for round in 0..6 {
        blocking(|| nats.freeze().unwrap());
        if round % 2 == 0 {
            feed.append_over(Duration::from_millis(500), 1000).await;
        } else {
            // Longer than the acknowledgement timeout.
            let before = delivery.faults();
            feed.append_until("the sink to report the fault", 1000, || {
                delivery.faults() > before
            })
            .await;
        }
        blocking(|| nats.thaw().unwrap());
        feed.append_over(Duration::from_millis(100), 1000).await;
    }
    delivery.finish(&feed).await;
    assert_once_and_in_order(&stored(&url, STREAM).await, feed.appended());
}

#[tokio::test(flavor = "multi_thread")]
async fn own_message_is_found_before_foreign_messages() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut feed = Feed::new();
    feed.append_many(500).await;
    let delivery = Delivery::start(&feed, strict(&url));
    delivery.finish(&feed).await;
    let other = client(&url).await;
    let context = jetstream::new(other);
    for _ in 0..20 {
        context
            .publish("neuroio.entries.a.b.c", "{}".into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    past_the_window().await;
    feed.append_many(500).await;
    // This delivery starts with a new cursor, as if no event had been acknowledged.
    let delivery = Delivery::start(&feed, strict(&url));
    delivery.finish(&feed).await;
    assert_once_and_in_order(&stored(&url, STREAM).await, feed.appended());
}

/// A power cut removes the end of a log that is not always synced, and the log assigns the lost sequences to other
/// events. The stream contains the earlier events with these sequences, so the other events must not count as
/// delivered.
#[tokio::test(flavor = "multi_thread")]
async fn reused_sequences_do_not_count_as_delivered() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut before = Feed::new();
    before.append_many(100).await;
    let log = before.spool.id();
    Delivery::start(&before, strict(&url)).finish(&before).await;
    past_the_window().await;

    // Simulates a power cut: the log ended at sequence 70, and the sequences from 71 on belong to other events. A
    // message names only the current epoch, so no message names epoch 1, in which the events 71 to 75 were stored.
    let mut after = Feed::new();
    after.append_many(70).await;
    for id in 1001..=1025 {
        after.append("main", &super::support::frame(id)).await;
    }
    let first = Cursor::starting_at(Sequence::FIRST);
    let epochs = Epochs::default()
        .with(Epoch(1), Sequence::new(71).unwrap())
        .with(Epoch(2), Sequence::new(76).unwrap());
    let delivery = Delivery::resume_log(&after, strict(&url), first, log, epochs);
    delivery.until_settled(after.appended()).await;
    // A second connection of the same epoch, with events of this epoch in the stream.
    blocking(|| {
        nats.kill().unwrap();
        nats.start_again().unwrap();
    });
    for id in 1026..=1050 {
        after.append("main", &super::support::frame(id)).await;
    }
    let ending = delivery.finish(&after).await;
    assert_eq!(ending.cursor.counts.delivered, 120);
    let ids: Vec<u64> = stored(&url, STREAM).await.iter().filter_map(Stored::id).collect();
    assert_eq!(ids, (1..=100).chain(1001..=1050).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_under_load_removes_only_earlier_messages() {
    let Some(mut nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, strict(&url));
    feed.append_over(Duration::from_secs(1), 3000).await;
    delivery.until_settled(1000).await;
    let context = jetstream::new(client(&url).await);
    context.get_stream(STREAM).await.unwrap().purge().await.unwrap();
    feed.append_over(Duration::from_secs(1), 3000).await;
    delivery.until_settled(feed.appended()).await;
    // An empty stream on a server that has lost the last message id in a restart.
    context.get_stream(STREAM).await.unwrap().purge().await.unwrap();
    blocking(|| {
        nats.kill().unwrap();
        nats.start_again().unwrap();
    });
    let before = feed.appended();
    feed.append_over(Duration::from_secs(1), 3000).await;
    delivery.finish(&feed).await;
    assert_run(&stored(&url, STREAM).await, before + 1, feed.appended());
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_ids_of_two_sources_are_both_stored() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let mut feed = Feed::new();
    for id in 1..=200 {
        for source in ["door", "gate"] {
            feed.append(source, &super::support::frame(id)).await;
        }
    }
    let delivery = Delivery::start(&feed, strict(&url));
    delivery.finish(&feed).await;
    let all = stored(&url, STREAM).await;
    assert_eq!(all.len(), 400);
    assert_eq!(all[0].header("Nats-Msg-Id"), Some("door/1"));
    assert_eq!(all[1].header("Nats-Msg-Id"), Some("gate/1"));
    assert_eq!(all[1].header("ce-source"), Some("/neuroio/gate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn change_from_relaxed_to_strict_loses_no_event() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    jetstream::new(client(&url).await)
        .create_stream(stream_of(STREAM))
        .await
        .unwrap();
    let mut feed = Feed::new();
    feed.append_many(1000).await;
    // Simulates that the events 1 to 499 were lost in transit, and that the events from 500 on were stored.
    let mut cursor = Cursor::starting_at(Sequence::FIRST);
    cursor.first = Sequence::new(500).unwrap();
    cursor.next = cursor.first;
    let relaxed = NatsConfig::new(&url, STREAM);
    let delivery = Delivery::resume(&feed, relaxed.clone(), cursor);
    delivery.until_settled(501).await;
    delivery.crash().await;
    let mut strict = relaxed;
    strict.order = Some(Order::Strict);
    let delivery = Delivery::start(&feed, strict);
    delivery.finish(&feed).await;
    let all = stored(&url, STREAM).await;
    super::support::assert_complete(&all, 1000);
    assert_eq!(all.len(), 1000);
}
