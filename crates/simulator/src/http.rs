//! A minimal HTTP/1.1 server for the platform's port: one request per connection, with a complete head and a body of known
//! length.

use std::{io, time::Duration};

use httparse::Status;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::{
    handshake::server::Request,
    http::{StatusCode, Version},
};

/// The maximum size of a request head, far above the size of the requests that the public clients send.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The maximum size of a request body, far above the size of a request for a token.
const MAX_BODY_BYTES: usize = 64 * 1024;

const MAX_HEADERS: usize = 64;

/// The time limit for the head and for the body of a request, so that an idle client does not occupy a connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason why a request could not be read.
#[derive(Debug, Error)]
pub(crate) enum RequestError {
    #[error("the connection ended before a complete request arrived")]
    Ended,
    #[error("no complete request within {REQUEST_TIMEOUT:?}")]
    Timeout,
    #[error("the request's head is longer than {MAX_HEAD_BYTES} bytes")]
    TooLong,
    #[error("the request's body is longer than {MAX_BODY_BYTES} bytes, or its length is unknown")]
    BodyLength,
    #[error("not an HTTP/1.1 request")]
    NotHttp,
    #[error("cannot read from the connection")]
    Io(#[source] io::Error),
}

/// Reads a request's head and returns it with the bytes that arrived after it.
pub(crate) async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<(Request, Vec<u8>), RequestError> {
    timeout(REQUEST_TIMEOUT, read_head(stream))
        .await
        .map_err(|_| RequestError::Timeout)?
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Request, Vec<u8>), RequestError> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        match parse_head(&bytes)? {
            Some((length, request)) => return Ok((request, bytes.split_off(length))),
            None if bytes.len() >= MAX_HEAD_BYTES => return Err(RequestError::TooLong),
            None => {}
        }
        if stream.read_buf(&mut bytes).await.map_err(RequestError::Io)? == 0 {
            return Err(RequestError::Ended);
        }
    }
}

/// Parses a head and returns it with its length; `None` if it is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Request)>, RequestError> {
    let not_http = |_| RequestError::NotHttp;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let Status::Complete(length) = head.parse(bytes).map_err(|_| RequestError::NotHttp)? else {
        return Ok(None);
    };
    let (Some(method), Some(path), Some(1)) = (head.method, head.path, head.version) else {
        return Err(RequestError::NotHttp);
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .version(Version::HTTP_11);
    for header in head.headers {
        request = request.header(header.name, header.value);
    }
    Ok(Some((length, request.body(()).map_err(not_http)?)))
}

/// Reads the body of a request, of which `bytes` arrived with the head.
pub(crate) async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    request: &Request,
    mut bytes: Vec<u8>,
) -> Result<Vec<u8>, RequestError> {
    let headers = request.headers();
    let length = match headers.get("content-length") {
        Some(length) => length.to_str().ok().and_then(|length| length.parse().ok()),
        None if headers.contains_key("transfer-encoding") => None,
        None => Some(0),
    };
    let length = length
        .filter(|length| *length <= MAX_BODY_BYTES)
        .ok_or(RequestError::BodyLength)?;
    let read = async {
        while bytes.len() < length {
            if stream.read_buf(&mut bytes).await.map_err(RequestError::Io)? == 0 {
                return Err(RequestError::Ended);
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    };
    timeout(REQUEST_TIMEOUT, read)
        .await
        .map_err(|_| RequestError::Timeout)?
}

/// The codes in `error_codes`. *Assumed*: the public documents show 602 only, with 400 in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorCode {
    Unauthorised = 601,
    Invalid = 602,
    Forbidden = 603,
    NotFound = 604,
    LimitReached = 605,
    Fault = 600,
}

/// The code of a field with an invalid value.
const FIELD_CODE: u16 = 400;

/// An HTTP response with a JSON body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Vec<u8>,
}

/// The way in which a response is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Delivery {
    #[default]
    Whole,
    /// The connection ends in the middle of the body.
    Cut,
    /// At most this many bytes per second.
    Drip(u32),
}

impl Response {
    pub(crate) fn new(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            retry_after: None,
            body,
        }
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::new(status, body.to_string().into_bytes())
    }

    /// Creates an error in the platform's JSON format; `field` is the parameter with an invalid value.
    pub(crate) fn error(status: u16, message: &str, code: ErrorCode, field: Option<&str>) -> Self {
        let fields: Vec<Value> = field
            .map(|name| json!({ "name": name, "message": message, "error_code": FIELD_CODE }))
            .into_iter()
            .collect();
        Self::json(
            status,
            &json!({ "message": message, "error_codes": [code as u16], "fields": fields }),
        )
    }

    /// Sends the response and closes the writing side.
    pub(crate) async fn send<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        delivery: Delivery,
    ) -> io::Result<()> {
        let bytes = self.to_bytes();
        match delivery {
            Delivery::Whole => stream.write_all(&bytes).await?,
            Delivery::Cut => {
                stream
                    .write_all(&bytes[..bytes.len() - self.body.len().div_ceil(2)])
                    .await?
            }
            Delivery::Drip(bytes_per_second) => {
                // At most 100 pieces each second, because the timer has a resolution of one millisecond.
                let piece = bytes_per_second.div_ceil(100).max(1);
                let interval = Duration::from_secs(1) * piece / bytes_per_second.max(1);
                for piece in bytes.chunks(piece as usize) {
                    stream.write_all(piece).await?;
                    stream.flush().await?;
                    // The fault itself: a server that sends slowly.
                    sleep(interval).await;
                }
            }
        }
        stream.shutdown().await
    }

    fn to_bytes(&self) -> Vec<u8> {
        let reason = StatusCode::from_u16(self.status)
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
    async fn bytes_after_the_head_are_returned() {
        let mut bytes: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let (request, rest) = read_request(&mut bytes).await.unwrap();
        assert_eq!((request.uri().path(), rest.as_slice()), ("/", &b"rest"[..]));
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
            error(b"GET / HTTP/1.0\r\n\r\n").await,
            RequestError::NotHttp
        ));
        let long = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; MAX_HEAD_BYTES]].concat();
        assert!(matches!(
            read_request(&mut long.as_slice()).await.unwrap_err(),
            RequestError::TooLong
        ));
    }

    #[tokio::test]
    async fn body_has_its_announced_length_or_is_refused() {
        async fn body(text: &str) -> Result<Vec<u8>, RequestError> {
            let mut bytes = text.as_bytes();
            let (request, rest) = read_request(&mut bytes).await?;
            read_body(&mut bytes, &request, rest).await
        }
        let head = "POST /v1/tokens/ HTTP/1.1\r\n";
        assert_eq!(body(&format!("{head}\r\nrest")).await.unwrap(), b"");
        let text = format!("{head}Content-Length: 4\r\n\r\nbodyrest");
        assert_eq!(body(&text).await.unwrap(), b"body");
        for (header, is_expected) in [
            ("Content-Length: 9", |error| matches!(error, RequestError::Ended)),
            ("Content-Length: 99999", |error| {
                matches!(error, RequestError::BodyLength)
            }),
            ("Transfer-Encoding: chunked", |error| {
                matches!(error, RequestError::BodyLength)
            }),
        ] as [(&str, fn(RequestError) -> bool); 3]
        {
            let text = format!("{head}{header}\r\n\r\nbody");
            assert!(is_expected(body(&text).await.unwrap_err()), "{header}");
        }
    }

    #[test]
    fn error_response_matches_snapshot() {
        let mut response = Response::error(503, "busy", ErrorCode::Fault, Some("limit"));
        response.retry_after = Some(3);
        insta::assert_snapshot!(String::from_utf8(response.to_bytes()).unwrap().replace('\r', ""));
    }
}
