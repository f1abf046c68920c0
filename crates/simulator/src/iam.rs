//! The tokens of the platform (identity and access management, IAM): the validity of tokens, and the REST interface that
//! creates and deletes tokens.
//!
//! *Assumed*, since no public client shows it: the status 201 of a created token; that a token may create and delete
//! others; the fields of `GET /v1/whoami`; that the deletion of a token has the same effect as its expiry. All tokens
//! receive the same events, also those of a space.

use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt::Write as _,
    hash::BuildHasher,
    str::FromStr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_tungstenite::tungstenite::http::Method;

use crate::{
    entries::space_name,
    http::{ErrorCode, Response},
    rest::not_found,
};

/// The maximum number of permanent tokens of the account, and of each space.
pub const MAX_PERMANENT_TOKENS: usize = 5;

/// The lifetime of tokens, and the number of connections with one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOptions {
    /// The lifetime of a temporary token. Default: 24 hours.
    pub life: Duration,
    /// The reaction of the platform when the token of a connection expires or is deleted. Default: it closes the connection.
    pub end: TokenEnd,
    /// Whether a token may have only one connection: the older connection is closed when another one authenticates with the
    /// same token. Default: no.
    pub one_connection: bool,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self {
            life: Duration::from_secs(24 * 3_600),
            end: TokenEnd::Close,
            one_connection: false,
        }
    }
}

/// The reaction of the platform when the token of a connection expires or is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenEnd {
    /// Closes the connection with code 1008.
    Close,
    /// Sends no further events, but answers pings.
    Silence,
}

impl FromStr for TokenEnd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "close" => Ok(Self::Close),
            "silence" => Ok(Self::Silence),
            _ => Err("expected close or silence".to_owned()),
        }
    }
}

/// The tokens of the platform.
#[derive(Debug)]
pub(crate) struct Iam {
    pub(crate) options: TokenOptions,
    /// Whether tokens that the platform does not know are valid.
    accepts_unknown: bool,
    clock_offset: SignedDuration,
    tokens: Mutex<Vec<Token>>,
    /// The largest number of tokens that were valid at the same time.
    most: AtomicUsize,
    /// The newest connection of each token, if a token may have only one.
    newest: Mutex<HashMap<String, u64>>,
    /// Notifies all connections when the platform may have to end one of them.
    changes: watch::Sender<()>,
}

/// The reason why the platform ends a connection because of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dismissal {
    /// The token has expired or was deleted.
    Expired,
    /// Another connection has authenticated with the same token.
    Replaced,
}

#[derive(Debug)]
struct Token {
    id: u64,
    key: SecretString,
    /// The space; `None` for a token of the account.
    space: Option<u64>,
    created: Timestamp,
    /// The time of expiry; `None` for a permanent token.
    expires: Option<(Timestamp, Instant)>,
    is_deleted: bool,
}

/// The rights of a valid token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    space: Option<u64>,
    /// The time at which the token expires.
    pub(crate) expires: Option<Instant>,
}

impl Token {
    fn is_active(&self, now: Instant) -> bool {
        !self.is_deleted && self.expires.is_none_or(|(_, at)| now < at)
    }

    fn to_json(&self, now: Instant) -> Value {
        json!({
            "id": self.id,
            "key": self.key.expose_secret(),
            "is_active": self.is_active(now),
            "created": self.created.to_string(),
            "expires": self.expires.map(|(at, _)| at.to_string()),
        })
    }
}

impl Iam {
    /// Creates the interface with these permanent tokens of the account. If `keys` is empty, every unknown token is valid.
    pub(crate) fn new(keys: Vec<SecretString>, options: TokenOptions, clock_offset: SignedDuration) -> Self {
        let mut iam = Self {
            options,
            accepts_unknown: keys.is_empty(),
            clock_offset,
            tokens: Mutex::default(),
            most: AtomicUsize::new(keys.len()),
            newest: Mutex::default(),
            changes: watch::Sender::new(()),
        };
        let created = iam.now();
        let tokens = (1..).zip(keys).map(|(id, key)| Token {
            id,
            key,
            space: None,
            created,
            expires: None,
            is_deleted: false,
        });
        iam.tokens = Mutex::new(tokens.collect());
        iam
    }

    /// Returns the rights of a token; `None` if it is not valid.
    pub(crate) fn access(&self, key: &str, now: Instant) -> Option<Access> {
        let tokens = self.lock();
        match tokens.iter().find(|token| token.key.expose_secret() == key) {
            Some(token) => token.is_active(now).then(|| Access {
                space: token.space,
                expires: token.expires.map(|(_, at)| at),
            }),
            None => self.accepts_unknown.then(Access::default),
        }
    }

    /// Returns the number of valid tokens that the platform knows.
    pub(crate) fn active(&self, now: Instant) -> usize {
        self.lock().iter().filter(|token| token.is_active(now)).count()
    }

    /// Returns the largest number of tokens that were valid at the same time.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Subscribes to changes after which a connection may have to end.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Registers an authenticated connection.
    pub(crate) fn join(&self, key: &str, connection: u64) {
        if self.options.one_connection {
            self.newest().insert(key.to_owned(), connection);
            self.changes.send_replace(());
        }
    }

    /// Removes a connection.
    pub(crate) fn leave(&self, key: &str, connection: u64) {
        let mut newest = self.newest();
        if newest.get(key) == Some(&connection) {
            newest.remove(key);
        }
    }

    /// Returns the reason why a connection has to end, if there is one.
    pub(crate) fn dismissal(&self, key: &str, connection: u64, now: Instant) -> Option<Dismissal> {
        if self.access(key, now).is_none() {
            return Some(Dismissal::Expired);
        }
        let newest = self.newest().get(key).copied();
        newest
            .is_some_and(|newest| newest != connection)
            .then_some(Dismissal::Replaced)
    }

    /// Answers a request about tokens; `None` if the path is not about tokens.
    pub(crate) fn respond(
        &self,
        method: &Method,
        path: &str,
        body: &[u8],
        access: &Access,
        now: Instant,
    ) -> Option<Response> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        Some(match (method.as_str(), parts.as_slice()) {
            ("GET", ["v1", "whoami"]) => whoami(access),
            ("POST", ["v1", "tokens"]) => self.create(access.space, body, now),
            ("POST", ["v1", "spaces", id, "tokens"]) => match id.parse() {
                Ok(id) if access.space.is_some_and(|space| space != id) => Response::error(
                    403,
                    "the token belongs to another space",
                    ErrorCode::Forbidden,
                    None,
                ),
                Ok(id) if space_name(id).is_some() => self.create(Some(id), body, now),
                _ => not_found("no such space"),
            },
            ("DELETE", ["v1", "tokens", id]) => self.delete(id, now),
            _ => return None,
        })
    }

    fn create(&self, space: Option<u64>, body: &[u8], now: Instant) -> Response {
        let invalid = |message, field| Response::error(400, message, ErrorCode::Invalid, field);
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return invalid("the body is not JSON", None);
        };
        let Some(is_permanent) = body["permanent"].as_bool() else {
            return invalid("`permanent` expects true or false", Some("permanent"));
        };
        let mut tokens = self.lock();
        let permanent = tokens
            .iter()
            .filter(|token| token.space == space && token.expires.is_none() && !token.is_deleted);
        if is_permanent && permanent.count() >= MAX_PERMANENT_TOKENS {
            let message = format!("at most {MAX_PERMANENT_TOKENS} permanent tokens are allowed");
            return Response::error(400, &message, ErrorCode::LimitReached, None);
        }
        let created = self.now();
        let token = Token {
            id: tokens.last().map_or(1, |last| last.id + 1),
            key: new_key(),
            space,
            created,
            expires: (!is_permanent).then(|| {
                let at = created.checked_add(self.options.life).unwrap_or(Timestamp::MAX);
                (at, now + self.options.life)
            }),
            is_deleted: false,
        };
        let response = Response::json(201, &token.to_json(now));
        tokens.push(token);
        let active = tokens.iter().filter(|token| token.is_active(now)).count();
        self.most.fetch_max(active, Ordering::Relaxed);
        response
    }

    fn delete(&self, id: &str, now: Instant) -> Response {
        let mut tokens = self.lock();
        let found = id.parse().ok().and_then(|id: u64| {
            tokens
                .iter_mut()
                .find(|token| token.id == id && token.is_active(now))
        });
        match found {
            Some(token) => {
                token.is_deleted = true;
                self.changes.send_replace(());
                Response::new(204, Vec::new())
            }
            None => not_found("no such token"),
        }
    }

    /// Returns the time of the platform's clock.
    fn now(&self) -> Timestamp {
        Timestamp::now()
            .checked_add(self.clock_offset)
            .unwrap_or(Timestamp::MAX)
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Token>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn whoami(access: &Access) -> Response {
    let space = access.space.map(|id| json!({ "id": id, "name": space_name(id) }));
    Response::json(
        200,
        &json!({ "account": { "id": 1, "name": "Simulated account" }, "space": space }),
    )
}

/// Creates a key of 40 hexadecimal digits, different in each run, so that a token of an earlier run is not valid by
/// accident.
fn new_key() -> SecretString {
    let mut key = String::with_capacity(48);
    while key.len() < 40 {
        // Each `RandomState` has its own random keys. Writing to a `String` cannot fail.
        let _ = write!(key, "{:016x}", RandomState::new().hash_one(key.len()));
    }
    key.truncate(40);
    key.into()
}
