//! The part of HTTP/1.1 that the platform's port needs: one request per connection, with a complete head and without a
//! body.

use std::{io, time::Duration};

use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_tungstenite::tungstenite::handshake::{machine::TryParse, server::Request};

/// Far above the size of the requests that the public clients send.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// A client that has sent no request within this time is not going to send one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A reason why no request could be read.
#[derive(Debug, Error)]
pub(crate) enum RequestError {
    #[error("the connection ended before a complete request arrived")]
    Ended,
    #[error("no complete request within {HEAD_TIMEOUT:?}")]
    Timeout,
    #[error("the request's head is longer than {MAX_HEAD_BYTES} bytes")]
    TooLong,
    #[error("not an HTTP/1.1 GET request")]
    NotHttp,
    #[error("cannot read from the connection")]
    Io(#[source] io::Error),
}

/// Reads a request's head and returns it with the bytes that arrived after it.
pub(crate) async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<(Request, Vec<u8>), RequestError> {
    timeout(HEAD_TIMEOUT, read_head(stream))
        .await
        .map_err(|_| RequestError::Timeout)?
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Request, Vec<u8>), RequestError> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        match Request::try_parse(&bytes) {
            Ok(Some((length, request))) => return Ok((request, bytes.split_off(length))),
            Ok(None) if bytes.len() >= MAX_HEAD_BYTES => return Err(RequestError::TooLong),
            Ok(None) => {}
            Err(_) => return Err(RequestError::NotHttp),
        }
        if stream.read_buf(&mut bytes).await.map_err(RequestError::Io)? == 0 {
            return Err(RequestError::Ended);
        }
    }
}

/// An HTTP response with a JSON body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn new(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            retry_after: None,
            body,
        }
    }

    /// Creates an error in the platform's JSON format.
    pub(crate) fn error(status: u16, message: &str, code: &str, fields: &[&str]) -> Self {
        let body = serde_json::json!({ "message": message, "error_codes": [code], "fields": fields });
        Self::new(status, body.to_string().into_bytes())
    }

    /// Sends the response and closes the writing side.
    pub(crate) async fn send<S: AsyncWrite + Unpin>(&self, stream: &mut S) -> io::Result<()> {
        stream.write_all(&self.to_bytes()).await?;
        stream.shutdown().await
    }

    fn to_bytes(&self) -> Vec<u8> {
        let reason = tokio_tungstenite::tungstenite::http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Unknown");
        let retry_after = self
            .retry_after
            .map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{retry_after}Connection: close\r\n\r\n",
            self.status,
            self.body.len(),
        )
        .into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_after_the_head_are_kept() {
        let mut bytes: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbehind";
        let (request, rest) = read_request(&mut bytes).await.unwrap();
        assert_eq!((request.uri().path(), rest.as_slice()), ("/", &b"behind"[..]));
    }

    #[tokio::test]
    async fn invalid_requests_are_refused() {
        let error = |bytes: &'static [u8]| async move { read_request(&mut &*bytes).await.unwrap_err() };
        assert!(matches!(
            error(b"GET / HTTP/1.1\r\nHost:").await,
            RequestError::Ended
        ));
        assert!(matches!(error(b"\x16\x03\x01").await, RequestError::NotHttp));
        assert!(matches!(
            error(b"POST / HTTP/1.1\r\n\r\n").await,
            RequestError::NotHttp
        ));
        let long = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; MAX_HEAD_BYTES]].concat();
        assert!(matches!(
            read_request(&mut long.as_slice()).await.unwrap_err(),
            RequestError::TooLong
        ));
    }

    #[test]
    fn error_response_matches_snapshot() {
        let mut response = Response::error(503, "busy", "unavailable", &[]);
        response.retry_after = Some(3);
        insta::assert_snapshot!(String::from_utf8(response.to_bytes()).unwrap().replace('\r', ""));
    }
}
