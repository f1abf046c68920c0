//! Tests of sockets that rest (are not read for some milliseconds) after a read.

use futures_util::{SinkExt, StreamExt};
use neurobridge_core::secret::SecretSet;
use tokio::{
    join,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{interval, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::*;
use crate::connection::{
    Socket,
    low_water::LowWater,
    testing::{LIMIT, PING, authenticated_connection, event, link, neuroio},
    websocket_config,
};

const PONG: &str = r#"{"PING":"PONG"}"#;

#[tokio::test(start_paused = true)]
async fn events_of_a_read_interval_are_one_batch() {
    // The time between two events. The clock is paused, so that the sleeps cost no time.
    const EVENT: Duration = Duration::from_millis(10);
    let (mut link, mut batches) = link(4);
    let (mut session, mut platform) = authenticated_connection().await;
    let (interval, read_interval) = watch::channel(EVENT * 5);
    link.read_interval.1 = Some(read_interval);
    let (stop, stats) = (link.stop.clone(), link.stats.clone());
    let mut seen = 0;
    let mut take = |batch: Vec<String>| {
        for frame in batch.iter() {
            assert_eq!(*frame, event(seen));
            seen += 1;
        }
        batch.len()
    };
    let (_, ()) = join!(receive(&mut session, &mut link), async {
        let (mut pings, mut sent, mut sizes) = (0, 0, Vec::new());
        while pings < 3 {
            select! {
                ping = platform.receive_text() => {
                    assert_eq!(ping, PING);
                    platform.send_text(PONG).await;
                    pings += 1;
                }
                Some(batch) = batches.recv() => sizes.push(take(batch)),
                () = tokio::time::sleep(EVENT) => {
                    platform.send_text(event(sent)).await;
                    sent += 1;
                }
            }
        }
        assert!(sizes.len() * 3 < sent, "{} batches of {sent} events", sizes.len());
        assert!(sizes.iter().all(|size| *size <= 7), "{sizes:?}");
        interval.send_replace(Duration::ZERO);
        // Until the last rest has ended.
        tokio::time::sleep(EVENT * 5).await;
        while let Ok(batch) = batches.try_recv() {
            take(batch);
        }
        for id in sent..sent + 5 {
            tokio::time::sleep(EVENT).await;
            platform.send_text(event(id)).await;
            assert_eq!(take(batches.recv().await.unwrap()), 1);
        }
        stop.cancel();
    });
    // The answer to a ping is read at once, so that the measured round trip does not contain a rest.
    let rtt = stats.snapshot().ping_rtt;
    assert!(
        rtt.count() >= 2 && rtt.sum < 0.002 * rtt.count() as f64,
        "{rtt:?}"
    );
}

/// Uses a real socket, whose low-water mark is raised during a rest.
#[tokio::test]
async fn last_events_before_a_silence_are_read_after_the_rest() {
    const EVENTS: usize = 150;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    let mut platform = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
    let low_water = LowWater::of(&ours);
    let socket = Socket::new(ours, websocket_config(LIMIT)).with_low_water(low_water);
    let mut session = Session::new(socket, neuroio(), SecretSet::default(), LIMIT);
    session.protocol.receive(r#"{"auth":"ok"}"#, &mut |_| ());
    let (mut link, mut batches) = link(4);
    link.read_interval.0 = Duration::from_millis(20);
    let stop = link.stop.clone();
    let feed = async {
        // No rest begins while an answer is expected.
        assert_eq!(platform.next().await.unwrap().unwrap(), Message::text(PING));
        platform.send(Message::text(PONG)).await.unwrap();
        let mut ticks = interval(Duration::from_millis(1));
        for id in 0..EVENTS {
            ticks.tick().await;
            platform.send(Message::text(event(id))).await.unwrap();
        }
    };
    let taken = async {
        let (mut seen, mut wake_ups) = (0, 0);
        while seen < EVENTS {
            for frame in batches.recv().await.unwrap() {
                assert_eq!(frame, event(seen));
                seen += 1;
            }
            wake_ups += 1;
        }
        assert!(wake_ups * 2 < EVENTS, "{wake_ups} wake-ups");
        stop.cancel();
    };
    let all = async { join!(receive(&mut session, &mut link), taken, feed) };
    timeout(Duration::from_secs(30), all).await.unwrap();
}
