use std::{future::Future, time::Duration};

use async_nats::HeaderMap;
use tokio::time::timeout;

use super::*;
use crate::fake_server::FakeServer;

/// The limit of every wait: much longer than any operation takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A reader of `faces.*` at a server.
async fn reader() -> (SubjectReader, Client) {
    let (_server, client) = FakeServer::start(&[]).await;
    let events = Arc::new(Events::default());
    let reader = SubjectReader::new(&client, &events, "faces.*".to_owned());
    (reader, client)
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
    let (mut reader, client) = reader().await;
    let mut found = VecDeque::new();
    assert_eq!(within(reader.read_to_end(&mut found)).await, 0);
    for id in [Some("main/1"), None, Some("main/2")] {
        publish(&client, id).await;
    }
    reader.reset_end();
    assert_eq!(within(reader.read_to_end(&mut found)).await, 3);
    assert_eq!(
        ids(&found),
        [
            (1, Some("faces.seen main/1")),
            (2, None),
            (3, Some("faces.seen main/2"))
        ]
    );
}

#[tokio::test]
async fn leader_does_not_receive_its_own_messages() {
    let (mut reader, client) = reader().await;
    let mut found = VecDeque::new();
    within(reader.read_to_end(&mut found)).await;
    reader.unsubscribe();
    publish(&client, Some("main/1")).await;
    reader.subscribe_now();
    publish(&client, Some("main/2")).await;
    within(reader.read(&mut found)).await;
    assert_eq!(ids(&found), [(1, Some("faces.seen main/2"))]);
}

#[tokio::test]
async fn interrupted_reading_to_the_end_continues() {
    let (mut reader, client) = reader().await;
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
    assert_eq!(requested, Some(2), "one echo for each end");
}
