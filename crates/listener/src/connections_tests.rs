//! Tests of several connections of a source, and of their replacement. The clock is paused: a sleep takes no real time.

use neurobridge_protocol::Declaration;

use super::*;
use crate::{REPLACEMENT_OVERLAP, handle::TokenState, token_from::TokenFromConfig};

impl Bench {
    /// Waits until this number of connections is open.
    pub(super) async fn open_connections(&self, count: u64) {
        while self.snapshot().open_connections != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Authenticates the next connection.
    pub(super) async fn authenticated(&mut self) -> Platform {
        let mut platform = self.platforms.recv().await.unwrap();
        platform.authenticate().await;
        platform
    }
}

#[tokio::test(start_paused = true)]
async fn loss_of_one_of_two_connections_is_no_gap() {
    let (source, mut bench) = bench(|config| config.connections = 2, Vec::new());
    let (result, ()) = join!(source, async {
        let mut first = bench.authenticated().await;
        let mut second = bench.authenticated().await;
        second.send_text(event(1)).await;
        assert_eq!(bench.batches.recv().await.unwrap(), [event(1)]);
        first.close(CloseCode::Away).await;
        drop(first);
        bench.open_connections(1).await;
        second.send_text(event(2)).await;
        assert_eq!(bench.batches.recv().await.unwrap(), [event(2)]);
        let snapshot = bench.snapshot();
        assert_eq!(
            (snapshot.state, snapshot.open_gap),
            (SourceState::Authenticated, None)
        );
        let _first = bench.authenticated().await;
        bench.open_connections(2).await;
        let snapshot = bench.snapshot();
        assert_eq!((snapshot.gaps.total(), snapshot.connections), (0, 3));
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_connection_is_kept_if_each_new_one_displaces_another() {
    let (source, mut bench) = bench(|config| config.connections = 2, Vec::new());
    let (result, ()) = join!(source, async {
        let mut open = bench.authenticated().await;
        for _ in 0..3 {
            let next = bench.authenticated().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            open.close(CloseCode::Policy).await;
            drop(std::mem::replace(&mut open, next));
        }
        bench.open_connections(1).await;
        tokio::select! {
            _ = bench.platforms.recv() => panic!("a further connection"),
            () = open.answer_pings() => panic!("the connection ended"),
            () = tokio::time::sleep(Duration::from_secs(600)) => {}
        }
        assert_eq!(bench.snapshot().gaps.total(), 0);
        open.send_text(event(1)).await;
        assert_eq!(bench.batches.recv().await.unwrap(), [event(1)]);
        bench.stop.cancel();
    });
    result.unwrap();
}

/// Configures a declared feed without an opening, whose connections have a maximum age.
fn ageing(config: &mut SourceConfig) {
    let text = r#"{ "url": "ws://localhost", "rules": [{ "is": "event" }], "max_age": "1m" }"#;
    let declaration: Declaration = serde_json::from_str(text).unwrap();
    config.token = None;
    config.url = None;
    config.feed = Some(Box::new(declaration));
}

#[tokio::test(start_paused = true)]
async fn old_connection_is_read_until_its_successor_is_authenticated() {
    let (source, mut bench) = bench(ageing, Vec::new());
    let (result, ()) = join!(source, async {
        let since = Instant::now();
        let mut old = bench.platforms.recv().await.unwrap();
        let mut new = bench.platforms.recv().await.unwrap();
        assert_eq!(since.elapsed().as_secs(), 60);
        // What the server has sent before its close frame is received on the old connection.
        old.send_text("1").await;
        new.send_text("2").await;
        let mut received = Vec::new();
        while received.len() < 2 {
            received.extend(bench.batches.recv().await.unwrap());
        }
        received.sort();
        assert_eq!(received, ["1", "2"]);
        while old.receive_text().await != "[close 1000]" {}
        drop(old);
        bench.open_connections(1).await;
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.disconnections.get(DisconnectReason::Replaced), 1);
        assert_eq!((snapshot.gaps.total(), snapshot.open_gap), (0, None));
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn old_connection_is_read_while_its_successor_fails() {
    let failures = || DialError::NoAddress {
        host: "localhost".into(),
    };
    let (source, mut bench) = bench(ageing, Vec::new());
    let (result, ()) = join!(source, async {
        let mut old = bench.platforms.recv().await.unwrap();
        bench.failures.lock().unwrap().extend([failures(), failures()]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        old.send_text("1").await;
        assert_eq!(bench.batches.recv().await.unwrap(), ["1"]);
        let mut new = bench.platforms.recv().await.unwrap();
        assert_eq!(bench.snapshot().outcomes.get(ConnectionOutcome::ResolveFailed), 2);
        new.send_text("2").await;
        assert_eq!(bench.batches.recv().await.unwrap(), ["2"]);
        assert_eq!(bench.snapshot().gaps.total(), 0);
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn changed_token_file_replaces_the_connection() {
    let (source, mut bench, _folder, path) = bench_with_token_file();
    let (result, ()) = join!(source, async {
        let mut old = bench.platforms.recv().await.unwrap();
        assert!(old.receive_text().await.contains("first"));
        old.send_text(r#"{"auth":"ok"}"#).await;
        bench.in_state_after_delay(SourceState::Authenticated).await;
        // Less than the time limit of the ping, which this platform does not answer.
        tokio::time::sleep(Duration::from_secs(2)).await;
        std::fs::write(&path, "second").unwrap();
        let mut new = bench.platforms.recv().await.unwrap();
        assert!(new.receive_text().await.contains("second"));
        assert_eq!(bench.snapshot().open_connections, 2);
        new.send_text(r#"{"auth":"ok"}"#).await;
        old.answer_pings().await;
        bench.open_connections(1).await;
        assert_eq!(bench.snapshot().disconnections.get(DisconnectReason::Replaced), 1);
        assert_eq!(bench.snapshot().gaps.total(), 0);
        bench.stop.cancel();
    });
    result.unwrap();
}

fn without_token(config: &mut SourceConfig) {
    config.token = None;
    config.token_from = Some(TokenFromConfig::default());
}

#[tokio::test(start_paused = true)]
async fn set_token_replaces_every_connection_before_it_is_closed() {
    let (source, mut bench) = bench(|config| config.connections = 2, Vec::new());
    let (result, ()) = join!(source, async {
        let mut old = [bench.authenticated().await, bench.authenticated().await];
        bench.open_connections(2).await;
        bench.handle.set_token("second");
        let mut new = Vec::new();
        for index in 0..2 {
            let mut platform = bench.platforms.recv().await.unwrap();
            assert!(platform.receive_text().await.contains("second"));
            assert_eq!(bench.handle.token_state(), TokenState::Waiting, "{index}");
            platform.send_text(r#"{"auth":"ok"}"#).await;
            new.push(platform);
        }
        // Events on an old connection are received until the server has closed it.
        old[0].send_text(event(1)).await;
        assert_eq!(bench.batches.recv().await.unwrap(), [event(1)]);
        assert_eq!(bench.handle.token_state(), TokenState::Waiting);
        tokio::time::sleep(2 * REPLACEMENT_OVERLAP).await;
        for old in &mut old {
            old.answer_pings().await;
        }
        bench
            .handle
            .token_state_is(|state| state == TokenState::InUse)
            .await;
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.open_connections, 2);
        assert_eq!(snapshot.disconnections.get(DisconnectReason::Replaced), 2);
        assert_eq!(snapshot.gaps.total(), 0);
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn refused_new_token_keeps_the_old_connection() {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let (result, ()) = join!(source, async {
        let mut old = bench.authenticated().await;
        bench.open_connections(1).await;
        bench.handle.set_token("wrong");
        let mut new = bench.platforms.recv().await.unwrap();
        new.receive_text().await;
        new.send_text(r#"{"error":"Invalid token"}"#).await;
        bench
            .handle
            .token_state_is(|state| state == TokenState::Refused)
            .await;
        old.send_text(event(1)).await;
        assert_eq!(bench.batches.recv().await.unwrap(), [event(1)]);
        bench.handle.set_token("right");
        loop {
            let mut platform = bench.platforms.recv().await.unwrap();
            if platform.receive_text().await.contains("right") {
                platform.send_text(r#"{"auth":"ok"}"#).await;
                new = platform;
                break;
            }
        }
        drop(old);
        bench
            .handle
            .token_state_is(|state| state == TokenState::InUse)
            .await;
        new.send_text(event(2)).await;
        assert_eq!(bench.batches.recv().await.unwrap(), [event(2)]);
        assert_eq!(bench.snapshot().gaps.total(), 0);
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn source_without_token_connects_once_one_is_set() {
    let (source, mut bench) = bench(without_token, Vec::new());
    let (result, ()) = join!(source, async {
        bench.in_state_after_delay(SourceState::Waiting).await;
        assert_eq!(bench.snapshot().reason.unwrap(), "waiting for the first token");
        bench.handle.set_token("minted");
        let mut platform = bench.platforms.recv().await.unwrap();
        assert!(platform.receive_text().await.contains("minted"));
        platform.send_text(r#"{"auth":"ok"}"#).await;
        bench
            .handle
            .token_state_is(|state| state == TokenState::InUse)
            .await;
        let snapshot = bench.snapshot();
        assert_eq!((snapshot.connections, snapshot.open_connections), (1, 1));
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn set_address_is_dialled_before_the_old_connection_is_closed() {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let (result, ()) = join!(source, async {
        let mut old = bench.authenticated().await;
        bench.open_connections(1).await;
        bench.handle.set_url("ws://other:81/feed").unwrap();
        let _new = bench.authenticated().await;
        assert!(
            bench
                .requests
                .lock()
                .unwrap()
                .contains(&"ws://other:81/feed".to_owned())
        );
        while old.receive_text().await != "[close 1000]" {}
        drop(old);
        bench.open_connections(1).await;
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.disconnections.get(DisconnectReason::Replaced), 1);
        assert_eq!(bench.snapshot().gaps.total(), 0);
        bench.stop.cancel();
    });
    result.unwrap();
}
