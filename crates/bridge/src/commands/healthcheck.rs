//! `neurobridge healthcheck`: requests the health of a running bridge.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use neurobridge_core::tls::client_without_verification;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::print;
use crate::{
    cli::{HealthcheckFlags, HttpAddress},
    config,
    exit::{Exit, Failure, OrExit},
};

/// The time limit of the request; a bridge that takes longer is unhealthy.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The largest response, far above that of a bridge with a hundred sources.
const MAX_ANSWER_BYTES: u64 = 256 * 1024;

/// Sends the request and prints the response.
///
/// # Errors
/// Fails without an address or a response. Every failure has the same exit code.
pub(super) async fn run(flags: &HealthcheckFlags) -> Result<Exit, Failure> {
    let HttpAddress { authority, is_tls } = match &flags.url {
        Some(address) => address.clone(),
        None => {
            let named = flags.config.config.as_deref();
            let loaded = config::load(named);
            if loaded.is_err()
                && named.is_none()
                && !config::DEFAULT_PATHS.iter().any(|path| Path::new(path).exists())
            {
                let message = format!(
                    "no configuration file {}; name the configuration of the bridge with -c, or its address with --url",
                    config::DEFAULT_PATHS.join(" or ")
                );
                return Err(Failure::message(Exit::Unhealthy, message));
            }
            let loaded = loaded
                .context("name the configuration of the bridge with -c, or its address with --url")
                .or_exit(Exit::Unhealthy)?;
            let http = &loaded.config.http;
            HttpAddress {
                authority: reachable(http.listen).to_string(),
                is_tls: http.tls.is_some(),
            }
        }
    };
    let path = if flags.ready { "/readyz" } else { "/livez" };
    let scheme = if is_tls { "https" } else { "http" };
    let answer = timeout(TIMEOUT, get(&authority, is_tls, path))
        .await
        .map_err(|_| {
            anyhow!(
                "{scheme}://{authority}{path} did not respond within {} seconds",
                TIMEOUT.as_secs()
            )
        })
        .and_then(|answer| {
            answer.with_context(|| {
                format!("{scheme}://{authority}{path} is unreachable (is the bridge running?)")
            })
        })
        .or_exit(Exit::Unhealthy)?;
    print(format!("{}\n", answer.body.trim_end()))?;
    Ok(if answer.status == 200 {
        Exit::Ok
    } else {
        Exit::Unhealthy
    })
}

/// Returns an address to connect to: the loopback address in place of the unspecified one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: String,
}

/// Sends one HTTP/1.0 request. The response ends with the connection and is never chunked.
async fn get(authority: &str, is_tls: bool, path: &str) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(authority).await?;
    if is_tls {
        let server = ServerName::from(stream.peer_addr()?.ip());
        let stream = TlsConnector::from(Arc::new(client_without_verification()))
            .connect(server, stream)
            .await?;
        return get_on(stream, authority, path).await;
    }
    get_on(stream, authority, path).await
}

async fn get_on(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    authority: &str,
    path: &str,
) -> anyhow::Result<Answer> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| anyhow!("the response is not HTTP"))
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next()?.strip_prefix("HTTP/")?;
    Some(Answer {
        status: words.next()?.parse().ok()?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Sends a request to a server that responds with this text.
    async fn response_of(answer: &'static str) -> anyhow::Result<Answer> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let answer = get(&address, false, "/livez").await;
        assert!(server.await.unwrap().starts_with("GET /livez HTTP/1.0\r\n"));
        answer
    }

    #[tokio::test]
    async fn response_is_read_to_its_end() {
        let answer =
            response_of("HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\r\nnot ready\n")
                .await
                .unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 503,
                body: "not ready\n".to_owned()
            }
        );
        assert!(response_of("220 smtp ready\r\n\r\n").await.is_err());
    }

    #[test]
    fn unspecified_address_is_reached_at_loopback() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()).to_string(), "127.0.0.1:1");
        assert_eq!(reachable("[::]:1".parse().unwrap()).to_string(), "[::1]:1");
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()).to_string(), "10.0.0.1:1");
    }
}
