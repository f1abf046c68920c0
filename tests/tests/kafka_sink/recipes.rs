//! The recipes for Kafka services, against a real Kafka with the authentication of each service.

use std::fs;
use std::process::Command;

use neurobridge_tests::kafka::Listener;
use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::platform::Platform;
use neurobridge_tests::program::neurobridge;

use super::security::Secured;
use super::support::blocking;

#[tokio::test(flavor = "multi_thread")]
async fn kafka_recipes_connect_with_their_service_authentication() {
    let Some(secured) = blocking(Secured::start).await else {
        return;
    };
    let dir = Scratch::new("kafka-recipes").unwrap();
    let platform = Platform::start(&dir, &[]).unwrap();
    let topic = secured.topic("recipe");
    let dead_letters = secured.topic("recipe-dead-letters");
    for topic in [&topic, &dead_letters] {
        secured.grant("User:alice", topic);
    }
    for (name, secret) in [
        ("token", "t"),
        ("right", "alice-secret"),
        ("wrong", "other-secret"),
    ] {
        fs::write(dir.join(name), secret).unwrap();
    }
    for (recipe, sink) in [
        ("confluent-cloud", "CONFLUENT"),
        ("event-hubs", "EVENT_HUBS"),
        ("redpanda", "REDPANDA"),
    ] {
        let check = |password: &str| {
            let key = |key: &str| format!("NEUROBRIDGE__SINKS__{sink}__{key}");
            let file = workspace_root().join(format!("config/recipes/{recipe}.toml"));
            let output = Command::new(neurobridge())
                .args(["check", "--connect", "-c"])
                .arg(file)
                .env("NEUROBRIDGE__DATA_DIR", dir.join("data"))
                .env("NEUROBRIDGE__HTTP__LISTEN", "127.0.0.1:0")
                .env("NEUROBRIDGE__SOURCES__MAIN__URL", platform.url())
                .env("NEUROBRIDGE__SOURCES__MAIN__TOKEN_FILE", dir.join("token"))
                .env(
                    key("BOOTSTRAP_SERVERS"),
                    secured.kafka.bootstrap_of(Listener::SaslTls),
                )
                .env(key("TOPIC"), &topic)
                .env(key("DEAD_LETTER__TOPIC"), &dead_letters)
                .env(key("TLS__CA_FILE"), &secured.certificates.ca)
                .env(key("SASL__USERNAME"), "alice")
                .env(key("SASL__PASSWORD_FILE"), dir.join(password))
                .output()
                .unwrap();
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status, shown + &String::from_utf8_lossy(&output.stderr))
        };
        let (status, shown) = check("right");
        assert!(status.success(), "{recipe}: {status}: {shown}");
        let (status, shown) = check("wrong");
        assert!(
            !status.success() && shown.contains("uthentication"),
            "{recipe}: {shown}"
        );
    }
}
