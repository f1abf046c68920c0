//! The configuration of a source.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use jiff::Timestamp;
use neurobridge_core::{
    address::{self, Address, describe_scheme},
    event::{Event, FieldPath, Sequence},
    neuroio,
    secret::Secret,
    tls::TlsFiles,
    units::{ByteSize, format_duration},
};
use neurobridge_protocol::{
    Declaration, Declared, FeedEvent, Neuroio, Problem, Protocol, SecretSource, TOKEN,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use tokio_tungstenite::tungstenite::http::Uri;

use crate::{
    backfill::BackfillConfig,
    proxy::{Proxy, ProxyChoice},
};

/// The maximum number of connections to a feed: more have no benefit, and look like an attack.
const MAX_CONNECTIONS: u32 = 8;

/// The address of NeuroIO's feed.
const NEUROIO: &str = "wss://events.neuroio.com";

/// The upper limit of `max_frame_size`: offsets within a frame have 32 bits, and a frame is held in memory as
/// a whole.
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
    /// The API token. Exactly one of `token` and `token_file` is required, unless the feed is declared.
    pub token: Option<Secret>,
    /// A file with the API token, read at every connection, so that a rotated token is used. A line break at
    /// its end does not belong to the token.
    pub token_file: Option<PathBuf>,
    /// Time limit for opening a connection: name look-up, TCP (over all addresses of the host), proxy, TLS
    /// and upgrade together. The default of 4 seconds is that of the platform's own clients.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub open_timeout: Duration,
    /// Time limit for the answer to AUTH. Then the connection is replaced.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub auth_timeout: Duration,
    /// Time between two pings. The default of 5 seconds is that of the platform's own clients.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub ping_interval: Duration,
    /// Time limit for the answer to a ping. Then the connection counts as dead and is replaced.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub pong_timeout: Duration,
    /// Largest accepted frame. A larger one closes the connection (code 1009), and the source reconnects. An
    /// event may contain pictures, so a frame of several MiB is legal.
    pub max_frame_size: ByteSize,
    /// Number of connections to the feed, from 1 to 8. With two, an event that arrives on both counts as a duplicate, and the end
    /// of one connection is no gap. If the feed allows one connection for each token, the source continues with one.
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
    /// Reading missed events from the platform's REST interface.
    pub backfill: BackfillConfig,
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
    /// Returns a received event of this source with these attributes. Its sequence and time of receipt are those of no event:
    /// they are set when the event is stored.
    pub fn event<'a>(&'a self, source: &'a str, event: &FeedEvent<'a>) -> Event<'a> {
        Event {
            sequence: Sequence::FIRST,
            received_at: Timestamp::UNIX_EPOCH,
            source,
            source_uri: &self.source,
            type_prefix: &self.type_prefix,
            conflict: None,
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
            open_timeout: Duration::from_secs(4),
            auth_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(5),
            pong_timeout: Duration::from_secs(10),
            max_frame_size: ByteSize::from_mib(8),
            connections: 1,
            exit_on_refused_token: false,
            tls: TlsFiles::default(),
            proxy: None,
            proxy_password_file: None,
            backoff: BackoffConfig::default(),
            backfill: BackfillConfig::default(),
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

    /// Returns the address of the REST interface from which missed events are read; `None` if backfill is switched off, the
    /// address is not known, or the feed is declared.
    pub fn backfill_address(&self) -> Option<&str> {
        match &self.feed {
            None => self.backfill.address(self.address()),
            Some(_) => None,
        }
    }

    /// Returns the CloudEvents attributes of the events of a source with this name: of a declared feed by default the source
    /// `/feeds/NAME`, and the type prefix `NAME.`.
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
    pub fn protocol(&self, fields: &[FieldPath]) -> Result<Protocol, Problem> {
        match &self.feed {
            None => Ok(Protocol::Neuroio(Box::new(Neuroio::new(
                self.auth_timeout,
                self.ping_interval,
                self.pong_timeout,
                fields,
            )))),
            Some(feed) => match Declared::new(Declaration::clone(feed), fields) {
                Ok(declared) => Ok(Protocol::Declared(Box::new(declared))),
                Err(problems) => Err(problems.into_iter().next().unwrap_or_else(|| Problem {
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
    pub fn check(&self) -> Vec<Problem> {
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
        self.check_token(&mut errors);
        self.check_times(&mut errors);
        if !(1..=MAX_CONNECTIONS).contains(&self.connections) {
            let found = self.connections;
            errors.push((
                "connections",
                format!("found {found}, expected 1 to {MAX_CONNECTIONS}"),
            ));
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
        errors.extend(self.backfill.check(self.address(), self.feed.is_some()));
        let own = errors.into_iter().map(|(key, message)| Problem {
            key: key.split('.').map(str::to_owned).collect(),
            message,
            hint: None,
        });
        let declaration = self
            .feed
            .as_deref()
            .and_then(|feed| Declared::new(feed.clone(), &[]).err());
        let declaration = declaration.into_iter().flatten().map(|mut problem| {
            problem.key.insert(0, "feed".to_owned());
            problem
        });
        own.chain(declaration).collect()
    }

    fn check_token(&self, errors: &mut Vec<(&'static str, String)>) {
        if self.feed.is_some() {
            for (key, is_given) in [
                ("token", self.token.is_some()),
                ("token_file", self.token_file.is_some()),
            ] {
                if is_given {
                    let message = "found a token beside a declared feed, expected it in \"feed.secrets\"";
                    errors.push((key, message.to_owned()));
                }
            }
            return;
        }
        match (&self.token, &self.token_file) {
            (Some(_), Some(_)) => {
                errors.push((
                    "token",
                    "given together with `token_file`: expected one of them".into(),
                ));
            }
            (None, None) => errors.push((
                "token",
                "missing: expected the API token here, or a file with it as `token_file`".into(),
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

/// A parsed `url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) uri: Uri,
    pub(crate) is_tls: bool,
    /// The host, without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Endpoint {
    /// Parses `wss://host[:port][/path]`. No error repeats a part of `url`, which may contain a password by
    /// error.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected wss://host[:port][/path], or ws:// without TLS";
        let address = Address::parse(url).map_err(|error| format!("{error}, {EXPECTED}"))?;
        let is_tls = match address.scheme {
            Some(scheme) if scheme.eq_ignore_ascii_case("wss") => true,
            Some(scheme) if scheme.eq_ignore_ascii_case("ws") => false,
            scheme => {
                let found = describe_scheme(scheme);
                // Scheme, host and port alone, and nothing of a URL with a user.
                let shown = address::shown(url);
                let corrected = |scheme| match shown.split_once("://") {
                    Some((_, rest)) => format!("\"{scheme}://{rest}\""),
                    None => format!("{scheme}://host[:port][/path]"),
                };
                return Err(match scheme.map(str::to_ascii_lowercase).as_deref() {
                    Some("https") => format!("{found}, expected {}", corrected("wss")),
                    Some("http") => {
                        format!("{found}, expected {}, or wss:// with TLS", corrected("ws"))
                    }
                    _ => format!("{found}, {EXPECTED}"),
                });
            }
        };
        // A user would be shown wherever the address is shown, and the platform supports only tokens.
        if address.user.is_some() {
            return Err(format!("found a user or password in the URL, {EXPECTED}"));
        }
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("not a URL ({error}), {EXPECTED}"))?;
        Ok(Self {
            is_tls,
            host: address.host.to_owned(),
            port: address.port.unwrap_or(if is_tls { 443 } else { 80 }),
            uri,
        })
    }

    /// Returns `host:port`, as CONNECT and logs contain it.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &SourceConfig) -> Vec<String> {
        config
            .check()
            .into_iter()
            .map(|problem| problem.key.join("."))
            .collect()
    }

    #[test]
    fn default_lacks_only_a_token() {
        assert_eq!(keys(&SourceConfig::default()), ["token"]);
        assert!(SourceConfig::new("ws://localhost:1/", "t").check().is_empty());
    }

    #[test]
    fn any_scalar_parses_as_a_token() {
        for (written, token) in [
            (r#""abc""#, "abc"),
            ("7", "7"),
            ("-7", "-7"),
            ("1.5", "1.5"),
            ("true", "true"),
        ] {
            let config: SourceConfig = serde_json::from_str(&format!(r#"{{"token":{written}}}"#)).unwrap();
            assert_eq!(config.token.unwrap().expose(), token);
        }
        let error = serde_json::from_str::<SourceConfig>(r#"{"token":["x"]}"#).unwrap_err();
        assert!(error.to_string().contains("expected a text"), "{error}");
    }

    #[test]
    fn all_keys_are_read_and_unknown_ones_refused() {
        let config: SourceConfig = serde_json::from_str(
            r#"{"url":"ws://[::1]:8080/feed","token_file":"/run/t","open_timeout":"1s","auth_timeout":"2s",
                "ping_interval":"3s","pong_timeout":"4s","max_frame_size":"1 MiB","exit_on_refused_token":true,
                "tls":{"ca_file":"ca.pem","cert_file":"c.pem","key_file":"k.pem"},"proxy":"http://u:p@proxy:3128",
                "backoff":{"min":"100ms","max":"1m","stable_after":"10s"},
                "backfill":{"enabled":true,"url":"http://rest","hold":"1s","overlap":"5s","max_pages":5,"rate":2,"timeout":"3s"}}"#,
        )
        .unwrap();
        assert_eq!(config.check(), []);
        assert_eq!(config.backoff.max, Duration::from_secs(60));
        assert_eq!(config.max_frame_size, ByteSize::from_mib(1));
        for unknown in [
            r#"{"tokn":1}"#,
            r#"{"tls":{"ca":1}}"#,
            r#"{"backoff":{"maximum":1}}"#,
            r#"{"backfill":{"pages":1}}"#,
        ] {
            let error = serde_json::from_str::<SourceConfig>(unknown).unwrap_err();
            assert!(error.to_string().contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn all_errors_are_reported() {
        let config = SourceConfig {
            url: Some("https://events.neuroio.com".into()),
            token: Some("s3cret".into()),
            token_file: Some("/run/t".into()),
            open_timeout: Duration::ZERO,
            max_frame_size: ByteSize::from_bytes(1),
            tls: TlsFiles {
                cert_file: Some("c.pem".into()),
                ..TlsFiles::default()
            },
            proxy: Some("socks5://u:hunter2@proxy".into()),
            backoff: BackoffConfig {
                max: Duration::from_millis(1),
                ..BackoffConfig::default()
            },
            ..SourceConfig::default()
        };
        let errors = config.check();
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        url: found the scheme https://, expected "wss://events.neuroio.com"
        token: given together with `token_file`: expected one of them
        open_timeout: found "0s", expected "10ms" or more
        backoff.max: found "1ms", expected backoff.min ("250ms") to "1d"
        max_frame_size: found "1 B", expected "1 KiB" to "1 GiB"
        tls.key_file: missing: `tls.cert_file` needs its private key
        proxy: found the scheme socks5://, expected http://[user:password@]host[:port]
        "#);
        let shown = format!("{config:?} {errors:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn urls_are_parsed() {
        let endpoint = Endpoint::parse("wss://events.neuroio.com").unwrap();
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port, endpoint.is_tls),
            ("events.neuroio.com", 443, true)
        );
        for (url, is_tls) in [("WSS://host", true), ("Ws://host", false)] {
            assert_eq!(Endpoint::parse(url).unwrap().is_tls, is_tls, "{url}");
        }
        let endpoint = Endpoint::parse("ws://[::1]:81/a?b").unwrap();
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port, endpoint.is_tls),
            ("::1", 81, false)
        );
        for bad in [
            "",
            "events",
            "ws://",
            "wss://u:p@host",
            "ws://host:port",
            "ws://host:99999",
            "ws://host:",
            "wss://bob:hunter2",
            "wss://bob:12/hunter2@host",
            "wss://bob:12?hunter2@host",
            "wss://bob:12#hunter2@host",
            "wss://host/#hunter2",
            "bob:hunter2@host/",
            "hunter2://host/",
        ] {
            let error = Endpoint::parse(bad).unwrap_err();
            assert!(
                error.contains("expected") && !error.contains("hunter2"),
                "{bad}: {error}"
            );
        }
        assert!(Endpoint::parse("WSS://host/feed?user=a%40b").unwrap().is_tls);
    }

    #[test]
    fn every_key_has_its_explanation_in_the_schema() {
        let schema = schemars::schema_for!(SourceConfig).to_value();
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(properties.len(), 16);
        for (key, property) in properties {
            assert!(property["description"].is_string(), "{key}");
        }
    }
}
