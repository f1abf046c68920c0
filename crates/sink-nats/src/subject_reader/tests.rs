use std::future::Future;

use async_nats::HeaderMap;
use jiff::SignedDuration;
use tokio::{sync::watch, time::timeout};

use super::*;
use crate::fake_server::FakeServer;

/// The limit of every wait: much longer than any operation takes.
const LIMIT: Duration = Duration::from_secs(60);

type Published = watch::Sender<Option<Instant>>;

/// A reader that is subscribed to `faces.*` at a server, and the reports of its leader.
async fn reader() -> (SubjectReader, Client, Published) {
    let (_server, client) = FakeServer::start(&[]).await;
    let (published, lease) = (Published::new(None), watch::Sender::new(None));
    let lead = Lead::new(lease.subscribe()).with_published_until(published.subscribe());
    let events = Arc::new(Events::default());
    let reader = SubjectReader::new(&client, &events, lead, "faces.*".to_owned());
    (reader, client, published)
}

async fn publish(client: &Client, id: Option<&str>) {
    let mut headers = HeaderMap::new();
    headers.insert("other", "x");
    if let Some(id) = id {
        headers.insert(MESSAGE_ID, id);
    }
    client
        .publish_with_headers("faces.seen", headers, "body".into())
        .await
        .unwrap();
}

async fn within<T>(call: impl Future<Output = Result<T, SinkFault>>) -> T {
    timeout(LIMIT, call).await.unwrap().unwrap()
}

fn ids(found: &VecDeque<Found>) -> Vec<(u64, Option<&str>)> {
    found
        .iter()
        .map(|found| (found.place, found.id.as_deref()))
        .collect()
}

#[tokio::test]
async fn messages_of_the_subjects_are_read_up_to_the_end() {
    let (mut reader, client, _published) = reader().await;
    let mut found = VecDeque::new();
    assert_eq!(within(reader.read_to_end(&mut found)).await, 0);
    for id in [Some("main/1"), None, Some("main/2")] {
        publish(&client, id).await;
    }
    reader.reset_end();
    assert_eq!(within(reader.read_to_end(&mut found)).await, 3);
    assert_eq!(ids(&found), [(1, Some("main/1")), (2, None), (3, Some("main/2"))]);
    // A leader does not receive its own messages.
    reader.restart(4);
    publish(&client, Some("main/3")).await;
    found.clear();
    assert_eq!(within(reader.read_to_end(&mut found)).await, 3);
    assert_eq!(ids(&found), []);
}

#[tokio::test]
async fn interrupted_reading_to_the_end_continues() {
    let (mut reader, client, _published) = reader().await;
    let mut found = VecDeque::new();
    within(reader.read_to_end(&mut found)).await;
    publish(&client, Some("main/1")).await;
    reader.reset_end();
    // Each call ends at its first wait.
    let ended = async {
        loop {
            let call = timeout(Duration::ZERO, reader.read_to_end(&mut found)).await;
            if let Ok(end) = call {
                return end;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(within(ended).await, 1);
    let requested = reader.subscription.as_ref().map(|all| all.requested);
    assert_eq!(requested, Some(3), "the subscription, and two ends");
}

#[tokio::test]
async fn missed_messages_count_as_published_after_a_report_of_the_leader() {
    let (mut reader, client, published) = reader().await;
    let mut found = VecDeque::new();
    within(reader.read_to_end(&mut found)).await;
    let now = clock::now();
    let ago = |seconds| now - SignedDuration::from_secs(seconds);
    publish(&client, Some("main/1")).await;
    assert!(!within(reader.read(&mut found)).await, "a message is no report");
    assert!(reader.is_catching_up() && !reader.counts_as_published(ago(60)));

    published.send_replace(Some(Instant::now()));
    found.clear();
    publish(&client, Some("main/2")).await;
    assert!(
        !within(reader.read(&mut found)).await,
        "a report from before the subscription"
    );
    published.send_replace(Some(Instant::now() + 3 * MAX_SKEW));
    found.clear();
    assert!(within(reader.read(&mut found)).await);
    assert!(!reader.is_catching_up() && reader.counts_as_published(ago(60)));
    assert!(
        !reader.counts_as_published(ago(-60)),
        "received after the subscription"
    );
    assert!(
        !reader.counts_as_published(now),
        "the leader may receive it later"
    );
    reader.restart(3);
    assert!(
        !reader.counts_as_published(ago(60)),
        "the next subscription is not confirmed"
    );
}
