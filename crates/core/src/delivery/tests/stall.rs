//! An event without an acknowledgement, while later events are acknowledged.

use super::*;

/// A sink that acknowledges the first event after a minute and all others immediately.
struct SelectiveSink {
    waiting: Vec<Sequence>,
    /// The time at which the first event is acknowledged.
    late: Option<Instant>,
}

impl Sink for SelectiveSink {
    async fn connect(&mut self, _: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.waiting.clear();
        Ok(plain_connection())
    }

    fn publish(&mut self, event: &Event<'_>, _: &Bytes) -> Result<(), PublishError> {
        self.waiting.push(event.sequence);
        Ok(())
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        let is_first_alone = self.waiting == [Sequence::FIRST];
        if is_first_alone {
            // An absolute time, because the delivery cancels and repeats this call.
            let late = Instant::now() + Duration::from_secs(60);
            tokio::time::sleep_until(*self.late.get_or_insert(late)).await;
        }
        let acknowledged = self
            .waiting
            .extract_if(.., |sequence| is_first_alone || *sequence != Sequence::FIRST);
        acks.extend(acknowledged.map(|sequence| Ack {
            sequence,
            outcome: Outcome::Delivered,
        }));
        Ok(AfterOutcomes::Continue)
    }

    fn status(&self) -> SinkStatus {
        SinkStatus::default()
    }

    plain_sink!();
}

#[test]
fn unacknowledged_first_event_is_an_outage() {
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let (reader, options) = ten_events(&cursor, "stall");
    let progress = Arc::new(Progress::new(cursor));
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let abort = shutdown.abort.clone();
    let watched = Arc::clone(&progress);
    runtime().block_on(async {
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            // The clock is paused, so each snapshot is taken at a fixed time.
            for _ in 0..4 {
                sleep(Duration::from_secs(20)).await;
                seen.push(watched.snapshot());
            }
            abort.cancel();
            seen
        });
        let sink = SelectiveSink {
            waiting: Vec::new(),
            late: None,
        };
        deliver(sink, reader, options, progress, shutdown).await.unwrap();
        let seen = seen.await.unwrap();
        assert_eq!(seen[0].state, SinkState::Down);
        assert!(seen[0].reason.as_deref().unwrap().starts_with("event 1 "));
        assert_eq!(seen[0].cursor.next, Sequence::FIRST);
        assert_eq!((seen[3].state, seen[3].cursor.next.get()), (SinkState::Up, 11));
        assert_eq!(seen[3].reason, None);
    });
}
