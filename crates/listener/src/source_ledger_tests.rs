//! Tests of the ledger of a source: frames are counted as received before they are sent through the channel.

use super::*;

/// Returns a source whose frames are counted in a ledger, with a channel that is full.
fn counted_source() -> (impl Future<Output = Result<(), SourceError>>, Counting) {
    let (platforms_in, platforms) = mpsc::unbounded_channel();
    let (items, batches) = mpsc::channel(1);
    let config = SourceConfig::new("ws://localhost", "s3cret");
    let setup = Setup {
        dialler: TestDial {
            platforms: platforms_in,
            failures: Arc::default(),
            requests: Arc::default(),
        },
        reader: SecretReader {
            sources: config.secrets(),
            live: Live::default(),
        },
        secrets: SecretSet::default(),
        protocol: config.protocol(&[]).unwrap(),
        config,
    };
    let ledger = Arc::new(SourceLedger::default());
    let outlet = Counted {
        batcher: Messages::new("test"),
        items: 0,
        counted: 0,
        ledger: Arc::clone(&ledger),
    };
    let mut full = Messages::new("full");
    items.try_send(full.take(jiff::Timestamp::UNIX_EPOCH)).unwrap();
    let (stop, stats) = (CancellationToken::new(), Arc::new(SourceStats::new()));
    let link = SourceLink::new("test".into(), outlet, items, stop.clone(), stats, Arc::default());
    let counting = Counting {
        platforms,
        batches,
        stop,
        ledger,
    };
    (connections::run(setup, link), counting)
}

struct Counting {
    platforms: mpsc::UnboundedReceiver<Platform>,
    batches: mpsc::Receiver<crate::batch::MessageBatch>,
    stop: CancellationToken,
    ledger: Arc<SourceLedger>,
}

#[tokio::test(start_paused = true)]
async fn frames_before_auth_are_counted_and_survive_a_stop() {
    let (source, mut test) = counted_source();
    let (result, ()) = join!(source, async {
        let mut platform = test.platforms.recv().await.unwrap();
        assert_eq!(platform.receive_text().await, AUTH);
        platform.send_texts((0..20).map(event)).await;
        while test.ledger.counts().received < 20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(test.ledger.counts().in_flight, 20, "received, and not stored");
        test.stop.cancel();
        assert_eq!(platform.receive_text().await, "[close 1000]");
        drop(platform);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(test.batches.recv().await.unwrap().messages.len(), 0);
        assert_eq!(test.batches.recv().await.unwrap().messages.len(), 20);
        assert!(test.batches.recv().await.is_none(), "the source has ended");
    });
    result.unwrap();
    assert_eq!(test.ledger.counts().received, 20);
}

#[test]
fn events_are_in_the_ledger_before_they_are_sent() {
    let ledger = Arc::new(SourceLedger::default());
    let mut outlet = Counted {
        batcher: Messages::new("main"),
        items: 0,
        counted: 0,
        ledger: ledger.clone(),
    };
    let text = event(1);
    let mut frames = neurobridge_core::neuroio::Frames::default();
    let positions = frames.event(&text).unwrap();
    outlet.push(Received::Event(FeedEvent::of_frame(&text, positions)));
    outlet.push(Received::Malformed {
        text: "[]",
        reason: MalformedReason::UnknownKind,
    });
    assert_eq!(ledger.counts().received, 0);
    let batch = outlet.take(jiff::Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!((batch.messages.len(), &*batch.source), (2, "main"));
    assert_eq!((ledger.counts().received, ledger.counts().in_flight), (2, 2));
    assert!(outlet.take(jiff::Timestamp::UNIX_EPOCH).is_none());
}
