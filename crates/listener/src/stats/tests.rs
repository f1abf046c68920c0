use super::*;

impl SourceStats {
    /// Records the end of the only authenticated connection.
    fn lost(&self, reason: DisconnectReason, last_read: Instant) {
        let since = self.lock().coverage.oldest().unwrap();
        let was = WasAuthenticated { since, last_read };
        assert_eq!(self.disconnected(reason, Some(was)), None);
    }
}

#[tokio::test(start_paused = true)]
async fn gap_lasts_until_the_next_authenticated_connection() {
    let stats = SourceStats::new();
    stats.opening(None);
    stats.disconnected(DisconnectReason::AuthTimeout, None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(stats.snapshot().gap_time, Duration::ZERO);
    stats.opening(None);
    stats.authenticated(false);
    assert_eq!(stats.snapshot().gaps.total(), 0);
    stats.lost(DisconnectReason::Closed, Instant::now());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(
        stats.snapshot().gap_time,
        Duration::from_secs(2),
        "the open gap counts"
    );
    assert_eq!(stats.snapshot().open_gap, Some(Duration::from_secs(2)));
    stats.dialling();
    stats.opening(Some(0.5));
    stats.disconnected(DisconnectReason::TokenRefused, None);
    tokio::time::advance(Duration::from_secs(3)).await;
    stats.opening(None);
    stats.authenticated(false);
    tokio::time::advance(Duration::from_secs(4)).await;
    let snapshot = stats.snapshot();
    assert_eq!(snapshot.gap_time, Duration::from_secs(5));
    assert_eq!(snapshot.gaps.get(GapOutcome::Unrecovered), 1);
    assert_eq!(snapshot.open_gap, None);
    let [gap] = &snapshot.newest_gaps[..] else {
        panic!("{:?}", snapshot.newest_gaps)
    };
    assert_eq!(
        (gap.length, gap.reason),
        (Duration::from_secs(5), DisconnectReason::Closed),
        "the reason is that of the first loss"
    );
    assert_eq!((snapshot.connections, snapshot.open_connections), (4, 1));
    assert_eq!(snapshot.clock_skew_seconds, Some(0.5));
}

#[tokio::test(start_paused = true)]
async fn refused_token_is_the_reason_of_its_gap() {
    let stats = SourceStats::new();
    stats.opening(None);
    stats.authenticated(false);
    stats.lost(DisconnectReason::Broken, Instant::now());
    stats.waiting(SourceState::Waiting, "broken".into());
    let reason = || stats.snapshot().open_gap_began.unwrap().1;
    assert_eq!(reason(), DisconnectReason::Broken);
    stats.disconnected(DisconnectReason::TokenRefused, None);
    stats.waiting(SourceState::Refused, "refused".into());
    assert_eq!(reason(), DisconnectReason::TokenRefused);
    stats.opening(None);
    stats.authenticated(false);
    assert_eq!(
        stats.snapshot().newest_gaps[0].reason,
        DisconnectReason::TokenRefused
    );
}

#[tokio::test(start_paused = true)]
async fn proof_of_life_is_the_time_of_the_last_byte() {
    let stats = SourceStats::new();
    let reading = |since: Option<Instant>| {
        let mut reading = Reading::default();
        reading.frames.add(FrameKind::Event, 1);
        reading.received = since.map(|authenticated_at| ReceivedPeriod {
            authenticated_at,
            until: Instant::now(),
        });
        reading
    };
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    stats.read(reading(None), time("2026-01-01T00:00:00Z"));
    assert_eq!(stats.snapshot().proof_of_life, None, "not authenticated yet");
    stats.opening(None);
    let since = stats.authenticated(false).at;
    let authenticated = stats.snapshot().proof_of_life.unwrap();
    assert_eq!(stats.snapshot().first_authenticated, Some(authenticated));
    stats.read(Reading::default(), time("2026-01-01T00:00:01Z"));
    assert_eq!(
        stats.snapshot().proof_of_life,
        Some(authenticated),
        "nothing was read"
    );
    stats.read(reading(Some(since)), time("2026-01-01T00:00:02Z"));
    assert_eq!(stats.snapshot().proof_of_life, Some(time("2026-01-01T00:00:02Z")));
    let last_read = Instant::now();
    tokio::time::advance(Duration::from_secs(60)).await;
    stats.lost(DisconnectReason::Stopped, last_read);
    let snapshot = stats.snapshot();
    let ago = clock::now().duration_since(snapshot.proof_of_life.unwrap());
    assert!((60..70).contains(&ago.as_secs()), "{ago:?}");
    assert_eq!((snapshot.open_gap, snapshot.open_gap_began), (None, None));
}

#[tokio::test(start_paused = true)]
async fn gap_begins_at_the_last_byte_that_was_read() {
    let stats = SourceStats::new();
    stats.opening(None);
    assert_eq!(stats.authenticated(false).gap, None);
    let last_read = Instant::now();
    tokio::time::advance(Duration::from_secs(12)).await;
    stats.lost(DisconnectReason::PongTimeout, last_read);
    assert_eq!(stats.snapshot().open_gap, Some(Duration::from_secs(12)));
    tokio::time::advance(Duration::from_secs(8)).await;
    assert_eq!(stats.authenticated(false).gap, Some(Duration::from_secs(20)));
    assert_eq!(stats.snapshot().gap_time, Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_keep_the_start_of_the_outage() {
    let stats = SourceStats::new();
    let down_since = stats.snapshot().since;
    for _ in 0..3 {
        while clock::now() <= down_since {
            std::hint::spin_loop();
        }
        stats.dialling();
        stats.opening(None);
        stats.waiting(SourceState::Refused, "refused".into());
        assert_eq!(stats.snapshot().since, down_since);
    }
    stats.authenticated(false);
    assert!(stats.snapshot().since > down_since);
}

#[tokio::test(start_paused = true)]
async fn only_the_eight_newest_gaps_are_stored() {
    let stats = SourceStats::new();
    for second in 0..20 {
        stats.authenticated(false);
        stats.lost(DisconnectReason::Broken, Instant::now());
        tokio::time::advance(Duration::from_secs(second)).await;
    }
    stats.authenticated(false);
    let lengths: Vec<u64> = stats
        .snapshot()
        .newest_gaps
        .iter()
        .map(|gap| gap.length.as_secs())
        .collect();
    assert_eq!(lengths, [19, 18, 17, 16, 15, 14, 13, 12]);
}

#[tokio::test(start_paused = true)]
async fn stop_is_no_gap_and_backpressure_is_timed() {
    let stats = SourceStats::new();
    stats.authenticated(false);
    stats.backpressure_began();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(stats.snapshot().blocked, Duration::from_secs(2));
    assert_eq!(stats.snapshot().state, SourceState::Authenticated);
    stats.backpressure_lasts();
    assert_eq!(stats.snapshot().state, SourceState::Blocked);
    stats.unblocked(true);
    tokio::time::advance(Duration::from_secs(2)).await;
    stats.lost(DisconnectReason::Stopped, Instant::now());
    tokio::time::advance(Duration::from_secs(2)).await;
    let snapshot = stats.snapshot();
    assert_eq!(
        (snapshot.blocked, snapshot.gap_time),
        (Duration::from_secs(2), Duration::ZERO)
    );
    assert_eq!(snapshot.state, SourceState::Authenticated);
}

#[tokio::test(start_paused = true)]
async fn backpressure_of_two_connections_ends_with_both() {
    let stats = SourceStats::new();
    for _ in 0..2 {
        stats.opening(None);
        stats.authenticated(false);
    }
    for _ in 0..2 {
        stats.backpressure_began();
        stats.backpressure_lasts();
    }
    assert_eq!(stats.snapshot().state, SourceState::Blocked);
    tokio::time::advance(Duration::from_secs(5)).await;
    stats.unblocked(true);
    assert_eq!(
        stats.snapshot().state,
        SourceState::Blocked,
        "the other connection is blocked"
    );
    tokio::time::advance(Duration::from_secs(5)).await;
    stats.unblocked(true);
    assert_eq!(stats.snapshot().state, SourceState::Authenticated);
    assert_eq!(stats.snapshot().blocked, Duration::from_secs(10));
}

/// Two connections, of which the first is dead for ten seconds when the second is authenticated. Returns the state after the end
/// of the first.
async fn hidden_gap(resumes: bool, reason: DisconnectReason) -> (SourceStats, Option<HiddenGap>) {
    let stats = SourceStats::new();
    let since = stats.authenticated(false).at;
    tokio::time::advance(Duration::from_secs(5)).await;
    let last_read = Instant::now();
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(!stats.authenticated(resumes).is_only);
    tokio::time::advance(Duration::from_secs(7)).await;
    let gap = stats.disconnected(reason, Some(WasAuthenticated { since, last_read }));
    (stats, gap)
}

#[tokio::test(start_paused = true)]
async fn hidden_gap_is_counted_and_stored_like_others() {
    for (resumes, outcome) in [(false, GapOutcome::Unrecovered), (true, GapOutcome::Recovered)] {
        let (stats, gap) = hidden_gap(resumes, DisconnectReason::PongTimeout).await;
        let length = Duration::from_secs(10);
        let is_connected = true;
        let expected = HiddenGap {
            length,
            outcome,
            is_connected,
        };
        assert_eq!(gap, Some(expected));
        let snapshot = stats.snapshot();
        assert_eq!((snapshot.gap_time, snapshot.gaps.get(outcome)), (length, 1));
        let kept = &snapshot.newest_gaps[0];
        assert_eq!((kept.length, kept.outcome), (length, outcome));
        let ago = clock::now().duration_since(kept.began);
        assert!((17..20).contains(&ago.as_secs()), "{ago:?}");
        // The next gap begins at the last byte of the second connection.
        tokio::time::advance(Duration::from_secs(3)).await;
        stats.lost(DisconnectReason::Broken, Instant::now());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(stats.snapshot().open_gap, Some(Duration::from_secs(2)));
        assert_eq!(stats.snapshot().gap_time, Duration::from_secs(12));
    }
}

#[tokio::test(start_paused = true)]
async fn stop_of_a_source_is_never_a_hidden_gap() {
    let (stats, gap) = hidden_gap(false, DisconnectReason::Stopped).await;
    assert_eq!(gap, None);
    stats.lost(DisconnectReason::Stopped, Instant::now());
    let snapshot = stats.snapshot();
    assert_eq!((snapshot.gaps.total(), snapshot.gap_time), (0, Duration::ZERO));
    assert_eq!(snapshot.open_gap, None);
}
