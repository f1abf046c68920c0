//! The connections of the client: TLS, proxy, redirects, and the use of one connection for several requests.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod support;

use std::{net::SocketAddr, path::Path};

use neurobridge_core::secret::Secret;
use neurobridge_listener::SourceConfig;
use neurobridge_platform::{Client, Iam, RequestError, sentence};
use neurobridge_simulator::{Options, TlsFiles};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use self::support::{Platform, config, within};

const TOKEN: &str = "token-of-the-test";
const IDENTITY: &str = r#"{"account":{"id":7},"space":null}"#;

fn iam(config: &SourceConfig, url: &str) -> Iam {
    Iam::new(Client::new(config, url).unwrap())
}

/// Reads a request up to its empty line; `None` at the end of the connection.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Starts a server that sends the next answer to each request. The channel receives each request head with its connection number.
async fn server(answers: Vec<String>) -> (SocketAddr, mpsc::UnboundedReceiver<(usize, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        for number in 1.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            while let Some(head) = request(&mut stream).await {
                heads.send((number, head)).unwrap();
                let answer = answers.next().unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                if answer.contains("Connection: close") {
                    break;
                }
            }
        }
    });
    (address, received)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn one_connection_serves_several_requests() {
    let (address, mut heads) = server(vec![
        answer("200 OK", "", IDENTITY),
        answer("200 OK", "Connection: close\r\n", IDENTITY),
        answer("503 Busy", "Retry-After: 7\r\n", ""),
        answer("200 OK", "", IDENTITY),
    ])
    .await;
    let url = format!("http://{address}/below/");
    let iam = iam(&config(&url), &url);
    for _ in 0..2 {
        assert_eq!(
            within(iam.whoami(&Secret::new(TOKEN))).await.unwrap().account.id,
            7
        );
    }
    let busy = within(iam.whoami(&Secret::new(TOKEN))).await.unwrap_err();
    assert_eq!(busy.retry_after().unwrap().as_secs(), 7);
    within(iam.whoami(&Secret::new(TOKEN))).await.unwrap();
    let mut numbers = Vec::new();
    while let Ok((number, head)) = heads.try_recv() {
        numbers.push(number);
        assert!(head.starts_with("GET /below/v1/whoami HTTP/1.1\r\n"), "{head}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains(&format!("\r\nhost: {address}\r\n")), "{head}");
        assert!(
            head.contains("\r\nauthorization: token token-of-the-test\r\n"),
            "{head}"
        );
    }
    assert_eq!(numbers, [1, 1, 2, 2]);
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let (other, mut heads) = server(vec![answer("200 OK", "", IDENTITY)]).await;
    let location = format!("Location: http://{other}/login?token={TOKEN}\r\n");
    let (address, _heads) = server(vec![answer("302 Found", &location, "")]).await;
    let url = format!("http://{address}");
    let error = within(iam(&config(&url), &url).whoami(&Secret::new(TOKEN)))
        .await
        .unwrap_err();
    assert!(matches!(error, RequestError::Redirected { status: 302, .. }));
    let text = error.to_string();
    assert!(
        text.contains(&format!("http://{other}/…")) && !text.contains(TOKEN),
        "{text}"
    );
    assert!(heads.try_recv().is_err());
}

#[tokio::test]
async fn token_that_the_platform_repeats_is_not_shown() {
    let body = format!(r#"{{"message":"no such token: {TOKEN}","error_codes":[602]}}"#);
    let (address, _heads) = server(vec![
        answer("401 Unauthorized", "", &body),
        answer("200 OK", "", &format!("<p>{TOKEN}</p>")),
        answer("200 OK", "", &format!(r#"{{"account":"{TOKEN}"}}"#)),
    ])
    .await;
    let url = format!("http://{address}");
    let iam = iam(&config(&url), &url);
    for expected in [
        "refused the token (HTTP 401): no such token",
        "is not JSON",
        "unknown shape",
    ] {
        let error = within(iam.whoami(&Secret::new(TOKEN))).await.unwrap_err();
        let text = sentence(&error);
        assert!(text.contains(expected), "{text}");
        assert!(!format!("{text} {error:?}").contains(TOKEN), "{text}");
    }
}

#[tokio::test]
async fn endless_answer_ends_at_the_limit() {
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let endless = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        chunk.repeat(257)
    );
    let (address, _heads) = server(vec![endless]).await;
    let url = format!("http://{address}");
    let error = within(iam(&config(&url), &url).whoami(&Secret::new(TOKEN)))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is larger than 16 MiB"), "{error}");
}

#[tokio::test]
async fn proxy_of_the_source_is_used() {
    let (address, _heads) = server(vec![answer("200 OK", "", IDENTITY)]).await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config("http://platform.example");
    config.proxy = Some(format!("http://user:hunter2@{}", proxy.local_addr().unwrap()).into());
    let proxied = async {
        let (mut client, _) = proxy.accept().await.unwrap();
        let head = request(&mut client).await.unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut server = TcpStream::connect(address).await.unwrap();
        // Ends with the answer, since the client is dropped after it.
        let _ = copy_bidirectional(&mut client, &mut server).await;
        head
    };
    let requested = async {
        let iam = iam(&config, "http://platform.example");
        iam.whoami(&Secret::new(TOKEN)).await
    };
    let (head, identity) = within(async { tokio::join!(proxied, requested) }).await;
    assert_eq!(identity.unwrap().account.id, 7);
    assert!(
        head.starts_with("CONNECT platform.example:80 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("\r\nProxy-Authorization: Basic "), "{head}");
}

fn certificates(folder: &Path) -> TlsFiles {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        certificates: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    std::fs::write(&files.certificates, issued.cert.pem()).unwrap();
    std::fs::write(&files.key, issued.signing_key.serialize_pem()).unwrap();
    files
}

#[tokio::test]
async fn certificates_of_the_source_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let files = certificates(folder.path());
    let platform = Platform::start(Options {
        tls: Some(files.clone()),
        ..Options::default()
    })
    .await;
    let url = format!("https://localhost:{}", platform.handle.local_addr().port());
    let mut config = config(&url);
    config.tls.ca_file = Some(files.certificates);
    within(iam(&config, &url).whoami(&Secret::new(TOKEN)))
        .await
        .unwrap();
    let other = tempfile::tempdir().unwrap();
    let other = certificates(other.path());
    config.tls.ca_file = Some(other.certificates);
    let error = within(iam(&config, &url).whoami(&Secret::new(TOKEN)))
        .await
        .unwrap_err();
    assert!(
        sentence(&error).contains("the certificate of localhost"),
        "{}",
        sentence(&error)
    );
}
