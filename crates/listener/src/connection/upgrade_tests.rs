use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, BufReader, DuplexStream, duplex},
    join,
};

use super::*;

/// The status line of a valid answer.
const STATUS: &str = "HTTP/1.1 101 Switching Protocols\r\n";

async fn read_request(stream: &mut DuplexStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

/// Returns the value of `Sec-WebSocket-Accept` for a request.
fn accept_key(request: &str) -> String {
    let key = request
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .unwrap();
    derive_accept_key(key.as_bytes())
}

/// Requests an upgrade from a server that sends `answer` in pieces, with `KEY` replaced by the accept key.
/// Also returns the bytes left in the stream.
async fn answered(answer: &str, piece: usize) -> (Result<Head, UpgradeError>, Vec<u8>) {
    let (ours, mut theirs) = duplex(256);
    let mut ours = BufReader::with_capacity(32, ours);
    let server = async move {
        let request = read_request(&mut theirs).await;
        let answer = answer.replace("KEY", &accept_key(&request));
        for piece in answer.as_bytes().chunks(piece) {
            if theirs.write_all(piece).await.is_err() {
                break;
            }
        }
    };
    let uri = "wss://host:81/feed?a=b".parse().unwrap();
    let client = async {
        let result = upgrade(&mut ours, &uri, &ConnectionRequest::default()).await;
        let mut rest = Vec::new();
        if result.is_ok() {
            ours.read_to_end(&mut rest).await.unwrap();
        }
        // Without this, the server would wait for room in the stream if the client has stopped reading.
        drop(ours);
        (result, rest)
    };
    join!(server, client).1
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[tokio::test]
async fn request_conforms_to_rfc_6455() {
    let (mut ours, mut theirs) = duplex(4096);
    let uri = "WSS://host:81/feed?a=b".parse().unwrap();
    let additions = ConnectionRequest::default();
    let (request, _) = join!(
        async {
            let request = read_request(&mut theirs).await;
            drop(theirs);
            request
        },
        upgrade(&mut ours, &uri, &additions)
    );
    let key = request
        .lines()
        .find(|line| line.starts_with("Sec-WebSocket-Key: "))
        .unwrap();
    let request = request
        .replace(key, "Sec-WebSocket-Key: [random]")
        .replace(env!("CARGO_PKG_VERSION"), "[version]")
        .replace("\r\n", "\n");
    insta::assert_snapshot!(request.trim_end(), @r"
    GET /feed?a=b HTTP/1.1
    Host: host:81
    Connection: Upgrade
    Upgrade: websocket
    Sec-WebSocket-Version: 13
    Sec-WebSocket-Key: [random]
    user-agent: neurobridge/[version]
    ");
}

#[tokio::test]
async fn unusual_answers_are_accepted() {
    let many = "X-Filler: 1\r\n".repeat(1_000);
    let long = format!("X-Long: {}\r\n", "x".repeat(40_000));
    for answer in [
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: <x>; rel=preload\r\n\r\nHTTP/1.1 101\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\n\r\n",
        "HTTP/1.1 101 X\r\nupgrade:WebSocket\r\nconnection: keep-alive, upgrade\r\nsec-websocket-accept:KEY \r\n\r\n",
        "HTTP/1.1 101 X\r\nUpgrade: h2c\r\nUpgrade: websocket\r\nConnection: keep-alive\r\nConnection: UPGRADE\r\nSec-WebSocket-Accept: KEY\r\n\r\n",
        "HTTP/1.0 101 X\nUpgrade: websocket\nConnection: upgrade\nSec-WebSocket-Accept: KEY\n\n",
        "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\nSec-WebSocket-Extensions:\r\nSec-WebSocket-Protocol: \r\n\r\n",
        &format!(
            "{STATUS}{many}{long}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\n\r\n"
        ),
    ] {
        for piece in [1, 4096] {
            let (head, rest) = answered(&format!("{answer}frames"), piece).await;
            head.unwrap_or_else(|error| panic!("{answer}: {error}"));
            assert_eq!(rest, b"frames");
        }
    }
}

#[tokio::test]
async fn invalid_upgrade_is_rejected_with_its_reason() {
    let good = format!("{STATUS}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\n");
    let endless = format!("{STATUS}{}", "X-Filler: 1\r\n".repeat(10_000));
    for (answer, expected) in [
        (
            format!("{good}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
            "extension that was not offered",
        ),
        (
            format!("{good}sec-websocket-extensions: ,\r\nSec-WebSocket-Extensions: x\r\n\r\n"),
            "extension that was not offered",
        ),
        (
            format!("{good}Sec-WebSocket-Protocol: chat\r\n\r\n"),
            "subprotocol that was not offered",
        ),
        (
            good.replace("Upgrade: websocket", "Upgrade: h2c") + "\r\n",
            "lacks `Upgrade: websocket`",
        ),
        (
            good.replace("Connection: Upgrade", "Connection: close") + "\r\n",
            "lacks `Connection: Upgrade`",
        ),
        (
            good.replace("Sec-WebSocket-Accept", "X") + "\r\n",
            "lacks `Sec-WebSocket-Accept`",
        ),
        (good.replace("KEY", "AAAA") + "\r\n", "does not match"),
        (good.clone(), "ended before the answer was complete"),
        (endless, "longer than 64 KiB"),
        ("SSH-2.0-x\r\n".to_owned(), "not HTTP"),
        (String::new(), "ended before the answer was complete"),
    ] {
        let error = answered(&answer, 4096).await.0.unwrap_err().to_string();
        assert!(error.contains(expected), "{answer}: {error}");
    }
}

#[tokio::test]
async fn status_sent_before_the_request_is_reported() {
    let (mut ours, mut theirs) = duplex(16);
    let uri = "ws://host".parse().unwrap();
    theirs.write_all(b"HTTP/1.0 429\n").await.unwrap();
    // The request can no longer be written.
    drop(theirs);
    let error = upgrade(&mut ours, &uri, &ConnectionRequest::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, UpgradeError::Status(head) if head.status == 429),
        "{error}"
    );
    let error = upgrade(&mut ours, &uri, &ConnectionRequest::default())
        .await
        .unwrap_err();
    assert!(matches!(error, UpgradeError::Send(_)), "{error}");
}

proptest! {
    /// A valid answer in any spelling is accepted, and each status is reported, for any fragmentation.
    #[test]
    fn spelling_and_fragmentation_do_not_change_the_result(
        interim in prop::collection::vec(100u16..200, 0..3),
        status in prop_oneof![Just(101u16), 200u16..600],
        version in "1\\.[01]",
        end in "\r?\n",
        fillers in prop::collection::vec("[a-zA-Z-]{1,10}:[ -~]{0,20}", 0..150),
        position in any::<prop::sample::Index>(),
        connection in prop::sample::select(vec!["Upgrade", "upgrade", "keep-alive, Upgrade", "UPGRADE,close"]),
        piece in 1usize..40,
    ) {
        let mut answer = String::new();
        for status in interim.into_iter().filter(|status| *status != 101) {
            answer += &format!("HTTP/{version} {status} X{end}A: b{end}{end}");
        }
        let mut headers: Vec<String> = fillers
            .into_iter()
            .filter(|filler| {
                let name = filler.to_ascii_lowercase();
                !["upgrade:", "connection:"].iter().any(|header| name.starts_with(header))
            })
            .collect();
        headers.insert(position.index(headers.len() + 1), format!("Connection:{connection}"));
        headers.push("uPGRADE: WebSocket".into());
        headers.push("Sec-Websocket-Accept: KEY".into());
        answer += &format!("HTTP/{version} {status} Any Reason{end}{}{end}{end}\u{1}rest", headers.join(&end));
        let (result, rest) = runtime().block_on(answered(&answer, piece));
        match result {
            Ok(head) => {
                prop_assert_eq!((head.status, status), (101, 101));
                prop_assert_eq!(rest, b"\x01rest");
            }
            Err(UpgradeError::Status(head)) => {
                prop_assert_eq!(head.status, status);
                prop_assert_ne!(status, 101);
            }
            Err(error) => prop_assert!(false, "{}: {}", answer, error),
        }
    }

    /// The error consists of own words, without control characters of the answer, and never of the text "Attack attempt
    /// detected" with which tungstenite's handshake rejects unusual answers.
    #[test]
    fn error_for_any_answer_is_printable_ascii(
        start in prop::sample::select(vec!["", "HTTP/", "HTTP/1.1 101 X\r\n", "HTTP/1.1 100\n\n", "HTTP/1.1 "]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        piece in 1usize..40,
    ) {
        let answer = format!("{start}{}", String::from_utf8_lossy(&bytes));
        if let Err(error) = runtime().block_on(answered(&answer, piece)).0 {
            let text = crate::error::sentence(&error);
            prop_assert!(!text.to_lowercase().contains("attack"), "{}", text);
            prop_assert!(text.chars().all(|c| (' '..='~').contains(&c)), "{}", text);
        }
    }
}

#[tokio::test]
async fn request_contains_the_declared_additions() {
    let additions = ConnectionRequest {
        headers: vec![("X-Key".into(), "s3cret".into())],
        query: "cursor=5&a=x%20y".into(),
        subprotocols: vec!["graphql-transport-ws".into(), "json".into()],
    };
    for (uri, path) in [
        ("ws://host", "/?cursor=5&a=x%20y"),
        ("ws://host/feed?a=b", "/feed?a=b&cursor=5&a=x%20y"),
    ] {
        let (mut ours, mut theirs) = duplex(4096);
        let uri = uri.parse().unwrap();
        let (request, _) = join!(
            async {
                let request = read_request(&mut theirs).await;
                drop(theirs);
                request
            },
            upgrade(&mut ours, &uri, &additions)
        );
        assert!(
            request.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
            "{request}"
        );
        let request = request.to_ascii_lowercase();
        for header in [
            "\r\nx-key: s3cret\r\n",
            "\r\nsec-websocket-protocol: graphql-transport-ws, json\r\n",
        ] {
            assert!(request.contains(header), "{request}");
        }
    }
    let (mut ours, _theirs) = duplex(4096);
    let additions = ConnectionRequest {
        headers: vec![("X-Key".into(), "s3\ncret".into())],
        ..ConnectionRequest::default()
    };
    let error = upgrade(&mut ours, &"ws://host".parse().unwrap(), &additions)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the header \"X-Key\" contains a character that HTTP does not allow; check the secrets in this header"
    );
}
