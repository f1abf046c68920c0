//! The report of all configuration errors, each with the line of the file and the marked span.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::{
    document::Document,
    excerpt::{self, Excerpt},
    shape::Shape,
    validate::ConfigError,
};
use crate::terminal::columns;

/// The assumed width of a terminal of unknown width, and the maximum width of an explanation.
const DEFAULT_WIDTH: usize = 100;
/// The width of the prefix of an explanation: the gutter and its label.
const NOTE_INDENT: usize = 17;

/// All errors of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    problems: Vec<Problem>,
}

/// One configuration error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The position of the error.
    pub origin: Origin,
    /// The dotted key; empty when the error concerns no key.
    pub key: String,
    /// The error in one sentence: what was found, what was expected.
    pub message: String,
    /// A suggestion or the action to take.
    pub hint: Option<String>,
    /// The line of the file, without possible secrets.
    pub excerpt: Option<Excerpt>,
}

/// The origin of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A position in a file.
    File {
        /// The path of the file.
        path: PathBuf,
        /// Line and column, from 1, where known.
        position: Option<(usize, usize)>,
    },
    /// An environment variable.
    Variable(String),
    /// No configuration file was read, and no environment variable set the key.
    Unknown,
}

impl Report {
    /// Returns the errors.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Returns the errors.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Returns a report with one error that concerns no key.
    pub(super) fn of_file(path: &Path, message: impl Into<String>) -> Self {
        let origin = Origin::File {
            path: path.to_owned(),
            position: None,
        };
        Self {
            problems: vec![Problem::new(origin, &[], message)],
        }
    }

    /// Adds errors with their places in a document.
    pub(super) fn locate(
        &mut self,
        errors: impl IntoIterator<Item = ConfigError>,
        document: &Document,
        shape: &Shape<'_>,
    ) {
        for error in errors {
            let (origin, found) = document.origin(&error.key);
            self.push(Problem {
                hint: error.hint,
                excerpt: excerpt::of(document, shape, found),
                ..Problem::new(origin, &error.key, error.message)
            });
        }
    }

    /// Adds an error, unless its key or an enclosing table already has one: the new error would only be a consequence.
    pub(super) fn push(&mut self, problem: Problem) {
        let is_known = |known: &Problem| {
            let below = problem.key.strip_prefix(&known.key);
            !known.key.is_empty() && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if !self.problems.iter().any(is_known) {
            self.problems.push(problem);
        }
    }

    /// Renders the report for a terminal of `width` columns. The text does not end with a line break.
    pub fn render(&self, colours: bool, width: usize) -> String {
        let renderer = if colours {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let renderer = renderer.term_width(width);
        let mut text = String::new();
        for problem in &self.problems {
            text.push_str(&renderer.render(&[problem.group(width.min(DEFAULT_WIDTH))]));
            text.push_str("\n\n");
        }
        let summary = match self.problems.len() {
            1 => "1 configuration error; fix it and run `neurobridge check` again".to_owned(),
            count => format!("{count} configuration errors; fix them and run `neurobridge check` again"),
        };
        let summary = Group::with_title(Level::ERROR.primary_title(summary));
        text.push_str(&renderer.render(&[summary]));
        text
    }

    /// Sorts the errors by position in the file, then by environment variable.
    ///
    /// # Errors
    /// Returns the report, unless it is empty.
    pub(super) fn finish(mut self) -> Result<(), Self> {
        let rank = |problem: &Problem| match &problem.origin {
            Origin::File { position, .. } => (0, *position, String::new()),
            Origin::Variable(name) => (1, None, name.clone()),
            Origin::Unknown => (2, None, String::new()),
        };
        self.problems.sort_by_cached_key(rank);
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl std::error::Error for Report {}

/// Renders as [`render`](Report::render) does, without colours and with the default width.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false, DEFAULT_WIDTH))
    }
}

impl Problem {
    pub(super) fn new(origin: Origin, key: &[String], message: impl Into<String>) -> Self {
        Self {
            origin,
            key: key.join("."),
            message: message.into(),
            hint: None,
            excerpt: None,
        }
    }

    fn group(&self, width: usize) -> Group<'_> {
        // The expectation goes below the excerpt, because it may be a long list.
        let (found, expected) = match split_expected(&self.message) {
            Some((found, expected)) => (found, Some(expected)),
            None => (self.message.as_str(), None),
        };
        let title = if self.key.is_empty() {
            found.to_owned()
        } else {
            format!("{}: {found}", self.key)
        };
        let mut group = Group::with_title(Level::ERROR.primary_title(title));
        group = match (&self.origin, &self.excerpt) {
            (Origin::File { path, .. }, Some(excerpt)) => {
                let annotation = AnnotationKind::Primary
                    .span(excerpt.span.clone())
                    .label(self.hint.as_deref());
                group.element(
                    Snippet::source(excerpt.text.as_str())
                        .line_start(excerpt.line)
                        .path(path.display().to_string())
                        .annotation(annotation),
                )
            }
            (Origin::Unknown, _) => group,
            (origin, None | Some(_)) => group.element(annotate_snippets::Origin::path(origin.to_string())),
        };
        if let Some(expected) = expected {
            let text = wrap(expected, width.saturating_sub(NOTE_INDENT));
            group = group.element(Level::NOTE.with_name("expected").message(text));
        }
        match &self.hint {
            Some(hint) if self.excerpt.is_none() => {
                let text = wrap(hint, width.saturating_sub(NOTE_INDENT));
                group.element(Level::HELP.message(text))
            }
            _ => group,
        }
    }
}

/// Splits a message into what was found and what was expected.
fn split_expected(message: &str) -> Option<(&str, &str)> {
    [", expected ", ": expected "]
        .iter()
        .find_map(|between| message.split_once(between))
        .filter(|(_, expected)| !expected.is_empty())
}

/// Wraps a text at spaces.
fn wrap(text: &str, width: usize) -> String {
    let (mut wrapped, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let length = columns(word);
        if column > 0 && column + 1 + length > width {
            wrapped.push('\n');
            column = 0;
        } else if column > 0 {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += length;
    }
    wrapped
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path,
                position: Some((line, column)),
            } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::File { path, position: None } => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Unknown => f.write_str("configuration"),
        }
    }
}

#[cfg(test)]
#[path = "tests/report.rs"]
mod tests;
