//! All that is wrong with a configuration, told at once.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Everything that is wrong with a configuration.
///
/// Lines of the file are named and not shown: the value on such a line may be a token, under a key that was mistyped.
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "the configuration has an error")?,
            count => write!(f, "the configuration has {count} errors")?,
        }
        for problem in &self.problems {
            write!(f, "\n\n{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.key.is_empty()) {
            (origin, true) => writeln!(f, "{origin}")?,
            (Origin::Nowhere, false) => writeln!(f, "{}", self.key)?,
            (origin, false) => writeln!(f, "{origin}: {}", self.key)?,
        }
        write!(f, "    {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n    {hint}"),
            None => Ok(()),
        }
    }
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
        the configuration has 3 errors

        n.toml:2:1: a
            found nothing, expected something

        n.toml:9:1: b
            found nothing, expected something

        c
            found nothing, expected something
        ");
    }
}
