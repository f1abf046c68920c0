//! The options of a nats-server, and the configuration file that they result in.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The options of a nats-server that a test starts for itself.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Whether JetStream is enabled. Default: true.
    pub jetstream: bool,
    /// Whether every message is synced to disk (`sync_interval: always`) instead of every two minutes. Default: false.
    pub sync_always: bool,
    /// Additional text of the configuration file, such as `max_payload: 1MB`, `authorization {…}`, `tls {…}` or
    /// `accounts {…}`.
    pub config: String,
    /// The path of a program that is used instead of the one installed by `cargo xtask brokers install`, such as an old version
    /// of the distribution.
    pub binary: Option<PathBuf>,
    /// The server's role in a cluster, set by [`super::NatsCluster`].
    pub(super) member: Option<Member>,
}

/// The role of a server in a cluster.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) routes: Vec<u16>,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            jetstream: true,
            sync_always: false,
            config: String::new(),
            binary: None,
            member: None,
        }
    }
}

impl NatsOptions {
    /// Adds text to the configuration file.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }
}

/// The ports of a server, which stay the same after a restart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) http: u16,
}

impl From<[u16; 2]> for Ports {
    fn from([client, http]: [u16; 2]) -> Self {
        Self { client, http }
    }
}

pub(super) fn config_file(options: &NatsOptions, ports: &Ports, data: &Path) -> String {
    let mut text = format!(
        "listen: \"127.0.0.1:{}\"\nhttp: \"127.0.0.1:{}\"\n",
        ports.client, ports.http
    );
    // Lame duck mode waits for `lame_duck_grace_period` and lasts two minutes by default; the minimum is 30 s.
    text.push_str("lame_duck_grace_period: \"1s\"\nlame_duck_duration: \"30s\"\n");
    if options.jetstream {
        let sync = if options.sync_always {
            "sync_interval: always"
        } else {
            ""
        };
        // The server's own limit is three quarters of the free disk space at its start, which decreases when a server
        // is killed repeatedly while messages are stored. Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "jetstream {{ store_dir: \"{}\"\nmax_file_store: 1000000000000\n{sync} }}",
            data.display()
        );
    }
    if let Some(member) = &options.member {
        let routes: Vec<String> = member
            .routes
            .iter()
            .map(|port| format!("\"nats://127.0.0.1:{port}\""))
            .collect();
        let _ = writeln!(text, "server_name: \"{}\"", member.name);
        let _ = writeln!(
            text,
            "cluster {{ name: \"neurobridge\"\nlisten: \"127.0.0.1:{}\"\nroutes: [{}] }}",
            member.port,
            routes.join(", ")
        );
    }
    text.push_str(&options.config);
    text.push('\n');
    text
}
