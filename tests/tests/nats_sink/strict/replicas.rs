//! Strict order in streams of several replicas.

use super::super::support::assert_complete;
use super::*;

/// Returns the configuration of a sink whose stream has a replica on each of these three servers.
fn replicated(mut config: NatsConfig, servers: &[String]) -> NatsConfig {
    config.servers = servers.to_vec();
    config.stream.as_mut().unwrap().replicas = Some(3);
    config
}

/// In a replicated stream another client's message can take the position that a message in flight expects.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_in_replicated_stream_lose_no_event() {
    let Some(cluster) = with_own_nats(|| NatsCluster::start(&NatsOptions::default())) else {
        return;
    };
    let cluster = cluster.unwrap();
    let urls = cluster.urls();
    let config = replicated(strict(&urls[0]), &urls);
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, config);
    publish_foreign_messages(&mut feed, &delivery, &urls[0]).await;
    let ending = delivery.finish(&feed).await;
    assert!(ending.resent > 0, "no message was refused: {ending:?}");
    for url in &urls {
        let all = stored(url, STREAM).await;
        assert_complete(&all, feed.appended());
        let ours = all.iter().filter(|message| message.id().is_some());
        assert_eq!(ours.count() as u64, feed.appended(), "an event is stored twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_among_replicas_continue_the_chain() {
    let Some(cluster) = with_own_nats(|| NatsCluster::start(&NatsOptions::default())) else {
        return;
    };
    let cluster = cluster.unwrap();
    let urls = cluster.urls();
    let config = replicated(creating(&urls[0], STREAM), &urls);
    let mut feed = Feed::new();
    append_with_duplicates(&mut feed, 1000).await;
    let ending = Delivery::start(&feed, config).finish(&feed).await;
    assert_eq!(ending.cursor.counts.settled(), 1050);
    let all = stored(&urls[0], STREAM).await;
    assert_once_and_in_order(&all, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_or_frozen_leader_loses_no_event() {
    let Some(cluster) = with_own_nats(|| NatsCluster::start(&NatsOptions::default())) else {
        return;
    };
    let mut cluster = cluster.unwrap();
    let urls = cluster.urls();
    let config = replicated(strict(&urls[0]), &urls);
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, config);
    feed.append_over(Duration::from_secs(2), 2000).await;
    delivery.until_settled(1000).await;
    for round in 0..3 {
        let leader = leader(&urls).await;
        let server = cluster.server(&leader).unwrap();
        blocking(|| match round {
            1 => server.freeze().unwrap(),
            _ => server.kill().unwrap(),
        });
        let before = feed.appended();
        feed.append_until("events to be stored without the leader", 1000, || {
            delivery.now().cursor.counts.settled() > before
        })
        .await;
        blocking(|| match round {
            1 => server.thaw().unwrap(),
            _ => server.start_again().unwrap(),
        });
        delivery.until_settled(feed.appended()).await;
    }
    delivery.finish(&feed).await;
    for url in &urls {
        assert_once_and_in_order(&stored(url, STREAM).await, feed.appended());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn elections_and_lost_majority_lose_no_event() {
    let Some(cluster) = with_own_nats(|| NatsCluster::start(&NatsOptions::default())) else {
        return;
    };
    let mut cluster = cluster.unwrap();
    let urls = cluster.urls();
    let config = replicated(strict(&urls[0]), &urls);
    let mut feed = Feed::new();
    let delivery = Delivery::start(&feed, config);
    feed.append_until("the first events", 2000, || {
        delivery.now().cursor.counts.settled() > 1000
    })
    .await;
    let other = client(&urls.join(",")).await;
    for _ in 0..3 {
        let before = leader(&urls).await;
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{STREAM}");
        // There is no answer during another election.
        eventually("the leader to step down", async || {
            let answer = other.request(subject.clone(), "".into()).await.ok()?;
            String::from_utf8_lossy(&answer.payload)
                .contains("\"success\":true")
                .then_some(())
        })
        .await;
        feed.append_over(Duration::from_secs(1), 2000).await;
        delivery.until_settled(feed.appended()).await;
        eventually("another leader", async || {
            (leader(&urls).await != before).then_some(())
        })
        .await;
    }

    let [first, second, _] = cluster.servers() else {
        panic!("not three servers")
    };
    blocking(|| {
        first.kill().unwrap();
        second.kill().unwrap();
    });
    let (settled, faults) = (feed.appended(), delivery.faults());
    feed.append_until("the sink to report the fault", 1000, || {
        delivery.faults() > faults + 1
    })
    .await;
    let down = delivery.now();
    // Messages stored by two of the three servers when they were killed may still be acknowledged.
    assert_eq!(down.cursor.counts.dead_lettered, 0, "{down:?}");
    assert!(down.cursor.counts.settled() <= settled + 100, "{down:?}");
    blocking(|| {
        // Neither of the two servers is healthy before it has contacted another one.
        first.start_again().unwrap();
        second.start_again().unwrap();
    });
    delivery.finish(&feed).await;
    for url in &urls {
        assert_once_and_in_order(&stored(url, STREAM).await, feed.appended());
    }
}

/// Returns the name of the server that leads the stream.
async fn leader(urls: &[String]) -> String {
    let context = jetstream::new(client(&urls.join(",")).await);
    eventually("a leader of the stream", async || {
        let stream = context.get_stream(STREAM).await.ok()?;
        stream.cached_info().cluster.as_ref()?.leader.clone()
    })
    .await
}
