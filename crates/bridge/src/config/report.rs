//! All that is wrong with a configuration, told at once: each with the line of the file, and what of it is meant.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::excerpt::Excerpt;
use crate::terminal::columns;

/// The width of a page whose width is not known, and the most that a line of explanation takes on a wider one.
const USUAL_WIDTH: usize = 100;
/// What stands before an explanation: the gutter, and its name.
const NOTE_INDENT: usize = 17;

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was found.
    pub origin: Origin,
    /// The key, with dots between its parts; empty when it concerns no key.
    pub key: String,
    /// A sentence: what was found, what was expected.
    pub message: String,
    /// What was meant, perhaps.
    pub hint: Option<String>,
    /// The line of the file, without what may be secret.
    pub excerpt: Option<Excerpt>,
}

/// Where something in the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A place in a file.
    File {
        /// The file.
        path: PathBuf,
        /// Line and column, from 1, when it has one.
        position: Option<(usize, usize)>,
    },
    /// A variable of the environment.
    Variable(String),
    /// There is no file, and no variable says it.
    Nowhere,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// What is wrong.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// A report of one thing that concerns no key.
    pub(super) fn of_file(path: &Path, position: Option<(usize, usize)>, message: impl Into<String>) -> Self {
        let mut report = Self::default();
        report.push(Problem {
            origin: Origin::File {
                path: path.to_owned(),
                position,
            },
            key: String::new(),
            message: message.into(),
            hint: None,
            excerpt: None,
        });
        report
    }

    /// Adds a problem, unless its key, or a table around it, has one already: what follows from a problem tells nobody
    /// anything new.
    pub(super) fn push(&mut self, problem: Problem) {
        let is_known = |known: &Problem| {
            !known.key.is_empty()
                && (problem.key == known.key
                    || problem
                        .key
                        .strip_prefix(&known.key)
                        .is_some_and(|rest| rest.starts_with('.')))
        };
        if !self.problems.iter().any(is_known) {
            self.problems.push(problem);
        }
    }

    /// The report as text, for a page so many columns wide. Ends without a line break.
    pub fn render(&self, colours: bool, width: usize) -> String {
        let renderer = if colours {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let renderer = renderer.term_width(width);
        let mut text = String::new();
        for problem in &self.problems {
            text.push_str(&renderer.render(&[problem.group(width.min(USUAL_WIDTH))]));
            text.push_str("\n\n");
        }
        let (count, them) = match self.problems.len() {
            1 => ("an error".to_owned(), "it"),
            count => (format!("{count} errors"), "them"),
        };
        let summary =
            format!("the configuration has {count}; mend {them}, and ask `neurobridge check` again");
        let summary = Group::with_title(Level::ERROR.primary_title(summary));
        text.push_str(&renderer.render(&[summary]));
        text
    }

    /// In the order of the file, then the environment.
    pub(super) fn sort(&mut self) {
        let rank = |problem: &Problem| match &problem.origin {
            Origin::File { position, .. } => (0, *position, String::new()),
            Origin::Variable(name) => (1, None, name.clone()),
            Origin::Nowhere => (2, None, String::new()),
        };
        self.problems.sort_by_cached_key(rank);
    }
}

impl std::error::Error for Report {}

/// As [`render`](Report::render), without colours and for a page of the usual width.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false, USUAL_WIDTH))
    }
}

impl Problem {
    fn group(&self, width: usize) -> Group<'_> {
        // What was expected stands below: it may be a long list.
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
            (Origin::Nowhere, _) => group,
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

/// What was found, and what was expected.
fn split_expected(message: &str) -> Option<(&str, &str)> {
    [", expected ", ": expected "]
        .iter()
        .find_map(|between| message.split_once(between))
        .filter(|(_, expected)| !expected.is_empty())
}

/// Breaks a text into lines at blanks.
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
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(key: &str, line: Option<usize>) -> Problem {
        Problem {
            origin: line.map_or(Origin::Nowhere, |line| Origin::File {
                path: "n.toml".into(),
                position: Some((line, 1)),
            }),
            key: key.to_owned(),
            message: "found nothing, expected something".to_owned(),
            hint: None,
            excerpt: None,
        }
    }

    #[test]
    fn what_follows_from_a_problem_is_left_out() {
        let mut report = Report::default();
        for key in ["sinks.a", "sinks.a", "sinks.a.topic", "sinks.ab", "sinks"] {
            report.push(problem(key, None));
        }
        let keys: Vec<&str> = report
            .problems()
            .iter()
            .map(|problem| problem.key.as_str())
            .collect();
        assert_eq!(keys, ["sinks.a", "sinks.ab", "sinks"]);
    }

    #[test]
    fn problems_come_in_the_order_of_the_file() {
        let mut report = Report::default();
        for (key, line) in [("c", None), ("b", Some(9)), ("a", Some(2))] {
            report.push(problem(key, line));
        }
        report.sort();
        insta::assert_snapshot!(report, @"
        error: a: found nothing
        --> n.toml:2:1
         = expected: something

        error: b: found nothing
        --> n.toml:9:1
         = expected: something

        error: c: found nothing
         |
         = expected: something

        error: the configuration has 3 errors; mend them, and ask `neurobridge check` again
        ");
    }
}
