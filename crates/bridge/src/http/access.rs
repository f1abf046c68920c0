//! Access to the HTTP server: TLS, and the password for everything but the health checks.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use data_encoding::BASE64;
use neurobridge_core::{
    secret,
    tls::{ServerTls, server_tls},
};
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::attempts::Attempts;
use crate::{
    config::{HttpConfig, MetricsAccess},
    http_connections::{Connections, Refusal},
    task::joined,
};

/// The interval at which the files are read again: certificates are renewed without a restart, which would be a gap.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"neurobridge\", charset=\"UTF-8\"");

/// The address of the client, stored in each request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// The password and the certificate in use.
#[derive(Debug, Default)]
pub(crate) struct Access {
    config: HttpConfig,
    keys: RwLock<Keys>,
    attempts: Mutex<Attempts>,
}

/// The content of the files.
#[derive(Clone, Debug, Default)]
struct Keys {
    /// The hash of `user:password`, so that the time of a comparison reveals neither length nor text. `None`: no password is
    /// needed.
    credentials: Option<[u8; 32]>,
    tls: Option<Arc<ServerTls>>,
}

impl Access {
    /// Reads the files.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or its content is invalid.
    pub(crate) async fn open(config: &HttpConfig) -> anyhow::Result<Self> {
        Ok(Self {
            config: config.clone(),
            keys: RwLock::new(read(config).await?),
            attempts: Mutex::default(),
        })
    }

    /// Returns the TLS configuration for a new connection. `None`: the server does not use TLS.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.keys().tls.map(|tls| Arc::clone(&tls.config))
    }

    /// Reads the files again at each interval. If a file cannot be used, the previous content stays in use. Never returns.
    pub(super) async fn reload(&self) -> Infallible {
        let mut ticks = interval(RELOAD_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.reload_once().await;
        }
    }

    async fn reload_once(&self) {
        let found = match read(&self.config).await {
            Ok(found) => found,
            Err(error) => {
                warn!("http: {error:#}; the previous password and certificate stay in use");
                return;
            }
        };
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if found.credentials != keys.credentials {
            keys.credentials = found.credentials;
            info!("http: password replaced");
        }
        let chain = |keys: &Keys| keys.tls.as_ref().map(|tls| tls.chain.clone());
        if chain(&found) != chain(&keys) {
            keys.tls = found.tls;
            info!("http: certificate replaced");
        }
    }

    fn keys(&self) -> Keys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether a path needs no password.
    fn is_open(&self, path: &str) -> bool {
        // Orchestrators have no password, and would end a bridge whose health check is refused.
        matches!(path, "/livez" | "/readyz")
            || path == "/metrics" && self.config.metrics == MetricsAccess::Open
    }

    /// Returns whether a request is allowed, or the reason for refusing it. Counts wrong passwords.
    fn examine(&self, path: &str, headers: &HeaderMap, client: IpAddr) -> Result<(), Denied> {
        let Some(credentials) = self.keys().credentials else {
            return Ok(());
        };
        if self.is_open(path) {
            return Ok(());
        }
        // The first request of a browser has no password, and does not count as an attempt.
        let Some(given) = headers.get(header::AUTHORIZATION) else {
            return Err(Denied::Missing);
        };
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = attempts.blocked_for(client) {
            return Err(Denied::TooMany(wait));
        }
        let is_right = basic(given).is_some_and(|given| bool::from(hash(&given).ct_eq(&credentials)));
        if is_right {
            return Ok(());
        }
        let is_last = attempts.note_wrong(client);
        drop(attempts);
        let next = if is_last {
            "; further attempts of this client are refused for a minute"
        } else {
            ""
        };
        warn!(%client, "HTTP request refused: wrong user or password{next}");
        Err(Denied::Wrong)
    }
}

/// Reads the files of the configuration.
async fn read(config: &HttpConfig) -> anyhow::Result<Keys> {
    let config = config.clone();
    let read = move || -> anyhow::Result<Keys> {
        let password = secret::resolve(
            "password",
            config.password.as_ref(),
            config.password_file.as_deref(),
        )?;
        let credentials =
            password.map(|password| hash(format!("{}:{}", config.user, password.expose()).as_bytes()));
        let tls = config
            .tls
            .as_ref()
            .map(|tls| server_tls(&tls.cert_file, &tls.key_file))
            .transpose()?;
        Ok(Keys {
            credentials,
            tls: tls.map(Arc::new),
        })
    };
    joined(spawn_blocking(read).await).context("http")
}

fn hash(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Returns `user:password` of an `Authorization` header; `None` for another scheme.
fn basic(header: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, text) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    BASE64.decode(text.trim().as_bytes()).ok()
}

/// The reason for refusing a request.
#[derive(Debug, PartialEq, Eq)]
enum Denied {
    Missing,
    Wrong,
    TooMany(Duration),
}

impl Denied {
    const fn refusal(&self) -> Refusal {
        match self {
            Self::Missing | Self::Wrong => Refusal::Unauthorised,
            Self::TooMany(_) => Refusal::TooManyAttempts,
        }
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        match self {
            Self::Missing => (
                StatusCode::UNAUTHORIZED,
                [(header::WWW_AUTHENTICATE, CHALLENGE)],
                "a user and a password are needed: http.user and http.password_file of the bridge's configuration\n",
            )
                .into_response(),
            Self::Wrong => (
                StatusCode::UNAUTHORIZED,
                [(header::WWW_AUTHENTICATE, CHALLENGE)],
                "wrong user or password\n",
            )
                .into_response(),
            Self::TooMany(wait) => (
                StatusCode::TOO_MANY_REQUESTS,
                [(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1))],
                "too many wrong passwords from this address\n",
            )
                .into_response(),
        }
    }
}

/// The state of the middleware that checks the password.
#[derive(Clone, Debug)]
pub(super) struct PasswordCheck {
    pub(super) access: Arc<Access>,
    pub(super) connections: Arc<Connections>,
}

/// Refuses requests without the password.
pub(super) async fn check(
    State(password_check): State<PasswordCheck>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let client = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |Peer(client)| client);
    match password_check
        .access
        .examine(request.uri().path(), request.headers(), client)
    {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            password_check.connections.refuse(denied.refusal());
            denied.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn with(credentials: &str) -> HeaderMap {
        let value = format!("Basic {}", BASE64.encode(credentials.as_bytes()));
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    async fn open(password: &str, metrics: MetricsAccess) -> Access {
        let config = HttpConfig {
            password: Some(secret::Secret::new(password)),
            metrics,
            ..HttpConfig::default()
        };
        Access::open(&config).await.unwrap()
    }

    #[tokio::test]
    async fn everything_but_health_checks_needs_the_password() {
        let access = open("pass:wörd", MetricsAccess::Protected).await;
        let none = HeaderMap::new();
        for path in ["/livez", "/readyz"] {
            assert_eq!(access.examine(path, &none, CLIENT), Ok(()), "{path}");
        }
        for path in [
            "/",
            "/page.js",
            "/metrics",
            "/status",
            "/status/stream",
            "//livez",
            "/livez/",
            "/x",
        ] {
            assert_eq!(
                access.examine(path, &none, CLIENT),
                Err(Denied::Missing),
                "{path}"
            );
            let right = with("neurobridge:pass:wörd");
            assert_eq!(access.examine(path, &right, CLIENT), Ok(()), "{path}");
        }
        for wrong in [
            "neurobridge:pass",
            "neurobridge:pass:wörd ",
            "other:pass:wörd",
            ":",
            "",
        ] {
            assert_eq!(
                access.examine("/", &with(wrong), CLIENT),
                Err(Denied::Wrong),
                "{wrong}"
            );
        }
        let mut other_scheme = HeaderMap::new();
        other_scheme.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert_eq!(access.examine("/", &other_scheme, CLIENT), Err(Denied::Wrong));
        let open = open("x", MetricsAccess::Open).await;
        assert_eq!(open.examine("/metrics", &none, CLIENT), Ok(()));
        assert_eq!(open.examine("/status", &none, CLIENT), Err(Denied::Missing));
    }

    #[tokio::test]
    async fn right_password_is_refused_after_many_wrong_ones() {
        let access = open("right", MetricsAccess::Protected).await;
        let right = with("neurobridge:right");
        for number in 0..10 {
            assert_eq!(access.examine("/", &right, CLIENT), Ok(()));
            let wrong = with(&format!("neurobridge:{number}"));
            assert_eq!(access.examine("/", &wrong, CLIENT), Err(Denied::Wrong));
        }
        assert!(matches!(
            access.examine("/", &right, CLIENT),
            Err(Denied::TooMany(_))
        ));
        assert_eq!(access.examine("/livez", &right, CLIENT), Ok(()));
        assert_eq!(
            access.examine("/", &right, Ipv4Addr::new(10, 0, 0, 1).into()),
            Ok(())
        );
    }

    #[tokio::test]
    async fn replaced_password_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "first\n").unwrap();
        let config = HttpConfig {
            password_file: Some(file.clone()),
            ..HttpConfig::default()
        };
        let access = Access::open(&config).await.unwrap();
        let allows = |password: &str| access.examine("/", &with(password), CLIENT).is_ok();
        assert!(allows("neurobridge:first"));
        fs::write(&file, "second\n").unwrap();
        access.reload_once().await;
        assert!(allows("neurobridge:second") && !allows("neurobridge:first"));
        fs::write(&file, "").unwrap();
        access.reload_once().await;
        assert!(allows("neurobridge:second"));
        assert!(
            !allows("neurobridge:first"),
            "an empty file must not open the server"
        );
    }
}
