use tokio::{join, time::Instant};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;
use crate::{
    connection::{
        receive,
        testing::{AUTH, connection, event, link, token},
    },
    error::sentence,
    stats::{ConnectionOutcome, FrameKind, SourceState},
};

const TIMEOUT: Duration = Duration::from_secs(10);

async fn answered(answers: &[&str]) -> Result<(), ConnectionEnd> {
    let (mut link, _batches) = link(1);
    let (mut session, mut platform) = connection().await;
    let server = async {
        assert_eq!(platform.receive_text().await, AUTH);
        for answer in answers {
            platform.send_text(*answer).await;
        }
    };
    join!(authenticate(&mut session, &mut link, token()), server).0
}

#[tokio::test(start_paused = true)]
async fn auth_ok_authenticates_despite_other_frames() {
    answered(&[r#"{"auth":"ok"}"#]).await.unwrap();
    answered(&[r#"{"PING":"PONG"}"#, r#"{"auth":"ok"}"#, r#"{"error":"later"}"#])
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn auth_error_is_a_refusal_without_the_token() {
    for (answer, expected) in [
        (r#"{"error":"Invalid token s3cret"}"#, "Invalid token [redacted]"),
        (r#"{"error":{"code":401}}"#, r#"{"code":401}"#),
        (
            r#"{"error":{"message":"no s3cret","user":"Ada Lovelace"}}"#,
            r#"{"message":"no [redacted]"} (1 field is not shown)"#,
        ),
        (r#"{"auth":"fail"}"#, "fail"),
        (r#"{"auth":null}"#, "null"),
    ] {
        let lost = answered(&[answer]).await.unwrap_err();
        assert_eq!(lost.outcome(), ConnectionOutcome::TokenRefused);
        assert_eq!(
            sentence(&lost),
            format!("the platform refused the token: {expected}")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn missing_auth_answer_is_a_timeout() {
    let start = Instant::now();
    let lost = answered(&[r#"{"PING":"PONG"}"#]).await.unwrap_err();
    assert_eq!(lost.outcome(), ConnectionOutcome::AuthTimeout);
    assert_eq!(start.elapsed(), TIMEOUT);
    assert_eq!(sentence(&lost), "no answer to AUTH within 10s");
}

#[tokio::test(start_paused = true)]
async fn close_before_the_auth_answer_has_its_own_outcome() {
    let (mut link, _batches) = link(1);
    let (mut session, mut platform) = connection().await;
    platform.close(CloseCode::Policy).await;
    let lost = authenticate(&mut session, &mut link, token()).await.unwrap_err();
    assert_eq!(lost.outcome(), ConnectionOutcome::LostBeforeAuthenticated);
    assert_eq!(
        sentence(&lost),
        r#"the platform closed the connection (code 1008, "bye")"#
    );
}

#[tokio::test(start_paused = true)]
async fn stop_during_authentication_is_immediate() {
    let (mut link, _batches) = link(1);
    let (mut session, _platform) = connection().await;
    let (stop, start) = (link.stop.clone(), Instant::now());
    let (result, ()) = join!(authenticate(&mut session, &mut link, token()), async {
        tokio::task::yield_now().await;
        stop.cancel();
    });
    assert!(matches!(result, Err(ConnectionEnd::Stopped)));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn events_before_and_after_the_auth_answer_are_received() {
    let (mut link, mut batches) = link(1);
    let (mut session, mut platform) = connection().await;
    let early = event(0);
    platform
        .send_texts([early.clone(), r#"{"auth":"ok"}"#.into(), event(1), event(2)])
        .await;
    authenticate(&mut session, &mut link, token()).await.unwrap();
    let stop = link.stop.clone();
    let (lost, ()) = join!(receive(&mut session, &mut link), async {
        assert_eq!(batches.recv().await.unwrap(), [early]);
        assert_eq!(batches.recv().await.unwrap(), [event(1), event(2)]);
        stop.cancel();
    });
    assert!(matches!(lost, ConnectionEnd::Stopped));
    assert_eq!(link.stats.snapshot().frames.get(FrameKind::Event), 3);
}

#[tokio::test(start_paused = true)]
async fn events_before_auth_are_bounded_by_number_and_bytes() {
    let large = |id| event(id).replace("new", &"x".repeat(10_000));
    for (frame, bound) in [
        (&event as &dyn Fn(usize) -> String, MAX_BATCH_FRAMES),
        (&large, MAX_BATCH_BYTES as usize / 10_000 + 1),
    ] {
        let (mut link, mut batches) = link(1);
        let (mut session, mut platform) = connection().await;
        link.items.try_send(vec!["in the way".into()]).unwrap();
        let stats = link.stats.clone();
        let count = 3 * bound;
        let frames: Vec<String> = (0..count).map(frame).collect();
        platform.send_texts(frames.clone()).await;
        platform.send_text(r#"{"auth":"ok"}"#).await;
        let (authenticated, seen) = join!(authenticate(&mut session, &mut link, token()), async {
            tokio::time::sleep(TIMEOUT * 2).await;
            let snapshot = stats.snapshot();
            assert_eq!(snapshot.state, SourceState::Blocked);
            assert!(
                snapshot.frames.total() <= bound as u64,
                "{}",
                snapshot.frames.total()
            );
            assert_eq!(batches.recv().await.unwrap(), ["in the way"]);
            let mut seen = Vec::new();
            while seen.len() < count {
                let batch = batches.recv().await.unwrap();
                assert!(batch.len() <= bound);
                seen.extend(batch);
            }
            seen
        });
        authenticated.unwrap();
        assert_eq!(seen, frames);
    }
}

#[tokio::test(start_paused = true)]
async fn flood_of_events_without_auth_answer_times_out() {
    let (mut link, mut batches) = link(1);
    let (mut session, mut platform) = connection().await;
    let flood = async {
        for id in 0.. {
            platform.send_text(event(id)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let drain = async { while batches.recv().await.is_some() {} };
    let lost = tokio::select! {
        authenticated = authenticate(&mut session, &mut link, token()) => authenticated.unwrap_err(),
        () = flood => unreachable!("it never ends"),
        () = drain => unreachable!("the link holds the channel"),
    };
    assert_eq!(lost.outcome(), ConnectionOutcome::AuthTimeout);
}

#[tokio::test(start_paused = true)]
async fn token_in_an_answer_is_hidden_in_every_form() {
    const LONG: &str = "eyJhbGciOi/JSUzI1NiIsIn+R5cCI6IkpXVCJ9.cGF5bG9hZA==";
    for form in [
        LONG.to_owned(),
        LONG.replace('/', "\\/"),
        LONG.replace('/', "%2F").replace('+', "%2b"),
        LONG.replace('G', "\\u0047"),
        LONG[..20].to_owned(),
        LONG[12..].to_owned(),
    ] {
        for answer in [
            format!(r#"{{"error":"Invalid token {form}"}}"#),
            format!(r#"{{"error":"{}{form}"}}"#, "x".repeat(185)),
            format!(r#"{{"auth":{{"message":"bad token {form}"}}}}"#),
            format!(r#"{{"error":{}}}"#, serde_json::json!(format!("quoted: {form}"))),
        ] {
            let (mut link, _batches) = link(1);
            let (mut session, mut platform) = connection().await;
            session.secrets.add(LONG);
            platform.send_text(answer.as_str()).await;
            let lost = authenticate(&mut session, &mut link, token()).await.unwrap_err();
            let text = sentence(&lost).replace("\\/", "/");
            for piece in [&LONG[..8], &LONG[4..12], &LONG[12..20], &LONG[LONG.len() - 8..]] {
                assert!(!text.contains(piece), "{answer}: {text}");
            }
        }
    }
}
