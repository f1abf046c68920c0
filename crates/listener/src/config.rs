//! The configuration of a source.

use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf, time::Duration};

use jiff::Timestamp;
use neurobridge_core::{
    address,
    event::{Event, FieldPath, Origin, Sequence},
    neuroio,
    secret::Secret,
    tls::TlsFiles,
    units::{ByteSize, format_duration},
};
use neurobridge_protocol::{
    Declaration, DeclarationError, FeedEvent, Interpreter, Neuroio, Protocol, SecretSource, TOKEN,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::{
    backfill::BackfillConfig,
    connection::LEAST_REST,
    endpoint::Endpoint,
    proxy::{Proxy, ProxyChoice},
    token_from::TokenFromConfig,
};

/// The maximum number of connections to a feed. More have no benefit, and a server may treat them as an attack.
const MAX_CONNECTIONS: u32 = 8;

/// The longest `read_interval`: a connection that breaks loses its unread data.
pub const MAX_READ_INTERVAL: Duration = Duration::from_millis(100);
/// The values of `read_interval` besides zero.
const READ_INTERVALS: RangeInclusive<Duration> = LEAST_REST..=MAX_READ_INTERVAL;

/// The address of NeuroIO's feed.
const NEUROIO: &str = "wss://events.neuroio.com";

/// The largest `max_frame_size`: offsets within a frame have 32 bits, and a whole frame is held in memory.
const MAX_FRAME_SIZE: ByteSize = ByteSize::from_mib(1024);

/// An event feed to connect to: NeuroIO's, or with `feed` a declared one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SourceConfig {
    /// Address of the feed: `wss://host[:port][/path]`, or `ws://` without TLS. By default that of the declaration, without
    /// one `wss://events.neuroio.com`.
    #[schemars(extend("format" = address::SCHEMA_FORMAT))]
    pub url: Option<String>,
    /// The declaration of another feed than NeuroIO's: a table, the path of a file with it such as `"feeds/example.toml"`, or
    /// the name of a shipped one such as `"okx"`. Its secrets, opening, heartbeat and rules take the place of `token`,
    /// `token_file`, `auth_timeout`, `ping_interval` and `pong_timeout`.
    #[schemars(schema_with = "feed_schema")]
    pub feed: Option<Box<Declaration>>,
    /// The API token. Exactly one of `token`, `token_file` and `token_from` is required, unless the feed is declared.
    pub token: Option<Secret>,
    /// A file with the API token, read at every connection, so that a rotated token is used. A line break at
    /// its end does not belong to the token.
    pub token_file: Option<PathBuf>,
    /// The credential from which temporary tokens are created.
    pub token_from: Option<TokenFromConfig>,
    /// Time limit for opening a connection: name look-up, TCP (over all addresses of the host), proxy, TLS
    /// and upgrade together. The default of 4 seconds is that of the platform's own clients.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub open_timeout: Duration,
    /// Time limit for the answer to AUTH. After it, the connection is replaced.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub auth_timeout: Duration,
    /// Time between two pings. The default of 5 seconds is that of the platform's own clients.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub ping_interval: Duration,
    /// Time limit for the answer to a ping. After it, the connection counts as dead and is replaced.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub pong_timeout: Duration,
    /// While events follow each other, the time between two reads of a socket, from `2ms` to `100ms`. An event waits in the socket for at most
    /// this time, and those that arrive meanwhile are read, stored and synced together, which needs less processor time. Takes effect from
    /// two events in this time: at the default, from 500 events a second. With more than 20 sources the bridge uses at least 0.2 ms for each
    /// source, at most `100ms`. `0s`: read at once.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub read_interval: Duration,
    /// Largest accepted frame. A larger one closes the connection (code 1009), and the source reconnects. An
    /// event may contain pictures, so a frame of several MiB is legal.
    pub max_frame_size: ByteSize,
    /// Number of connections to the feed, from 1 to 8. With two, an event that arrives on both counts as a duplicate, and the end
    /// of one connection is no gap while the other one works. If the feed allows one connection for each token, the source continues with one.
    pub connections: u32,
    /// Whether a refused token ends the program (exit code 77) instead of being retried with growing delay.
    pub exit_on_refused_token: bool,
    /// Certificates, if the system's root certificates are not sufficient.
    pub tls: TlsFiles,
    /// HTTP proxy that supports CONNECT, `http://[user:password@]host[:port]`; `none` for no proxy. By
    /// default the environment decides: `HTTPS_PROXY` for `wss`, `HTTP_PROXY` for `ws`, `NO_PROXY` for
    /// exceptions; a loopback host is always reached without a proxy of the environment.
    #[schemars(with = "Option<String>", extend("format" = address::SCHEMA_FORMAT))]
    pub proxy: Option<Secret>,
    /// A file with the password of the user in `proxy`, read at every connection. Then `proxy` contains a
    /// user and no password.
    pub proxy_password_file: Option<PathBuf>,
    /// Delay before connecting again.
    pub backoff: BackoffConfig,
    /// Reading missed events from the REST interface of the platform, or of a declared feed.
    pub backfill: BackfillConfig,
    /// Whether a gap whose events could not be fetched becomes an event in every sink, of the type `neurobridge.gap`, so that
    /// consumers know of it. Default: true if missed events are fetched, otherwise false.
    pub gap_events: Option<bool>,
}

/// The schema of `feed`: the program that reads the configuration replaces a name or a path by the declaration.
fn feed_schema(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "title": "a declaration, the path of a file with it such as \"feeds/example.toml\", or the name of a shipped one",
        "anyOf": [{ "type": "string" }, generator.subschema_for::<Declaration>()],
    })
}

/// The CloudEvents attributes that all events of a source share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventAttributes {
    /// The attribute `source`.
    pub source: String,
    /// The part of the attribute `type` before the type of the event.
    pub type_prefix: String,
}

impl EventAttributes {
    /// Returns a received event of this source with these attributes. Its sequence and time of receipt are placeholders,
    /// which are replaced when the event is stored.
    pub fn event<'a>(&'a self, source: &'a str, event: &FeedEvent<'a>) -> Event<'a> {
        Event {
            sequence: Sequence::FIRST,
            received_at: Timestamp::UNIX_EPOCH,
            source,
            source_uri: &self.source,
            type_prefix: &self.type_prefix,
            conflict: None,
            origin: Origin::Feed,
            positions: event.positions,
            frame: event.text,
        }
    }
}

/// Exponential backoff with full jitter.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BackoffConfig {
    /// Shortest delay.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub min: Duration,
    /// Longest delay.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub max: Duration,
    /// Time for which a connection must have been authenticated before the delay is reset to `min`.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub stable_after: Duration,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            url: None,
            feed: None,
            token: None,
            token_file: None,
            token_from: None,
            open_timeout: Duration::from_secs(4),
            auth_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(5),
            pong_timeout: Duration::from_secs(10),
            // Short compared with the time from a recognition until the platform sends its event.
            read_interval: Duration::from_millis(4),
            max_frame_size: ByteSize::from_mib(8),
            connections: 1,
            exit_on_refused_token: false,
            tls: TlsFiles::default(),
            proxy: None,
            proxy_password_file: None,
            backoff: BackoffConfig::default(),
            backfill: BackfillConfig::default(),
            gap_events: None,
        }
    }
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(250),
            max: Duration::from_secs(30),
            stable_after: Duration::from_secs(30),
        }
    }
}

impl SourceConfig {
    /// Creates a configuration with a URL and a token, and defaults for all other keys.
    pub fn new(url: impl Into<String>, token: impl Into<Secret>) -> Self {
        Self {
            url: Some(url.into()),
            token: Some(token.into()),
            ..Self::default()
        }
    }

    /// Returns the address of the feed: the configured one, otherwise that of the declaration, otherwise NeuroIO's.
    pub fn address(&self) -> &str {
        let declared = self
            .feed
            .as_ref()
            .map(|feed| feed.url.as_deref().unwrap_or_default());
        self.url.as_deref().or(declared).unwrap_or(NEUROIO)
    }

    /// Returns whether the events of gaps are fetched, or gaps become events.
    pub fn handles_gaps(&self) -> bool {
        self.backfill_address().is_some() || self.reports_gaps()
    }

    /// Returns whether gaps whose events could not be fetched become events.
    pub fn reports_gaps(&self) -> bool {
        self.gap_events
            .unwrap_or_else(|| self.backfill_address().is_some())
    }

    /// Returns the address of the REST interface from which missed events are read, for a declared feed that of its list with
    /// placeholders; `None` if backfill is switched off, or the address is not known.
    pub fn backfill_address(&self) -> Option<&str> {
        match &self.feed {
            None => self.backfill.address(self.address()),
            Some(feed) => {
                let list = feed
                    .backfill
                    .as_ref()
                    .filter(|_| self.backfill.enabled != Some(false));
                list.map(|list| list.url.as_str())
            }
        }
    }

    /// Returns the CloudEvents attributes of the events of a source with this name. A declared feed has by default the source
    /// `/feeds/NAME` and the type prefix `NAME.`.
    pub fn attributes(&self, name: &str) -> EventAttributes {
        match &self.feed {
            None => EventAttributes {
                source: neuroio::source_uri(name),
                type_prefix: neuroio::TYPE_PREFIX.to_owned(),
            },
            Some(feed) => EventAttributes {
                source: feed
                    .event
                    .source
                    .clone()
                    .unwrap_or_else(|| format!("/feeds/{name}")),
                type_prefix: feed
                    .event
                    .type_prefix
                    .clone()
                    .unwrap_or_else(|| format!("{name}.")),
            },
        }
    }

    /// Returns the sources of the secrets, by name; for NeuroIO the token.
    pub fn secrets(&self) -> BTreeMap<String, SecretSource> {
        match &self.feed {
            Some(feed) => feed.secrets.clone(),
            None => BTreeMap::from([(
                TOKEN.to_owned(),
                SecretSource {
                    value: self.token.clone(),
                    file: self.token_file.clone(),
                    variable: None,
                },
            )]),
        }
    }

    /// Returns the protocol of the feed. The positions of `fields` are located in each event.
    ///
    /// # Errors
    /// The first error of the declaration.
    pub fn protocol(&self, fields: &[FieldPath]) -> Result<Protocol, DeclarationError> {
        match &self.feed {
            None => Ok(Protocol::Neuroio(Box::new(Neuroio::new(
                self.auth_timeout,
                self.ping_interval,
                self.pong_timeout,
                fields,
            )))),
            Some(feed) => match Interpreter::new(Declaration::clone(feed), fields) {
                Ok(interpreter) => Ok(Protocol::Declared(Box::new(interpreter))),
                Err(errors) => Err(errors.into_iter().next().unwrap_or_else(|| DeclarationError {
                    key: Vec::new(),
                    message: "invalid declaration".to_owned(),
                    hint: None,
                })),
            },
        }
    }

    /// Returns the configuration errors that the types cannot exclude: for each one the key, and a sentence
    /// with what was found and what was expected. Reads no file and no environment variable; never shows a
    /// secret.
    pub fn check(&self) -> Vec<DeclarationError> {
        self.check_with(false)
    }

    /// As [`check`](Self::check). `has_provider` is whether the program provides the token with a function.
    pub(crate) fn check_with(&self, has_provider: bool) -> Vec<DeclarationError> {
        let mut errors = Vec::new();
        match &self.feed {
            Some(feed) if self.url.is_none() && feed.url.is_none() => errors.push((
                "url",
                "missing: expected the address of the declared feed here, or in the declaration".to_owned(),
            )),
            _ => {
                if let Err(error) = Endpoint::parse(self.address()) {
                    errors.push(("url", error));
                }
            }
        }
        self.check_token(has_provider, &mut errors);
        self.check_times(&mut errors);
        if !(1..=MAX_CONNECTIONS).contains(&self.connections) {
            let found = self.connections;
            errors.push((
                "connections",
                format!("found {found}, expected 1 to {MAX_CONNECTIONS}"),
            ));
        }
        if self.connections > 1
            && let Some(feed) = &self.feed
            && feed.event.id.is_none()
        {
            let message = "found several connections to a feed whose events have no id, expected 1, or an id in \"feed.event\": \
                           without an id each event would be delivered several times";
            errors.push(("connections", message.to_owned()));
        }
        let size = self.max_frame_size;
        if size < ByteSize::from_kib(1) || size > MAX_FRAME_SIZE {
            errors.push((
                "max_frame_size",
                format!("found \"{size}\", expected \"1 KiB\" to \"{MAX_FRAME_SIZE}\""),
            ));
        }
        match (&self.tls.cert_file, &self.tls.key_file) {
            (Some(_), None) => errors.push((
                "tls.key_file",
                "missing: `tls.cert_file` needs its private key".into(),
            )),
            (None, Some(_)) => errors.push((
                "tls.cert_file",
                "missing: `tls.key_file` needs its certificate".into(),
            )),
            _ => {}
        }
        if let Err(error) = self.proxy_choice() {
            errors.push(("proxy", error));
        }
        let declared = self.feed.as_ref().map(|feed| feed.backfill.is_some());
        errors.extend(self.backfill.check(self.address(), declared));
        let own = errors.into_iter().map(|(key, message)| DeclarationError {
            key: key.split('.').map(str::to_owned).collect(),
            message,
            hint: None,
        });
        let declaration = self
            .feed
            .as_deref()
            .and_then(|feed| Interpreter::new(feed.clone(), &[]).err());
        let declaration = declaration.into_iter().flatten().map(|mut error| {
            error.key.insert(0, "feed".to_owned());
            error
        });
        own.chain(declaration).collect()
    }

    fn check_token(&self, has_provider: bool, errors: &mut Vec<(&'static str, String)>) {
        if self.feed.is_some() {
            for (key, is_given) in [
                ("token", self.token.is_some()),
                ("token_file", self.token_file.is_some()),
                ("token_from", self.token_from.is_some()),
            ] {
                if is_given {
                    let message =
                        "found in the source of a declared feed, expected the token in \"feed.secrets\"";
                    errors.push((key, message.to_owned()));
                }
            }
            return;
        }
        if let Some(token_from) = &self.token_from {
            if self.token.is_some() || self.token_file.is_some() {
                let message = "given together with `token` or `token_file`: expected one of them";
                errors.push(("token_from", message.to_owned()));
            }
            if self.exit_on_refused_token {
                let message = "found true together with `token_from`, expected false: the bridge replaces a refused \
                               token by a new token";
                errors.push(("exit_on_refused_token", message.to_owned()));
            }
            errors.extend(token_from.check());
            return;
        }
        match (&self.token, &self.token_file) {
            (Some(_), Some(_)) => {
                errors.push((
                    "token",
                    "given together with `token_file`: expected one of them".into(),
                ));
            }
            (None, None) if has_provider => {}
            (None, None) => errors.push((
                "token",
                "missing: expected the API token here, a file with it as `token_file`, or a credential in `token_from`".into(),
            )),
            _ if has_provider => errors.push((
                "token",
                "given together with a token provider: expected one of them".into(),
            )),
            (Some(token), None) if token.expose().trim().is_empty() => {
                errors.push(("token", "empty: expected the API token".into()));
            }
            _ => {}
        }
    }

    fn check_times(&self, errors: &mut Vec<(&'static str, String)>) {
        for (key, time) in [
            ("open_timeout", self.open_timeout),
            ("auth_timeout", self.auth_timeout),
            ("ping_interval", self.ping_interval),
            ("pong_timeout", self.pong_timeout),
            ("backoff.min", self.backoff.min),
        ] {
            // A shorter time, probably a typing error, would make a busy loop.
            if time < Duration::from_millis(10) {
                let found = format_duration(time);
                errors.push((key, format!("found \"{found}\", expected \"10ms\" or more")));
            }
            // With longer times, deadlines exceed the range of the clock.
            if time > Duration::from_secs(86_400) {
                let found = format_duration(time);
                errors.push((key, format!("found \"{found}\", expected \"1d\" or less")));
            }
        }
        if !self.read_interval.is_zero() && !READ_INTERVALS.contains(&self.read_interval) {
            let found = format_duration(self.read_interval);
            let message = format!("found \"{found}\", expected \"0s\", or \"2ms\" to \"100ms\"");
            errors.push(("read_interval", message));
        }
        let BackoffConfig { min, max, .. } = self.backoff;
        if max < min || max > Duration::from_secs(86_400) {
            errors.push((
                "backoff.max",
                format!(
                    "found \"{}\", expected backoff.min (\"{}\") to \"1d\"",
                    format_duration(max),
                    format_duration(min)
                ),
            ));
        }
    }

    pub(crate) fn proxy_choice(&self) -> Result<ProxyChoice, String> {
        match (&self.proxy, &self.proxy_password_file) {
            (None, None) => Ok(ProxyChoice::Environment),
            (None, Some(_)) => Err("missing: `proxy_password_file` needs the proxy and its user".into()),
            (Some(text), None) if text.expose() == "none" => Ok(ProxyChoice::Direct),
            (Some(text), None) => Proxy::parse(text.expose()).map(ProxyChoice::Through),
            (Some(text), Some(file)) => {
                Proxy::with_password_in(text.expose(), file).map(ProxyChoice::Through)
            }
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
