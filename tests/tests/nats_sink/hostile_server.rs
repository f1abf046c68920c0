//! Texts from a server that is not a nats-server, or is malicious: the reported reason contains them escaped.

use neurobridge_core::{foreign_text, sink::SinkFault};
use neurobridge_sink_nats::NatsConfig;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::support::connect;

/// A text with an escape sequence for terminals, a change of the text direction, a line separator and a bell character.
const UNSAFE: &str = "\u{1b}[31m\u{202e}\u{2028}\u{7}";

const BANNER: &str = r#"INFO {"server_id":"fake","version":"2.15.2","headers":true,"max_payload":1048576}"#;

/// Connects a sink to a server that sends a banner, and an answer to each received line.
async fn connect_to(banner: String, answer: fn(&str) -> Option<String>) -> SinkFault {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(socket, banner.clone(), answer));
        }
    });
    let fault = connect(NatsConfig::new(url, "ENTRIES")).await.unwrap_err();
    server.abort();
    fault
}

async fn serve(socket: TcpStream, banner: String, answer: fn(&str) -> Option<String>) -> Option<()> {
    let (from, mut to) = socket.into_split();
    let mut lines = BufReader::new(from).lines();
    to.write_all(format!("{banner}\r\n").as_bytes()).await.ok()?;
    while let Some(line) = lines.next_line().await.ok()? {
        if let Some(answer) = answer(&line) {
            to.write_all(answer.as_bytes()).await.ok()?;
        }
    }
    Some(())
}

fn assert_clean(fault: &SinkFault) {
    let escaped = "\\u{1b}[31m\\u{202e}\\u{2028}\\u{7}";
    assert!(fault.reason.contains(escaped), "{:?}", fault.reason);
    assert!(
        !fault.reason.contains(foreign_text::is_unsafe),
        "{:?}",
        fault.reason
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn error_before_connecting_is_shown_escaped() {
    let answer = |line: &str| {
        line.starts_with("PING")
            .then(|| format!("-ERR 'Authorization {UNSAFE}'\r\n"))
    };
    assert_clean(&connect_to(BANNER.into(), answer).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_banner_is_shown_escaped() {
    assert_clean(&connect_to(format!("HELLO {UNSAFE}"), |_| None).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn error_after_connecting_is_shown_escaped() {
    let answer = |line: &str| {
        if line.starts_with("PING") {
            Some("PONG\r\n".to_owned())
        } else {
            line.starts_with("PUB")
                .then(|| format!("-ERR 'Maximum {UNSAFE}'\r\n"))
        }
    };
    assert_clean(&connect_to(BANNER.into(), answer).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_error_is_shown_escaped() {
    let answer = |line: &str| {
        if line.starts_with("PING") {
            return Some("PONG\r\n".to_owned());
        }
        let mut words = line.strip_prefix("PUB ")?.split(' ');
        let (_, reply) = (words.next()?, words.next()?);
        let error = serde_json::json!({ "error": { "code": 500, "err_code": 1, "description": UNSAFE } });
        let body = error.to_string();
        Some(format!("MSG {reply} 0 {}\r\n{body}\r\n", body.len()))
    };
    assert_clean(&connect_to(BANNER.into(), answer).await);
}
