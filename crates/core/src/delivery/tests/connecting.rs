//! Connection attempts that wait for a server.

use super::*;
use crate::connect::{ConnectStep, ConnectSteps};

/// A sink whose first connection attempt never ends, and whose second one succeeds.
struct WaitingSink {
    attempts: u32,
    waiting: Vec<Sequence>,
}

impl Sink for WaitingSink {
    async fn connect(&mut self, context: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.attempts += 1;
        if self.attempts == 1 {
            context.steps.begin(ConnectStep::Dial, "broker:9092");
            // Each further attempt fails, so the connection attempt makes no progress.
            try_addresses(context.steps).await;
        }
        Ok(plain_connection())
    }

    fn publish(&mut self, event: &Event<'_>, _: &Bytes) -> Result<(), PublishError> {
        self.waiting.push(event.sequence);
        Ok(())
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        acks.extend(self.waiting.drain(..).map(|sequence| Ack {
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

async fn try_addresses(steps: &ConnectSteps) {
    loop {
        sleep(Duration::from_secs(3)).await;
        steps.begin(ConnectStep::Dial, "other:9092");
        sleep(Duration::from_secs(3)).await;
        steps.begin(ConnectStep::Dial, "broker:9092");
    }
}

#[test]
fn connect_without_progress_has_a_reason_and_is_replaced() {
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let (reader, options) = ten_events(&cursor, "connecting");
    let progress = Arc::new(Progress::new(cursor));
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let abort = shutdown.abort.clone();
    let watched = Arc::clone(&progress);
    runtime().block_on(async move {
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            for seconds in [4, 3, 37, 5] {
                sleep(Duration::from_secs(seconds)).await;
                seen.push(watched.snapshot());
            }
            abort.cancel();
            seen
        });
        let sink = WaitingSink {
            attempts: 0,
            waiting: Vec::new(),
        };
        deliver(sink, reader, options, progress, shutdown).await.unwrap();
        let seen = seen.await.unwrap();
        // After 4, 7, 44 and 49 seconds.
        assert_eq!((seen[0].state, &seen[0].reason), (SinkState::Connecting, &None));
        for (seen, time) in [(&seen[1], "after 7 s"), (&seen[2], "after 44 s")] {
            let reason = seen.reason.as_deref().unwrap();
            assert!(reason.contains(time) && reason.contains("dial, "), "{reason}");
            let (faults, failures) = (&seen.faults, &seen.connect_failures);
            assert_eq!(
                (seen.state, faults.total(), failures.total()),
                (SinkState::Down, 1, 1)
            );
            assert_eq!(faults.get(FaultKind::Unreachable), 1);
            assert_eq!(failures.get(ConnectStep::Dial), 1);
        }
        assert_eq!((seen[3].state, &seen[3].reason), (SinkState::Up, &None));
        assert_eq!((seen[3].client_replacements, seen[3].cursor.next.get()), (1, 11));
    });
}
