//! Tests of a source with a declared feed on a scripted server. The clock is paused: a sleep takes no real time.

use neurobridge_protocol::Declaration;

use super::*;

const DECLARATION: &str = r#"{
    "url": "ws://localhost",
    "secrets": { "key": { "value": "hunter22" } },
    "open": [
        { "until": { "type": "hello" }, "timeout": "3s" },
        { "send": { "login": "{secret.key}" }, "until": { "type": "ok" }, "refused": { "type": "no" },
          "refused_text": "text", "timeout": "5s" }
    ],
    "events": "list",
    "rules": [
        { "when": { "type": "ping" }, "is": "reply", "send": { "type": "pong" } },
        { "when": { "n": { "present": true } }, "is": "event" }
    ],
    "heartbeat": { "idle_timeout": "7s" },
    "event": { "id": "n" },
    "resume": { "value": "n", "query": "after" },
    "ack": { "value": "n", "send": { "ack": "{values:json}" } }
}"#;

fn declared(config: &mut SourceConfig) {
    let declaration: Declaration = serde_json::from_str(DECLARATION).unwrap();
    config.url = None;
    config.token = None;
    config.feed = Some(Box::new(declaration));
    assert_eq!(config.check(), []);
}

async fn log_in(platform: &mut Platform) {
    platform.send_text(r#"{"type":"hello"}"#).await;
    assert_eq!(platform.receive_text().await, r#"{"login":"hunter22"}"#);
    platform.send_text(r#"{"type":"ok"}"#).await;
}

#[tokio::test(start_paused = true)]
async fn declared_feed_is_opened_acknowledged_and_resumed() {
    let (source, mut bench) = bench(declared, Vec::new());
    let stored = Arc::clone(&bench.stored);
    let (result, ()) = join!(source, async {
        let mut platform = bench.platforms.recv().await.unwrap();
        log_in(&mut platform).await;
        platform.send_text(r#"{"list":[{"n":1},{"n":2},{"x":0}]}"#).await;
        let batch = bench.batches.recv().await.unwrap();
        assert_eq!(
            batch,
            [
                r#"{"list":[{"n":1}]}"#,
                r#"{"list":[{"n":2}]}"#,
                r#"{"list":[{"x":0}]}"#
            ]
        );
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.state, SourceState::Authenticated);
        assert_eq!((snapshot.events, snapshot.frames.get(FrameKind::Event)), (2, 1));
        stored.set_resume("2".into());
        stored.acknowledge(1, &mut vec!["1".into(), "2".into()]);
        assert_eq!(platform.receive_text().await, r#"{"ack":[1,2]}"#);
        platform.send_text(r#"{"type":"ping"}"#).await;
        assert_eq!(platform.receive_text().await, r#"{"type":"pong"}"#);
        platform.close(CloseCode::Normal).await;

        let mut platform = bench.platforms.recv().await.unwrap();
        assert_eq!(bench.requests.lock().unwrap()[..], ["", "after=2"]);
        // The event of the first connection is not acknowledged on the second one.
        stored.acknowledge(1, &mut vec!["3".into()]);
        log_in(&mut platform).await;
        bench.in_state_after_delay(SourceState::Authenticated).await;
        assert_eq!(bench.snapshot().gaps.get(GapOutcome::Recovered), 1);
        stored.acknowledge(2, &mut vec!["4".into()]);
        assert_eq!(platform.receive_text().await, r#"{"ack":[4]}"#);
        // The connection receives nothing meanwhile.
        stored.acknowledge(2, &mut vec!["5".into()]);
        assert_eq!(platform.receive_text().await, r#"{"ack":[5]}"#);
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_step_of_the_opening_has_its_own_time_limit() {
    let (source, mut bench) = bench(declared, Vec::new());
    let (result, ()) = join!(source, async {
        let platform = bench.platforms.recv().await.unwrap();
        bench.in_state_after_delay(SourceState::Waiting).await;
        let reason = bench.snapshot().reason.unwrap();
        assert_eq!(reason, "no answer to step 1 of the opening within 3s");
        drop(platform);
        let mut platform = bench.platforms.recv().await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        platform.send_text(r#"{"type":"hello"}"#).await;
        bench.in_state_after_delay(SourceState::Waiting).await;
        let reason = bench.snapshot().reason.unwrap();
        assert_eq!(reason, "no answer to step 2 of the opening within 5s");
        drop(platform);
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn refusal_is_reported_without_the_secret() {
    let (source, mut bench) = bench(declared, Vec::new());
    let (result, ()) = join!(source, async {
        let mut platform = bench.platforms.recv().await.unwrap();
        platform.send_text(r#"{"type":"hello"}"#).await;
        platform
            .send_text(r#"{"type":"no","text":"bad key hunter22"}"#)
            .await;
        bench.in_state_after_delay(SourceState::Refused).await;
        let reason = bench.snapshot().reason.unwrap();
        assert_eq!(reason, "the feed refused the connection: bad key [redacted]");
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silent_connection_without_pings_is_replaced() {
    let (source, mut bench) = bench(declared, Vec::new());
    let (result, ()) = join!(source, async {
        let mut platform = bench.platforms.recv().await.unwrap();
        log_in(&mut platform).await;
        let since = Instant::now();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            platform.send_text(r#"{"type":"ping"}"#).await;
        }
        bench.in_state_after_delay(SourceState::Waiting).await;
        assert_eq!(
            bench.snapshot().disconnections.get(DisconnectReason::IdleTimeout),
            1
        );
        let length = since.elapsed();
        assert!((22..24).contains(&length.as_secs()), "{length:?}");
        bench.stop.cancel();
    });
    result.unwrap();
}
