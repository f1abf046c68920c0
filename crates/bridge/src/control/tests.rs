use std::{fs, os::unix::fs::PermissionsExt};

use neurobridge_core::{record::Batch, testing};
use neurobridge_spool::{Spool, SpoolConfig};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{client::ControlError, *};
use crate::config::Config;

const SOON: Duration = Duration::from_secs(30);

async fn append(spool: &Spool, events: u64, size: usize) {
    let frame = format!("{{\"id\":1,\"data\":{{\"x\":\"{}\"}}}}", "x".repeat(size));
    let mut batch = Batch::default();
    for _ in 0..events {
        batch.push(&testing::event(&frame));
    }
    spool.append(batch).await.unwrap();
}

fn start(control: Control, spool: &Spool, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let greeting = watch::Sender::new(Greeting::new(&spool.id(), &Config::default()));
    let (requests, mut pending) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(PendingRequest { request, answer }) = pending.recv().await {
            let text = format!("{request:?}");
            let _ = answer.send(Answer { exit: 0, text });
        }
    });
    tokio::spawn(control.serve(spool.clone(), greeting.subscribe(), requests, stop.clone()))
}

/// Serves requests in a folder, with an empty spool in memory.
async fn serve(folder: &Path) -> tokio::task::JoinHandle<()> {
    let spool = Spool::open(&SpoolConfig::default(), folder).unwrap();
    let control = Control::bind(folder).await.unwrap();
    start(control, &spool, &CancellationToken::new())
}

async fn connect(folder: &Path) -> Client {
    Client::connect(folder).await.unwrap().unwrap()
}

#[tokio::test]
async fn tail_receives_later_events_and_the_end() {
    let root = tempfile::tempdir().unwrap();
    // Far longer than the path of a socket may be.
    let folder = root.path().join("a".repeat(200)).join("b".repeat(200));
    assert!(Client::connect(&folder).await.unwrap().is_none());
    let spool = Spool::open(&SpoolConfig::default(), &folder).unwrap();
    let stop = CancellationToken::new();
    let serving = start(Control::bind(&folder).await.unwrap(), &spool, &stop);
    assert_eq!(
        path(&folder).metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(
        Control::bind(&folder)
            .await
            .unwrap_err()
            .to_string()
            .contains("another bridge")
    );

    append(&spool, 3, 10).await;
    let mut client = connect(&folder).await;
    assert!(client.runs_with(&Config::default()));
    assert_eq!(client.spool(), spool.id());
    append(&spool, 2, 10).await;
    let TailMessage::Events(batch) = timeout(SOON, client.next()).await.unwrap().unwrap() else {
        panic!("expected events")
    };
    assert_eq!((batch.first().get(), batch.iter().count()), (4, 2));
    spool.close();
    stop.cancel();
    assert!(matches!(
        timeout(SOON, client.next()).await.unwrap(),
        Ok(TailMessage::End)
    ));
    serving.await.unwrap();
    assert!(!path(&folder).exists());
}

#[tokio::test]
async fn stuck_tail_misses_events_and_blocks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(&SpoolConfig::default(), folder.path()).unwrap();
    let stop = CancellationToken::new();
    let _serving = start(Control::bind(folder.path()).await.unwrap(), &spool, &stop);
    let mut client = connect(folder.path()).await;
    // The default spool has 64 MiB and blocks when it is full: the appends would never end if they waited for the tail.
    timeout(SOON, async {
        for _ in 0..200 {
            append(&spool, 10, 100_000).await;
        }
    })
    .await
    .unwrap();
    spool.close();
    let (mut received, mut missed) = (0, 0);
    loop {
        match timeout(SOON, client.next()).await.unwrap().unwrap() {
            TailMessage::Events(batch) => received += batch.events(),
            TailMessage::Missed(events) => missed += events,
            TailMessage::End => break,
        }
    }
    assert_eq!(received + missed, 2000);
    assert!(
        missed > 1000 && received > 0,
        "{received} received, {missed} missed"
    );
}

#[tokio::test]
async fn socket_of_a_killed_bridge_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(path(folder.path())).unwrap());
    assert!(path(folder.path()).exists());
    assert!(Client::connect(folder.path()).await.unwrap().is_none());
    let _serving = serve(folder.path()).await;
    connect(folder.path()).await;
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(names, ["control.sock"]);
}

#[tokio::test]
async fn killed_bridge_is_reported_as_lost_connection() {
    let folder = tempfile::tempdir().unwrap();
    let serving = serve(folder.path()).await;
    let mut client = connect(folder.path()).await;
    serving.abort();
    let error = timeout(SOON, client.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, ControlError::ConnectionLost(_)), "{error}");
}

#[tokio::test]
async fn tails_beyond_the_limit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _serving = serve(folder.path()).await;
    let mut tails = Vec::new();
    let error = loop {
        match Client::connect(folder.path()).await {
            Ok(tail) => tails.push(tail.unwrap()),
            Err(error) => break error,
        }
        assert!(tails.len() <= 100);
    };
    assert!(matches!(error, ControlError::TailLimitExceeded), "{error}");
    tails.pop();
    // A tail that disconnects frees its slot without a further event.
    timeout(SOON, async {
        while Client::connect(folder.path()).await.is_err() {}
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn requests_are_answered_at_the_limit_of_tails() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let folder = tempfile::tempdir().unwrap();
    let reload = Request::Reload {
        colours: false,
        width: 80,
    };
    assert!(
        Client::request(folder.path(), reload.clone())
            .await
            .unwrap()
            .is_none()
    );
    let _serving = serve(folder.path()).await;
    let mut tails = Vec::new();
    while let Ok(tail) = Client::connect(folder.path()).await {
        tails.push(tail);
    }
    let answer = Client::request(folder.path(), reload).await.unwrap().unwrap();
    assert_eq!(answer.exit, 0);
    assert!(answer.text.starts_with("Reload"), "{answer:?}");
    // A request of a newer program, and one that is no JSON.
    for request in ["{\"request\":\"dance\"}\n", "dance\n"] {
        let mut stream = tokio::net::UnixStream::connect(path(folder.path()))
            .await
            .unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(answer.contains("unknown request"), "{answer}");
    }
}
