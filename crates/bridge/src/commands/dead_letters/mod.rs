//! `neurobridge dead-letters`: lists, shows and replays the dead letters in files.

mod replay;
mod replayed;
mod stored;

use std::{
    io::{self, IsTerminal},
    path::Path,
};

use jiff::Timestamp;
use neurobridge_core::{event::Sequence, foreign_text, units::ByteSize};
use serde::Serialize;

pub(super) use self::replay::replay;
use self::{replayed::Replayed, stored::StoredDeadLetter};
use super::{print, print_json};
use crate::{
    config,
    exit::{Exit, Failure, OrExit},
    table::Table,
};

/// Lists the dead letters of a configuration. Changes nothing.
///
/// # Errors
/// Fails when a file cannot be read.
pub(super) fn ls(config: Option<&Path>, sink: Option<&str>, json: bool) -> Result<Exit, Failure> {
    let config = config::load(config).or_exit(Exit::Config)?.config;
    let mut found = stored::read(&config)?;
    found.retain(|dead_letter| sink.is_none_or(|sink| dead_letter.fields.sink.as_deref() == Some(sink)));
    let replayed = replayed::read(&config.data_dir)?;
    if json {
        let dead_letters = found
            .iter()
            .map(|dead_letter| Row::of(dead_letter, &replayed))
            .collect();
        print_json(&Document { dead_letters })?;
    } else {
        print(table(&found, &replayed))?;
    }
    Ok(Exit::Ok)
}

/// Prints dead letters as they are stored.
///
/// # Errors
/// Fails when a file cannot be read, or an id names no dead letter or several.
pub(super) fn show(config: Option<&Path>, ids: &[String]) -> Result<Exit, Failure> {
    let config = config::load(config).or_exit(Exit::Config)?.config;
    let is_terminal = io::stdout().is_terminal();
    for dead_letter in stored::select(stored::read(&config)?, ids)? {
        let line = dead_letter.line()? + "\n";
        if is_terminal {
            print(foreign_text::escape_lines(&line).as_bytes())?;
        } else {
            print(line)?;
        }
    }
    Ok(Exit::Ok)
}

fn table(dead_letters: &[StoredDeadLetter], replayed: &Replayed) -> String {
    let mut table = Table::new(["id", "received", "of", "reason", "sequence", "size", "replayed"]);
    let seconds = |time: &Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for dead_letter in dead_letters {
        let fields = &dead_letter.fields;
        table.row([
            dead_letter.id.clone(),
            seconds(&fields.received_at),
            match &fields.sink {
                Some(sink) => format!("sink {sink}"),
                None => format!("source {}", fields.source),
            },
            foreign_text::escape(&fields.reason).into_owned(),
            fields
                .sequence
                .map_or_else(String::new, |sequence| sequence.to_string()),
            ByteSize::from_bytes(fields.length).to_string(),
            replayed.get(&dead_letter.id).map_or_else(String::new, seconds),
        ]);
    }
    table.to_string()
}

/// The output of `dead-letters ls --json`, a stable interface.
#[derive(Serialize)]
struct Document<'a> {
    dead_letters: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    file: &'a Path,
    reason: &'a str,
    detail: &'a str,
    source: &'a str,
    /// `None` for a malformed frame, which belongs to a source alone.
    sink: Option<&'a str>,
    received_at: Timestamp,
    sequence: Option<Sequence>,
    bytes: u64,
    /// Whether the event is stored, so that it can be replayed.
    has_event: bool,
    replayed_at: Option<Timestamp>,
}

impl<'a> Row<'a> {
    fn of(dead_letter: &'a StoredDeadLetter, replayed: &Replayed) -> Self {
        let fields = &dead_letter.fields;
        Self {
            id: &dead_letter.id,
            file: &dead_letter.file.path,
            reason: &fields.reason,
            detail: &fields.detail,
            source: &fields.source,
            sink: fields.sink.as_deref(),
            received_at: fields.received_at,
            sequence: fields.sequence,
            bytes: fields.length,
            has_event: fields.has_event,
            replayed_at: replayed.get(&dead_letter.id).copied(),
        }
    }
}
