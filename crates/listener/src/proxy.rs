//! Connecting through an HTTP proxy: its selection and the CONNECT request.

mod environment;

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::BASE64;
use neurobridge_core::{
    address::{Address, describe_scheme},
    secret::{self, SecretError, SecretSet},
};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use self::environment::from_environment;
use crate::{
    connection::{
        head::{Head, HeadError},
        http_date,
    },
    endpoint::Endpoint,
};

/// The proxy setting of a source.
#[derive(Clone, Debug)]
pub(crate) enum ProxyChoice {
    /// The proxy that the environment variables define for an address.
    Environment,
    /// No proxy.
    Direct,
    /// This proxy for all connections: it is configured for this source, so no exceptions apply.
    Through(Proxy),
}

/// An HTTP proxy.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    login: Option<Credentials>,
}

/// The credentials for `Proxy-Authorization`.
#[derive(Clone, Debug)]
struct Credentials {
    /// The percent-decoded user, which may contain characters that are not allowed in a URL.
    user: Vec<u8>,
    password: Password,
}

#[derive(Clone, Debug)]
enum Password {
    /// The percent-decoded password from the URL.
    Text(SecretSlice<u8>),
    /// Read at every connection.
    File(PathBuf),
}

/// Why a connection through a proxy failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("cannot read the password for the proxy {proxy}")]
    Password {
        proxy: String,
        #[source]
        source: SecretError,
    },
    #[error("no valid answer to CONNECT from the proxy {proxy}")]
    Answer { proxy: String, source: HeadError },
    #[error(
        "the proxy {proxy} requires a valid user and password (HTTP 407); correct the user and the password of the proxy"
    )]
    AuthenticationRequired { proxy: String },
    #[error("the proxy {proxy} refused to connect to {target}: HTTP {status}")]
    Refused {
        proxy: String,
        target: String,
        status: u16,
        retry_after: Option<Duration>,
    },
    #[error("cannot choose a proxy: {0}")]
    Invalid(String),
    #[error("the connection to the proxy {proxy} failed")]
    Io { proxy: String, source: std::io::Error },
}

impl ProxyChoice {
    /// Returns the proxy for connections to `endpoint`, `None` for no proxy.
    ///
    /// # Errors
    /// An environment variable contains an invalid proxy; the message names the variable.
    pub(crate) fn resolve(self, endpoint: &Endpoint) -> Result<Option<Proxy>, String> {
        match self {
            Self::Direct => Ok(None),
            Self::Through(proxy) => Ok(Some(proxy)),
            Self::Environment => from_environment(endpoint, |name| env::var(name).ok()),
        }
    }
}

impl Proxy {
    /// Parses `http://[user:password@]host[:port]`; the scheme is optional.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (proxy, user) = Self::parse_with_login(text)?;
        let login = user.map(|user| {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            Credentials {
                user: percent_decoded(user),
                password: Password::Text(percent_decoded(password).into()),
            }
        });
        Ok(Self { login, ..proxy })
    }

    /// Parses `http://user@host[:port]`, with the password in a file.
    pub(crate) fn with_password_in(text: &str, file: &Path) -> Result<Self, String> {
        match Self::parse_with_login(text)? {
            (proxy, Some(user)) if !user.is_empty() && !user.contains(':') => Ok(Self {
                login: Some(Credentials {
                    user: percent_decoded(user),
                    password: Password::File(file.to_owned()),
                }),
                ..proxy
            }),
            _ => Err(
                "expected a user without a password, as in http://user@host[:port], beside `proxy_password_file`".into(),
            ),
        }
    }

    /// Returns the proxy, and its user and password as written.
    fn parse_with_login(text: &str) -> Result<(Self, Option<&str>), String> {
        const EXPECTED: &str = "expected http://[user:password@]host[:port]";
        // The text may contain a password, so no part of it is shown.
        let address = Address::parse(text).map_err(|error| format!("{error}, {EXPECTED}"))?;
        if address
            .scheme
            .is_some_and(|scheme| !scheme.eq_ignore_ascii_case("http"))
        {
            return Err(format!("{}, {EXPECTED}", describe_scheme(address.scheme)));
        }
        if !matches!(address.rest, "" | "/") {
            return Err(format!("found a path or a query, {EXPECTED}"));
        }
        let proxy = Self {
            host: address.host.to_owned(),
            // The port that curl uses by default.
            port: address.port.unwrap_or(1080),
            login: None,
        };
        Ok((proxy, address.user))
    }

    /// Returns the value of `Proxy-Authorization`, after adding it and the password to `secrets`.
    async fn authorization(&self, secrets: &SecretSet) -> Result<Option<SecretString>, ProxyError> {
        let Some(login) = self.login.clone() else {
            return Ok(None);
        };
        let password: SecretSlice<u8> = match login.password {
            Password::Text(password) => password,
            Password::File(file) => {
                let read =
                    tokio::task::spawn_blocking(move || secret::resolve("proxy_password", None, Some(&file)));
                let password = read
                    .await
                    .expect("reading a file neither panics nor is cancelled")
                    .map_err(|source| ProxyError::Password {
                        proxy: self.shown(),
                        source,
                    })?;
                password
                    .as_ref()
                    .map_or("", secret::Secret::expose)
                    .as_bytes()
                    .to_vec()
                    .into()
            }
        };
        let password = password.expose_secret();
        if let Ok(password) = str::from_utf8(password) {
            secrets.add(password);
        }
        let encoded = BASE64.encode(&[&login.user, b":".as_slice(), password].concat());
        secrets.add(&encoded);
        Ok(Some(format!("Basic {encoded}").into()))
    }

    /// Sends CONNECT for `endpoint`. Afterwards the stream is connected to `endpoint`.
    ///
    /// # Errors
    /// The proxy refuses, or is not an HTTP proxy.
    pub(crate) async fn connect<S>(
        &self,
        stream: &mut S,
        endpoint: &Endpoint,
        secrets: &SecretSet,
    ) -> Result<(), ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let io = |source| ProxyError::Io {
            proxy: self.shown(),
            source,
        };
        let target = endpoint.authority();
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = self.authorization(secrets).await? {
            request.push_str(&format!(
                "Proxy-Authorization: {}\r\n",
                authorization.expose_secret()
            ));
        }
        request.push_str("\r\n");
        let sent = stream.write_all(request.as_bytes()).await;
        // The answer is read even if the request could not be sent: a proxy may refuse a connection without reading the request.
        let answer = |source| ProxyError::Answer {
            proxy: self.shown(),
            source,
        };
        let mut head = match (Head::read(stream).await, sent) {
            (Ok(head), _) => head,
            (Err(HeadError::Io(_) | HeadError::Incomplete), Err(error)) => return Err(io(error)),
            (Err(error), _) => return Err(answer(error)),
        };
        match head.status {
            200..=299 => head.complete().map_err(answer),
            407 => Err(ProxyError::AuthenticationRequired { proxy: self.shown() }),
            status => Err(ProxyError::Refused {
                proxy: self.shown(),
                target,
                status,
                retry_after: http_date::retry_after(&head),
            }),
        }
    }

    fn shown(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Decodes the percent-encoding of a user or password. A `%` without two hexadecimal digits is kept as it is.
fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        let hex = text
            .get(index + 1..index + 3)
            .filter(|_| *byte == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(hex.unwrap_or(*byte));
        index += if hex.is_some() { 3 } else { 1 };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;
    use crate::error::sentence;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::parse(url).unwrap()
    }

    #[test]
    fn invalid_proxy_is_rejected_without_its_password() {
        for text in [
            "http://user:hunter2/x@proxy:3128",
            "http://user:hunter2#x@proxy:3128",
            "http://user:hunter2?x@proxy:3128",
            "user:hunter2^@pro^xy:3128",
            "hunter2://proxy",
            "http://user:hunter2",
            "proxy:abc",
            "proxy:99999",
            "proxy:",
            "http://proxy:3128/hunter2",
        ] {
            for error in [
                Proxy::parse(text).unwrap_err(),
                from_environment(&endpoint("wss://h"), |name| {
                    (name == "HTTPS_PROXY").then(|| text.to_owned())
                })
                .unwrap_err(),
                Proxy::with_password_in(text, Path::new("/x")).unwrap_err(),
            ] {
                assert!(
                    error.contains("expected") && !error.contains("hunter2"),
                    "{text}: {error}"
                );
            }
        }
        for (text, expected) in [
            ("http://user:p@proxy:3128/", "proxy:3128"),
            ("HTTP://proxy", "proxy:1080"),
            ("http://[::1]:8080", "::1:8080"),
        ] {
            assert_eq!(Proxy::parse(text).unwrap().shown(), expected, "{text}");
        }
    }

    async fn answered(answer: &'static str) -> (String, Result<(), ProxyError>) {
        let proxy = Proxy::parse("http://user:p%40ss@proxy").unwrap();
        let (mut ours, mut theirs) = duplex(4096);
        let server = async move {
            let mut request = vec![0; 4096];
            let length = theirs.read(&mut request).await.unwrap();
            theirs.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        };
        let endpoint = endpoint("wss://[::1]:9/feed");
        let secrets = SecretSet::default();
        tokio::join!(server, proxy.connect(&mut ours, &endpoint, &secrets))
    }

    #[tokio::test]
    async fn connect_request_contains_user_and_password() {
        let (request, answer) = answered("HTTP/1.1 200 Connection established\r\n\r\n").await;
        assert!(answer.is_ok());
        insta::assert_snapshot!(request.replace("\r\n", "\n").trim_end(), @r"
        CONNECT [::1]:9 HTTP/1.1
        Host: [::1]:9
        Proxy-Authorization: Basic dXNlcjpwQHNz
        ");
        assert_eq!(BASE64.decode(b"dXNlcjpwQHNz").unwrap(), b"user:p@ss");
    }

    #[tokio::test]
    async fn interim_answers_and_odd_headers_are_accepted() {
        let many: &'static str = Box::leak("X-Filler: 1\n".repeat(150).into_boxed_str());
        for answer in [
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.0 200 OK\n\n",
            "HTTP/1.1 204\r\n\r\n",
            Box::leak(format!("HTTP/1.1 200 OK\n{many}\n").into_boxed_str()),
        ] {
            answered(answer).await.1.unwrap();
        }
        let (_, refused) = answered("HTTP/1.0 503 X\nretry-after: 7\n\n").await;
        let error = crate::error::DialError::from(refused.unwrap_err());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)), "{error}");
    }

    #[tokio::test]
    async fn refusals_state_the_reason_without_the_password() {
        for (answer, expected) in [
            (
                "HTTP/1.1 407 X\r\n\r\n",
                "requires a valid user and password (HTTP 407); correct the user and the password of the proxy",
            ),
            (
                "HTTP/1.0 403 X\r\nA: b\r\n\r\n",
                "refused to connect to [::1]:9: HTTP 403",
            ),
            ("SSH-2.0\r\n\r\n", "the answer is not HTTP"),
            (
                "HTTP/1.1 200",
                "the connection ended before the answer was complete",
            ),
            (
                "HTTP/1.1 200 X\r\nA",
                "the connection ended before the answer was complete",
            ),
            // The answer is truncated, but its status is known.
            ("HTTP/1.1 403 X\r\nA", "HTTP 403"),
        ] {
            let (_, result) = answered(answer).await;
            let error = sentence(&result.unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("p@ss"), "{error}");
        }
    }
}
