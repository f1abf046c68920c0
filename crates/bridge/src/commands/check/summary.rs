//! The summary of a valid configuration, which `check` prints for people.

use std::{fmt::Write, path::Path};

use neurobridge_core::{address, filter::Filter, redact::Pattern, units};
use neurobridge_listener::SourceConfig;
use neurobridge_spool::{SpoolConfig, WhenFull};

use crate::config::{
    Config, ConfiguredSink, HttpConfig, Loaded, MetricsAccess, Origin, UnreadableFile, Warning,
};
use crate::table::Table;

/// Returns the origin of the configuration, its effect, and the warnings.
pub(super) fn of(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let files = loaded.unreadable_files();
    let mut text = match &loaded.file {
        Some(file) => format!("{} is valid", file.display()),
        None => "the configuration is valid; it comes from the environment alone, without a file".to_owned(),
    };
    text.push_str(match files.len() {
        0 => "\n\n",
        1 => ", but a file that it names cannot be read from here\n\n",
        _ => ", but files that it names cannot be read from here\n\n",
    });
    push(&mut text, &sources(config));
    push(&mut text, &sinks(config));
    push(&mut text, &others(config));
    let warnings = loaded.warnings();
    let has_warnings = !warnings.is_empty();
    if has_warnings {
        text.push_str("warnings:\n");
        for Warning { key, origin, message } in warnings {
            note(&mut text, &key, origin.as_ref(), &message);
        }
    }
    if !files.is_empty() {
        text.push_str(if has_warnings { "\n" } else { "" });
        text.push_str("files that cannot be read from here:\n");
        for UnreadableFile {
            key,
            origin,
            path,
            error,
        } in files
        {
            note(
                &mut text,
                &key,
                origin.as_ref(),
                &format!("{}: {error}", path.display()),
            );
        }
    }
    text
}

fn note(text: &mut String, key: &str, origin: Option<&Origin>, message: &str) {
    // Writing to a string cannot fail.
    let _ = match origin {
        Some(origin) => writeln!(text, "  {key} ({origin}): {message}"),
        None => writeln!(text, "  {key}: {message}"),
    };
}

fn push(text: &mut String, table: &Table) {
    text.push_str(&table.to_string());
    text.push('\n');
}

fn sources(config: &Config) -> Table {
    let mut table = Table::new(["source", "url", "token"]);
    for (name, source) in &config.sources {
        table.row([name.clone(), address::shown(source.address()), token(source)]);
    }
    table
}

fn token(source: &SourceConfig) -> String {
    if let Some(feed) = &source.feed {
        let names: Vec<&str> = feed.secrets.keys().map(String::as_str).collect();
        return match names[..] {
            [] => "none".to_owned(),
            _ => names.join(", "),
        };
    }
    if let Some(from) = &source.token_from {
        return format!("created at {}", address::shown(&from.url));
    }
    match &source.token_file {
        Some(path) => format!("from {}", path.display()),
        None => "given".to_owned(),
    }
}

fn sinks(config: &Config) -> Table {
    let mut table = Table::new(["sink", "type", "to", "events", "required", "dead letters"]);
    for (name, sink) in &config.sinks {
        table.row([
            name.clone(),
            sink.config.type_name().to_owned(),
            sink.config.destination(&config.data_dir),
            events(sink),
            if sink.common.required { "yes" } else { "no" }.to_owned(),
            config.dead_letter_place(sink),
        ]);
    }
    table
}

fn events(sink: &ConfiguredSink) -> String {
    let which = filter(&sink.common.filter).unwrap_or_else(|| "all".to_owned());
    if sink.common.redacts() {
        format!("{which}, redacted")
    } else {
        which
    }
}

fn filter(filter: &Filter) -> Option<String> {
    if filter.is_empty() {
        return None;
    }
    serde_json::to_string(filter).ok()
}

fn patterns(patterns: &[Pattern]) -> String {
    if patterns.is_empty() {
        return "nothing".to_owned();
    }
    // A list of strings always serialises to JSON.
    serde_json::to_string(patterns).unwrap_or_default()
}

fn others(config: &Config) -> Table {
    let mut table = Table::new(["", ""]);
    let mut row = |key: &str, value: String| table.row([key.to_owned(), value]);
    let event = &config.event;
    row(
        "filter",
        filter(&event.filter).unwrap_or_else(|| "none: all events".to_owned()),
    );
    row("redacted", patterns(&event.redact));
    let pseudonyms = event
        .pseudonymise
        .as_ref()
        .map_or(&[][..], |config| &config.fields);
    row("pseudonyms", patterns(pseudonyms));
    row("spool", spool(config));
    row("data folder", config.data_dir.display().to_string());
    row("http", http(&config.http));
    row(
        "drain",
        format!("within {}", units::format_duration(config.drain_timeout)),
    );
    table
}

fn http(http: &HttpConfig) -> String {
    let scheme = if http.tls.is_some() { "https" } else { "http" };
    let has_password = http.password.is_some() || http.password_file.is_some();
    let access = match (has_password, http.metrics) {
        (false, _) => "",
        (true, MetricsAccess::Protected) => ", with a password",
        (true, MetricsAccess::Open) => ", with a password except for /metrics",
    };
    format!("{scheme}://{}/{access}", http.listen)
}

fn spool(config: &Config) -> String {
    match &config.spool {
        SpoolConfig::Memory(memory) => {
            let full = match memory.when_full {
                WhenFull::Block => "stops reading the feed",
                WhenFull::DropOldest => "drops the oldest events",
            };
            format!("in memory, up to {}, then {full}", memory.max_size)
        }
        SpoolConfig::Disk(disk) => {
            let full = match disk.when_full {
                WhenFull::Block => "stops reading the feed",
                WhenFull::DropOldest => "drops the oldest events",
            };
            let path = in_data_dir(config, &disk.path);
            format!(
                "on disk in {path}, up to {}, then {full}; sync {}",
                disk.max_size, disk.sync
            )
        }
        other => format!("{other:?}"),
    }
}

fn in_data_dir(config: &Config, path: &Path) -> String {
    config.data_dir.join(path).display().to_string()
}
