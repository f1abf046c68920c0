//! The output of `check --json`, a stable interface: see `docs/operations.md`.

use std::path::Path;

use serde::Serialize;

use super::connect::{Attempt, Passed};
use crate::{
    config::{Loaded, Origin, Report},
    exit::Failure,
};

/// All findings of `check`.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    /// The configuration file; `None` if all values come from the environment, or if there are configuration errors.
    file: Option<&'a Path>,
    errors: Vec<Note>,
    warnings: Vec<Note>,
    unreadable_files: Vec<Note>,
    /// `None` without `--connect`.
    attempts: Option<Vec<AttemptDocument<'a>>>,
}

/// An error, a warning or an unreadable file.
#[derive(Debug, Default, Serialize)]
struct Note {
    /// The dotted key; empty if the note concerns no key.
    key: String,
    message: String,
    hint: Option<String>,
    file: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
    /// The environment variable that sets the key.
    variable: Option<String>,
}

/// The result of an [`Attempt`].
#[derive(Debug, Serialize)]
struct AttemptDocument<'a> {
    kind: &'a str,
    name: &'a str,
    result: &'a str,
    seconds: Option<f64>,
    messages: Vec<&'a str>,
}

impl<'a> Document<'a> {
    pub(super) fn of_errors(report: &Report) -> Self {
        let errors = report.problems().iter().map(|problem| Note {
            hint: problem.hint.clone(),
            ..Note::new(&problem.key, Some(&problem.origin), problem.message.clone())
        });
        Self {
            file: None,
            errors: errors.collect(),
            warnings: Vec::new(),
            unreadable_files: Vec::new(),
            attempts: None,
        }
    }

    /// As [`of`](Self::of), with an error that has no place in the file.
    pub(super) fn of_failure(loaded: &'a Loaded, failure: &Failure) -> Self {
        Self {
            errors: vec![Note::new("", None, failure.to_string())],
            ..Self::of(loaded, None)
        }
    }

    pub(super) fn of(loaded: &'a Loaded, attempts: Option<&'a [Attempt]>) -> Self {
        let warnings = loaded.warnings();
        let warnings = warnings
            .into_iter()
            .map(|warning| Note::new(&warning.key, warning.origin.as_ref(), warning.message));
        let files = loaded.unreadable_files();
        let files = files.into_iter().map(|file| {
            let message = format!("{}: {}", file.path.display(), file.error);
            Note::new(&file.key, file.origin.as_ref(), message)
        });
        Self {
            file: loaded.file.as_deref(),
            errors: Vec::new(),
            warnings: warnings.collect(),
            unreadable_files: files.collect(),
            attempts: attempts.map(|attempts| attempts.iter().map(AttemptDocument::of).collect()),
        }
    }
}

impl Note {
    fn new(key: &str, origin: Option<&Origin>, message: String) -> Self {
        let mut note = Self {
            key: key.to_owned(),
            message,
            ..Self::default()
        };
        match origin {
            Some(Origin::File { path, position }) => {
                note.file = Some(path.display().to_string());
                (note.line, note.column) = position.unzip();
            }
            Some(Origin::Variable(name)) => note.variable = Some(name.clone()),
            Some(Origin::Unknown) | None => {}
        }
        note
    }
}

impl<'a> AttemptDocument<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        let (result, seconds, messages) = match &attempt.result {
            Ok(Passed { time, warnings }) => {
                let result = if warnings.is_empty() { "ok" } else { "warning" };
                let messages = warnings.iter().map(String::as_str).collect();
                (result, Some(time.as_secs_f64()), messages)
            }
            Err((_, reason)) => ("failed", None, vec![reason.as_str()]),
        };
        Self {
            kind: attempt.kind,
            name: &attempt.name,
            result,
            seconds,
            messages,
        }
    }
}
