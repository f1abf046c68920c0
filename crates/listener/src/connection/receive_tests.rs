use tokio::{join, time::advance};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

use super::*;
use crate::{
    connection::{
        close,
        testing::{LIMIT, PING, authenticated_connection, event, link},
    },
    error::sentence,
    stats::{DisconnectReason, FrameKind, SourceState},
};

const PONG: &str = r#"{"PING":"PONG"}"#;

/// Returns a frame of the server with an opcode and a short payload.
fn raw_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, payload.len() as u8];
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test(start_paused = true)]
async fn all_frames_of_a_wake_up_are_one_batch() {
    let (mut link, mut batches) = link(4);
    let (mut session, mut platform) = authenticated_connection().await;
    platform
        .send_texts([event(1), PONG.into(), "{".into(), r#"{"auth":"ok"}"#.into()])
        .await;
    platform.send(Message::binary("binary")).await;
    platform.send(Message::Ping("ping".into())).await;
    platform
        .send_texts([r#"{"error":"quota"}"#.into(), "[1]".into(), event(2)])
        .await;
    let (stop, stats) = (link.stop.clone(), link.stats.clone());
    let (lost, ()) = join!(receive(&mut session, &mut link), async {
        assert_eq!(
            batches.recv().await.unwrap(),
            [event(1), "{".into(), "[1]".into(), event(2)]
        );
        stop.cancel();
    });
    assert_eq!(lost.reason(), DisconnectReason::Stopped);
    let snapshot = stats.snapshot();
    for (kind, count) in [
        (FrameKind::Event, 2),
        (FrameKind::Pong, 1),
        (FrameKind::Auth, 1),
        (FrameKind::Error, 1),
        (FrameKind::NotJson, 1),
        (FrameKind::Unknown, 1),
        (FrameKind::Binary, 1),
        (FrameKind::Control, 1),
    ] {
        assert_eq!(snapshot.frames.get(kind), count, "{kind}");
    }
    assert_eq!(snapshot.platform_errors, 1);
    assert_eq!(snapshot.last_platform_error.as_deref(), Some("quota"));
    assert!(snapshot.last_event.is_some() && snapshot.received_bytes > 50);
}

#[tokio::test(start_paused = true)]
async fn flood_arrives_in_bounded_batches_in_order() {
    let (mut link, mut batches) = link(1);
    let (mut session, mut platform) = authenticated_connection().await;
    let count = 5_000;
    let stop = link.stop.clone();
    let taken = async {
        let mut seen = 0;
        while seen < count {
            let batch = batches.recv().await.unwrap();
            assert!(!batch.is_empty() && batch.len() <= MAX_BATCH_FRAMES);
            for frame in batch {
                assert_eq!(frame, event(seen));
                seen += 1;
            }
        }
        stop.cancel();
    };
    let server = platform.send_texts((0..count).map(event));
    join!(receive(&mut session, &mut link), taken, server);
}

#[tokio::test(start_paused = true)]
async fn pings_are_sent_at_the_interval_and_measured() {
    let (mut link, _batches) = link(1);
    let (mut session, mut platform) = authenticated_connection().await;
    let (stop, stats) = (link.stop.clone(), link.stats.clone());
    let start = Instant::now();
    let (_, ()) = join!(receive(&mut session, &mut link), async {
        for ping in 0..4 {
            assert_eq!(platform.receive_text().await, PING);
            assert_eq!(start.elapsed(), Duration::from_secs(5 * ping));
            platform.send_text(PONG).await;
        }
        while stats.snapshot().ping_rtt.count() < 4 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    });
}

#[tokio::test(start_paused = true)]
async fn missing_pong_closes_the_connection_despite_events() {
    for flows in [false, true] {
        let (mut link, mut batches) = link(4);
        let (mut session, mut platform) = authenticated_connection().await;
        let start = Instant::now();
        let server = async {
            if flows {
                for id in 0.. {
                    platform.send_text(event(id)).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            std::future::pending::<()>().await;
        };
        let drain = async { while batches.recv().await.is_some() {} };
        let lost = select! {
            lost = receive(&mut session, &mut link) => lost,
            () = server => unreachable!("it never ends"),
            () = drain => unreachable!("the link holds the channel"),
        };
        assert_eq!(lost.reason(), DisconnectReason::PongTimeout);
        let took = start.elapsed();
        assert!(
            took >= Duration::from_secs(10) && took <= Duration::from_secs(11),
            "{took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn pong_that_arrived_while_the_process_was_suspended_counts() {
    let (mut link, _batches) = link(1);
    let (mut session, mut platform) = authenticated_connection().await;
    let stop = link.stop.clone();
    let (lost, ()) = join!(receive(&mut session, &mut link), async {
        assert_eq!(platform.receive_text().await, PING);
        platform.send_text(PONG).await;
        // The process is suspended: the answer has arrived, and its time limit has passed.
        advance(Duration::from_secs(60)).await;
        assert_eq!(platform.receive_text().await, PING);
        stop.cancel();
    });
    assert_eq!(lost.reason(), DisconnectReason::Stopped);
}

#[tokio::test(start_paused = true)]
async fn wrong_pong_closes_the_connection() {
    let (mut link, _batches) = link(1);
    let (mut session, mut platform) = authenticated_connection().await;
    platform.send_text(r#"{"PING":"PANG"}"#).await;
    let lost = receive(&mut session, &mut link).await;
    assert_eq!(lost.reason(), DisconnectReason::BadPong);
    assert_eq!(sentence(&lost), "the answer to a ping was PANG, expected PONG");
}

#[tokio::test(start_paused = true)]
async fn refusal_after_authentication_is_reported_as_refusal() {
    let (mut link, mut batches) = link(1);
    let (mut session, mut platform) = authenticated_connection().await;
    platform
        .send_texts([event(1), r#"{"auth":"expired"}"#.into()])
        .await;
    let lost = receive(&mut session, &mut link).await;
    assert_eq!(lost.reason(), DisconnectReason::TokenRefused);
    assert_eq!(
        batches.recv().await.unwrap(),
        [event(1)],
        "the earlier events are delivered"
    );
}

#[tokio::test(start_paused = true)]
async fn backpressure_continues_pings_and_ignores_silence() {
    let (mut link, mut batches) = link(1);
    let (mut session, mut platform) = authenticated_connection().await;
    link.items.try_send(vec!["in the way".into()]).unwrap();
    let (stop, stats) = (link.stop.clone(), link.stats.clone());
    stats.authenticated(false);
    let (lost, ()) = join!(receive(&mut session, &mut link), async {
        platform.send_texts((0..10).map(event)).await;
        for _ in 0..12 {
            // Sixty seconds, six times the time limit of an answer.
            assert_eq!(platform.receive_text().await, PING);
        }
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.state, SourceState::Blocked);
        assert!(snapshot.reason.unwrap().contains("backpressure"));
        assert_eq!(snapshot.blocked, Duration::from_secs(55));
        assert_eq!(snapshot.frames.total(), 0, "nothing is read");
        assert_eq!(batches.recv().await.unwrap(), ["in the way"]);
        assert_eq!(batches.recv().await.unwrap().len(), 10);
        while stats.snapshot().state == SourceState::Blocked {
            tokio::task::yield_now().await;
        }
        let snapshot = stats.snapshot();
        assert_eq!(
            (snapshot.state, snapshot.reason),
            (SourceState::Authenticated, None)
        );
        stop.cancel();
    });
    assert_eq!(lost.reason(), DisconnectReason::Stopped);
}

#[tokio::test(start_paused = true)]
async fn websocket_ping_is_answered_while_the_channel_is_full() {
    let (mut link, mut batches) = link(1);
    let (mut session, mut platform) = authenticated_connection().await;
    let stop = link.stop.clone();
    join!(receive(&mut session, &mut link), async {
        assert_eq!(platform.receive_text().await, PING);
        // Exactly a full batch: the ping is the last frame that is read before the channel is full.
        platform.send_texts((0..MAX_BATCH_FRAMES - 1).map(event)).await;
        platform.send(Message::Ping("are you there".into())).await;
        let answer = platform.receive_text().await;
        assert!(answer.contains("Pong"), "{answer}");
        stop.cancel();
    });
    assert_eq!(batches.recv().await.unwrap().len(), MAX_BATCH_FRAMES - 1);
}

#[tokio::test(start_paused = true)]
async fn long_backpressure_is_the_reason_of_a_close() {
    for hold in [Duration::from_millis(10), Duration::from_secs(20)] {
        let (mut link, mut batches) = link(1);
        let (mut session, mut platform) = authenticated_connection().await;
        link.items.try_send(Vec::new()).unwrap();
        let (lost, ()) = join!(receive(&mut session, &mut link), async {
            platform.send_texts((0..10).map(event)).await;
            platform.close(CloseCode::Away).await;
            tokio::time::sleep(hold).await;
            batches.recv().await.unwrap();
            assert_eq!(
                batches.recv().await.unwrap().len(),
                10,
                "the earlier events are delivered"
            );
        });
        let expected = if hold < LONG_BLOCK {
            DisconnectReason::Closed
        } else {
            DisconnectReason::Blocked
        };
        assert_eq!(lost.reason(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn data_of_a_broken_connection_is_read_after_backpressure() {
    let (mut link, mut batches) = link(1);
    let (mut session, mut platform) = authenticated_connection().await;
    link.items.try_send(Vec::new()).unwrap();
    let (lost, ()) = join!(receive(&mut session, &mut link), async {
        platform.send_texts((0..10).map(event)).await;
        drop(platform);
        // Pings can no longer be written.
        tokio::time::sleep(Duration::from_secs(20)).await;
        batches.recv().await.unwrap();
        assert_eq!(batches.recv().await.unwrap().len(), 10);
    });
    assert_eq!(lost.reason(), DisconnectReason::Blocked, "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn events_and_reason_are_read_after_a_failed_write() {
    let (mut link, mut batches) = link(1);
    let (mut session, mut platform) = authenticated_connection().await;
    platform.send_texts((0..10).map(event)).await;
    platform.close(CloseCode::Away).await;
    drop(platform);
    let lost = receive(&mut session, &mut link).await;
    assert_eq!(
        sentence(&lost),
        r#"the platform closed the connection (code 1001, "bye")"#
    );
    assert_eq!(batches.recv().await.unwrap().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn idle_connection_holds_no_room_in_the_channel() {
    let (mut idle, mut batches) = link(1);
    let (mut busy, _) = link(1);
    busy.items = idle.items.clone();
    let stop = idle.stop.clone();
    busy.stop = stop.clone();
    let (mut idle_session, _idle_platform) = authenticated_connection().await;
    let (mut busy_session, mut platform) = authenticated_connection().await;
    join!(
        receive(&mut idle_session, &mut idle),
        receive(&mut busy_session, &mut busy),
        async {
            for id in 0..10 {
                platform.send_text(event(id)).await;
                assert_eq!(batches.recv().await.unwrap(), [event(id)]);
            }
            stop.cancel();
        }
    );
}

#[tokio::test(start_paused = true)]
async fn unreadable_frame_is_answered_with_its_close_code() {
    let too_large = event(1).replace("new", &"x".repeat(LIMIT.bytes() as usize));
    let mut large_frame = vec![0x81, 127];
    large_frame.extend_from_slice(&(too_large.len() as u64).to_be_bytes());
    large_frame.extend_from_slice(too_large.as_bytes());
    for (bytes, reason, code) in [
        (raw_frame(1, b"\xff\xfe"), DisconnectReason::InvalidUtf8, 1007),
        (large_frame, DisconnectReason::FrameTooLarge, 1009),
        (raw_frame(3, b""), DisconnectReason::ProtocolViolation, 1002),
    ] {
        let (mut link, mut batches) = link(2);
        let (mut session, mut platform) = authenticated_connection().await;
        platform.send_text(event(7)).await;
        platform.write(&bytes).await;
        let lost = receive(&mut session, &mut link).await;
        assert_eq!(lost.reason(), reason, "{lost:?}");
        assert_eq!(
            batches.recv().await.unwrap(),
            [event(7)],
            "the earlier events are delivered"
        );
        let (_, texts) = join!(close(&mut session, &mut link, &lost), async {
            let mut texts = Vec::new();
            while texts.last().is_none_or(|last: &String| !last.contains("close")) {
                texts.push(platform.receive_text().await);
            }
            drop(platform);
            texts
        });
        assert_eq!(texts.last().unwrap(), &format!("[close {code}]"));
    }
}

#[tokio::test(start_paused = true)]
async fn close_codes_are_reported_as_received() {
    // The platform has been seen to send 102; only the last two codes may be sent.
    for code in [
        0, 1, 102, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535, 1002, 4001,
    ] {
        for reason in ["", "b\u{fc}y"] {
            let (mut link, mut batches) = link(1);
            let (mut session, mut platform) = authenticated_connection().await;
            platform.send_text(event(1)).await;
            let payload = [&u16::to_be_bytes(code)[..], reason.as_bytes()].concat();
            platform.write(&raw_frame(8, &payload)).await;
            let lost = receive(&mut session, &mut link).await;
            assert_eq!(lost.reason(), DisconnectReason::Closed, "{lost:?}");
            let reason = if reason.is_empty() { "" } else { ", \"b\u{fc}y\"" };
            assert_eq!(
                sentence(&lost),
                format!("the platform closed the connection (code {code}{reason})")
            );
            assert_eq!(batches.recv().await.unwrap(), [event(1)]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn end_without_close_frame_is_reported_as_broken() {
    let (mut link, _batches) = link(1);
    let (mut session, platform) = authenticated_connection().await;
    drop(platform);
    let lost = receive(&mut session, &mut link).await;
    assert_eq!(lost.reason(), DisconnectReason::Broken);
    assert_eq!(sentence(&lost), "the connection ended without a close frame");
}

#[tokio::test(start_paused = true)]
async fn stop_is_immediate_during_backpressure() {
    let (mut link, _batches) = link(1);
    let (mut session, _platform) = authenticated_connection().await;
    link.items.try_send(Vec::new()).unwrap();
    let (stop, stats) = (link.stop.clone(), link.stats.clone());
    let (lost, start) = join!(receive(&mut session, &mut link), async {
        // The clock is paused: backpressure has to last for this time before the stop.
        tokio::time::sleep(LONG_BLOCK * 2).await;
        assert_eq!(stats.snapshot().state, SourceState::Blocked);
        stop.cancel();
        Instant::now()
    });
    assert_eq!(
        (lost.reason(), start.elapsed()),
        (DisconnectReason::Stopped, Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn dropped_receiver_of_batches_stops_the_connection() {
    let (mut link, batches) = link(1);
    let (mut session, _platform) = authenticated_connection().await;
    drop(batches);
    let lost = receive(&mut session, &mut link).await;
    assert_eq!(lost.reason(), DisconnectReason::Stopped);
}
