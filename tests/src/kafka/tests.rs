//! Tests of the Kafka processes that other tests use.
#![cfg(feature = "clients")]

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::admin::KafkaAdmin;
use super::records::{await_records, read_topic};
use super::*;
use crate::certificates::Certificates;
use crate::poll::wait_until;
use crate::shared::{own_kafka, with_own_kafka};

const SOON: Duration = Duration::from_secs(30);

/// Sends one message and waits for its acknowledgement.
fn send(config: &mut ClientConfig, topic: &str, key: &str) -> Result<(), rdkafka::error::KafkaError> {
    let producer: BaseProducer = config.set("message.timeout.ms", "8000").create()?;
    let headers = OwnedHeaders::new().insert(Header {
        key: "h",
        value: Some("v"),
    });
    let record = BaseRecord::to(topic).key(key).payload("value").headers(headers);
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(SOON)?;
    match producer.in_flight_count() {
        0 => Ok(()),
        _ => panic!("a message is still in flight after the flush"),
    }
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

fn count(kafka: &Kafka, topic: &str) -> usize {
    read_topic(&kafka.bootstrap(), topic, SOON).unwrap().len()
}

#[test]
fn broker_survives_stop_kill_and_freeze() {
    let Some(mut kafka) = own_kafka(KafkaOptions::default()) else {
        return;
    };
    let bootstrap = kafka.bootstrap();
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    admin
        .create_topic("t", 2, &[("max.message.bytes", "2000")])
        .unwrap();
    assert!(format!("{:#}", admin.create_topic("t", 2, &[]).unwrap_err()).contains("exists"));
    assert_eq!(count(&kafka, "t"), 0);

    send(&mut client(&bootstrap), "t", "one").unwrap();
    let records = await_records(&bootstrap, "t", 1, SOON).unwrap();
    assert_eq!(records[0].key.as_deref(), Some(&b"one"[..]));
    assert_eq!(records[0].value.as_deref(), Some(&b"value"[..]));
    assert_eq!(records[0].header("h"), Some("v"));

    kafka.freeze().unwrap();
    assert!(answers(&bootstrap).is_err(), "a frozen broker must not answer");
    kafka.thaw().unwrap();
    wait_until("the thawed broker", SOON, || answers(&bootstrap).is_ok()).unwrap();

    kafka.kill().unwrap();
    assert!(answers(&bootstrap).is_err());
    kafka.start_again().unwrap();
    assert_eq!(count(&kafka, "t"), 1, "the same data");
    kafka.stop().unwrap();
    assert!(kafka.kill().unwrap_err().to_string().contains("not running"));
    kafka.start_again().unwrap();

    admin.grow_topic("t", 4).unwrap();
    admin
        .configure_topic("t", &[("max.message.bytes", "3000")])
        .unwrap();
    admin.delete_topic("t").unwrap();
    assert_eq!(admin.leaders("t"), 0);
    let dir = kafka.dir().to_path_buf();
    drop(kafka);
    assert!(answers(&bootstrap).is_err() && !dir.exists());
}

#[test]
fn topic_is_created_once_the_broker_is_unfenced() {
    let Some(kafka) = own_kafka(KafkaOptions {
        fenceable: true,
        ..KafkaOptions::default()
    }) else {
        return;
    };
    let bootstrap = kafka.bootstrap();
    let admin = KafkaAdmin::new(&bootstrap).unwrap();
    admin.create_topic("before", 1, &[]).unwrap();
    send(&mut client(&bootstrap), "before", "one").unwrap();

    kafka.fence().unwrap();
    wait_until("the metadata to list no broker", SOON, || {
        admin.brokers() == Some(0)
    })
    .unwrap();
    answers(&bootstrap).unwrap();
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| admin.create_topic("during", 1, &[]));
        let reading = scope.spawn(|| count(&kafka, "before"));
        kafka.unfence().unwrap();
        creating.join().unwrap().unwrap();
        assert_eq!(reading.join().unwrap(), 1);
    });
    let plain = own_kafka(KafkaOptions::default()).unwrap();
    assert!(plain.fence().unwrap_err().to_string().contains("fenceable"));
}

#[test]
fn every_listener_authenticates_its_clients() {
    let scratch = Scratch::new("certificates").unwrap();
    let certificates = Certificates::generate(scratch.path()).unwrap();
    let secure = certificates.secure_kafka(&[("alice", "secret"), ("bob", "bobsecret")]);
    let options = KafkaOptions {
        secure: Some(secure),
        authorizer: true,
        ..KafkaOptions::default()
    };
    let Some(kafka) = own_kafka(options) else { return };
    KafkaAdmin::new(&kafka.bootstrap())
        .unwrap()
        .create_topic("t", 1, &[])
        .unwrap();
    for principal in ["User:alice", "User:bob", "User:CN=client"] {
        kafka
            .grant(Grant {
                principal,
                topic: "t",
                operations: &["Write"],
            })
            .unwrap();
    }
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let tls = |listener| {
        let mut config = client(&kafka.bootstrap_of(listener));
        config
            .set("security.protocol", "ssl")
            .set("ssl.ca.location", path(&certificates.ca));
        config
    };
    let sasl = |listener, mechanism, user, password| {
        let mut config = tls(listener);
        let protocol = if listener == Listener::SaslTls {
            "sasl_ssl"
        } else {
            "sasl_plaintext"
        };
        config
            .set("security.protocol", protocol)
            .set("sasl.mechanisms", mechanism);
        config.set("sasl.username", user).set("sasl.password", password);
        config
    };
    send(&mut tls(Listener::Tls), "t", "tls").unwrap();
    let mut mutual = tls(Listener::MutualTls);
    mutual.set("ssl.certificate.location", path(&certificates.client_cert));
    mutual.set("ssl.key.location", path(&certificates.client_key));
    send(&mut mutual, "t", "client certificate").unwrap();
    send(
        &mut sasl(Listener::SaslTls, "PLAIN", "alice", "secret"),
        "t",
        "plain",
    )
    .unwrap();
    send(
        &mut sasl(Listener::SaslPlaintext, "SCRAM-SHA-256", "bob", "bobsecret"),
        "t",
        "256",
    )
    .unwrap();
    send(
        &mut sasl(Listener::SaslTls, "SCRAM-SHA-512", "bob", "bobsecret"),
        "t",
        "512",
    )
    .unwrap();
    assert_eq!(count(&kafka, "t"), 5);

    kafka.set_scram_password("bob", "other").unwrap();
    send(
        &mut sasl(Listener::SaslTls, "SCRAM-SHA-512", "bob", "other"),
        "t",
        "new password",
    )
    .unwrap();
    kafka
        .revoke(Grant {
            principal: "User:bob",
            topic: "t",
            operations: &["Write"],
        })
        .unwrap();
    // A refused message is reported only to the producer's context, which this producer does not have, so the test
    // checks the topic.
    let _ = send(
        &mut sasl(Listener::SaslTls, "SCRAM-SHA-512", "bob", "other"),
        "t",
        "refused",
    );
    assert_eq!(count(&kafka, "t"), 6);
}

#[test]
fn failed_start_error_contains_the_log() {
    let scratch = Scratch::new("kafka-fails").unwrap();
    let path = scratch.path().to_path_buf();
    let options = KafkaOptions::default().property("num.io.threads", "none");
    let Some(result) = with_own_kafka(|| Kafka::start_in(scratch, options)) else {
        return;
    };
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.contains("num.io.threads"), "{error}");
    assert!(!path.exists());
}
