use std::{
    future::{pending, poll_fn, ready},
    net::Ipv4Addr,
    path::Path,
};

use futures_util::StreamExt;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpListener,
};
use tokio_tungstenite::tungstenite::{handshake::derive_accept_key, http::header};

use super::*;
use crate::{
    error::sentence,
    stats::{ConnectionOutcome, Label},
};

fn dialler(url: &str, change: impl FnOnce(&mut SourceConfig)) -> Dialler {
    let mut config = SourceConfig::new(url, "t");
    config.proxy = Some("none".into());
    change(&mut config);
    assert_eq!(config.check(), []);
    let endpoint = Endpoint::parse(url).unwrap();
    let proxy = config.proxy_choice().unwrap().resolve(&endpoint).unwrap();
    Dialler::new(&config, endpoint, proxy, SecretSet::default()).unwrap()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Starts a server that answers a request with these bytes.
async fn answering(answer: &'static str) -> String {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    format!("ws://{address}")
}

async fn failure(dialler: &Dialler) -> DialError {
    match dialler.dial(&ConnectionRequest::default(), None).await {
        Ok(_) => panic!("the connection was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn http_status_sets_outcome_retry_delay_and_message() {
    for (answer, outcome, retry_after, words) in [
        (
            "HTTP/1.1 401 X\r\n\r\n",
            ConnectionOutcome::HttpUnauthorized,
            None,
            "authentication required",
        ),
        (
            "HTTP/1.1 403 X\r\n\r\n",
            ConnectionOutcome::HttpForbidden,
            None,
            "access forbidden",
        ),
        (
            "HTTP/1.1 429 X\r\nRetry-After: 7\r\n\r\n",
            ConnectionOutcome::HttpTooManyRequests,
            Some(7),
            "retrying less often",
        ),
        (
            "HTTP/1.1 503 X\r\nretry-after: 9\r\n\r\n",
            ConnectionOutcome::HttpUnavailable,
            Some(9),
            "temporarily unavailable",
        ),
        (
            "HTTP/1.1 200 X\r\n\r\n",
            ConnectionOutcome::HttpOther,
            None,
            "not a WebSocket server",
        ),
    ] {
        let error = failure(&dialler(&answering(answer).await, |_| {})).await;
        assert_eq!(error.outcome(), outcome);
        assert_eq!(error.retry_after(), retry_after.map(Duration::from_secs));
        assert!(sentence(&error).contains(words), "{error}");
    }
}

#[tokio::test]
async fn each_failure_has_its_own_outcome() {
    let error = failure(&dialler(&answering("SSH-2.0-x\r\n\r\n").await, |_| {})).await;
    assert_eq!(error.outcome(), ConnectionOutcome::HandshakeFailed, "{error}");

    let (listener, address) = listen().await;
    drop(listener);
    let error = failure(&dialler(&format!("ws://{address}"), |_| {})).await;
    assert_eq!(error.outcome(), ConnectionOutcome::ConnectFailed, "{error}");

    // A label longer than DNS allows, so that the lookup fails without a network.
    let host = "a".repeat(64);
    let error = failure(&dialler(&format!("ws://{host}"), |_| {})).await;
    assert_eq!(error.outcome(), ConnectionOutcome::ResolveFailed, "{error}");

    let (_silent, address) = listen().await;
    let error = failure(&dialler(&format!("ws://{address}"), |config| {
        config.open_timeout = Duration::from_millis(100);
    }))
    .await;
    assert_eq!(error.outcome(), ConnectionOutcome::OpenTimeout, "{error}");
    assert_eq!(
        error.to_string(),
        format!(
            "no connection to {address} within 100ms (1 address tried): no complete answer to the WebSocket upgrade"
        )
    );
}

#[tokio::test]
async fn clock_skew_is_derived_from_the_date_header() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        #[allow(clippy::result_large_err, reason = "the type is the library's")]
        let callback = |_: &_, mut response: tokio_tungstenite::tungstenite::handshake::server::Response| {
            let date = "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap();
            response.headers_mut().insert(header::DATE, date);
            Ok(response)
        };
        tokio_tungstenite::accept_hdr_async(stream, callback)
            .await
            .unwrap();
    });
    let dialled = dialler(&format!("ws://{address}"), |_| {})
        .dial(&ConnectionRequest::default(), None)
        .await
        .unwrap();
    assert!(
        dialled.clock_skew_seconds.unwrap() > 1e9,
        "the Date header is of 1994"
    );
}

#[tokio::test]
async fn data_sent_together_with_the_upgrade_answer_is_read() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
            .unwrap();
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        // More data than the first read returns.
        let events: Vec<String> = (0..2_000).map(|number| format!("event {number}")).collect();
        for event in &events {
            answer.push_str(&format!("\u{81}{}{event}", char::from(event.len() as u8)));
        }
        // Each character becomes one byte: U+0081 is the first byte of an unfragmented text frame.
        let answer: Vec<u8> = answer.chars().map(|character| character as u8).collect();
        stream.write_all(&answer).await.unwrap();
    });
    let mut dialled = dialler(&format!("ws://{address}"), |_| {})
        .dial(&ConnectionRequest::default(), None)
        .await
        .unwrap();
    for number in 0..2_000 {
        let message = poll_fn(|cx| dialled.socket.poll_message(cx)).await.unwrap();
        assert_eq!(message.to_text().unwrap(), format!("event {number}"));
    }
}

/// Returns an address that answers nothing: the backlog of its socket is full, so further connections are neither
/// accepted nor refused.
fn black_hole() -> (SocketAddr, Vec<Socket>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = (Ipv4Addr::new(127, 0, 0, 66), 0).into();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut sockets = vec![socket];
    for _ in 0..8 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // In progress, and never completed.
        socket.connect(&address.into()).unwrap_err();
        sockets.push(socket);
    }
    (address, sockets)
}

#[tokio::test]
async fn silent_address_leaves_time_for_the_others() {
    let (hole, _sockets) = black_hole();
    let (_listener, good) = listen().await;
    let open = |address| {
        Box::pin(async move {
            connect(address)
                .await
                .map_err(|source| DialError::of_connect(address, source))
        })
    };
    let start = Instant::now();
    let deadline = start + Duration::from_millis(600);
    assert!(
        first_of(&[hole], deadline, open).await.is_none(),
        "the address must not answer"
    );
    let deadline = Instant::now() + Duration::from_millis(600);
    let stream = first_of(&[hole, good], deadline, open).await.unwrap().unwrap();
    assert_eq!(stream.peer_addr().unwrap(), good);
    assert!(stream.nodelay().unwrap() && SockRef::from(&stream).keepalive().unwrap());
}

fn addresses(count: u8) -> Vec<SocketAddr> {
    (1..=count).map(|last| ([127, 0, 0, last], 1).into()).collect()
}

#[tokio::test(start_paused = true)]
async fn each_address_has_a_limited_head_start() {
    for (count, expected) in [(2u8, Duration::from_secs(1)), (8, Duration::from_secs(4) * 7 / 9)] {
        let start = Instant::now();
        let deadline = start + Duration::from_secs(4);
        let opened = first_of(&addresses(count), deadline, |address| {
            let is_good = address == addresses(count)[usize::from(count) - 1];
            Box::pin(async move {
                if !is_good {
                    pending::<()>().await;
                }
                Ok(address)
            })
        })
        .await;
        assert!(opened.unwrap().is_ok());
        let took = start.elapsed();
        assert!(
            took >= expected && took < expected + Duration::from_millis(20),
            "{took:?}"
        );
    }
    let start = Instant::now();
    let deadline = start + Duration::from_secs(4);
    let none = first_of(&addresses(3), deadline, |_| Box::pin(pending::<Result<(), _>>())).await;
    assert!(none.is_none());
    assert!(start.elapsed() < Duration::from_millis(4_020));
}

#[tokio::test(start_paused = true)]
async fn failed_address_starts_the_next_immediately() {
    let start = Instant::now();
    let deadline = start + Duration::from_secs(4);
    let closed = |address| DialError::of_connect(address, std::io::ErrorKind::ConnectionRefused.into());
    let tls_failure = || DialError::Tls(tls::TlsError::Name { host: "h".into() });
    let list = addresses(3);
    let failed = first_of(&list, deadline, |address| {
        ready(Err::<(), _>(if address == list[1] {
            tls_failure()
        } else {
            closed(address)
        }))
    })
    .await;
    assert_eq!(
        failed.unwrap().unwrap_err().outcome(),
        ConnectionOutcome::TlsFailed
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn http_error_of_one_address_ends_the_attempt() {
    let deadline = Instant::now() + Duration::from_secs(4);
    let attempts = std::cell::Cell::new(0);
    let failed = first_of(&addresses(3), deadline, |_| {
        attempts.set(attempts.get() + 1);
        ready(Err::<(), _>(DialError::Status {
            target: "h".into(),
            status: 503,
            words: "",
            retry_after: None,
        }))
    })
    .await;
    assert_eq!(
        failed.unwrap().unwrap_err().outcome().as_str(),
        "http_unavailable"
    );
    assert_eq!(attempts.get(), 1);
}

#[test]
fn address_families_alternate() {
    let parse = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.parse().unwrap())
            .collect::<Vec<SocketAddr>>()
    };
    let mixed = interleaved(parse(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"]));
    assert_eq!(mixed, parse(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"]));
}

#[tokio::test]
async fn configured_proxy_is_used_for_the_connection() {
    let url = answering("HTTP/1.1 418 X\r\n\r\n").await;
    let target = url.trim_start_matches("ws://").to_owned();
    let (listener, proxy) = listen().await;
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        let mut onward = TcpStream::connect(&target).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        copy_bidirectional(&mut stream, &mut onward).await.ok();
        head
    });
    let dialler = dialler(&url, |config| {
        config.proxy = Some(format!("http://u:p@{proxy}").into())
    });
    let error = failure(&dialler).await;
    assert!(matches!(error, DialError::Status { status: 418, .. }), "{error}");
    let head = served.await.unwrap();
    assert!(
        head.starts_with("CONNECT 127.0.0.1:") && head.contains("Basic dTpw"),
        "{head}"
    );
}

#[tokio::test]
async fn proxy_password_is_read_each_time_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let (listener, proxy) = listen().await;
    let served = tokio::spawn(async move {
        let mut heads = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            heads.push(read_head(&mut stream).await);
            stream.write_all(b"HTTP/1.1 407 X\r\n\r\n").await.unwrap();
        }
        heads
    });
    let dialler = dialler("ws://events.invalid", |config| {
        config.proxy = Some(format!("http://u@{proxy}").into());
        config.proxy_password_file = Some(file.clone());
    });
    for password in ["p", "rotated\n"] {
        std::fs::write(&file, password).unwrap();
        let error = failure(&dialler).await;
        assert_eq!(error.outcome(), ConnectionOutcome::ProxyFailed, "{error}");
        assert!(!format!("{error} {error:?}").contains("rotated"));
    }
    let heads = served.await.unwrap();
    // "u:p" and "u:rotated".
    assert!(heads[0].contains("Basic dTpw\r\n"), "{}", heads[0]);
    assert!(heads[1].contains("Basic dTpyb3RhdGVk\r\n"), "{}", heads[1]);
}

#[tokio::test]
async fn refusal_of_a_proxy_counts_as_proxy_failed() {
    let url = answering("HTTP/1.1 407 X\r\n\r\n").await;
    let proxy = url.replace("ws://", "http://");
    let (_, folder) = certificates::authority();
    let dialler = dialler("wss://events.invalid", |config| {
        config.proxy = Some(proxy.into());
        config.tls.ca_file = Some(folder.path().join("ca.pem"));
    });
    let error = failure(&dialler).await;
    assert_eq!(error.outcome(), ConnectionOutcome::ProxyFailed, "{error}");
}

#[path = "dial_tls_tests.rs"]
mod certificates;
