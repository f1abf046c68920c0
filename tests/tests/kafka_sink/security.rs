//! The Kafka sink with TLS, client certificates, SASL and permissions.

use std::fs;

use neurobridge_core::{secret::Secret, sink::FaultKind};
use neurobridge_sink_kafka::{KafkaConfig, SaslConfig, SaslMechanism, TlsConfig};
use neurobridge_tests::{
    certificates::Certificates,
    kafka::{Grant, Kafka, KafkaOptions, Listener, admin::KafkaAdmin},
    paths::Scratch,
    shared::own_kafka,
};

use super::support::{Delivery, assert_complete_and_in_order, blocking, connect, records, topic};

/// A Kafka with TLS, SASL and an authoriser, and the certificates of the server and the clients.
pub(super) struct Secured {
    pub(super) kafka: Kafka,
    pub(super) certificates: Certificates,
    dir: Scratch,
}

impl Secured {
    pub(super) fn start() -> Option<Self> {
        let dir = Scratch::new("kafka-certificates").unwrap();
        let certificates = Certificates::generate(dir.path()).unwrap();
        let secure = certificates.secure_kafka(&[("alice", "alice-secret"), ("bob", "bob-secret")]);
        let kafka = own_kafka(KafkaOptions {
            secure: Some(secure),
            authorizer: true,
            ..KafkaOptions::default()
        })?;
        Some(Self {
            kafka,
            certificates,
            dir,
        })
    }

    pub(super) fn topic(&self, word: &str) -> String {
        let topic = topic(word);
        KafkaAdmin::new(&self.kafka.bootstrap())
            .unwrap()
            .create_topic(&topic, 3, &[])
            .unwrap();
        topic
    }

    fn config(&self, listener: Listener, topic: &str) -> KafkaConfig {
        let mut config = KafkaConfig::new(self.kafka.bootstrap_of(listener));
        config.topic = topic.parse().unwrap();
        if listener != Listener::SaslPlaintext {
            config.tls = Some(TlsConfig {
                ca_file: Some(self.certificates.ca.clone()),
                ..TlsConfig::default()
            });
        }
        config
    }

    pub(super) fn grant(&self, principal: &str, topic: &str) {
        self.kafka
            .grant(Grant {
                principal,
                topic,
                operations: &["Write", "DescribeConfigs"],
            })
            .unwrap();
    }
}

fn sasl(mechanism: SaslMechanism, username: &str, password: &str) -> Option<SaslConfig> {
    Some(SaslConfig {
        mechanism,
        username: username.into(),
        password: Some(Secret::new(password)),
        password_file: None,
    })
}

/// Checks that a sink with this configuration delivers events.
async fn delivers(secured: &Secured, config: KafkaConfig) {
    let topic = config.topic.to_string();
    let mut delivery = Delivery::start(config);
    delivery.append_many(50).await;
    let ending = delivery.finish().await;
    assert_eq!(
        (ending.snapshot.cursor.counts.delivered, ending.dead_letters.len()),
        (50, 0)
    );
    assert_complete_and_in_order(&records(&secured.kafka.bootstrap(), &topic).await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_authentication_method_connects() {
    let Some(secured) = blocking(Secured::start).await else {
        return;
    };

    let topic = secured.topic("tls");
    delivers(&secured, secured.config(Listener::Tls, &topic)).await;
    // With the certificate of another authority, the error names the cause.
    let stranger = Certificates::generate(&secured.dir.join("stranger")).unwrap();
    let mut config = secured.config(Listener::Tls, &topic);
    config.tls = Some(TlsConfig {
        ca_file: Some(stranger.ca.clone()),
        ..TlsConfig::default()
    });
    let fault = connect(config.clone()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unauthorised);
    assert!(
        fault.reason.contains("certificate verify failed") && fault.reason.contains("tls.ca_file"),
        "{fault}"
    );
    // The root certificates of the system are found, but do not include the authority of the server.
    config.tls = Some(TlsConfig::default());
    assert_eq!(connect(config).await.unwrap_err().kind, FaultKind::Unauthorised);

    let topic = secured.topic("mutual");
    secured.grant("User:CN=client", &topic);
    let mut config = secured.config(Listener::MutualTls, &topic);
    let fault = connect(config.clone()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unauthorised, "{fault}");
    let tls = config.tls.as_mut().unwrap();
    tls.cert_file = Some(secured.certificates.client_cert.clone());
    tls.key_file = Some(secured.certificates.client_key.clone());
    delivers(&secured, config).await;

    for (mechanism, listener) in [
        (SaslMechanism::Plain, Listener::SaslTls),
        (SaslMechanism::ScramSha256, Listener::SaslTls),
        (SaslMechanism::ScramSha512, Listener::SaslTls),
        (SaslMechanism::ScramSha512, Listener::SaslPlaintext),
    ] {
        let topic = secured.topic("sasl");
        secured.grant("User:alice", &topic);
        let mut config = secured.config(listener, &topic);
        config.sasl = sasl(mechanism, "alice", "alice-secret");
        delivers(&secured, config.clone()).await;
        config.sasl = sasl(mechanism, "alice", "wrong");
        let fault = connect(config).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unauthorised);
        assert!(
            fault.reason.contains("uthentication") && !fault.reason.contains("wrong"),
            "{fault}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_password_is_used_on_reconnect() {
    let Some(mut secured) = blocking(Secured::start).await else {
        return;
    };
    let topic = secured.topic("rotated");
    secured.grant("User:bob", &topic);
    let file = secured.dir.join("password");
    fs::write(&file, "bob-secret\n").unwrap();
    let mut config = secured.config(Listener::SaslTls, &topic);
    config.sasl = Some(SaslConfig {
        mechanism: SaslMechanism::ScramSha512,
        username: "bob".into(),
        password: None,
        password_file: Some(file.clone()),
    });
    let mut delivery = Delivery::start(config);
    delivery.append_many(20).await;
    delivery.until_settled().await;

    // The new password is valid, the file contains the old one, and the connection is closed.
    secured.kafka.set_scram_password("bob", "new-secret").unwrap();
    secured.kafka.stop().unwrap();
    let mut secured = blocking(move || {
        secured.kafka.start_again().unwrap();
        secured
    })
    .await;
    delivery.append_many(20).await;
    let faults = |snapshot: &neurobridge_core::delivery::ProgressSnapshot| {
        snapshot.faults.get(FaultKind::Unauthorised)
    };
    let snapshot = delivery
        .until("the refusal", |snapshot| faults(snapshot) > 0)
        .await;
    assert_eq!(snapshot.cursor.counts.dead_lettered, 0);
    fs::write(&file, "new-secret").unwrap();
    delivery.until_settled().await;
    assert!(delivery.finish().await.dead_letters.is_empty());
    assert_complete_and_in_order(&records(&secured.kafka.bootstrap(), &topic).await, 40);
    secured.kafka.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_and_restored_permission_loses_no_event() {
    let Some(secured) = blocking(Secured::start).await else {
        return;
    };
    let topic = secured.topic("revoked");
    secured.grant("User:alice", &topic);
    let mut config = secured.config(Listener::SaslPlaintext, &topic);
    config.sasl = sasl(SaslMechanism::ScramSha256, "alice", "alice-secret");
    let mut delivery = Delivery::start(config.clone());
    delivery.append_many(200).await;
    delivery.until_settled().await;

    let kafka = &secured.kafka;
    kafka
        .revoke(Grant {
            principal: "User:alice",
            topic: &topic,
            operations: &["Write", "DescribeConfigs"],
        })
        .unwrap();
    // The revocation takes effect while events are published.
    let down = |snapshot: &neurobridge_core::delivery::ProgressSnapshot| snapshot.reason.is_some();
    for _ in 0..20 {
        delivery.append_many(50).await;
    }
    let snapshot = delivery.until("the refusal", down).await;
    let reason = snapshot.reason.unwrap();
    assert!(reason.contains(&topic) && reason.contains("Write"), "{reason}");
    assert_eq!(snapshot.cursor.counts.dead_lettered, 0);
    // A sink that starts now is also refused, with a clear reason.
    let fault = connect(config).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unauthorised, "{fault}");

    secured.grant("User:alice", &topic);
    let ending = delivery.finish().await;
    assert_eq!(
        (ending.snapshot.cursor.counts.delivered, ending.dead_letters.len()),
        (1_200, 0)
    );
    assert_complete_and_in_order(&records(&secured.kafka.bootstrap(), &topic).await, 1_200);
}
