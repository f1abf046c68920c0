//! Tests of a source that connects only while the program allows it.

use super::*;

#[tokio::test(start_paused = true)]
async fn source_connects_only_while_allowed() {
    let (allow, may_connect) = watch::channel(false);
    let (source, mut bench) = bench_while(Some(may_connect), |config| config.connections = 2, Vec::new());
    let (result, ()) = join!(source, async {
        bench.in_state(SourceState::Standby).await;
        for round in 1..=2_usize {
            tokio::select! {
                _ = bench.platforms.recv() => panic!("a connection that is not allowed"),
                // Costs no time: the clock is paused. Longer than all delays between attempts.
                () = tokio::time::sleep(Duration::from_secs(600)) => {}
            }
            allow.send_replace(true);
            let mut first = bench.authenticated().await;
            let mut second = bench.authenticated().await;
            first.send_text(event(round)).await;
            assert_eq!(bench.batches.recv().await.unwrap(), [event(round)]);
            bench.open_connections(2).await;
            assert!(bench.snapshot().first_authenticated.is_some());
            allow.send_replace(false);
            // The paused clock advances only when the source is idle, so its close frames have been sent.
            tokio::time::sleep(Duration::from_millis(1)).await;
            // Events that the server sends before its close frame are still received.
            first.send_text(event(7)).await;
            first.close(CloseCode::Normal).await;
            second.close(CloseCode::Normal).await;
            assert_eq!(bench.batches.recv().await.unwrap(), [event(7)]);
            bench.in_state(SourceState::Standby).await;
            let snapshot = bench.snapshot();
            assert_eq!(
                snapshot.disconnections.get(DisconnectReason::Stopped),
                2 * round as u64
            );
            assert_eq!((snapshot.open_connections, snapshot.gaps.total()), (0, 0));
            assert_eq!((snapshot.open_gap, snapshot.first_authenticated), (None, None));
        }
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn attempts_stop_when_connecting_becomes_disallowed() {
    let (allow, may_connect) = watch::channel(true);
    let failure = || DialError::Status {
        target: "host:80".into(),
        status: 503,
        words: "",
        retry_after: None,
    };
    let failures = (0..1000).map(|_| failure()).collect();
    let (source, mut bench) = bench_while(Some(may_connect), |_| {}, failures);
    let (result, ()) = join!(source, async {
        bench.in_state(SourceState::Waiting).await;
        allow.send_replace(false);
        bench.in_state(SourceState::Standby).await;
        let attempts = bench.snapshot().outcomes.total();
        // Costs no time: the clock is paused. Longer than all delays between attempts.
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(bench.snapshot().outcomes.total(), attempts);
        assert_eq!(bench.snapshot().reason, None);
        bench.failures.lock().unwrap().clear();
        allow.send_replace(true);
        let _platform = bench.authenticated().await;
        bench.in_state(SourceState::Authenticated).await;
        bench.stop.cancel();
    });
    result.unwrap();
}
