//! `neurobridge history` and `neurobridge gaps`: print the changes and the gaps of the history in `data_dir`, also while a
//! bridge runs.

use std::{path::Path, time::Duration};

use anyhow::anyhow;
use jiff::Timestamp;
use neurobridge_core::{foreign_text, units::format_duration};
use serde::Serialize;

use super::print;
use crate::{
    cli::{GapsLsFlags, HistoryFlags},
    config::{self, Config},
    exit::{Exit, Failure, OrExit},
    gaps::Gap,
    history::{self, Entry, FileState, HistoryContent},
    table::Table,
};

/// Prints the entries, the oldest first. Changes nothing.
///
/// # Errors
/// Fails when the history cannot be read.
pub(super) fn entries(flags: &HistoryFlags) -> Result<Exit, Failure> {
    let content = read(flags.config.config.as_deref())?.0;
    let mut entries = content.newest_entries();
    entries.retain(|entry| flags.since.is_none_or(|since| entry.newest() >= since.0));
    entries.reverse();
    if flags.json {
        return print_lines(&entries);
    }
    let mut table = Table::new(["time", "part", "change"]);
    for entry in entries {
        table.row([format_time(entry.at), entry.part(), statement(entry)]);
    }
    print(table.to_string())?;
    Ok(Exit::Ok)
}

/// Prints the gaps, the oldest first. Changes nothing.
///
/// # Errors
/// Fails when the history cannot be read, or the source is neither configured nor known to the history.
pub(super) fn gaps(config: Option<&Path>, flags: &GapsLsFlags) -> Result<Exit, Failure> {
    let (content, config) = read(config)?;
    let mut gaps: Vec<&Gap> = content.newest_gaps().collect();
    if let Some(source) = &flags.source {
        gaps.retain(|gap| gap.source == *source);
        if gaps.is_empty() && !config.sources.contains_key(source) {
            return Err(Failure::unknown("source", source, config.sources.keys()));
        }
    }
    gaps.reverse();
    if flags.json {
        return print_lines(&gaps);
    }
    let now = Timestamp::now();
    let mut table = Table::new([
        "id",
        "source",
        "began",
        "ended",
        "length",
        "reason",
        "outcome",
        "gap count",
    ]);
    for gap in gaps {
        table.row([
            gap.id.to_string(),
            gap.source.clone(),
            format_time(gap.began),
            gap.ended.map_or_else(|| "open".to_owned(), format_time),
            format_length(gap.seconds_at(now)),
            gap.reason.clone().into_owned(),
            gap.outcome.clone().into_owned(),
            gap.gaps.to_string(),
        ]);
    }
    print(table.to_string())?;
    Ok(Exit::Ok)
}

fn read(config: Option<&Path>) -> Result<(HistoryContent, Config), Failure> {
    let config = config::load(config).or_exit(Exit::Config)?.config;
    let place = config.data_dir.display();
    let found = history::read(&config.data_dir).map_err(|error| {
        let error = anyhow!(error).context(format!("the history in the data_dir {place} cannot be read"));
        Failure::new(Exit::Disk, error)
    })?;
    let unusable = match found.state {
        FileState::Read => None,
        FileState::Missing => Some(format!(
            "no history in the data_dir {place}: no bridge has run there"
        )),
        FileState::Newer(version) => Some(format!(
            "the history in the data_dir {place} has version {version}, written by a newer neurobridge; run this \
             command with the newer version"
        )),
    };
    match unusable {
        Some(reason) => Err(Failure::new(Exit::Disk, anyhow!(reason))),
        None => Ok((found.content, config)),
    }
}

fn print_lines<T: Serialize>(items: &[&T]) -> Result<Exit, Failure> {
    let mut text = String::new();
    for item in items {
        text.push_str(&serde_json::to_string(item).or_exit(Exit::Disk)?);
        text.push('\n');
    }
    print(text)?;
    Ok(Exit::Ok)
}

/// Returns the text of an entry with its reason, its duration and its repeats.
fn statement(entry: &Entry) -> String {
    let mut notes: Vec<String> = entry
        .reason
        .iter()
        .map(|reason| reason.clone().into_owned())
        .collect();
    notes.extend(entry.events.map(|events| match events {
        1 => "1 event".to_owned(),
        _ => format!("{events} events"),
    }));
    notes.extend(entry.seconds.map(format_length));
    if let Some(last) = entry.last {
        notes.push(format!("{} times until {}", entry.count, format_time(last)));
    }
    let text = if notes.is_empty() {
        entry.text.clone()
    } else {
        format!("{} ({})", entry.text, notes.join(", "))
    };
    // The file may have been edited, and contain control characters.
    foreign_text::escape(&text).into_owned()
}

/// Formats a time in UTC, without fractions of a second.
fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Formats a duration: below ten seconds in tenths of a second, otherwise in whole seconds.
fn format_length(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    format_duration(if duration < Duration::from_secs(10) {
        Duration::from_millis((seconds * 10.0).round() as u64 * 100)
    } else {
        Duration::from_secs(duration.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Kind;

    #[test]
    fn statement_has_reason_duration_and_repeats() {
        let began: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let at: Timestamp = "2026-01-31T12:00:28.5Z".parse().unwrap();
        let mut entry = Entry::new(Kind::Gap, at, "authenticated again\u{1b}")
            .with_reason("closed")
            .lasting_since(began);
        assert_eq!(statement(&entry), "authenticated again\\u{1b} (closed, 28s)");
        entry.count = 3;
        entry.last = Some(at);
        assert_eq!(
            statement(&entry),
            "authenticated again\\u{1b} (closed, 28s, 3 times until 2026-01-31T12:00:28Z)"
        );
    }
}
