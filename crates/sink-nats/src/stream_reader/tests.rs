use super::*;
use crate::fake_server::{FakeServer, STREAM};

/// The limit of every wait: much longer than any operation takes.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn position_is_read_from_both_forms_of_the_subject() {
    let expected = Some(Delivered {
        consumer: "c-1",
        place: 42,
        number: 9,
        waiting: 7,
    });
    for subject in [
        "$JS.ACK.EVENTS.c-1.1.42.9.1700000000000000000.7",
        "$JS.ACK.hub.AbCdEf.EVENTS.c-1.1.42.9.1700000000000000000.7",
        "$JS.ACK._.AbCdEf.EVENTS.c-1.1.42.9.1700000000000000000.7.token",
    ] {
        assert_eq!(Delivered::read(subject), expected, "{subject}");
    }
    for subject in ["_INBOX.a.1", "$JS.ACK.EVENTS.c-1", "$JS.ACK.E.c.1.x.9.1.7"] {
        assert_eq!(Delivered::read(subject), None, "{subject}");
    }
}

/// Reads a stream of five messages, of which the deliveries of some are lost.
async fn read_without(lost: &[u64]) -> Vec<u64> {
    let ids = ["a", "b", "c", "d", "e"];
    let (server, client) = FakeServer::start(&ids).await;
    server.state().lost.extend(lost);
    let events = Arc::new(Events::default());
    let mut reader = StreamReader::new(&client, &events, STREAM, 100).await.unwrap();
    let mut found = VecDeque::new();
    let reading = async {
        while found.len() < ids.len() {
            reader.read(&mut found).await.unwrap();
            let is_last = found.back().is_some_and(|last| last.place == 5);
            assert!(!is_last || found.len() == ids.len(), "skipped: {found:?}");
        }
    };
    let read = tokio::time::timeout(LIMIT, reading).await;
    assert!(read.is_ok(), "found only {found:?}");
    found.into_iter().map(|found| found.place).collect()
}

#[tokio::test]
async fn lost_delivery_is_read_again() {
    assert_eq!(read_without(&[]).await, [1, 2, 3, 4, 5]);
    assert_eq!(read_without(&[3]).await, [1, 2, 3, 4, 5]);
    assert_eq!(read_without(&[1, 2, 5]).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn lost_last_delivery_is_read_again() {
    assert_eq!(read_without(&[4, 5]).await, [1, 2, 3, 4, 5]);
}

/// Returns a reader at the end of a stream of two messages, which has sent one request.
async fn reader_at_the_end() -> (FakeServer, StreamReader, VecDeque<Found>) {
    let (server, client) = FakeServer::start(&["a", "b"]).await;
    let events = Arc::new(Events::default());
    let mut reader = StreamReader::new(&client, &events, STREAM, 100).await.unwrap();
    let mut found = VecDeque::new();
    for _ in 0..2 {
        // The messages, then the end of the request.
        reader.read_every(LIMIT, &mut found).await.unwrap();
    }
    assert!(reader.is_at_end() && found.len() == 2, "{found:?}");
    (server, reader, found)
}

#[tokio::test]
async fn follower_pulls_at_intervals_and_a_takeover_at_once() {
    let (server, mut reader, mut found) = reader_at_the_end().await;
    server.state().messages.push("c");
    let reading = tokio::time::timeout(LIMIT / 600, reader.read_every(LIMIT, &mut found));
    assert!(reading.await.is_err(), "{found:?}");
    assert_eq!(server.state().batches.len(), 1);
    reader.read(&mut found).await.unwrap();
    assert_eq!((found.len(), server.state().batches.len()), (3, 2));
}

#[tokio::test]
async fn idle_follower_waits_at_the_server() {
    let (server, mut reader, mut found) = reader_at_the_end().await;
    reader.read_every(Duration::ZERO, &mut found).await.unwrap();
    assert!(reader.is_idle, "an empty answer");
    server.state().messages.extend(["c", "d"]);
    while found.len() < 4 {
        reader.read_every(Duration::ZERO, &mut found).await.unwrap();
    }
    let batches = server.state().batches.clone();
    assert_eq!(batches, [100, 100, 1, 100], "one message ends the wait");
    assert!(!reader.is_idle);
}
