//! `neurobridge tail`: events to standard output as they come.

use std::{
    io::{self, ErrorKind, Write},
    sync::Arc,
};

use neurobridge_core::{
    cloudevents::push_one_line,
    reader::{Cursor, Read, Reader},
};
use tracing::warn;

use crate::{
    config::Config,
    exit::{Exit, Failure, OrExit},
    feed::{Feed, LoggedDeadLetters, joined},
    signals::Signals,
    spool,
};

/// Writes the frames of all sources, filtered and redacted as for the sinks, one JSON object a line. Publishes nothing.
///
/// Ends after `count` events, at a signal, or when standard output is closed.
///
/// # Errors
/// A source can't go on, or standard output can't be written to.
pub(crate) async fn run(config: &Config, count: Option<u64>) -> Result<(), Failure> {
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    let spool = spool::open_in_memory(config).or_exit(Exit::Config)?;
    let mut reader = spool.reader("tail");
    let (mut feed, _) = Feed::start(config, spool.clone(), Arc::new(LoggedDeadLetters))?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let read = tokio::select! {
            biased;
            _ = signals.next() => return Ok(()),
            failure = feed.failed() => return Err(failure),
            read = reader.next() => read.or_exit(Exit::Unavailable)?,
        };
        let batch = match read {
            Read::Events(batch) => batch,
            Read::Skipped { events, .. } => {
                warn!(events, "standard output is too slow: these were left out");
                continue;
            }
            Read::End => return Ok(()),
        };
        let mut lines = String::with_capacity(batch.bytes().len());
        for event in batch.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            push_one_line(event.or_exit(Exit::Unavailable)?.frame, &mut lines);
            lines.push('\n');
            left -= 1;
        }
        if !write(lines).await.or_exit(Exit::Disk)? {
            return Ok(());
        }
        let next = batch.end();
        reader.commit(&Cursor {
            next,
            ..reader.cursor().clone()
        });
    }
    Ok(())
}

/// Writes to standard output, which may be a pipe that nobody empties; false when it is closed.
async fn write(lines: String) -> io::Result<bool> {
    let written = joined(
        tokio::task::spawn_blocking(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush())
        })
        .await,
    );
    match written {
        Ok(()) => Ok(true),
        // `neurobridge tail | head` is no error.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}
