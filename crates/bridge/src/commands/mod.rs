//! What each command does.

mod check;
mod demo;
mod generate;
mod healthcheck;
mod replay;
mod run;
mod simulate;
mod spool;
mod table;
mod tail;

use std::{
    future::Future,
    io::{self, ErrorKind, Write},
    time::Duration,
};

use tokio::{
    runtime::{self, Runtime},
    task::spawn_blocking,
};

use crate::{
    cli::{Cli, Command, ConfigFlag, LogFlags, SpoolCommand},
    config::{self, Loaded, LogConfig, LogFormat},
    exit::{Exit, Failure, OrExit},
    feed::joined,
    logging::{self, Guard},
    signals::Signals,
    sinks,
};

/// A name that is still being looked up, or a write to a terminal that is held, must not hold up the end.
const RUNTIME_SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// Does what the command line says.
///
/// # Errors
/// What went wrong, with its exit code.
pub(crate) fn execute(cli: Cli) -> Result<Exit, Failure> {
    let log = cli.log;
    match cli.command {
        Command::Run(flag) => {
            let (loaded, _guard) = load_and_log(&flag, &log)?;
            warn_of_dangers(&loaded);
            block_on(run::run(&loaded.config)).map(|()| Exit::Ok)
        }
        Command::Demo(flags) => {
            // Its picture says what there is to say.
            let _guard = log_without_configuration(&log, "error")?;
            let options = demo::DemoOptions {
                rate: flags.rate,
                duration: flags.duration,
                data_dir: flags.data_dir,
            };
            block_on(demo::run(options)).map(|()| Exit::Ok)
        }
        Command::Check(flags) => {
            // What is dangerous about topics and streams is seen, and warned of, when a sink connects. The table has the rest.
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
            SpoolCommand::Ls => spool::ls(flags.config.as_deref()),
            SpoolCommand::Verify => spool::verify(flags.config.as_deref()),
            SpoolCommand::Replay(replay) => {
                let config = ConfigFlag { config: flags.config };
                let (loaded, _guard) = load_and_log(&config, &log)?;
                block_on(replay::run(&loaded.config, &replay)).map(|()| Exit::Ok)
            }
        },
        Command::Healthcheck(flags) => block_on(healthcheck::run(&flags)),
        Command::Schema => generate::schema(),
        Command::Completions(flags) => generate::completions(&flags),
        Command::Man => generate::manual(),
    }
}

fn load_and_log(flag: &ConfigFlag, flags: &LogFlags) -> Result<(Loaded, Guard), Failure> {
    let loaded = config::load(flag.config.as_deref()).or_exit(Exit::Config)?;
    let LogConfig { format, level } = &loaded.config.log;
    let guard = init_logging(flags, *format, level)?;
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

fn warn_of_dangers(loaded: &Loaded) {
    for danger in loaded.dangers() {
        tracing::warn!(key = danger.key, "{}", danger.message);
    }
}

/// Runs a command's future to its end.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime: Runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .or_exit(Exit::Unavailable)?;
    // On the heap: a bridge with all its parts is more than a stack should hold.
    let result = runtime.block_on(Box::pin(command));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_LIMIT);
    result
}

/// Writes an answer to standard output, after what was logged before. A reader that has seen enough (`| head`) is no error.
///
/// Waits for a reader that does not read: for commands in which a signal ends the program by itself.
fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    logging::flush();
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).or_exit(Exit::Disk),
        _ => Ok(()),
    }
}

/// Writes an answer to standard output as [`print`] does, or less of it when a signal comes: for commands that handle signals.
async fn print_until_signal(text: String, signals: &mut Signals) -> Result<(), Failure> {
    tokio::select! {
        biased;
        _ = signals.next() => Ok(()),
        printed = spawn_blocking(move || print(text)) => joined(printed),
    }
}
