//! Tests of the feed, the record, TLS and the shutdown over real sockets.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod support;

use std::{path::Path, time::Duration};

use neurobridge_simulator::{BindError, MIN_FRAME_BYTES, Options, OptionsError, Simulator, TlsFiles};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use self::support::{AUTH, PING, assert_silent, id_of, start, start_with, within};

#[tokio::test]
async fn authenticated_client_receives_events_and_pongs() {
    let simulator = start_with(&[], Some(500)).await;
    let mut client = simulator.authenticated().await;
    assert_eq!(client.ids(500).await, (1..=500).collect::<Vec<_>>());
    within(simulator.handle.done()).await;
    assert_eq!(client.ping().await, json!({ "PING": "PONG" }));
    let counters = simulator.handle.counters();
    assert_eq!(
        (counters.connections, counters.authenticated, counters.open),
        (1, 1, 1)
    );
    assert_eq!((counters.sent, counters.frames, counters.pings), (500, 500, 1));

    simulator.stop().await.unwrap();
    assert_eq!(client.rest().await, (vec![], Some(1001)));
}

#[tokio::test]
async fn websocket_ping_is_answered_between_events() {
    let simulator = start_with(&[], None).await;
    let mut client = simulator.authenticated().await;
    use futures_util::SinkExt;
    client.socket.send(Message::Ping("!".into())).await.unwrap();
    while !matches!(client.next().await, Some(Ok(Message::Pong(payload))) if payload == "!") {}
}

#[tokio::test]
async fn missing_auth_or_wrong_token_is_refused() {
    let simulator = start(Options {
        tokens: vec!["secret".into(), "other".into()],
        ..Options::default()
    })
    .await;
    simulator.authenticated().await;
    for (message, error) in [
        (PING, "authorization required: send AUTH with a token first"),
        ("no json", "authorization required: send AUTH with a token first"),
        (r#"{"action":"AUTH","data":{"token":"wrong"}}"#, "invalid token"),
    ] {
        let mut client = simulator.connect().await.unwrap();
        client.send(message).await;
        let (texts, code) = client.rest().await;
        assert_eq!(texts, [json!({ "error": error }).to_string()], "{message}");
        assert_eq!(code, Some(1008));
    }
    assert_eq!(simulator.handle.counters().refused, 3);
}

#[tokio::test]
async fn unknown_action_keeps_the_connection_open() {
    let simulator = start_with(&[], Some(0)).await;
    let mut client = simulator.authenticated().await;
    client.send(r#"{"action":"DANCE"}"#).await;
    assert!(client.json().await["error"].is_string());
    assert_eq!(client.ping().await, json!({ "PING": "PONG" }));
}

#[tokio::test]
async fn every_connection_receives_every_event() {
    let simulator = start_with(&[], Some(5_000)).await;
    simulator.handle.set_rate(Some(0.0)).unwrap();
    let (mut first, mut second) = (simulator.authenticated().await, simulator.authenticated().await);
    simulator.handle.set_rate(Some(50_000.0)).unwrap();
    let all: Vec<u64> = (1..=5_000).collect();
    let (one, two) = tokio::join!(first.ids(5_000), second.ids(5_000));
    assert_eq!(one, all);
    assert_eq!(two, all);
    let counters = simulator
        .handle
        .wait_until(|counters| counters.frames >= 10_000)
        .await;
    assert_eq!((counters.sent, counters.frames), (5_000, 10_000));
    assert_eq!(simulator.frames().len(), 5_000);
}

#[tokio::test]
async fn feed_without_rate_waits_for_the_slowest_reader() {
    let simulator = start_with(&[], Some(100_000)).await;
    simulator.handle.set_rate(Some(0.0)).unwrap();
    let (mut reader, idle) = (simulator.authenticated().await, simulator.authenticated().await);
    simulator.handle.set_rate(None).unwrap();
    // The socket of the idle client fills up. Then the other client receives nothing either, far from the end.
    let read = async {
        loop {
            reader.id().await;
        }
    };
    assert_silent(async {
        tokio::select! { () = simulator.handle.done() => (), () = read => () }
    })
    .await;
    drop(idle);
    let handle = simulator.handle.clone();
    tokio::spawn(async move { while reader.socket_next().await {} });
    within(handle.done()).await;
}

impl support::Client {
    async fn socket_next(&mut self) -> bool {
        self.next().await.is_some_and(|message| message.is_ok())
    }
}

#[tokio::test]
async fn entries_are_lost_while_no_client_is_authenticated() {
    let simulator = start(Options {
        rate: Some(1_000.0),
        ..Options::default()
    })
    .await;
    let mut client = simulator.authenticated().await;
    assert_eq!(client.id().await, 1);
    drop(client);
    simulator.handle.wait_until(|counters| counters.open == 0).await;
    let before = simulator.handle.counters().sent;
    // Entries are lost as time passes, so the test waits for a newer entry in the REST interface.
    within(async { while newest_id(&simulator).await < before + 50 {} }).await;
    let mut client = simulator.authenticated().await;
    assert!(client.id().await > before + 50);
}

async fn newest_id(simulator: &support::Running) -> u64 {
    let body = simulator.get("/v1/entries/?limit=1").await.json();
    body["results"][0]["id"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn feed_on_hold_loses_nothing_between_connections() {
    for rate in [None, Some(2_000.0)] {
        let faults = vec![
            "close=1001,after=100".parse().unwrap(),
            "cut,after=70,every=90".parse().unwrap(),
        ];
        let options = Options {
            rate,
            hold: true,
            count: Some(700),
            faults,
            keep_frames: 1_000,
            ..Options::default()
        };
        let simulator = start(options).await;
        let mut received = Vec::new();
        while received.len() < 700 {
            let mut client = simulator.authenticated().await;
            while let Some(Ok(message)) = client.next().await {
                if let Message::Text(text) = message {
                    received.push(text.to_string());
                }
                if received.len() == 700 {
                    break;
                }
            }
        }
        assert_eq!(
            received.iter().map(|frame| id_of(frame)).collect::<Vec<_>>(),
            (1..=700).collect::<Vec<_>>()
        );
        assert_eq!(received, simulator.frames());
        assert!(simulator.handle.counters().connections > 6);
    }
}

#[tokio::test]
async fn record_contains_the_bytes_that_were_sent() {
    let directory = tempfile::tempdir().unwrap();
    let record = directory.path().join("sent.jsonl");
    let simulator = start(Options {
        record: Some(record.clone()),
        count: Some(2_000),
        ..Options::default()
    })
    .await;
    let mut client = simulator.authenticated().await;
    let mut received = String::new();
    for _ in 0..2_000 {
        received.push_str(&client.text().await);
        received.push('\n');
    }
    // The record is flushed within a second, while the simulator runs.
    within(async {
        while std::fs::metadata(&record).unwrap().len() < received.len() as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(received == std::fs::read_to_string(&record).unwrap());
    simulator.stop().await.unwrap();
    assert!(received == std::fs::read_to_string(&record).unwrap());
}

#[tokio::test]
async fn unwritable_record_stops_the_simulator() {
    let simulator = start(Options {
        record: Some("/dev/full".into()),
        ..Options::default()
    })
    .await;
    let mut client = simulator.authenticated().await;
    while client.socket_next().await {}
    let error = simulator.stop().await.unwrap_err();
    assert_eq!(error.to_string(), r#"cannot write the record "/dev/full""#);
}

#[tokio::test]
async fn frames_of_two_mebibytes_arrive_complete() {
    let size = 2 << 20;
    let simulator = start(Options {
        size: Some(size),
        count: Some(3),
        ..Options::default()
    })
    .await;
    let mut client = simulator.authenticated().await;
    for id in 1..=3 {
        let text = client.text().await;
        assert_eq!(text.len(), size);
        assert_eq!(id_of(&text), id);
    }
}

#[tokio::test]
async fn cut_all_loses_no_sent_entry() {
    let simulator = start_with(&[], None).await;
    let mut client = simulator.authenticated().await;
    client.ids(100).await;
    simulator.handle.cut_all();
    let (texts, code) = client.rest().await;
    assert_eq!(code, None);
    simulator.handle.wait_until(|counters| counters.open == 0).await;
    assert_eq!(100 + texts.len() as u64, simulator.handle.counters().sent);
}

#[tokio::test]
async fn invalid_options_are_refused_at_start() {
    let bind = |options: Options| async move { Simulator::bind(options).await.unwrap_err() };
    let size = bind(Options {
        size: Some(MIN_FRAME_BYTES - 1),
        ..Options::default()
    })
    .await;
    assert!(
        matches!(size, BindError::Options(OptionsError::Size { .. })),
        "{size}"
    );
    let record = bind(Options {
        record: Some("/nowhere/sent".into()),
        ..Options::default()
    })
    .await;
    assert_eq!(record.to_string(), r#"cannot create the record "/nowhere/sent""#);
    let files = TlsFiles {
        certificates: "/nowhere/cert".into(),
        key: "/nowhere/key".into(),
    };
    let tls = bind(Options {
        tls: Some(files),
        ..Options::default()
    })
    .await;
    let cause = std::error::Error::source(&tls).unwrap();
    assert_eq!(
        cause.to_string(),
        r#"cannot read a certificate from "/nowhere/cert""#
    );
}

#[tokio::test]
async fn tls_connection_receives_every_event() {
    let directory = tempfile::tempdir().unwrap();
    let tls = certificate(directory.path());
    let root = std::fs::read(&tls.certificates).unwrap();
    let simulator = start(Options {
        tls: Some(tls),
        count: Some(20_000),
        ..Options::default()
    })
    .await;

    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&root).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let tcp = TcpStream::connect(simulator.handle.local_addr()).await.unwrap();
    let stream = connector
        .connect("localhost".try_into().unwrap(), tcp)
        .await
        .unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("wss://localhost/", stream)
        .await
        .unwrap();

    use futures_util::{SinkExt, StreamExt};
    socket.send(Message::text(AUTH)).await.unwrap();
    let mut texts = Vec::new();
    while texts.len() < 20_001 {
        match within(socket.next()).await.unwrap().unwrap() {
            Message::Text(text) => texts.push(text),
            other => panic!("{other:?}"),
        }
    }
    let ids: Vec<u64> = texts[1..].iter().map(|text| id_of(text)).collect();
    assert_eq!(ids, (1..=20_000).collect::<Vec<_>>());
    simulator.stop().await.unwrap();
    assert!(matches!(
        within(socket.next()).await,
        Some(Ok(Message::Close(Some(_))))
    ));
}

fn certificate(directory: &Path) -> TlsFiles {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        certificates: directory.join("cert.pem"),
        key: directory.join("key.pem"),
    };
    std::fs::write(&files.certificates, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    files
}

#[tokio::test]
async fn idle_tcp_connection_does_not_delay_shutdown() {
    let simulator = start_with(&[], None).await;
    let _idle = TcpStream::connect(simulator.handle.local_addr()).await.unwrap();
    let _client = simulator.authenticated().await;
    tokio::time::timeout(Duration::from_secs(5), simulator.stop())
        .await
        .unwrap()
        .unwrap();
}
