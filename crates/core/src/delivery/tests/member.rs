//! A member of a cluster: follows, then leads.

use super::*;

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

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<Next, SinkFault> {
        if !self.is_leading() {
            // An absolute time, since the call is cancelled and repeated meanwhile.
            let leads_at = Instant::now() + Duration::from_secs(600);
            tokio::time::sleep_until(*self.leads_at.get_or_insert(leads_at)).await;
            return Ok(Next::Reconnect);
        }
        if self.waiting.is_empty() {
            pending::<()>().await;
        }
        acks.extend(self.waiting.drain(..).map(|sequence| Ack {
            sequence,
            outcome: Outcome::Delivered,
        }));
        Ok(Next::Continue)
    }

    fn status(&self) -> SinkStatus {
        SinkStatus {
            is_follower: !self.is_leading(),
            ..SinkStatus::default()
        }
    }

    plain_sink!();
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
    let (reader, options) = ten_events(&cursor, "member");
    let progress = Arc::new(Progress::new(cursor));
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let (abort, watched) = (shutdown.abort.clone(), Arc::clone(&progress));
    runtime().block_on(async {
        let seen = tokio::spawn(async move {
            // Times of the paused clock: shortly before and after the change of the role.
            sleep(Duration::from_secs(590)).await;
            let following = watched.snapshot();
            sleep(Duration::from_secs(20)).await;
            abort.cancel();
            (following, watched.snapshot())
        });
        deliver(sink, reader, options, progress, shutdown).await.unwrap();
        let (following, leading) = seen.await.unwrap();
        assert_eq!(
            (following.in_flight, following.cursor.next),
            (10, Sequence::FIRST)
        );
        assert_eq!(following.faults.total() + following.client_replacements, 0);
        assert_eq!((leading.cursor.counts.delivered, leading.faults.total()), (10, 0));
        assert_eq!(*connects.lock().unwrap(), 2);
    });
}
