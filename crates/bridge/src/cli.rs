//! The commands and flags of the program. Their doc comments are the help texts.

mod backfill;
mod history;
mod simulate;
mod texts;
mod values;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use neurobridge_core::units;
use neurobridge_spool::Position;

pub use self::backfill::BackfillFlags;
pub use self::history::{GapsCommand, GapsFlags, GapsLsFlags, HistoryFlags, TimeOrAge};
pub use self::simulate::{FeedFlags, SimulateFlags};
pub use self::values::HttpAddress;
use self::{
    texts::{
        AFTER_HELP, CHECK_EXAMPLES, CLUSTER_EXAMPLES, COMPLETIONS_EXAMPLES, DEAD_LETTERS_EXAMPLES,
        HEALTHCHECK_EXAMPLES, RELOAD_EXAMPLES, REPLAY_EXAMPLES, RUN_EXAMPLES, SIMULATE_SHORT_HELP,
        TAIL_EXAMPLES, simulate_long_help,
    },
    values::{condition, http_address, log_level, rate, run_name},
};
use crate::config::LogFormat;

/// The version of the program, with its git commit if the build could find it.
pub(crate) const VERSION: &str = env!("NEUROBRIDGE_VERSION");

/// Delivers the face-recognition events of a NeuroIO feed to Kafka, NATS and files without losing any.
#[derive(Debug, Parser)]
#[command(
    name = "neurobridge",
    version = VERSION,
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

/// The commands.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Runs the bridge.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunFlags),
    /// Loads the configuration of the running bridge again.
    ///
    /// Parts with unchanged settings keep their connections; a changed source opens its new connection before the old one is
    /// closed; a changed sink continues at its cursor. A file with errors changes nothing.
    /// Settings that need a restart are named.
    #[command(after_help = RELOAD_EXAMPLES)]
    Reload(ConfigFlag),
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
    /// Shows what happened: changes of sources, sinks and spool, gaps, restarts; also while a bridge runs.
    #[command(after_help = history::EXAMPLES)]
    History(HistoryFlags),
    /// Lists the gaps: the times without an authenticated connection to a feed.
    Gaps(GapsFlags),
    /// Shows the members of the cluster of the running bridge, or hands the leadership over.
    #[command(after_help = CLUSTER_EXAMPLES)]
    Cluster(ClusterFlags),
    /// Fetches the events of a period from the platform's REST interface: the running bridge stores and publishes them.
    ///
    /// A bridge fetches the events of each gap by itself. This command stores an event again if the deduplication window no
    /// longer contains it. The address and the limits are those of the table "backfill" of the source.
    #[command(after_help = backfill::EXAMPLES)]
    Backfill(BackfillFlags),
    /// Lists, shows and replays the dead letters in files, also while a bridge runs.
    DeadLetters(DeadLettersFlags),
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
    /// The configuration file [default: $NEUROBRIDGE_CONFIG, ./neurobridge.toml, /etc/neurobridge/neurobridge.toml, or none].
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `cluster`.
#[derive(Clone, Debug, Args)]
pub struct ClusterFlags {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFlag,
    /// Hands the leadership to another member, which continues at once. Run it on the leader.
    #[arg(long)]
    pub hand_over: bool,
}

/// Flags of `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunFlags {
    /// The flag of the configuration file.
    #[command(flatten)]
    pub config: ConfigFlag,
    /// Reloads the configuration when the content of its file changes.
    #[arg(long)]
    pub watch: bool,
}

/// Flags of `spool`.
#[derive(Clone, Debug, Args)]
pub struct SpoolFlags {
    /// The configuration file [default: $NEUROBRIDGE_CONFIG, ./neurobridge.toml, /etc/neurobridge/neurobridge.toml, or none].
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
    Ls {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Reads all events and reports damage; exit code 74 if there is any.
    Verify,
    /// Sends events to one sink again, marked as a replay. No cursor moves.
    ///
    /// Sends only events before the sink's cursor: the bridge delivers the later ones. Each message carries the attribute
    /// "replay" (the headers ce_replay in Kafka and ce-replay in NATS) with the name of the run, and Nats-Msg-Id ends with
    /// ";replay=" and that name. A sink of type "file" writes to a separate file. For NATS with strict order the bridge has
    /// to be stopped.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayFlags),
}

/// Flags of `spool replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayFlags {
    /// The name of the sink in the configuration.
    #[arg(long, value_name = "NAME")]
    pub sink: String,
    /// The first event: a sequence, a time of receipt, a duration before now such as 5m, or "oldest".
    #[arg(long, value_name = "PLACE", required_unless_present = "id")]
    pub from: Option<Position>,
    /// The last event, in the same forms as --from [default: the last one before the sink's cursor].
    #[arg(long, value_name = "PLACE")]
    pub to: Option<Position>,
    /// The event with this id alone, instead of --from and --to. Reads the whole spool.
    #[arg(long, value_name = "ID", conflicts_with_all = ["from", "to"])]
    pub id: Option<String>,
    /// The name of this run; the name of a stopped run resumes it [default: the time].
    #[arg(long, value_name = "NAME", value_parser = run_name)]
    pub run: Option<String>,
}

/// Flags of `dead-letters`.
#[derive(Clone, Debug, Args)]
pub struct DeadLettersFlags {
    /// The configuration file [default: $NEUROBRIDGE_CONFIG, ./neurobridge.toml, /etc/neurobridge/neurobridge.toml, or none].
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The subcommand.
    #[command(subcommand)]
    pub command: DeadLettersCommand,
}

/// The commands of `dead-letters`.
#[derive(Clone, Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// Lists the dead letters, the oldest first. Shows nothing of their events.
    Ls {
        /// Lists the dead letters of this sink only.
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints dead letters as stored, with their events, one JSON object a line.
    Show {
        /// The ids that `dead-letters ls` shows, or beginnings of them.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
    /// Sends dead letters to their sinks again, each one once: after the filters and redactions of the present configuration,
    /// marked as the replay "dead-letters".
    ///
    /// The file dead-letters-replayed.jsonl in the data folder lists the replayed dead letters, so that a repeated or
    /// interrupted command continues. A dead letter that a sink rejects again is not listed. For NATS with strict order the
    /// bridge has to be stopped.
    #[command(after_help = DEAD_LETTERS_EXAMPLES)]
    Replay {
        /// The ids that `dead-letters ls` shows, or beginnings of them [default: all that were not replayed].
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        /// Replays the dead letters of this sink only.
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
    },
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
    /// The declaration of a feed to simulate instead of NeuroIO: the name of a shipped one such as okx, or a file.
    #[arg(long, value_name = "NAME")]
    pub feed: Option<String>,
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
    /// A file with the JSON of one event, or - for standard input; prints the message that --sink would send for it, after
    /// filters and redaction.
    #[arg(long, value_name = "FILE", requires = "sink")]
    pub event: Option<PathBuf>,
    /// The name of the sink for --event.
    #[arg(long, value_name = "NAME", requires = "event")]
    pub sink: Option<String>,
    /// A file with received frames, one per line, or - for standard input; prints the meaning of each frame, and for each event
    /// its id, time, key and type, and its topic or subject at each sink. Ends with exit code 78 if a frame is malformed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["event", "connect"])]
    pub frames: Option<PathBuf>,
    /// The source of the event in --event, or of the frames in --frames [default: the first source by name].
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Prints errors, warnings and, with --connect, the attempts as JSON.
    #[arg(long, conflicts_with_all = ["event", "frames"])]
    pub json: bool,
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
    /// With --sink: each message as a line of JSON with "head" (destination, key and headers) and "body".
    #[arg(long, requires = "sink")]
    pub json: bool,
    /// Shows only events with this value in this field, such as result=new or space.id=1; may be given several times.
    /// Of several values for one field, any matches.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = condition)]
    pub only: Vec<(String, String)>,
    /// The number of events after which to end.
    #[arg(short = 'n', long, value_name = "N")]
    pub count: Option<u64>,
}

/// Flags of `healthcheck`.
#[derive(Clone, Debug, Args)]
pub struct HealthcheckFlags {
    /// The configuration with the address of the bridge (http.listen).
    #[command(flatten)]
    pub config: ConfigFlag,
    /// Requests readiness (all sources authenticated, all required sinks up) instead of liveness.
    #[arg(long)]
    pub ready: bool,
    /// The address of the bridge, such as http://127.0.0.1:9797; no configuration is read.
    #[arg(long, value_name = "URL", conflicts_with = "config", value_parser = http_address)]
    pub url: Option<HttpAddress>,
}

/// Flags of `completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsFlags {
    /// The shell [default: that of $SHELL].
    pub shell: Option<clap_complete::Shell>,
    /// Prints the names of the configured sinks instead, for the completions of --sink.
    #[arg(long, hide = true, conflicts_with = "shell")]
    pub sinks: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_of_simulate_contains_the_grammar_of_faults() {
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
}
