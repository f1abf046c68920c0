//! A cluster in which only some brokers are reachable at their advertised addresses.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use neurobridge_core::{delivery::SinkState, sink::FaultKind};
use neurobridge_sink_kafka::KafkaConfig;
use neurobridge_tests::{
    kafka::{KafkaOptions, cluster::KafkaCluster},
    paths::Scratch,
    poll::wait_until,
    program::neurobridge,
    shared::with_own_kafka,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};

use super::support::{
    Delivery, LIMIT, advertise, assert_complete_and_in_order, blocking, closed_address, records, topic, tried,
};

const EVENTS: u64 = 100;
/// The number of events of the persons whose partition broker 2 leads.
const LATE: u64 = 42;

/// Creates a topic without replicas, with one partition for each of these brokers.
async fn create(bootstrap: &str, topic: &str, leaders: &[&[i32]]) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .unwrap();
    let partitions = i32::try_from(leaders.len()).unwrap();
    let topic = NewTopic::new(topic, partitions, TopicReplication::Variable(leaders));
    for result in admin.create_topics([&topic], &AdminOptions::new()).await.unwrap() {
        result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_unreachable_leaders_are_named_others_get_events() {
    let options = KafkaOptions {
        heap_mib: 256,
        ..KafkaOptions::default()
    };
    let Some(cluster) = blocking(move || with_own_kafka(|| KafkaCluster::start(&options))).await else {
        return;
    };
    let mut cluster = cluster.unwrap();
    let bootstrap = cluster.bootstrap();
    let topic = topic("partly");
    create(&bootstrap, &topic, &[&[1], &[2]]).await;
    let (leader_at, other_at) = (closed_address(), closed_address());
    let wrong = [leader_at.clone(), other_at.clone()];
    cluster = blocking(move || {
        for (broker, address) in cluster.followers().iter_mut().zip(&wrong) {
            advertise(broker, Some(address));
        }
        cluster
    })
    .await;
    // Broker 1 leads a partition and is reachable, broker 2 leads one and is unreachable, broker 3 leads none.
    let names_the_leader = |reason: &str| {
        reason.contains(&format!("broker 2 at {leader_at}"))
            && reason.contains("advertised.listeners")
            && !["broker 1 at", "broker 3 at", &other_at]
                .iter()
                .any(|other| reason.contains(other))
    };
    let mut config = KafkaConfig::new(&bootstrap);
    config.topic = topic.parse().unwrap();
    let fault = tried(config.clone()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unreachable);
    assert!(names_the_leader(&fault.reason), "{fault}");

    let dir = Scratch::new("advertised-partly").unwrap();
    let file = dir.join("neurobridge.toml");
    let text = format!(
        "data_dir = {:?}\n[sources.main]\nurl = \"ws://127.0.0.1:1/\"\ntoken = \"t\"\n[sinks.kafka]\ntype = \"kafka\"\n\
         bootstrap_servers = \"{bootstrap}\"\ntopic = \"{topic}\"\n",
        dir.join("data")
    );
    fs::write(&file, text).unwrap();
    let check = blocking(move || {
        let mut command = Command::new(neurobridge());
        command.args(["check", "--connect", "-c"]).arg(file);
        command.output().unwrap()
    })
    .await;
    let printed = [check.stdout, check.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert_eq!(check.status.code(), Some(69), "{printed}");
    let words: Vec<_> = printed.split_whitespace().collect();
    assert!(names_the_leader(&words.join(" ")), "{printed}");

    let mut delivery = Delivery::start(config);
    delivery.append_many(EVENTS).await;
    let began = Instant::now();
    let snapshot = delivery
        .until("the reason", |snapshot| {
            snapshot.state == SinkState::Down && snapshot.reason.as_deref().is_some_and(names_the_leader)
        })
        .await;
    assert_eq!(snapshot.client_replacements, 0);
    println!("{:?}: {}", began.elapsed(), snapshot.reason.unwrap());
    let stored = (bootstrap.clone(), topic.clone());
    blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &stored.0)
            .create()
            .unwrap();
        wait_until("the events of the other leader", LIMIT, || {
            let found = consumer.fetch_watermarks(&stored.1, 0, Duration::from_secs(5));
            let end = found.map_or(0, |(_, end)| end);
            end >= i64::try_from(EVENTS - LATE).unwrap()
        })
        .unwrap();
    })
    .await;
    println!("{:?}: the events of the other leader are stored", began.elapsed());
    cluster = blocking(move || {
        for broker in cluster.followers() {
            advertise(broker, None);
        }
        cluster
    })
    .await;
    delivery.finish().await;
    let stored = records(&cluster.bootstrap(), &topic).await;
    assert_complete_and_in_order(&stored, EVENTS);
    let late: BTreeSet<_> = stored
        .iter()
        .filter(|record| record.partition == 1)
        .map(|record| record.value.clone())
        .collect();
    assert_eq!(late.len() as u64, LATE);
}
