//! The types of the configuration, with all defaults.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use neurobridge_cluster::ClusterConfig;
use neurobridge_core::{
    event::FieldPath,
    filter::Filter,
    identity,
    redact::{Pattern, Pseudonymise},
    secret::Secret,
    sink_type::DeadLetterPlace,
};
use neurobridge_listener::SourceConfig;
use neurobridge_sink_file::{DeadLettersConfig, FileConfig};
use neurobridge_spool::SpoolConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{checks, document::Document, report::Report, shape::Shape, sink::ConfiguredSink};

/// The name of the default sink, which exists when none is configured.
pub const DEFAULT_SINK: &str = "events";

/// The configuration of a bridge.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "neurobridge.toml")]
pub struct Config {
    /// The folder of all data that the bridge stores. Relative paths of files that it writes are resolved against it.
    pub data_dir: PathBuf,
    /// The longest time for delivering the remaining events after a signal to stop. 8 seconds by default: Docker kills
    /// a container after 10. With a spool on disk, the bridge does not wait for a sink that is down.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub drain_timeout: Duration,
    /// The event feeds to listen to, by name. A name consists of `a`-`z`, `0`-`9` and `_`; it is part of each event's
    /// identity, so that another name makes its events other events. At least one is needed.
    #[schemars(extend("propertyNames" = { "pattern": "^[a-z0-9_]+$" }))]
    pub sources: BTreeMap<String, SourceConfig>,
    /// Filter, redaction and pseudonymisation, applied to every event before it is stored.
    pub event: EventConfig,
    /// The detection of duplicate events.
    pub deduplicate: DeduplicateConfig,
    /// The log of events between the sources and the sinks.
    pub spool: SpoolConfig,
    /// The sinks, by name. A name consists of `a`-`z`, `0`-`9` and `_`. Without any there is one of type `file` with the
    /// name `events`.
    #[schemars(extend("propertyNames" = { "pattern": "^[a-z0-9_]+$" }))]
    #[serde(deserialize_with = "no_sinks")]
    pub sinks: BTreeMap<String, ConfiguredSink>,
    /// The cluster of which this bridge is a member: several bridges read the same feeds, and one of them publishes. None by default.
    pub cluster: Option<ClusterConfig>,
    /// The file for dead letters of sinks without their own.
    pub dead_letters: DeadLettersConfig,
    /// The HTTP server with the page, metrics and health.
    pub http: HttpConfig,
    /// The log: level and format.
    pub log: LogConfig,
}

impl Config {
    /// Completes a configuration that was built in code: adds the default sink where there is none, and validates all keys.
    ///
    /// # Errors
    /// Returns all configuration errors.
    pub fn complete(&mut self) -> Result<(), Report> {
        self.add_default_sink();
        let mut errors = Vec::new();
        checks::check(self, &mut errors);
        let mut report = Report::default();
        report.locate(errors, &Document::default(), &Shape::root(&Value::Null));
        report.finish()
    }

    /// Returns the fields of an event that filters and templates name.
    pub(crate) fn named_fields(&self) -> Vec<FieldPath> {
        let filters = self.sinks.values().map(|sink| &sink.common.filter);
        let filters = std::iter::once(&self.event.filter).chain(filters);
        let filtered = filters.flat_map(|filter| filter.fields().map(|(_, field)| field.clone()));
        let templates = self.sinks.values().flat_map(|sink| sink.config.templates());
        let rendered = templates.flat_map(|(_, template)| template.fields().cloned().collect::<Vec<_>>());
        filtered.chain(rendered).collect()
    }

    /// Returns a hash of the configuration, without its secrets, which `Debug` hides.
    pub(crate) fn fingerprint(&self) -> String {
        format!("{:032x}", identity::body_hash(&format!("{self:?}")))
    }

    /// Returns whether the gaps of a source are examined after they have ended: to fetch the events, to report the gap, or because
    /// another member of the cluster may have the events.
    pub(crate) fn handles_gaps(&self, source: &SourceConfig) -> bool {
        source.handles_gaps() || self.cluster.is_some()
    }

    /// Returns the place of a sink's dead letters, for people: a topic or subject, or the path of a file.
    pub(crate) fn dead_letter_place(&self, sink: &ConfiguredSink) -> String {
        let path = match sink.config.dead_letter_place() {
            DeadLetterPlace::Destination(place) => return place,
            DeadLetterPlace::File(path) => path,
            DeadLetterPlace::Shared => &self.dead_letters.path,
        };
        self.data_dir.join(path).display().to_string()
    }

    pub(super) fn add_default_sink(&mut self) {
        if self.sinks.is_empty() {
            let sink = ConfiguredSink::new(FileConfig::default());
            self.sinks.insert(DEFAULT_SINK.to_owned(), sink);
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "data".into(),
            drain_timeout: Duration::from_secs(8),
            sources: BTreeMap::new(),
            event: EventConfig::default(),
            deduplicate: DeduplicateConfig::default(),
            spool: SpoolConfig::default(),
            sinks: BTreeMap::new(),
            cluster: None,
            dead_letters: DeadLettersConfig::default(),
            http: HttpConfig::default(),
            log: LogConfig::default(),
        }
    }
}

/// Filter, redaction and pseudonymisation, applied to every event before it is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventConfig {
    /// The filter: a value, a list of values or conditions for each field, by its path below `data`. All events pass by
    /// default.
    pub filter: Filter,
    /// Fields whose values are replaced by null, by name, pattern (`*_image`) or path. None by default.
    pub redact: Vec<Pattern>,
    /// Fields whose values are replaced by pseudonyms. None by default.
    pub pseudonymise: Option<Pseudonymise>,
}

impl EventConfig {
    /// Returns whether values are removed from events before they are stored.
    pub(crate) fn redacts(&self) -> bool {
        !self.redact.is_empty() || self.pseudonymise.is_some()
    }
}

/// The detection of duplicate events.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeduplicateConfig {
    /// The size of the deduplication window: the bridge remembers at most this many recent events, and at least half as many. A
    /// duplicate outside of the window is treated as a new event; 0 switches deduplication off.
    pub max_events: usize,
}

impl DeduplicateConfig {
    /// The largest deduplication window, which takes some 200 MiB.
    pub const MAX_EVENTS: usize = 4_194_304;
}

impl Default for DeduplicateConfig {
    fn default() -> Self {
        Self { max_events: 65_536 }
    }
}

/// The HTTP server with the page, metrics and health.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// The address and port to listen on. Loopback by default: without a password, anyone who can reach it can read the bridge's
    /// state, though never an event.
    #[serde(deserialize_with = "listen_address")]
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// The host names under which the bridge is reached, such as `bridge.example.com`. A request for another name is rejected with
    /// 421, so that no page of another site can read the responses by DNS rebinding. `localhost` and IP addresses are always
    /// accepted.
    pub hosts: Vec<String>,
    /// The user of the password.
    pub user: String,
    /// The password for everything except `/livez` and `/readyz`, sent as HTTP Basic. None by default. After ten wrong ones within
    /// a minute, an address is refused for the rest of that minute (429).
    pub password: Option<Secret>,
    /// A file with the password as its only line. It is read again every minute.
    pub password_file: Option<PathBuf>,
    /// Whether `/metrics` needs the password too: `protected` or `open`.
    pub metrics: MetricsAccess,
    /// The certificate of the server. With it the server accepts `https` only, also for `/livez` and `/readyz`.
    pub tls: Option<HttpTls>,
}

/// Whether `/metrics` needs the password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetricsAccess {
    /// The password is needed, as for everything else.
    #[default]
    Protected,
    /// No password, for a Prometheus without one.
    Open,
}

/// The files of the HTTP server's certificate. They are read again every minute, so that a renewed certificate needs no restart.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpTls {
    /// The certificate with its chain, in PEM.
    pub cert_file: PathBuf,
    /// The private key of the certificate, in PEM, without a passphrase.
    pub key_file: PathBuf,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9797)),
            hosts: Vec::new(),
            user: "neurobridge".to_owned(),
            password: None,
            password_file: None,
            metrics: MetricsAccess::default(),
            tls: None,
        }
    }
}

/// The log, which goes to standard error.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `text` for people, `json` or `logfmt` for programs.
    pub format: LogFormat,
    /// The least important level to log.
    pub level: LogLevel,
    /// Other levels for parts of the program, such as `neurobridge_listener=debug`, with commas between several.
    pub filter: Option<String>,
}

impl LogConfig {
    /// Returns the level and the filter in the notation of `--log-level`.
    pub fn directives(&self) -> String {
        let level = self.level.as_str().to_owned();
        self.filter
            .iter()
            .fold(level, |level, filter| format!("{level},{filter}"))
    }
}

/// The importance of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Something failed, and people have to act.
    Error,
    /// Something may need attention.
    Warn,
    /// An event of normal operation.
    #[default]
    Info,
    /// Details for finding a fault.
    Debug,
    /// Every step.
    Trace,
}

impl LogLevel {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people; with colours on a terminal, unless `NO_COLOR` is set.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// `key=value` pairs.
    Logfmt,
}

fn listen_address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "found \"{}\", expected an address and a port such as \"127.0.0.1:9797\", \"0.0.0.0:9797\" or \"[::]:9797\"",
            neurobridge_core::address::shown(&text)
        ))
    })
}

/// Ignores the sinks, which are deserialised separately, by the parsers of their types.
fn no_sinks<'de, D: serde::Deserializer<'de>>(_: D) -> Result<BTreeMap<String, ConfiguredSink>, D::Error> {
    Ok(BTreeMap::new())
}
