//! Deliveries of a member of a cluster that follows and leads.

use tokio::{sync::watch, time::sleep_until};

use super::*;
use crate::copies::CopyCounts;

/// A sink that follows for ten minutes over its first connection, and then leads over another one.
struct MemberSink {
    waiting: Vec<Sequence>,
    connects: Arc<Mutex<u64>>,
    /// The time at which the role changes.
    leads_at: Option<Instant>,
}

impl MemberSink {
    fn is_leading(&self) -> bool {
        *self.connects.lock().unwrap() > 1
    }
}

impl Sink for MemberSink {
    async fn connect(&mut self, _: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.waiting.clear();
        *self.connects.lock().unwrap() += 1;
        Ok(plain_connection())
    }

    fn publish(&mut self, event: &Event<'_>, _: &Bytes) -> Result<(), PublishError> {
        self.waiting.push(event.sequence);
        Ok(())
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        if !self.is_leading() {
            // An absolute time, since the call is cancelled and repeated meanwhile.
            let leads_at = Instant::now() + Duration::from_secs(600);
            tokio::time::sleep_until(*self.leads_at.get_or_insert(leads_at)).await;
            return Ok(AfterOutcomes::Reconnect);
        }
        if self.waiting.is_empty() {
            pending::<()>().await;
        }
        acks.extend(self.waiting.drain(..).map(|sequence| Ack {
            sequence,
            outcome: Outcome::Delivered,
        }));
        Ok(AfterOutcomes::Continue)
    }

    fn status(&self) -> SinkStatus {
        SinkStatus {
            is_follower: !self.is_leading(),
            copies: CopyCounts {
                discarded_messages: if self.is_leading() { 0 } else { 3 },
                possible_duplicates: u64::from(self.is_leading()),
            },
            ..SinkStatus::default()
        }
    }

    plain_sink!();
}

/// Delivers ten events, and returns the progress after each of these numbers of seconds. Then the delivery is aborted.
fn snapshots<S: Sink, const N: usize>(sink: S, cursor: Cursor, seconds: [u64; N]) -> [ProgressSnapshot; N] {
    let (reader, options) = ten_events(&cursor, "member");
    let progress = Arc::new(Progress::new(cursor));
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let (abort, watched) = (shutdown.abort.clone(), Arc::clone(&progress));
    runtime().block_on(async {
        let observer = tokio::spawn(async move {
            let begin = Instant::now();
            let mut snapshots = Vec::new();
            for seconds in seconds {
                // Costs no time: the clock of the test is paused, and moves when all tasks wait.
                sleep_until(begin + Duration::from_secs(seconds)).await;
                snapshots.push(watched.snapshot());
            }
            abort.cancel();
            snapshots
        });
        deliver(sink, reader, options, progress, shutdown).await.unwrap();
        observer.await.unwrap().try_into().unwrap()
    })
}

#[test]
fn follower_waits_without_a_fault_and_then_delivers() {
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let connects = Arc::new(Mutex::new(0));
    let sink = MemberSink {
        waiting: Vec::new(),
        connects: Arc::clone(&connects),
        leads_at: None,
    };
    // Shortly before and after the change of the role.
    let [following, leading] = snapshots(sink, cursor, [590, 610]);
    assert_eq!(
        (following.in_flight, following.cursor.next),
        (10, Sequence::FIRST)
    );
    assert_eq!(following.faults.total() + following.client_replacements, 0);
    assert_eq!(following.copies.discarded_messages, 3);
    let both = CopyCounts {
        discarded_messages: 3,
        possible_duplicates: 1,
    };
    assert_eq!(leading.copies, both);
    assert_eq!((leading.cursor.counts.delivered, leading.faults.total()), (10, 0));
    assert_eq!(*connects.lock().unwrap(), 2);
}

/// A sink with transactions. Over its first connection the member leads, and the dead letter of the third event, which is
/// rejected, cannot be stored. Over the later connections the member follows, and another member publishes all events.
struct FencedSink {
    waiting: Vec<Sequence>,
    connects: u64,
    /// The number of dead letters that the delivery tried to publish as a follower.
    tried: Arc<Mutex<u64>>,
}

impl Sink for FencedSink {
    const REPLACES_CLIENT: bool = true;

    async fn connect(&mut self, _: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.waiting.clear();
        self.connects += 1;
        Ok(plain_connection())
    }

    fn publish(&mut self, event: &Event<'_>, _: &Bytes) -> Result<(), PublishError> {
        self.waiting.push(event.sequence);
        Ok(())
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        if self.waiting.is_empty() {
            pending::<()>().await;
        }
        let is_leader = self.connects == 1;
        acks.extend(self.waiting.drain(..).map(|sequence| Ack {
            sequence,
            outcome: match sequence.get() {
                3 if is_leader => Outcome::Rejected(Rejection {
                    reason: RejectionReason::Invalid,
                    detail: "no".into(),
                }),
                _ => Outcome::Duplicate,
            },
        }));
        Ok(AfterOutcomes::Continue)
    }

    fn status(&self) -> SinkStatus {
        SinkStatus {
            is_follower: self.connects > 1,
            ..SinkStatus::default()
        }
    }

    fn cursor_note(&self) -> Option<String> {
        None
    }

    fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink> {
        Some(self)
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        Some(self)
    }

    async fn flush(&mut self) -> Result<(), SinkFault> {
        Ok(())
    }

    async fn close(&mut self) {}
}

impl DeadLetterSink for FencedSink {
    fn publish_dead_letter(&mut self, _: &DeadLetter<'_>) -> Result<(), PublishError> {
        if self.connects > 1 {
            *self.tried.lock().unwrap() += 1;
            return Err(PublishError::Full);
        }
        let reason = "another member has taken over";
        Err(SinkFault::new(FaultKind::Fenced, reason).into())
    }
}

impl Transactions for FencedSink {
    fn state(&self) -> TransactionState {
        // Before the dead letter is published, no event of the settled prefix may be committed.
        if self.connects > 1 {
            TransactionState::Closed
        } else {
            TransactionState::Open
        }
    }

    fn commit<'a>(&'a mut self, _: &'a Cursor) -> SinkFuture<'a> {
        Box::pin(async { Ok(()) })
    }

    fn abort(&mut self) -> SinkFuture<'_> {
        self.waiting.clear();
        Box::pin(async { Ok(()) })
    }
}

#[test]
fn former_leader_publishes_no_dead_letter_as_a_follower() {
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let tried = Arc::new(Mutex::new(0));
    let sink = FencedSink {
        waiting: Vec::new(),
        connects: 0,
        tried: Arc::clone(&tried),
    };
    let [seen] = snapshots(sink, cursor, [60]);
    assert_eq!((seen.cursor.counts.duplicate, seen.faults.total()), (10, 1));
    assert_eq!(*tried.lock().unwrap(), 0);
}

/// A sink whose destination cannot be reached.
struct UnreachableSink(Arc<Mutex<Vec<Instant>>>);

impl Sink for UnreachableSink {
    async fn connect(&mut self, _: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.0.lock().unwrap().push(Instant::now());
        Err(SinkFault::new(FaultKind::Unreachable, "the server is away"))
    }

    silent_sink!();
}

#[test]
fn new_leader_connects_at_once() {
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let (reader, mut options) = ten_events(&cursor, "member");
    let (lease, lead) = watch::channel(None);
    options.lead = Some(Lead::new(lead));
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let abort = shutdown.abort.clone();
    let connects = Arc::<Mutex<Vec<Instant>>>::default();
    let sink = UnreachableSink(Arc::clone(&connects));
    let progress = Arc::new(Progress::new(cursor));
    let acquired = runtime().block_on(async {
        let leading = tokio::spawn(async move {
            // Long enough for the longest delays. The nanoseconds prevent that a delay ends at the same instant.
            let acquired = Instant::now() + Duration::from_secs(600) + Duration::from_nanos(500);
            sleep_until(acquired).await;
            lease.send_replace(Some(acquired + Duration::from_secs(3600)));
            sleep_until(acquired + Duration::from_secs(1)).await;
            abort.cancel();
            acquired
        });
        deliver(sink, reader, options, progress, shutdown).await.unwrap();
        leading.await.unwrap()
    });
    let connects = connects.lock().unwrap();
    let (before, after): (Vec<Instant>, Vec<Instant>) = connects.iter().partition(|at| **at < acquired);
    let longest = before.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(
        longest > Duration::from_secs(2),
        "the delays have grown: {longest:?}"
    );
    assert!(
        after[0] - acquired < Duration::from_millis(2),
        "{:?}",
        after[0] - acquired
    );
    // The second delay is at most 250 ms.
    assert!(after.len() >= 2, "the delays begin again: {after:?}");
}
