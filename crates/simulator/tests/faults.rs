//! Tests of each fault rule over a real socket, with a client that is independent of the simulator.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_tungstenite::tungstenite::{Error, Message};

use self::support::{AUTH, PING, assert_silent, id_of, start_with, within};

#[tokio::test]
async fn close_sends_its_code_after_the_events() {
    let simulator = start_with(&["close=4001,connection=1,after=50"], None).await;
    let (texts, code) = simulator.authenticated().await.rest().await;
    assert_eq!((texts.len(), code), (50, Some(4001)));
    let mut second = simulator.authenticated().await;
    assert_eq!(second.ids(200).await, (51..=250).collect::<Vec<_>>());
    assert_eq!(simulator.handle.counters().faults, 1);
}

#[tokio::test]
async fn close_sends_an_invalid_code() {
    let simulator = start_with(&["close=102"], None).await;
    // The test reads from the TCP stream, because for an invalid code the client library reports 1002, the code of its own
    // close frame.
    let mut stream = TcpStream::connect(simulator.handle.local_addr()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await.unwrap();
    stream
        .write_all(&[0x81, 0x80 | AUTH.len() as u8, 0, 0, 0, 0])
        .await
        .unwrap();
    stream.write_all(AUTH.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    while !received.ends_with(b"\x81\x0d{\"auth\":\"ok\"}\x88\x02\x00\x66") {
        assert_ne!(
            within(stream.read_buf(&mut received)).await.unwrap(),
            0,
            "{}",
            received.escape_ascii()
        );
    }
}

#[tokio::test]
async fn cut_ends_without_a_close_frame() {
    let simulator = start_with(&["cut,after=30"], None).await;
    let (texts, code) = simulator.authenticated().await.rest().await;
    assert_eq!((texts.len(), code), (30, None));
}

#[tokio::test]
async fn reset_resets_the_connection() {
    let simulator = start_with(&["reset"], None).await;
    let mut client = simulator.connect().await.unwrap();
    client.send(AUTH).await;
    loop {
        match client.next().await {
            Some(Ok(_)) => {}
            Some(Err(Error::Io(error))) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                break;
            }
            other => panic!("expected a reset, found {other:?}"),
        }
    }
}

#[tokio::test]
async fn silent_connection_still_answers_pings() {
    let simulator = start_with(&["silence,after=3"], None).await;
    let mut client = simulator.authenticated().await;
    assert_eq!(client.ids(3).await, [1, 2, 3]);
    assert_silent(client.next()).await;
    assert_eq!(client.ping().await, json!({ "PING": "PONG" }));
    // Other connections are not affected.
    let mut other = simulator.connect().await.unwrap();
    other.send(AUTH).await;
    other.text().await;
    assert_eq!(other.id().await, 4);
}

#[tokio::test]
async fn no_pong_still_sends_events() {
    let simulator = start_with(&["no-pong,after=2"], None).await;
    simulator.handle.set_rate(Some(0.0)).unwrap();
    let mut client = simulator.authenticated().await;
    assert_eq!(client.ping().await, json!({ "PING": "PONG" }));
    simulator.handle.set_rate(Some(1_000.0)).unwrap();
    client.ids(10).await;
    client.send(PING).await;
    simulator.handle.wait_until(|counters| counters.pings == 2).await;
    client.ids(100).await;
}

#[tokio::test]
async fn wrong_pong_answers_with_its_text() {
    let simulator = start_with(&["wrong-pong=PUNG"], Some(0)).await;
    assert_eq!(
        simulator.authenticated().await.ping().await,
        json!({ "PING": "PUNG" })
    );
}

#[tokio::test]
async fn refusals_end_when_their_times_are_used_up() {
    let simulator = start_with(
        &["refuse-token=expired,times=2", "wrong-auth=maybe,times=1"],
        Some(1),
    )
    .await;
    for answer in [
        json!({ "error": "expired" }),
        json!({ "error": "expired" }),
        json!({ "auth": "maybe" }),
    ] {
        let mut client = simulator.connect().await.unwrap();
        client.send(AUTH).await;
        assert_eq!(client.rest().await, (vec![answer.to_string()], Some(1008)));
    }
    assert_eq!(simulator.authenticated().await.id().await, 1);
    assert_eq!(simulator.handle.counters().refused, 3);
}

#[tokio::test]
async fn close_after_auth_closes_with_1000() {
    let simulator = start_with(&["close-after-auth,times=1"], Some(1)).await;
    let mut client = simulator.authenticated().await;
    assert_eq!(client.rest().await, (vec![], Some(1000)));
    assert_eq!(simulator.authenticated().await.id().await, 1);
}

#[tokio::test]
async fn no_auth_answer_keeps_connection_silent() {
    let simulator = start_with(&["no-auth-answer,connection=1"], None).await;
    let mut client = simulator.connect().await.unwrap();
    client.send(AUTH).await;
    assert_silent(client.next()).await;
    assert_eq!(simulator.handle.counters().authenticated, 0);
    assert_eq!(simulator.authenticated().await.id().await, 1);
}

#[tokio::test]
async fn http_answers_upgrade_with_a_status() {
    let simulator = start_with(
        &["http=503,retry-after=3,connection=2", "http=401,connection=3"],
        Some(1),
    )
    .await;
    simulator.authenticated().await;
    for (status, retry_after) in [(503, Some("3")), (401, None)] {
        match simulator.connect().await.err() {
            Some(Error::Http(response)) => {
                assert_eq!(response.status(), status);
                let header = response
                    .headers()
                    .get("retry-after")
                    .map(|value| value.to_str().unwrap());
                assert_eq!(header, retry_after);
            }
            other => panic!("expected an HTTP response, found {other:?}"),
        }
    }
    simulator.authenticated().await;
}

#[tokio::test]
async fn malformed_frames_are_sent_between_events() {
    for (rule, expected) in [
        ("bad-json,after=2", r#"{"id":1,"data":{"result":"#),
        ("unknown-kind,after=2", r#"{"maintenance":"soon"}"#),
        (r"error=quota\, sorry,after=2", r#"{"error":"quota, sorry"}"#),
    ] {
        let simulator = start_with(&[rule], Some(5)).await;
        let mut client = simulator.authenticated().await;
        client.ids(2).await;
        assert_eq!(client.text().await, expected);
        assert_eq!(client.ids(3).await, [3, 4, 5]);
        assert_eq!(simulator.frames().len(), 5);
    }
}

#[tokio::test]
async fn binary_sends_a_binary_frame() {
    let simulator = start_with(&["binary,after=1"], Some(2)).await;
    let mut client = simulator.authenticated().await;
    client.id().await;
    assert!(matches!(client.next().await, Some(Ok(Message::Binary(_)))));
    assert_eq!(client.id().await, 2);
}

#[tokio::test]
async fn bad_utf8_sends_an_invalid_text() {
    let simulator = start_with(&["bad-utf8,after=1"], None).await;
    let mut client = simulator.authenticated().await;
    client.id().await;
    assert!(matches!(client.next().await, Some(Err(Error::Utf8(_)))));
}

#[tokio::test]
async fn huge_sends_the_next_entry_in_a_large_frame() {
    let simulator = start_with(&["huge=4MiB,after=2"], Some(4)).await;
    let mut client = simulator.authenticated().await;
    client.ids(2).await;
    let huge = client.text().await;
    assert_eq!((huge.len(), id_of(&huge)), (4 << 20, 3));
    assert_eq!(client.id().await, 4);
    assert_eq!(simulator.frames()[2], huge);
}

#[tokio::test]
async fn half_open_keeps_a_silent_connection() {
    let simulator = start_with(&["half-open,after=3,connection=1"], None).await;
    let mut client = simulator.authenticated().await;
    client.ids(3).await;
    client.send(PING).await;
    assert_silent(client.next()).await;
    let mut other = simulator.authenticated().await;
    other.ids(5_000).await;
    // The connection stays open until it is cut.
    simulator.handle.cut_all();
    assert_eq!(client.rest().await, (vec![], None));
}

#[tokio::test]
async fn drip_slows_only_its_connection() {
    let simulator = start_with(&["drip=2000,connection=1,after=2"], None).await;
    let mut slow = simulator.authenticated().await;
    slow.ids(2).await;
    let start = Instant::now();
    let mut fast = simulator.authenticated().await;
    fast.ids(5_000).await;
    assert_eq!(slow.id().await, 3);
    // 600 bytes at 2,000 bytes per second.
    assert!(
        start.elapsed() > Duration::from_millis(150),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn duplicates_are_identical_and_recorded() {
    let simulator = start_with(&["duplicate=2,after=5"], Some(6)).await;
    let mut client = simulator.authenticated().await;
    let mut texts = Vec::new();
    for _ in 0..8 {
        texts.push(client.text().await);
    }
    let ids: Vec<u64> = texts.iter().map(|text| id_of(text)).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 4, 5, 6]);
    assert_eq!(texts[3..5], texts[5..7]);
    assert_eq!(simulator.frames(), texts);
    assert_eq!(simulator.handle.counters().sent, 6);
}

#[tokio::test]
async fn same_id_fault_repeats_the_last_id_with_another_body() {
    let simulator = start_with(&["same-id,after=3"], Some(4)).await;
    let mut client = simulator.authenticated().await;
    let mut texts = Vec::new();
    for _ in 0..5 {
        texts.push(client.text().await);
    }
    assert_eq!((id_of(&texts[2]), id_of(&texts[3])), (3, 3));
    assert_ne!(texts[2], texts[3]);
    let pid = |text: &str| serde_json::from_str::<Value>(text).unwrap()["data"]["pid"].clone();
    assert_eq!(pid(&texts[2]), pid(&texts[3]));
    assert_eq!(simulator.frames(), texts);
}

#[tokio::test]
async fn out_of_order_swaps_the_next_two_entries() {
    let simulator = start_with(&["out-of-order,every=3"], Some(10)).await;
    let mut client = simulator.authenticated().await;
    assert_eq!(client.ids(10).await, [1, 2, 3, 5, 4, 6, 8, 7, 9, 10]);
    within(simulator.handle.done()).await;
    assert_eq!(simulator.handle.counters().sent, 10);
}

#[tokio::test]
async fn out_of_order_before_the_last_entry_is_skipped() {
    let simulator = start_with(&["out-of-order,after=2"], Some(3)).await;
    assert_eq!(simulator.authenticated().await.ids(3).await, [1, 2, 3]);
}

#[tokio::test]
async fn interval_rule_and_rule_added_later_are_applied() {
    let simulator = start_with(&[], Some(0)).await;
    let mut client = simulator.authenticated().await;
    simulator
        .handle
        .add_fault("error=now,every=100ms,times=3".parse().unwrap());
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(client.json().await, json!({ "error": "now" }));
    }
    assert!(
        start.elapsed() >= Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
    simulator.handle.add_fault("close=1012".parse().unwrap());
    assert_eq!(client.rest().await, (vec![], Some(1012)));
}
