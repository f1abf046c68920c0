//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use neurobridge_core::{
    event::FieldPath,
    units::{self, ByteSize},
};
use neurobridge_simulator::FaultRule;
use neurobridge_spool::Place;
use secrecy::SecretString;

use crate::config::LogFormat;

/// Delivers the face-recognition events of a NeuroIO feed to Kafka, NATS and files without losing any.
#[derive(Debug, Parser)]
#[command(
    name = "neurobridge",
    version,
    after_help = AFTER_HELP,
    propagate_version = true,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
    /// The flags of the log.
    #[command(flatten)]
    pub log: LogFlags,
}

const AFTER_HELP: &str = "\
Without -c the configuration is ./neurobridge.toml, then /etc/neurobridge/neurobridge.toml, else
the environment alone. The environment goes above the file:
NEUROBRIDGE__SINKS__KAFKA__TOPIC=faces sets topic in [sinks.kafka].

SIGINT, SIGTERM and SIGHUP each deliver what is there and stop, within drain_timeout; a second
one stops at once. SIGHUP does not reload the configuration: restart instead.

Exit codes: 0 fine, 64 wrong usage, 69 a needed service is not there, 74 disk error,
75 come back later, 77 token refused, 78 errors in the configuration.";

/// The flags of the log, which override the configuration.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogFlags {
    /// The least important level to log, or one for each part: "info,neurobridge_listener=debug".
    #[arg(long, global = true, value_name = "LEVEL", value_parser = log_level)]
    pub log_level: Option<String>,
    /// The format of log lines, which go to standard error.
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Parses levels with commas between them. Another word would be the name of a part, and silence all others.
fn log_level(text: &str) -> Result<String, String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    match text
        .split(',')
        .find(|part| !part.contains('=') && !levels.contains(part))
    {
        Some(part) => Err(format!(
            "found \"{part}\", expected error, warn, info, debug, trace, or off"
        )),
        None => Ok(text.to_owned()),
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Runs the bridge.
    #[command(after_help = RUN_EXAMPLES)]
    Run(ConfigFlag),
    /// Shows events flowing: simulated platform, bridge and a file in one process, without any configuration.
    Demo(DemoFlags),
    /// Reports all errors of the configuration at once, or summarises it.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckFlags),
    /// Shows events as they arrive: for people on a terminal, as JSON lines in a pipe.
    ///
    /// Reads from the running bridge of this configuration through a socket in its data folder, so that the platform sees
    /// no second connection; if none runs, from the feed. Events are filtered and redacted as for the sinks. Publishes and
    /// stores nothing. A tail that is too slow skips events and reports their number; it never delays the bridge.
    #[command(after_help = TAIL_EXAMPLES)]
    Tail(TailFlags),
    /// Simulates the NeuroIO platform: event feed, REST interface, and faults by rule.
    #[command(after_help = SIMULATE_SHORT_HELP, after_long_help = simulate_long_help())]
    Simulate(Box<SimulateFlags>),
    /// Lists and verifies a spool on disk and replays its events, also while a bridge runs.
    Spool(SpoolFlags),
    /// Requests the health of a running bridge; exit code 0 or 1.
    ///
    /// For containers without a shell or curl. The response goes to standard output.
    #[command(after_help = HEALTHCHECK_EXAMPLES)]
    Healthcheck(HealthcheckFlags),
    /// Prints the JSON Schema of the configuration, for editors and other checkers.
    Schema,
    /// Prints the completions for a shell.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsFlags),
    /// Prints the manual page.
    #[command(after_help = "Example:\n  neurobridge man | man -l -")]
    Man,
}

/// The flag of the configuration file.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigFlag {
    /// The configuration file [default: ./neurobridge.toml, /etc/neurobridge/neurobridge.toml, or none].
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `spool`.
#[derive(Clone, Debug, Args)]
pub struct SpoolFlags {
    /// The configuration file [default: as for the other commands].
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The subcommand.
    #[command(subcommand)]
    pub command: SpoolCommand,
}

/// The commands of `spool`.
#[derive(Clone, Debug, Subcommand)]
pub enum SpoolCommand {
    /// Lists segments and the cursors of sinks.
    Ls,
    /// Reads all events and reports damage; exit code 74 if there is any.
    Verify,
    /// Sends events to one sink again, marked as a replay. No cursor moves.
    ///
    /// Only events before the sink's cursor: the bridge delivers the rest. Each message carries the attribute "replay"
    /// (the headers ce_replay in Kafka and ce-replay in NATS) with the name of the run, and Nats-Msg-Id ends with
    /// ";replay=" and that name. A sink of type "file" gets a file of its own. For NATS with strict order the bridge has to
    /// be stopped.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayFlags),
}

/// Flags of `spool replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayFlags {
    /// The name of the sink in the configuration.
    #[arg(long, value_name = "NAME")]
    pub sink: String,
    /// The first event: a sequence, or a time of receipt.
    #[arg(long, value_name = "PLACE")]
    pub from: Place,
    /// The last event: a sequence, or a time of receipt [default: the last one before the sink's cursor].
    #[arg(long, value_name = "PLACE")]
    pub to: Option<Place>,
    /// The name of this run; the name of a stopped run resumes it [default: the time].
    #[arg(long, value_name = "NAME", value_parser = run_name)]
    pub run: Option<String>,
}

/// Flags of `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoFlags {
    /// Events per second.
    #[arg(long, value_name = "N", default_value_t = 50.0, value_parser = rate)]
    pub rate: f64,
    /// The duration, such as 30s [default: until Ctrl-C].
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub duration: Option<Duration>,
    /// The folder of the written files.
    #[arg(long, value_name = "DIR", default_value = "demo-data")]
    pub data_dir: PathBuf,
}

/// Flags of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckFlags {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFlag,
    /// Also connects to all sources and sinks: tests tokens, brokers and topics. Publishes nothing.
    #[arg(long)]
    pub connect: bool,
    /// A file with the JSON of one event; prints the message that --sink would send for it, after filters and redaction.
    #[arg(long, value_name = "FILE", requires = "sink")]
    pub event: Option<PathBuf>,
    /// The name of the sink for --event.
    #[arg(long, value_name = "NAME", requires = "event")]
    pub sink: Option<String>,
}

/// Flags of `tail`.
#[derive(Clone, Debug, Args)]
pub struct TailFlags {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFlag,
    /// Shows the stored frames, also on a terminal.
    #[arg(long, conflicts_with = "sink")]
    pub raw: bool,
    /// Shows the messages that this sink would send: topic or subject, key, headers and body, after its filter and redaction.
    #[arg(long, value_name = "NAME")]
    pub sink: Option<String>,
    /// Shows only events with this value in this field, such as result=new or space.id=1; may be given several times.
    /// Of several values for one field, any matches.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = condition)]
    pub only: Vec<(String, String)>,
    /// The number of events after which to end.
    #[arg(short = 'n', long, value_name = "N")]
    pub count: Option<u64>,
}

/// Flags of `simulate`.
#[derive(Clone, Debug, Args)]
pub struct SimulateFlags {
    /// The address to listen on; port 0 chooses a free port, which is logged.
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// A valid token; may be given several times. Without any, every token is valid.
    #[arg(long = "token", value_name = "T")]
    pub tokens: Vec<SecretString>,
    /// Events per second [default: as fast as they are read].
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// The number of events, after which connections stay open [default: unlimited].
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// The size of every event, such as 2000 or "2 MiB", reached by an inline picture [default: about 600 bytes].
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub size: Option<usize>,
    /// The seed of the random events; the same seed generates the same events.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The creation time of the first event, for reproducible bytes [default: when the first client connects].
    #[arg(long, value_name = "TIME")]
    pub start: Option<Timestamp>,
    /// With --rate: stands still while nobody listens, instead of losing what comes meanwhile as the platform does.
    #[arg(long)]
    pub hold: bool,
    /// A fault rule; may be given several times. The rules are at the end of this help.
    #[arg(long = "fault", value_name = "RULE")]
    pub faults: Vec<FaultRule>,
    /// A file to which each sent event is written as a JSON line; it is truncated first.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// A PEM file with the certificate chain: serves wss instead of ws.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// A PEM file with the private key of --tls-cert.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// Flags of `healthcheck`.
#[derive(Clone, Debug, Args)]
pub struct HealthcheckFlags {
    /// The configuration with the address of the bridge (http.listen).
    #[command(flatten)]
    pub config: ConfigFlag,
    /// Requests readiness (all sources authorised, all required sinks up) instead of liveness.
    #[arg(long)]
    pub ready: bool,
    /// The address of the bridge, such as http://127.0.0.1:9797; no configuration is read.
    #[arg(long, value_name = "URL", conflicts_with = "config", value_parser = http_authority)]
    pub url: Option<String>,
}

/// Flags of `completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsFlags {
    /// The shell.
    #[arg(required_unless_present = "sinks")]
    pub shell: Option<clap_complete::Shell>,
    /// Prints the names of the configured sinks instead, for the completions of --sink.
    #[arg(long, hide = true, conflicts_with = "shell")]
    pub sinks: bool,
}

const RUN_EXAMPLES: &str = "\
Examples:
  neurobridge run -c /etc/neurobridge/neurobridge.toml
  NEUROBRIDGE__SOURCES__MAIN__TOKEN_FILE=/run/secrets/token neurobridge run

SIGINT, SIGTERM and SIGHUP each deliver what is there and stop, within drain_timeout; a second
one stops at once. SIGHUP does not reload the configuration: restart instead.";

const CHECK_EXAMPLES: &str = "\
Examples:
  neurobridge check -c neurobridge.toml
  neurobridge check --connect
  neurobridge check --event entry.json --sink kafka

Exit codes: 0 fine, 78 errors in the configuration, 77 a token was refused, 69 something else
can't be reached, 74 a file can't be written.";

const TAIL_EXAMPLES: &str = "\
Examples:
  neurobridge tail -n 10
  neurobridge tail --only result=new --only result=exact
  neurobridge tail --sink kafka
  neurobridge tail | jq .data.result

Exit codes: 0 fine, 64 no such sink, 69 the bridge is gone or can't be asked,
77 token refused, 78 errors in the configuration.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  neurobridge completions bash > /etc/bash_completion.d/neurobridge
  neurobridge completions zsh > ~/.zfunc/_neurobridge
  neurobridge completions fish > ~/.config/fish/completions/neurobridge.fish";

const REPLAY_EXAMPLES: &str = "\
Examples:
  neurobridge spool replay --sink kafka --from 1000 --to 1999
  neurobridge spool replay --sink nats --from 2026-01-31T12:00:00Z";

const HEALTHCHECK_EXAMPLES: &str = "\
Examples:
  neurobridge healthcheck
  neurobridge healthcheck --ready --url http://127.0.0.1:9797";

const SIMULATE_SHORT_HELP: &str = "\
Examples:
  neurobridge simulate --listen 127.0.0.1:8765 --rate 100
  neurobridge simulate --listen 127.0.0.1:8765 --token secret --fault close=1001,after=500,times=2

Rules for --fault: neurobridge simulate --help";

fn simulate_long_help() -> String {
    let examples = SIMULATE_SHORT_HELP
        .rsplit_once("\n\n")
        .map_or(SIMULATE_SHORT_HELP, |(examples, _)| examples);
    format!(
        "{examples}\n\nRules for --fault:\n{}",
        neurobridge_simulator::GRAMMAR.trim_end()
    )
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(rate),
        _ => Err("expected a number of 0 or more".to_owned()),
    }
}

/// Parses a field and a value.
fn condition(text: &str) -> Result<(String, String), String> {
    let expected = || "expected field=value, such as result=new or space.id=1".to_owned();
    let (field, value) = text.split_once('=').ok_or_else(expected)?;
    if FieldPath::parse(field).is_none() {
        return Err(expected());
    }
    Ok((field.to_owned(), value.to_owned()))
}

/// Parses the name of a run, which is part of headers and file names.
fn run_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=64).contains(&text.len()) && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("expected at most 64 letters, digits, - and _".to_owned())
    }
}

/// Parses a number of bytes, with or without a unit.
fn size(text: &str) -> Result<usize, String> {
    let bytes = match text.parse::<u64>() {
        Ok(bytes) => bytes,
        Err(_) => text
            .parse::<ByteSize>()
            .map_err(|error| error.to_string())?
            .bytes(),
    };
    usize::try_from(bytes).map_err(|_| "larger than the address space of this machine".to_owned())
}

/// Parses `host:port` from `http://host:port`.
fn http_authority(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if has_port && !authority.contains('/') {
        Ok(authority.to_owned())
    } else {
        Err("expected http://host:port".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_do_not_contradict_one_another() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_grammar_of_faults_is_in_the_help() {
        let mut command = Cli::command();
        let help = command
            .find_subcommand_mut("simulate")
            .unwrap()
            .render_long_help()
            .to_string();
        for line in neurobridge_simulator::GRAMMAR
            .lines()
            .filter(|line| !line.is_empty())
        {
            assert!(help.contains(line.trim()), "{line}");
        }
    }

    #[test]
    fn tokens_are_not_shown_in_debug_output() {
        let cli = Cli::try_parse_from([
            "neurobridge",
            "simulate",
            "--listen",
            "127.0.0.1:0",
            "--token",
            "hunter2",
        ])
        .unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"));
    }

    #[test]
    fn sizes_and_addresses_are_read() {
        assert_eq!(size("600"), Ok(600));
        assert_eq!(size("2 MiB"), Ok(2 << 20));
        assert!(size("2 apples").is_err());
        assert_eq!(http_authority("http://[::1]:9797/").as_deref(), Ok("[::1]:9797"));
        assert_eq!(condition("space.id=a=b"), Ok(("space.id".into(), "a=b".into())));
        assert!(condition("result").is_err() && condition("a..b=1").is_err());
        assert_eq!(http_authority("localhost:1").as_deref(), Ok("localhost:1"));
        for wrong in [
            "https://localhost:1",
            "localhost",
            "http://localhost:1/livez",
            ":1",
        ] {
            assert!(http_authority(wrong).is_err(), "{wrong}");
        }
    }
}
