//! A fault while nothing is in flight.

use super::*;

/// A sink that acknowledges all events immediately, and whose connection breaks once when all are settled.
struct IdleSink {
    acknowledged: Vec<Ack>,
    expected: u64,
    delivered: u64,
    connects: Arc<Mutex<u64>>,
}

impl Sink for IdleSink {
    async fn connect(&mut self, _: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        *self.connects.lock().unwrap() += 1;
        Ok(plain_connection())
    }

    fn publish(&mut self, event: &Event<'_>, _: &Bytes) -> Result<(), PublishError> {
        self.acknowledged.push(Ack {
            sequence: event.sequence,
            outcome: Outcome::Delivered,
        });
        Ok(())
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        self.delivered += self.acknowledged.len() as u64;
        acks.append(&mut self.acknowledged);
        Ok(AfterOutcomes::Continue)
    }

    fn status(&self) -> SinkStatus {
        let broken = {
            let is_first = *self.connects.lock().unwrap() == 1;
            let is_idle = self.delivered == self.expected;
            (is_first && is_idle).then(|| SinkFault::new(FaultKind::Unreachable, "the idle connection broke"))
        };
        SinkStatus {
            broken,
            ..SinkStatus::default()
        }
    }

    plain_sink!();
}

#[test]
fn broken_idle_connection_is_replaced_before_the_next_event() {
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let connects = Arc::new(Mutex::new(0));
    let sink = IdleSink {
        acknowledged: Vec::new(),
        expected: 10,
        delivered: 0,
        connects: Arc::clone(&connects),
    };
    let (reader, options) = ten_events(&cursor, "idle");
    let progress = Arc::new(Progress::new(cursor));
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let abort = shutdown.abort.clone();
    runtime().block_on(async {
        tokio::spawn(async move {
            // The clock is paused, so the timer advances it by 60 s at once.
            sleep(Duration::from_secs(60)).await;
            abort.cancel();
        });
        deliver(sink, reader, options, Arc::clone(&progress), shutdown)
            .await
            .unwrap()
    });
    let snapshot = progress.snapshot();
    assert_eq!(*connects.lock().unwrap(), 2, "{snapshot:?}");
    assert_eq!(snapshot.faults.total(), 1);
    assert_eq!((snapshot.cursor.counts.delivered, snapshot.resent), (10, 0));
    // The reason was removed with the fault.
    assert_eq!((snapshot.state, snapshot.reason), (SinkState::Up, None));
}
