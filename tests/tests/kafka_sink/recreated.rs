//! A topic that is deleted and created again while the sink runs.

use neurobridge_sink_kafka::{Delivery as Guarantee, KafkaConfig};
use neurobridge_tests::{kafka::admin::KafkaAdmin, shared::kafka_bootstrap};

use super::support::{Delivery, blocking, records, topic};

#[tokio::test(flavor = "multi_thread")]
async fn recreated_topic_is_reported_once() {
    let Some(bootstrap) = blocking(kafka_bootstrap).await else {
        return;
    };
    for guarantee in [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce] {
        let topic = topic("again");
        let admin = KafkaAdmin::new(&bootstrap).unwrap();
        admin.create_topic(&topic, 3, &[]).unwrap();
        let mut config = KafkaConfig::new(&bootstrap);
        config.topic = topic.parse().unwrap();
        config.delivery = guarantee;
        (config.create, config.partitions, config.replicas) = (true, Some(3), Some(1));
        let mut delivery = Delivery::start(config);
        delivery.append_many(300).await;
        assert_eq!(delivery.until_settled().await.recreations.count, 0);
        blocking({
            let topic = topic.clone();
            move || admin.delete_topic(&topic).unwrap()
        })
        .await;
        delivery.append_many(100).await;
        let noticed = delivery
            .until("the report", |snapshot| snapshot.recreations.count > 0)
            .await;
        let last = noticed.recreations.last.unwrap();
        assert!(
            last.contains(&format!("the topic \"{topic}\" was recreated"))
                && last.contains("replay --sink kafka"),
            "{last}"
        );
        let ending = delivery.finish().await;
        assert_eq!(ending.snapshot.recreations.count, 1, "{guarantee:?}");
        assert!(records(&bootstrap, &topic).await.len() >= 100);
    }
}
