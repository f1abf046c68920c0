//! Executes the parsed command line: one module for each command, and the functions that several commands share.

mod backfill;
mod check;
mod cluster;
mod dead_letters;
mod demo;
mod generate;
mod healthcheck;
mod history;
mod manual;
mod reload;
mod replay;
mod run;
mod simulate;
mod spool;
mod tail;

use std::{
    future::Future,
    io::{self, ErrorKind, Write},
    path::Path,
    time::Duration,
};

use serde::Serialize;
use tokio::{
    runtime::{self, Runtime},
    task::spawn_blocking,
};

use crate::{
    cli::{self, Cli, Command, ConfigFlag, DeadLettersCommand, GapsCommand, LogFlags, SpoolCommand},
    config::{self, Loaded, LogFormat},
    control::{Answer, Client, Request},
    exit::{Exit, Failure, OrExit},
    logging::{self, Guard},
    signals::Signals,
    sinks,
    task::joined,
    workers::Workers,
};

/// The time limit of the runtime's shutdown: a pending name lookup or a blocked terminal must not delay the exit.
const RUNTIME_SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// Executes the command line.
///
/// # Errors
/// Returns the failure with its exit code.
pub(crate) fn execute(cli: Cli) -> Result<Exit, Failure> {
    let log = cli.log;
    match cli.command {
        Command::Run(flags) => {
            let (loaded, _guard) = load_and_log(&flags.config, &log)?;
            let file = loaded.file.as_deref();
            tracing::info!(
                version = cli::VERSION,
                config = file.map_or_else(|| "the environment alone".into(), Path::to_string_lossy).as_ref(),
                data_dir = %loaded.config.data_dir.display(),
                "neurobridge starts"
            );
            log_warnings(&loaded);
            block_on(run::run(loaded, &flags)).map(|()| Exit::Ok)
        }
        Command::Demo(flags) => {
            // The demo's screen shows everything that the log would.
            let _guard = log_without_configuration(&log, "error")?;
            let options = demo::DemoOptions {
                rate: flags.rate,
                duration: flags.duration,
                feed: flags.feed.clone(),
                data_dir: flags.data_dir,
            };
            block_on(demo::run(options)).map(|()| Exit::Ok)
        }
        Command::Check(flags) => {
            // A sink logs its warnings about topics and streams when it connects. All other findings are in the printed
            // tables, so the listener and the client libraries log less.
            let mut level = "error".to_owned();
            if flags.connect {
                level = "warn,neurobridge_listener=error".to_owned();
                for target in sinks::all().flat_map(|sink_type| sink_type.client_log_targets) {
                    level.push_str(&format!(",{target}=off"));
                }
            }
            let _guard = log_without_configuration(&log, &level)?;
            block_on(check::run(&flags))
        }
        Command::Tail(flags) => {
            let (loaded, _guard) = load_and_log(&flags.config, &log)?;
            block_on(tail::run(&loaded.config, &flags)).map(|()| Exit::Ok)
        }
        Command::Simulate(flags) => {
            let _guard = log_without_configuration(&log, "info")?;
            block_on(simulate::run(*flags)).map(|()| Exit::Ok)
        }
        Command::Spool(flags) => match flags.command {
            SpoolCommand::Ls { json } => spool::ls(flags.config.as_deref(), json),
            SpoolCommand::Verify => spool::verify(flags.config.as_deref()),
            SpoolCommand::Replay(replay) => {
                let config = ConfigFlag { config: flags.config };
                let (loaded, _guard) = load_and_log(&config, &log)?;
                block_on(replay::run(&loaded.config, &replay)).map(|()| Exit::Ok)
            }
        },
        Command::History(flags) => history::entries(&flags),
        Command::Gaps(flags) => match &flags.command {
            GapsCommand::Ls(ls) => history::gaps(flags.config.as_deref(), ls),
        },
        Command::Backfill(flags) => {
            let (loaded, _guard) = load_and_log(&flags.config, &log)?;
            block_on(backfill::run(&loaded.config, &flags)).map(|()| Exit::Ok)
        }
        Command::Cluster(flags) => {
            let (loaded, _guard) = load_and_log(&flags.config, &log)?;
            block_on(cluster::run(&loaded.config, &flags)).map(|()| Exit::Ok)
        }
        Command::DeadLetters(flags) => match flags.command {
            DeadLettersCommand::Ls { sink, json } => {
                dead_letters::ls(flags.config.as_deref(), sink.as_deref(), json)
            }
            DeadLettersCommand::Show { ids } => dead_letters::show(flags.config.as_deref(), &ids),
            DeadLettersCommand::Replay { ids, sink } => {
                let config = ConfigFlag { config: flags.config };
                let (loaded, _guard) = load_and_log(&config, &log)?;
                block_on(dead_letters::replay(&loaded.config, &ids, sink.as_deref())).map(|()| Exit::Ok)
            }
        },
        Command::Reload(flags) => {
            let _guard = log_without_configuration(&log, "error")?;
            block_on(reload::run(&flags))
        }
        Command::Healthcheck(flags) => block_on(healthcheck::run(&flags)),
        Command::Schema => generate::schema(),
        Command::Completions(flags) => generate::completions(&flags),
        Command::Man => manual::run(),
    }
}

/// Sends a request to the running bridge, and returns the text of its answer. `hint` is the
/// advice in the error if no bridge runs.
async fn send_request(data_dir: &Path, request: Request, hint: &str) -> Result<String, Failure> {
    let answer = Client::request(data_dir, request)
        .await
        .or_exit(Exit::Unavailable)?;
    let Some(Answer { exit, text }) = answer else {
        let message = format!("no bridge runs with the data_dir {}; {hint}", data_dir.display());
        return Err(Failure::message(Exit::Unavailable, message));
    };
    if exit == Exit::Ok.code() {
        return Ok(text);
    }
    let exit = Exit::ALL.into_iter().find(|known| known.code() == exit);
    Err(Failure::message(
        exit.unwrap_or(Exit::Unavailable),
        text.trim_end().to_owned(),
    ))
}

fn load_and_log(flag: &ConfigFlag, flags: &LogFlags) -> Result<(Loaded, Guard), Failure> {
    let loaded = config::load(flag.config.as_deref()).or_exit(Exit::Config)?;
    let log = &loaded.config.log;
    let guard = init_logging(flags, log.format, &log.directives())?;
    Ok((loaded, guard))
}

fn log_without_configuration(flags: &LogFlags, level: &str) -> Result<Guard, Failure> {
    init_logging(flags, LogFormat::default(), level)
}

fn init_logging(flags: &LogFlags, format: LogFormat, level: &str) -> Result<Guard, Failure> {
    let format = flags.log_format.unwrap_or(format);
    let level = flags.log_level.as_deref().unwrap_or(level);
    logging::init(format, level).or_exit(Exit::Usage)
}

fn log_warnings(loaded: &Loaded) {
    for warning in loaded.warnings() {
        tracing::warn!(key = warning.key, "{}", warning.message);
    }
}

/// Runs a command's future to completion.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime: Runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .or_exit(Exit::Unavailable)?;
    let workers = Workers::start(&runtime).or_exit(Exit::Unavailable)?;
    // On the heap, because the future of a bridge is too large for the stack.
    let result = runtime.block_on(Box::pin(command));
    drop(workers);
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_LIMIT);
    result
}

/// Writes a result to standard output, after all earlier log lines. A closed pipe (`| head`) is not an error.
///
/// Blocks while the reader does not read: only for commands that a signal terminates by default.
fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    logging::flush();
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).or_exit(Exit::Disk),
        _ => Ok(()),
    }
}

/// Writes a result to standard output as one JSON document, indented.
fn print_json(document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document).or_exit(Exit::Usage)?;
    print(text + "\n")
}

/// Writes a result to standard output as [`print`] does, and stops at a signal: for commands that handle signals.
async fn print_until_signal(text: String, signals: &mut Signals) -> Result<(), Failure> {
    tokio::select! {
        biased;
        _ = signals.next() => Ok(()),
        printed = spawn_blocking(move || print(text)) => joined(printed),
    }
}
