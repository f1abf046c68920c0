//! Tests of gaps that a dead connection hides, because it counts as authenticated until its loss is detected, and of the
//! start of gaps after a pause in reading. The clock is paused: a sleep takes no real time.

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;
use crate::hold::GapEnded;

impl Bench {
    /// Authenticates the next connection. Returns the connection and the time of the authentication.
    async fn authenticated_at(&mut self) -> (Platform, Instant) {
        let mut platform = self.platforms.recv().await.unwrap();
        platform.authenticate().await;
        (platform, Instant::now())
    }

    /// Returns the receiver of the ends of gaps.
    fn gap_ends(&self) -> mpsc::Receiver<GapEnded> {
        let (ends, reports) = mpsc::channel(1);
        self.hold.observe(ends, Duration::from_secs(1));
        reports
    }

    /// Waits one second, sends an event, and waits until the event is read. Returns the time of the read, which is the last byte
    /// of the connection.
    async fn send_event_after_a_second(&mut self, platform: &mut Platform) -> Instant {
        tokio::time::sleep(Duration::from_secs(1)).await;
        platform.send_text(event(1)).await;
        self.batches.recv().await.unwrap();
        Instant::now()
    }
}

/// Waits for the report of a gap's end (the first authentication is reported too) and drops it, so that events are read again.
async fn gap_end(ends: &mut mpsc::Receiver<GapEnded>) {
    let ended = tokio::time::timeout(Duration::from_secs(30), ends.recv()).await;
    drop(ended.expect("the end of a gap is reported").unwrap());
}

fn two_connections(config: &mut SourceConfig) {
    config.connections = 2;
    config.backoff.min = Duration::from_millis(10);
    config.backoff.max = Duration::from_millis(20);
}

#[tokio::test(start_paused = true)]
async fn two_half_open_connections_are_a_gap() {
    let (source, mut bench) = bench(two_connections, Vec::new());
    let mut ends = bench.gap_ends();
    let (result, ()) = join!(source, async {
        let mut first = bench.authenticated().await;
        gap_end(&mut ends).await;
        let mut second = bench.authenticated().await;
        bench.send_event_after_a_second(&mut first).await;
        let last_byte = bench.send_event_after_a_second(&mut second).await;
        // The second connection was opened one second after the first, so its loss is detected one second after the loss of the
        // first.
        let (mut third, ended) = bench.authenticated_at().await;
        let snapshot = bench.snapshot();
        assert_eq!((snapshot.gaps.total(), snapshot.open_gap), (0, None));
        let detected = async {
            gap_end(&mut ends).await;
            let snapshot = bench.snapshot();
            assert_eq!(snapshot.state, SourceState::Authenticated);
            assert_eq!(snapshot.disconnections.get(DisconnectReason::PongTimeout), 2);
            let gap = &snapshot.newest_gaps[0];
            assert_eq!(gap.length, ended - last_byte);
            assert_eq!(
                (gap.reason, gap.outcome),
                (DisconnectReason::PongTimeout, GapOutcome::Unrecovered)
            );
            assert_eq!(snapshot.gaps.get(GapOutcome::Unrecovered), 1);
            assert_eq!((snapshot.gap_time, snapshot.open_gap), (gap.length, None));
            bench.stop.cancel();
        };
        join!(detected, third.answer_pings());
        drop((first, second));
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn half_open_connection_that_is_replaced_is_a_gap() {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let mut ends = bench.gap_ends();
    let (result, ()) = join!(source, async {
        let mut old = bench.authenticated().await;
        gap_end(&mut ends).await;
        let last_byte = bench.send_event_after_a_second(&mut old).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        bench.handle.set_token("second");
        let mut new = bench.platforms.recv().await.unwrap();
        assert!(new.receive_text().await.contains("second"));
        new.send_text(r#"{"auth":"ok"}"#).await;
        let ended = Instant::now();
        gap_end(&mut ends).await;
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.gaps.total(), 1);
        let gap = &snapshot.newest_gaps[0];
        assert_eq!(
            (gap.length, gap.reason),
            (ended - last_byte, DisconnectReason::Replaced)
        );
        bench.stop.cancel();
        drop(old);
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn orderly_replacement_is_no_gap() {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let (result, ()) = join!(source, async {
        let mut old = bench.authenticated().await;
        bench.send_event_after_a_second(&mut old).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        bench.handle.set_token("second");
        let mut new = bench.platforms.recv().await.unwrap();
        new.receive_text().await;
        new.send_text(r#"{"auth":"ok"}"#).await;
        // Reads until the end, which answers the close frame.
        old.answer_pings().await;
        bench.open_connections(1).await;
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.disconnections.get(DisconnectReason::Replaced), 1);
        assert_eq!((snapshot.gaps.total(), snapshot.gap_time), (0, Duration::ZERO));
        bench.stop.cancel();
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_half_open_connection_of_two_is_no_gap() {
    let (source, mut bench) = bench(two_connections, Vec::new());
    let (result, ()) = join!(source, async {
        let mut first = bench.authenticated().await;
        let mut second = bench.authenticated().await;
        bench.send_event_after_a_second(&mut first).await;
        let reconnected = async {
            let (mut third, _) = bench.authenticated_at().await;
            let end = Instant::now() + Duration::from_secs(60);
            tokio::time::timeout_at(end, third.answer_pings())
                .await
                .unwrap_err();
            third
        };
        let third = tokio::select! {
            () = second.answer_pings() => panic!("the connection ended"),
            third = reconnected => third,
        };
        drop(second);
        bench.open_connections(1).await;
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.disconnections.get(DisconnectReason::PongTimeout), 1);
        assert_eq!((snapshot.gaps.total(), snapshot.open_gap), (0, None));
        bench.stop.cancel();
        drop((first, third));
    });
    result.unwrap();
    assert_eq!(bench.snapshot().gaps.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn events_wait_while_those_of_a_gap_are_fetched() {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let mut ends = bench.gap_ends();
    let (result, ()) = join!(source, async {
        let mut platform = bench.authenticated().await;
        let fetching = ends.recv().await.unwrap();
        platform.send_text(event(1)).await;
        advance(500).await;
        assert!(bench.batches.try_recv().is_err());
        drop(fetching);
        assert_eq!(bench.batches.recv().await.unwrap(), [event(1)]);
        // Waiting for the fetched events does not count as backpressure.
        assert_eq!(bench.snapshot().blocked, Duration::ZERO);
        bench.stop.cancel();
    });
    result.unwrap();
}

/// Advances the paused clock of the test.
async fn advance(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// Waits for the next connection and asserts that the gap before it began at `began`.
async fn assert_gap_since(bench: &mut Bench, ends: &mut mpsc::Receiver<GapEnded>, began: Instant) {
    let mut next = bench.platforms.recv().await.unwrap();
    next.authenticate().await;
    let ended = Instant::now();
    gap_end(ends).await;
    assert_eq!(bench.snapshot().newest_gaps[0].length, ended - began);
    bench.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn gap_begins_at_pause_if_accumulated_data_stays_unread() {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let mut ends = bench.gap_ends();
    let (result, ()) = join!(source, async {
        let mut platform = bench.authenticated().await;
        let paused = Instant::now();
        let fetching = ends.recv().await.unwrap();
        advance(700).await;
        // The connection is lost before the accumulated data is read completely, so some of it may be lost too.
        platform.send_text(event(1)).await;
        drop(platform);
        drop(fetching);
        bench.batches.recv().await.unwrap();
        assert_gap_since(&mut bench, &mut ends, paused).await;
    });
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn gap_begins_at_pause_in_which_the_server_closes() {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let mut ends = bench.gap_ends();
    let (result, ()) = join!(source, async {
        let mut platform = bench.authenticated().await;
        let paused = Instant::now();
        let fetching = ends.recv().await.unwrap();
        // The close frame is read after the pause; the time of its arrival is unknown.
        platform.close(CloseCode::Away).await;
        advance(700).await;
        drop(fetching);
        assert_gap_since(&mut bench, &mut ends, paused).await;
    });
    result.unwrap();
}

/// Lets an event arrive in a pause of 700 ms and reads it afterwards. Returns the platform and the start of the pause.
async fn read_after_a_pause(bench: &mut Bench, ends: &mut mpsc::Receiver<GapEnded>) -> (Platform, Instant) {
    let mut platform = bench.authenticated().await;
    let paused = Instant::now();
    let fetching = ends.recv().await.unwrap();
    platform.send_text(event(1)).await;
    advance(700).await;
    drop(fetching);
    bench.batches.recv().await.unwrap();
    (platform, paused)
}

#[tokio::test(start_paused = true)]
async fn gap_begins_at_pause_if_nothing_arrives_after_it() {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let mut ends = bench.gap_ends();
    let (result, ()) = join!(source, async {
        // Half-open from here on: the time at which the event arrived is unknown.
        let (_platform, paused) = read_after_a_pause(&mut bench, &mut ends).await;
        assert_gap_since(&mut bench, &mut ends, paused).await;
    });
    result.unwrap();
}

/// Sends an event some milliseconds after the end of a pause, then loses the connection. Checks that the gap begins at the start
/// of the pause, or at the event.
async fn assert_gap_after_pause(after: u64, begins_before_pause: bool) {
    let (source, mut bench) = bench(|_| {}, Vec::new());
    let mut ends = bench.gap_ends();
    let (result, ()) = join!(source, async {
        let (mut platform, paused) = read_after_a_pause(&mut bench, &mut ends).await;
        advance(after).await;
        platform.send_text(event(2)).await;
        bench.batches.recv().await.unwrap();
        let began = if begins_before_pause {
            paused
        } else {
            Instant::now()
        };
        advance(50).await;
        drop(platform);
        assert_gap_since(&mut bench, &mut ends, began).await;
    });
    result.unwrap();
}

/// Reading continued for 600 ms, less than the pause of 700 ms: the server may still have data that it could not send during the
/// pause.
#[tokio::test(start_paused = true)]
async fn gap_begins_at_pause_if_reading_was_shorter_than_it() {
    assert_gap_after_pause(600, true).await;
}

#[tokio::test(start_paused = true)]
async fn gap_begins_at_event_if_reading_was_longer_than_the_pause() {
    assert_gap_after_pause(800, false).await;
}
