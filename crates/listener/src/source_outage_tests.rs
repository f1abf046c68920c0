//! Tests of outages: where a gap begins, and what is logged meanwhile.

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::Once,
};

use super::*;

#[tokio::test(start_paused = true)]
async fn half_open_gap_begins_at_the_last_byte() {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let server = async {
        let mut half_open = bench.platforms.recv().await.unwrap();
        half_open.authenticate().await;
        // The clock is paused: the last byte comes later than the authentication.
        tokio::time::sleep(Duration::from_secs(1)).await;
        half_open.send_text(event(1)).await;
        bench.batches.recv().await.unwrap();
        let last_byte = Instant::now();
        // The first connection stays open, without reading or sending.
        let mut platform = bench.platforms.recv().await.unwrap();
        platform.authenticate().await;
        bench.in_state(SourceState::Authenticated).await;
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.disconnections.get(DisconnectReason::PongTimeout), 1);
        let gap = snapshot.newest_gaps[0].length;
        assert_eq!(gap, last_byte.elapsed());
        assert!(gap >= SourceConfig::default().pong_timeout, "{gap:?}");
        bench.stop.cancel();
        drop(half_open);
    };
    join!(source, server).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn lasting_outage_is_logged_every_minute() {
    let failure = DialError::Status {
        target: "host:80".into(),
        status: 429,
        words: "",
        retry_after: Some(Duration::from_secs(250)),
    };
    capture_log();
    let (source, mut bench) = bench(|_| {}, vec![failure]);
    let (result, ()) = join!(source, async {
        bench.platforms.recv().await.unwrap();
        bench.stop.cancel();
    });
    result.unwrap();
    let log = LOG.with_borrow(|log| String::from_utf8(log.clone())).unwrap();
    let (first, others) = log.split_once('\n').unwrap();
    let expected = ["not connected: host:80 answered HTTP 429", "attempts=1"];
    assert!(expected.iter().all(|part| first.contains(part)), "{first}");
    assert!(!first.contains("lasted"), "{first}");
    let lasted = others.lines().map(|line| {
        let (_, rest) = line.split_once("lasted=\"").unwrap_or_else(|| panic!("{log}"));
        rest.split('"').next().unwrap()
    });
    assert_eq!(lasted.collect::<Vec<_>>(), ["1m", "2m", "3m", "4m"], "{log}");
}

thread_local! {
    /// The log lines of this thread.
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends log lines to [`LOG`]. The subscriber is global: with one of a single thread, a test of another thread that logs first
/// can disable the log statement for the whole process.
fn capture_log() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| ThreadLog)
            .init();
    });
}

struct ThreadLog;

impl Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
