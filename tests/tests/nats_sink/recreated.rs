//! A stream that is deleted and created again while the sink is connected and idle.

use async_nats::jetstream;
use neurobridge_sink_nats::{NatsConfig, Order};
use neurobridge_tests::{nats::NatsOptions, shared::own_nats};

use super::support::{Delivery, Feed, client, stored, stream_of};

const STREAM: &str = "ENTRIES";

#[tokio::test(flavor = "multi_thread")]
async fn stream_recreated_while_the_sink_is_idle_is_reported() {
    let Some(nats) = own_nats(NatsOptions::default()) else {
        return;
    };
    let url = nats.url();
    let context = jetstream::new(client(&url).await);
    for order in [Order::Strict, Order::Relaxed] {
        context.create_stream(stream_of(STREAM)).await.unwrap();
        let mut config = NatsConfig::new(&url, STREAM);
        config.order = Some(order);
        let mut feed = Feed::new();
        feed.append_many(20).await;
        let delivery = Delivery::start(&feed, config);
        delivery.until_settled(20).await;
        // A purge preserves the stream and its sequence numbers.
        context.get_stream(STREAM).await.unwrap().purge().await.unwrap();
        feed.append_many(5).await;
        assert_eq!(delivery.until_settled(25).await.recreations.count, 0);
        context.delete_stream(STREAM).await.unwrap();
        context.create_stream(stream_of(STREAM)).await.unwrap();
        feed.append_many(10).await;
        let noticed = delivery
            .until("the report", |snapshot| snapshot.recreations.count > 0)
            .await;
        let last = noticed.recreations.last.unwrap();
        assert!(
            last.contains("the stream \"ENTRIES\" was recreated") && last.contains("replay --sink"),
            "{last}"
        );
        let ending = delivery.finish(&feed).await;
        assert_eq!(ending.recreations.count, 1, "{order:?}");
        assert_eq!(stored(&url, STREAM).await.len(), 10);
        context.delete_stream(STREAM).await.unwrap();
    }
}
