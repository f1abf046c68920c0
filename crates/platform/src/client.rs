//! An HTTP/1.1 client of one interface of the platform: the REST or IAM interface of NeuroIO, or the list of a declared feed.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
        RETRY_AFTER, USER_AGENT,
    },
};
use hyper_util::rt::TokioIo;
use neurobridge_core::{
    address,
    secret::{Secret, SecretSet},
    units::ByteSize,
};
use neurobridge_listener::{HttpDialler, SourceConfig, parse_retry_after};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{PlatformAnswer, RequestError};

/// The largest accepted answer. Two of the largest valid entries fit, which contain pictures of several MiB each. The reader of
/// a list requests a larger page again with fewer entries.
const MAX_ANSWER: ByteSize = ByteSize::from_mib(16);
/// The largest accepted head of an answer.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The number of characters of an unreadable answer that an error shows.
const SHOWN_CHARS: usize = 60;

/// A client of one HTTP interface of the platform.
///
/// The client follows no redirect, because it would send the token to another host. It keeps the connection of the last request
/// open, and uses it for the next one.
pub struct Client {
    dialler: HttpDialler,
    secrets: SecretSet,
    timeout: Duration,
    max_answer: ByteSize,
    /// The connection of the last request.
    idle: Mutex<Option<Connection>>,
}

/// The headers that authorise a request.
#[derive(Clone, Copy)]
pub(crate) enum Access<'a> {
    /// The header `Authorization: Token …` of NeuroIO.
    Token(&'a Secret),
    /// The headers of a declared list.
    Headers(&'a [(String, Secret)]),
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The task that reads and writes the socket.
    _task: AbortOnDropHandle<()>,
}

impl Client {
    /// Creates a client for `url`, `https://host[:port][/path]`, with the proxy, certificates and time limits of a
    /// source. Blocks while it reads the certificates.
    ///
    /// # Errors
    /// Returns the invalid configuration key of the source, and a description of the problem.
    pub fn new(config: &SourceConfig, url: &str) -> Result<Self, (&'static str, String)> {
        let secrets = SecretSet::default();
        Ok(Self {
            dialler: HttpDialler::new(config, url, secrets.clone())?,
            secrets,
            timeout: config.backfill.timeout,
            max_answer: MAX_ANSWER,
            idle: Mutex::default(),
        })
    }

    /// Sets the largest accepted answer instead of 16 MiB.
    #[must_use]
    pub fn with_max_answer(self, max_answer: ByteSize) -> Self {
        Self { max_answer, ..self }
    }

    /// Returns the host of the interface, for errors.
    pub(crate) fn host(&self) -> &str {
        self.dialler.authority()
    }

    /// Registers further secrets, which the client removes from the texts of errors.
    pub(crate) fn add_secrets<'a>(&self, secrets: impl IntoIterator<Item = &'a Secret>) {
        secrets
            .into_iter()
            .for_each(|secret| self.secrets.add(secret.expose()));
    }

    /// Sends a request and returns the body of the answer, if its status is 2xx.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        access: Access<'_>,
        body: Option<String>,
    ) -> Result<Bytes, RequestError> {
        if let Access::Token(token) = access {
            self.secrets.add(token.expose());
        }
        let request = self.build(method, path, access, body)?;
        let used = self.idle.lock().await.take();
        // A server may close an idle connection at any time. If a reused connection fails, a new one is opened for the request.
        if let Some(mut connection) = used
            && connection.sender.ready().await.is_ok()
        {
            match self.exchange(&mut connection, request.clone()).await {
                // Safe to send again: the request was not sent, or a GET has no effect on the server.
                Err(RequestError::Connection { source, .. })
                    if source.is_canceled() || request.method() == Method::GET => {}
                answered => return self.finish(connection, answered).await,
            }
        }
        let mut connection = self.connect().await?;
        let answered = self.exchange(&mut connection, request).await;
        self.finish(connection, answered).await
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        access: Access<'_>,
        body: Option<String>,
    ) -> Result<Request<Full<Bytes>>, RequestError> {
        let path = format!("{}{path}", self.dialler.path().trim_end_matches('/'));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.host())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("neurobridge/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let mut request = request
            .body(Full::from(body.unwrap_or_default()))
            .map_err(|_| RequestError::Target)?;
        let mut insert = |name: HeaderName, value: &str| {
            let mut value = HeaderValue::from_str(value).map_err(|_| RequestError::TokenText)?;
            value.set_sensitive(true);
            request.headers_mut().insert(name, value);
            Ok::<_, RequestError>(())
        };
        match access {
            Access::Token(token) => insert(AUTHORIZATION, &format!("Token {}", token.expose()))?,
            Access::Headers(headers) => {
                for (name, value) in headers {
                    insert(name.parse().map_err(|_| RequestError::Target)?, value.expose())?;
                }
            }
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<Connection, RequestError> {
        let stream = self.dialler.dial().await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.failed(source))?;
        // The request returns the same error, so the task does not report it.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection {
            sender,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Sends a request and reads the whole answer, within the time limit.
    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Full<Bytes>>,
    ) -> Result<Bytes, RequestError> {
        let exchange = async {
            let answer = connection
                .sender
                .send_request(request)
                .await
                .map_err(|source| self.failed(source))?;
            let (head, body) = answer.into_parts();
            let body = self.read(body).await;
            self.check(Response::from_parts(head, body?))
        };
        timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
            Err(RequestError::Timeout {
                host: self.host().to_owned(),
                timeout: self.timeout,
            })
        })
    }

    async fn read(&self, mut body: Incoming) -> Result<Bytes, RequestError> {
        let limit = self.max_answer.bytes();
        let too_large = || RequestError::TooLarge {
            host: self.host().to_owned(),
            limit: self.max_answer,
        };
        if body.size_hint().lower() > limit {
            return Err(too_large());
        }
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| self.failed(source))?;
            if let Some(data) = frame.data_ref() {
                if (read.len() + data.len()) as u64 > limit {
                    return Err(too_large());
                }
                read.extend_from_slice(data);
            }
        }
        Ok(read.into())
    }

    /// Returns the body of an answer, or the error for its status.
    fn check(&self, answer: Response<Bytes>) -> Result<Bytes, RequestError> {
        let status = answer.status().as_u16();
        let headers = answer.headers();
        let host = self.host().to_owned();
        let described = || PlatformAnswer::read(answer.body(), &self.secrets);
        Err(match status {
            200..=299 => return Ok(answer.into_body()),
            300..=399 => RequestError::Redirected {
                host,
                status,
                location: self.secrets.clean(
                    &text(headers, &LOCATION)
                        .map_or_else(|| "an unspecified address".to_owned(), address::shown),
                ),
            },
            401 => RequestError::Unauthorised {
                host,
                answer: described(),
            },
            429 => RequestError::RateLimited {
                host,
                retry_after: retry_after(headers),
            },
            _ => RequestError::Status {
                host,
                status,
                answer: described(),
                retry_after: retry_after(headers),
            },
        })
    }

    /// Keeps the connection for the next request if the answer was read to the end.
    async fn finish(
        &self,
        connection: Connection,
        answered: Result<Bytes, RequestError>,
    ) -> Result<Bytes, RequestError> {
        let is_reusable = !matches!(
            answered,
            Err(RequestError::Timeout { .. }
                | RequestError::Connection { .. }
                | RequestError::TooLarge { .. })
        );
        if is_reusable && !connection.sender.is_closed() {
            *self.idle.lock().await = Some(connection);
        }
        answered
    }

    fn failed(&self, source: hyper::Error) -> RequestError {
        RequestError::Connection {
            host: self.host().to_owned(),
            source,
        }
    }

    /// Returns the error for an answer that is not JSON.
    pub(crate) fn not_json(&self, body: &[u8]) -> RequestError {
        let start = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN_CHARS)]);
        RequestError::NotJson {
            host: self.host().to_owned(),
            found: self.secrets.clean_to(start.trim(), SHOWN_CHARS),
        }
    }

    /// Returns the error for JSON of an unexpected shape.
    pub(crate) fn other_shape(&self, problem: &str, expected: &'static str) -> RequestError {
        RequestError::OtherShape {
            host: self.host().to_owned(),
            problem: self.secrets.clean(problem),
            expected,
        }
    }

    /// Parses an answer as JSON. `expected` describes the expected shape, for the error.
    pub(crate) fn parse<'a, T: serde::Deserialize<'a>>(
        &self,
        body: &'a [u8],
        expected: &'static str,
    ) -> Result<T, RequestError> {
        serde_json::from_slice(body).map_err(|error| {
            if error.is_data() {
                self.other_shape(&error.to_string(), expected)
            } else {
                self.not_json(body)
            }
        })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    parse_retry_after(text(headers, &RETRY_AFTER)?.trim(), text(headers, &DATE))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}
