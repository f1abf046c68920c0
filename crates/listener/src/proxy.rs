//! The way through an HTTP proxy: which one, and asking it to CONNECT.

use std::{
    env,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::BASE64;
use neurobridge_core::{
    address::{Address, scheme_words},
    secret::{self, SecretError, SecretSet},
};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::{
    config::Endpoint,
    connection::{
        head::{Head, HeadError},
        http_date,
    },
};

/// How a source decides on its proxy.
#[derive(Clone, Debug)]
pub(crate) enum ProxyChoice {
    /// As the environment says when the source is made.
    Environment,
    /// Never one.
    Direct,
    /// Always this one: named for this very source, it needs no exceptions.
    Through(Proxy),
}

/// A proxy that speaks HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    login: Option<Login>,
}

/// What is sent as `Proxy-Authorization`.
#[derive(Clone, Debug)]
struct Login {
    /// Decoded: a user may hold characters that a URL may not.
    user: Vec<u8>,
    password: Password,
}

#[derive(Clone, Debug)]
enum Password {
    /// Decoded.
    Text(SecretSlice<u8>),
    /// Read at every connection.
    File(PathBuf),
}

/// Why there is no way through a proxy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("there is no password for the proxy {proxy}")]
    Password {
        proxy: String,
        #[source]
        source: SecretError,
    },
    #[error("the proxy {proxy} did not answer CONNECT")]
    Answer { proxy: String, source: HeadError },
    #[error("the proxy {proxy} wants a user and a password (HTTP 407)")]
    WantsAuthorization { proxy: String },
    #[error("the proxy {proxy} refused to connect to {target}: HTTP {status}")]
    Refused {
        proxy: String,
        target: String,
        status: u16,
        retry_after: Option<Duration>,
    },
    #[error("talking to the proxy {proxy} failed")]
    Io { proxy: String, source: std::io::Error },
}

impl ProxyChoice {
    /// The proxy on the way to `endpoint`.
    ///
    /// # Errors
    /// The environment names one that cannot be used; the sentence says which variable.
    pub(crate) fn resolve(self, endpoint: &Endpoint) -> Result<Option<Proxy>, String> {
        match self {
            Self::Direct => Ok(None),
            Self::Through(proxy) => Ok(Some(proxy)),
            Self::Environment => from_environment(endpoint, |name| env::var(name).ok()),
        }
    }
}

impl Proxy {
    /// Reads `http://[user:password@]host[:port]`; the scheme may be left out.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (proxy, user) = Self::without_login(text)?;
        let login = user.map(|user| {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            Login {
                user: percent_decoded(user),
                password: Password::Text(percent_decoded(password).into()),
            }
        });
        Ok(Self { login, ..proxy })
    }

    /// Reads `http://user@host[:port]`, whose user's password is in a file.
    pub(crate) fn with_password_in(text: &str, file: &Path) -> Result<Self, String> {
        match Self::without_login(text)? {
            (proxy, Some(user)) if !user.is_empty() && !user.contains(':') => Ok(Self {
                login: Some(Login {
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

    /// Returns the proxy, and its user and password as they are written.
    fn without_login(text: &str) -> Result<(Self, Option<&str>), String> {
        const EXPECTED: &str = "expected http://[user:password@]host[:port]";
        // The text may hold a password, so nothing of it is shown.
        let address = Address::parse(text).map_err(|mistake| format!("{mistake}, {EXPECTED}"))?;
        if address
            .scheme
            .is_some_and(|scheme| !scheme.eq_ignore_ascii_case("http"))
        {
            return Err(format!("{}, {EXPECTED}", scheme_words(address.scheme)));
        }
        if !matches!(address.rest, "" | "/") {
            return Err(format!("found a path or a query, {EXPECTED}"));
        }
        let proxy = Self {
            host: address.host.to_owned(),
            // curl's default.
            port: address.port.unwrap_or(1080),
            login: None,
        };
        Ok((proxy, address.user))
    }

    /// Returns the value of `Proxy-Authorization`. It and the password are among the `secrets` before they are sent.
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

    /// Asks for a way to `endpoint`. Afterwards the stream leads there.
    ///
    /// # Errors
    /// The proxy refuses, or is none.
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
        // Also when the request could not be sent: a proxy may refuse a connection before it reads from it.
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
            407 => Err(ProxyError::WantsAuthorization { proxy: self.shown() }),
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

/// The proxy that the environment names, as other programs understand it: lower case before upper case, an empty value
/// is none, and `NO_PROXY` names the hosts that are reached without.
fn from_environment(
    endpoint: &Endpoint,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, String> {
    let lookup = |names: [&'static str; 2]| {
        names
            .into_iter()
            .find_map(|name| Some((name, variable(name).filter(|value| !value.trim().is_empty())?)))
    };
    let names = if endpoint.is_tls {
        ["https_proxy", "HTTPS_PROXY"]
    } else {
        ["http_proxy", "HTTP_PROXY"]
    };
    let Some((name, value)) = lookup(names) else {
        return Ok(None);
    };
    let exceptions = lookup(["no_proxy", "NO_PROXY"]).map(|(_, value)| value);
    if is_loopback(&endpoint.host) || is_excepted(endpoint, exceptions.as_deref().unwrap_or_default()) {
        return Ok(None);
    }
    Proxy::parse(value.trim())
        .map(Some)
        .map_err(|mistake| format!("the environment variable {name} is no proxy: {mistake}"))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Whether `NO_PROXY` names the host: `*`, a name (which covers its subdomains, with or without a leading dot), an
/// address, or a network such as `10.0.0.0/8`; a name or address may have a port.
fn is_excepted(endpoint: &Endpoint, exceptions: &str) -> bool {
    let host = endpoint.host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    exceptions
        .split([',', ' '])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            if entry == "*" {
                return true;
            }
            if let Some((network, bits)) = entry.split_once('/') {
                let network = network.trim_matches(['[', ']']).parse().ok();
                return match (address, network, bits.parse().ok()) {
                    (Some(address), Some(network), Some(bits)) => is_within(address, network, bits),
                    _ => false,
                };
            }
            let (name, port) = split_port(entry);
            if port.is_some_and(|port| port != endpoint.port) {
                return false;
            }
            let name = name.trim_matches(['[', ']']);
            if let (Some(address), Ok(named)) = (address, name.parse::<IpAddr>()) {
                return address == named;
            }
            let name = name
                .trim_start_matches("*.")
                .trim_matches('.')
                .to_ascii_lowercase();
            host == name
                || host
                    .strip_suffix(&name)
                    .is_some_and(|front| !name.is_empty() && front.ends_with('.'))
        })
}

fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        // An IPv6 address without brackets has no port.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

/// A user or password may hold characters that a URL may not.
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

    fn chosen(url: &str, variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        from_environment(&endpoint(url), |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
        .map(|proxy| proxy.map(|proxy| proxy.shown()))
    }

    #[test]
    fn the_environment_is_understood_as_elsewhere() {
        let proxy = Ok(Some("p:3128".to_owned()));
        assert_eq!(chosen("wss://h", &[]), Ok(None));
        assert_eq!(chosen("wss://h", &[("HTTPS_PROXY", "http://p:3128")]), proxy);
        assert_eq!(
            chosen("wss://h", &[("HTTPS_PROXY", "x"), ("https_proxy", "p:3128")]),
            proxy
        );
        assert_eq!(
            chosen("wss://h", &[("HTTPS_PROXY", " "), ("HTTP_PROXY", "p:3128")]),
            Ok(None)
        );
        assert_eq!(chosen("ws://h", &[("HTTP_PROXY", "p:3128")]), proxy);
        assert_eq!(chosen("ws://127.0.0.1:8", &[("HTTP_PROXY", "p:3128")]), Ok(None));
        assert_eq!(
            chosen("wss://h", &[("HTTPS_PROXY", "p:3128"), ("NO_PROXY", "x,h")]),
            Ok(None)
        );
        let error = chosen("wss://h", &[("HTTPS_PROXY", "socks5://u:hunter2@p")]).unwrap_err();
        assert!(
            error.contains("HTTPS_PROXY") && error.contains("socks5"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn an_address_that_is_no_proxy_is_refused_without_its_password() {
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
                chosen("wss://h", &[("HTTPS_PROXY", text)]).unwrap_err(),
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

    #[test]
    fn exceptions_are_names_networks_and_ports() {
        for (url, exceptions, expected) in [
            ("wss://events.neuroio.com", "neuroio.com", true),
            ("wss://events.neuroio.com", ".neuroio.com", true),
            ("wss://events.neuroio.com", "*.NeuroIO.com", true),
            ("wss://events.neuroio.com", "roio.com", false),
            ("wss://events.neuroio.com", "a, events.neuroio.com:443", true),
            ("wss://events.neuroio.com", "events.neuroio.com:444", false),
            ("wss://events.neuroio.com", "*", true),
            ("wss://events.neuroio.com", "", false),
            ("wss://10.1.2.3", "10.0.0.0/8", true),
            ("wss://10.1.2.3", "11.0.0.0/8", false),
            ("wss://10.1.2.3", "0.0.0.0/0", true),
            ("wss://10.1.2.3", "10.1.2.3", true),
            ("wss://[fd00::1]", "fd00::/8", true),
            ("wss://[fd00::1]", "[fd00::1]:443", true),
            ("wss://[fd00::1]", "fd00::2", false),
        ] {
            assert_eq!(
                is_excepted(&endpoint(url), exceptions),
                expected,
                "{url} {exceptions}"
            );
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
    async fn connect_is_asked_for_with_the_password() {
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
    async fn refusals_are_told_in_words() {
        for (answer, expected) in [
            ("HTTP/1.1 407 X\r\n\r\n", "wants a user and a password (HTTP 407)"),
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
            // Cut, but clear.
            ("HTTP/1.1 403 X\r\nA", "HTTP 403"),
        ] {
            let (_, result) = answered(answer).await;
            let error = sentence(&result.unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("p@ss"), "{error}");
        }
    }
}
