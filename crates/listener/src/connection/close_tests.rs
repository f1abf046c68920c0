use std::time::Duration;

use tokio::{join, time::Instant};

use super::*;
use crate::{
    connection::{
        authenticate, receive,
        testing::{AUTH, LIMIT, PING, TestOutlet, authenticated_connection, connection, event, link, token},
    },
    stats::DisconnectReason,
};

const PANG: &str = r#"{"PING":"PANG"}"#;
/// A close frame with code 1000.
const CLOSE_FRAME: &[u8] = b"\x88\x02\x03\xe8";

/// Handles a connection as a source does: receives until it is lost, then closes it.
async fn run<S>(session: Session<S>, link: &mut SourceLink<TestOutlet>) -> ConnectionEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    close_after_loss(session, link).await.0
}

/// As [`run`]; also returns whether all data of the server was read.
async fn close_after_loss<S>(
    mut session: Session<S>,
    link: &mut SourceLink<TestOutlet>,
) -> (ConnectionEnd, bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let lost = if session.is_authenticated() {
        receive(&mut session, link).await
    } else {
        authenticate(&mut session, link, token()).await.unwrap_err()
    };
    let is_all_read = close(&mut session, link, &lost).await;
    (lost, is_all_read)
}

/// Returns a text frame of a server, for sending it after a close frame, which no library does.
fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, u8::try_from(text.len()).unwrap()];
    frame.extend_from_slice(text.as_bytes());
    frame
}

#[tokio::test(start_paused = true)]
async fn events_before_the_close_frame_of_the_server_are_received() {
    for (trigger, is_authenticated, reason, code) in [
        (PANG, true, DisconnectReason::BadPong, 1008),
        (
            r#"{"auth":"expired"}"#,
            true,
            DisconnectReason::TokenRefused,
            1000,
        ),
        ("silence", true, DisconnectReason::PongTimeout, 1001),
        ("stop", true, DisconnectReason::Stopped, 1000),
        (r#"{"error":"no"}"#, false, DisconnectReason::TokenRefused, 1000),
        ("silence", false, DisconnectReason::AuthTimeout, 1000),
        ("stop", false, DisconnectReason::Stopped, 1000),
    ] {
        let (mut link, mut batches) = link(64);
        let (session, mut platform) = if is_authenticated {
            authenticated_connection().await
        } else {
            connection().await
        };
        let stop = link.stop.clone();
        let (lost, ()) = join!(run(session, &mut link), async {
            assert_eq!(
                platform.receive_text().await,
                if is_authenticated { PING } else { AUTH }
            );
            let following = (1..11).map(event);
            match trigger {
                "silence" => platform.send_texts(following).await,
                "stop" => {
                    stop.cancel();
                    platform.send_texts(following).await;
                }
                // The trigger and the following events in one segment.
                trigger => {
                    platform
                        .send_texts([trigger.to_owned()].into_iter().chain(following))
                        .await
                }
            }
            while platform.receive_text().await != format!("[close {code}]") {}
            // Sent before the close frame arrived, including an unexpected answer.
            for text in (11..16)
                .map(event)
                .chain([PANG.to_owned()])
                .chain((16..21).map(event))
            {
                platform.write(&text_frame(&text)).await;
            }
            platform.write(CLOSE_FRAME).await;
            let after = Instant::now();
            assert_eq!(platform.receive_text().await, "[end]");
            assert_eq!(after.elapsed(), Duration::ZERO, "the connection ends at once");
        });
        assert_eq!(lost.reason(), reason);
        drop(link);
        let mut received = Vec::new();
        while let Some(batch) = batches.recv().await {
            received.extend(batch);
        }
        assert_eq!(received, (1..21).map(event).collect::<Vec<_>>(), "{reason}");
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(length),
        _ => {
            frame.push(127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test(start_paused = true)]
async fn events_after_an_unreadable_frame_are_received() {
    let too_large = vec![b'x'; LIMIT.bytes() as usize + 1];
    for (bytes, reason, code) in [
        (frame(0x81, &too_large), DisconnectReason::FrameTooLarge, 1009),
        (frame(0x81, b"\xff\xfe"), DisconnectReason::InvalidUtf8, 1007),
        // A reserved bit, a masked frame, and a ping that is too long.
        (frame(0xC1, b"{}"), DisconnectReason::ProtocolViolation, 1002),
        (
            b"\x81\x82\0\0\0\0{}".to_vec(),
            DisconnectReason::ProtocolViolation,
            1002,
        ),
        (
            frame(0x89, &[b'x'; 126]),
            DisconnectReason::ProtocolViolation,
            1002,
        ),
    ] {
        let (mut link, mut batches) = link(64);
        let (session, mut platform) = authenticated_connection().await;
        let ((lost, is_all_read), ()) = join!(close_after_loss(session, &mut link), async {
            let mut segment = text_frame(&event(0));
            segment.extend(&bytes);
            segment.extend((1..11).flat_map(|id| text_frame(&event(id))));
            platform.write(&segment).await;
            while platform.receive_text().await != format!("[close {code}]") {}
            for id in 11..21 {
                platform.write(&text_frame(&event(id))).await;
            }
            platform.write(CLOSE_FRAME).await;
            assert_eq!(platform.receive_text().await, "[end]");
        });
        assert_eq!(lost.reason(), reason);
        assert!(is_all_read, "{lost:?}");
        drop(link);
        let mut received = Vec::new();
        while let Some(batch) = batches.recv().await {
            received.extend(batch);
        }
        assert_eq!(received, (0..21).map(event).collect::<Vec<_>>(), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_stream_is_reported_as_not_all_read() {
    let too_large = vec![b'x'; LIMIT.bytes() as usize + 1];
    for bytes in [
        // A reserved opcode, after which tungstenite cannot continue.
        frame(0x83, b"{}"),
        // A message in two frames, of which the second is not UTF-8.
        [frame(0x01, b"{"), frame(0x80, b"\xff\xfe")].concat(),
        // A new message within another one.
        [frame(0x01, b"{"), frame(0x81, b"{}")].concat(),
        // A message in three frames, of which the second is too large: the other two would make another
        // message.
        [frame(0x01, b"{"), frame(0x00, &too_large), frame(0x80, b"}")].concat(),
    ] {
        let (mut link, mut batches) = link(64);
        let (session, mut platform) = authenticated_connection().await;
        let ((_, is_all_read), ()) = join!(close_after_loss(session, &mut link), async {
            let mut segment = text_frame(&event(0));
            segment.extend(&bytes);
            segment.extend(text_frame(&event(1)));
            platform.write(&segment).await;
            while !platform.receive_text().await.starts_with("[close 100") {}
            drop(platform);
        });
        assert!(!is_all_read);
        assert_eq!(batches.recv().await.unwrap(), [event(0)]);
        assert_eq!(batches.try_recv().ok(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn second_unreadable_frame_is_reported_as_not_all_read() {
    let (mut link, mut batches) = link(64);
    let (session, mut platform) = authenticated_connection().await;
    let ((_, is_all_read), ()) = join!(close_after_loss(session, &mut link), async {
        let bad = frame(0x81, b"\xff\xfe");
        let segment = [bad.clone(), text_frame(&event(0)), bad, text_frame(&event(1))].concat();
        platform.write(&segment).await;
        while platform.receive_text().await != "[close 1007]" {}
        platform.write(CLOSE_FRAME).await;
    });
    assert!(!is_all_read);
    assert_eq!(batches.recv().await.unwrap(), [event(0)]);
    assert_eq!(batches.recv().await.unwrap(), [event(1)]);
}

#[tokio::test(start_paused = true)]
async fn wait_for_the_close_of_the_server_is_one_second() {
    for floods in [false, true] {
        let (mut link, mut batches) = link(4);
        let (session, mut platform) = authenticated_connection().await;
        let stop = link.stop.clone();
        let stopped = async {
            assert_eq!(platform.receive_text().await, PING);
            stop.cancel();
            let since = Instant::now();
            let mut id = 0;
            let mut next = tokio::time::interval(Duration::from_millis(10));
            if floods {
                let mut sent = true;
                while sent {
                    next.tick().await;
                    let frame = text_frame(&event(id));
                    sent = platform.0.get_mut().write_all(&frame).await.is_ok();
                    id += usize::from(sent);
                }
            }
            (since, id)
        };
        let drain = async {
            let mut count = 0;
            while let Some(batch) = batches.recv().await {
                count += batch.len();
            }
            count
        };
        let run = async {
            let lost = run(session, &mut link).await;
            drop(link);
            (lost, Instant::now())
        };
        let ((lost, ended), (since, sent), received) = join!(run, stopped, drain);
        assert_eq!(lost.reason(), DisconnectReason::Stopped);
        assert_eq!(ended.duration_since(since), LINGER);
        assert!(!floods || (90..=sent).contains(&received), "{received} of {sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn full_channel_does_not_delay_the_close_frame() {
    let (mut link, mut batches) = link(1);
    let (session, mut platform) = authenticated_connection().await;
    link.items.try_send(vec!["in the way".into()]).unwrap();
    let stop = link.stop.clone();
    let (lost, (since, answer)) = join!(run(session, &mut link), async {
        platform.send_texts((0..10).map(event)).await;
        assert_eq!(platform.receive_text().await, PING);
        stop.cancel();
        (Instant::now(), platform.receive_text().await)
    });
    assert_eq!(answer, "[close 1000]", "sent although the channel is full");
    assert_eq!(lost.reason(), DisconnectReason::Stopped);
    assert_eq!(since.elapsed(), LINGER);
    assert_eq!(batches.recv().await.unwrap(), ["in the way"]);
    assert_eq!(batches.try_recv().ok(), None, "not read, so not received");
}

#[tokio::test(start_paused = true)]
async fn channel_freed_during_the_close_receives_events() {
    let (mut link, mut batches) = link(1);
    let (session, mut platform) = authenticated_connection().await;
    link.items.try_send(vec!["in the way".into()]).unwrap();
    let stop = link.stop.clone();
    let (_, ()) = join!(run(session, &mut link), async {
        platform.send_texts((0..10).map(event)).await;
        stop.cancel();
        while platform.receive_text().await != "[close 1000]" {}
        tokio::time::sleep(LINGER / 2).await;
        assert_eq!(batches.recv().await.unwrap(), ["in the way"]);
        assert_eq!(batches.recv().await.unwrap().len(), 10);
        platform.write(CLOSE_FRAME).await;
    });
}

#[tokio::test(start_paused = true)]
async fn bad_pong_read_after_backpressure_sets_the_close_code() {
    let (mut link, mut batches) = link(1);
    let (session, mut platform) = authenticated_connection().await;
    link.items.try_send(Vec::new()).unwrap();
    let (lost, ()) = join!(run(session, &mut link), async {
        platform.send_texts([PANG.to_owned(), event(1)]).await;
        tokio::time::sleep(LINGER * 20).await;
        batches.recv().await.unwrap();
        while platform.receive_text().await != "[close 1008]" {}
        platform.write(CLOSE_FRAME).await;
        assert_eq!(batches.recv().await.unwrap(), [event(1)]);
    });
    assert_eq!(lost.reason(), DisconnectReason::Blocked);
}

#[tokio::test(start_paused = true)]
async fn server_that_reads_nothing_is_awaited_for_a_second() {
    let (mut link, mut batches) = link(4);
    let (session, mut platform) = authenticated_connection().await;
    let stop = link.stop.clone();
    let (_, since) = join!(run(session, &mut link), async {
        platform.send_text(event(1)).await;
        assert_eq!(batches.recv().await.unwrap(), [event(1)]);
        stop.cancel();
        Instant::now()
    });
    assert_eq!(since.elapsed(), LINGER);
}
