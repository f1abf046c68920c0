//! Clients that make no progress.

use super::*;

/// A sink that reports no outcome for a certain time, also after reconnections, and then works.
struct StuckSink {
    waiting: Vec<Sequence>,
    until: Instant,
    connects: Arc<Mutex<Vec<Instant>>>,
}

impl Sink for StuckSink {
    async fn connect(&mut self, _: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.waiting.clear();
        self.connects.lock().unwrap().push(Instant::now());
        Ok(plain_connection())
    }

    fn publish(&mut self, event: &Event<'_>, _: &Bytes) -> Result<(), PublishError> {
        self.waiting.push(event.sequence);
        Ok(())
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        // A stuck client never acknowledges the events published to it.
        let connected = *self.connects.lock().unwrap().last().unwrap();
        if connected < self.until {
            pending::<()>().await;
        }
        acks.extend(self.waiting.drain(..).map(|sequence| Ack {
            sequence,
            outcome: Outcome::Delivered,
        }));
        Ok(AfterOutcomes::Continue)
    }

    fn status(&self) -> SinkStatus {
        let unavailable = {
            Some(SinkFault::new(FaultKind::Unreachable, "1/1 brokers are down"))
                .filter(|_| !self.waiting.is_empty())
        };
        SinkStatus {
            unavailable,
            ..SinkStatus::default()
        }
    }

    plain_sink!();
}

/// Runs a delivery for `hours` with a client that is stuck for the first `stuck_for`. Returns the times of its connections,
/// and the progress after the first replacement and at the end.
fn run_stuck(stuck_for: Duration, hours: u64) -> (Vec<Duration>, ProgressSnapshot, ProgressSnapshot) {
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let (reader, options) = ten_events(&cursor, "stuck");
    let progress = Arc::new(Progress::new(cursor));
    let connects = Arc::new(Mutex::new(Vec::new()));
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let abort = shutdown.abort.clone();
    let (watched, times) = (Arc::clone(&progress), Arc::clone(&connects));
    runtime().block_on(async move {
        let began = Instant::now();
        let sink = StuckSink {
            waiting: Vec::new(),
            until: began + stuck_for,
            connects,
        };
        let seen = tokio::spawn(async move {
            sleep(Duration::from_secs(45)).await;
            let first = watched.snapshot();
            sleep(Duration::from_secs(hours * 3600)).await;
            abort.cancel();
            (first, watched.snapshot())
        });
        deliver(sink, reader, options, progress, shutdown).await.unwrap();
        let (first, last) = seen.await.unwrap();
        let times = times.lock().unwrap().iter().map(|time| *time - began).collect();
        (times, first, last)
    })
}

#[test]
fn silent_client_is_replaced_and_delivers_all() {
    let (connects, first, last) = run_stuck(Duration::from_secs(1), 1);
    assert_eq!(connects.len(), 2, "{connects:?}");
    assert!((30..32).contains(&connects[1].as_secs()), "{connects:?}");
    for seen in [first, last] {
        assert_eq!((seen.cursor.next.get(), seen.client_replacements), (11, 1));
        assert_eq!((seen.state, seen.reason), (SinkState::Up, None));
    }
}

#[test]
fn useless_replacements_become_less_frequent() {
    let (connects, first, last) = run_stuck(Duration::from_secs(2 * 3600), 3);
    // While its client is stuck, the sink is down for this reason although it is connected.
    assert_eq!(first.state, SinkState::Down);
    assert_eq!(
        first.reason.as_deref(),
        Some(
            "no event was acknowledged for 30 seconds while events wait (1/1 brokers are down); client replaced, sending \
             again from the cursor; if this repeats, check the broker"
        )
    );
    let between: Vec<u64> = connects
        .windows(2)
        .map(|two| (two[1] - two[0]).as_secs())
        .collect();
    assert!(between.is_sorted_by(|one, next| next + 2 >= *one), "{between:?}");
    assert!((55..65).contains(&connects.len()), "{between:?}");
    assert_eq!(last.client_replacements, connects.len() as u64 - 1);
    assert_eq!((last.state, last.cursor.next.get()), (SinkState::Up, 11));
}

#[test]
fn idle_client_is_not_replaced() {
    let (connects, _, last) = run_stuck(Duration::ZERO, 2);
    assert_eq!((connects.len(), last.client_replacements), (1, 0));
}
