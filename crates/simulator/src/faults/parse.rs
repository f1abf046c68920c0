//! The text form of fault rules.

use std::{
    fmt::{self, Display, Formatter},
    str::FromStr,
    time::Duration,
};

use thiserror::Error;

use super::{Every, FaultRule, Phase, Reaction, RestFault, rest};
use crate::entries::MIN_FRAME_BYTES;

/// The largest size that a rule may set. The size is limited because the memory is allocated as a whole.
const MAX_HUGE_BYTES: u64 = 256 * 1024 * 1024;

const CONDITIONS: [&str; 7] = [
    "connection",
    "after",
    "times",
    "every",
    "retry-after",
    "request",
    "path",
];

const REACTIONS: [&str; 24] = [
    "http",
    "refuse-token",
    "wrong-auth",
    "no-auth-answer",
    "late-answer",
    "close-after-auth",
    "close",
    "cut",
    "reset",
    "half-open",
    "silence",
    "drip",
    "no-pong",
    "wrong-pong",
    "binary",
    "bad-utf8",
    "bad-json",
    "unknown-kind",
    "error",
    "send",
    "huge",
    "duplicate",
    "same-id",
    "out-of-order",
];

/// An error in the text of a fault rule.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseFaultError {
    /// A word is neither a reaction nor a condition.
    #[error("unknown reaction or condition {word:?}{}", suggest(.nearest))]
    UnknownWord {
        /// The unknown word.
        word: String,
        /// The most similar known word, if one is similar enough.
        nearest: Option<&'static str>,
    },
    /// A word has no value, or an invalid one.
    #[error("`{word}` expects {expected}, found {}", found(.value))]
    Value {
        /// The reaction or condition.
        word: &'static str,
        /// The expected value.
        expected: &'static str,
        /// The given value; `None` if it is missing.
        value: Option<String>,
    },
    /// The rule has no reaction.
    #[error("missing reaction, such as `close=1001` or `silence`")]
    NoReaction,
    /// The rule has more than one reaction.
    #[error("two reactions, `{first}` and `{second}`; write two rules")]
    TwoReactions {
        /// The first reaction.
        first: &'static str,
        /// The second reaction.
        second: &'static str,
    },
    /// A condition occurs twice.
    #[error("duplicate condition `{word}`")]
    Twice {
        /// The repeated condition.
        word: &'static str,
    },
    /// The condition cannot apply to the reaction.
    #[error("`{condition}` cannot be combined with `{reaction}`: {reason}")]
    Meaningless {
        /// The condition that cannot apply.
        condition: &'static str,
        /// The reaction of the rule.
        reaction: &'static str,
        /// The reason why the condition cannot apply.
        reason: &'static str,
    },
}

fn suggest(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |word| format!("; did you mean `{word}`?"))
}

fn found(value: &Option<String>) -> String {
    value
        .as_ref()
        .map_or_else(|| "no value".to_owned(), |value| format!("{value:?}"))
}

impl FromStr for FaultRule {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, ParseFaultError> {
        let mut reaction: Option<(&'static str, Reaction)> = None;
        let mut rule = Self::new(Reaction::Silence);
        let mut seen: Vec<&'static str> = Vec::new();
        let mut retry_after = None;
        for part in parts(text) {
            let (word, value) = match part.split_once('=') {
                Some((word, value)) => (word.trim(), Some(value)),
                None => (part.trim(), None),
            };
            if let Some(word) = reactions().find(|known| *known == word) {
                if let Some((first, _)) = reaction {
                    return Err(ParseFaultError::TwoReactions { first, second: word });
                }
                reaction = Some((word, parse_reaction(word, value)?));
                continue;
            }
            let word = condition(word)?;
            if seen.contains(&word) {
                return Err(ParseFaultError::Twice { word });
            }
            seen.push(word);
            match word {
                "connection" => rule.connection = Some(number(word, value, "a number from 1", 1)?),
                "after" => rule.after = number(word, value, "a number of events", 0)?,
                "times" => rule.times = Some(number(word, value, "a number from 1", 1)?),
                "every" => rule.every = Some(every(value)?),
                "request" => rule.request = Some(number(word, value, "a number from 1", 1)?),
                "path" => {
                    let prefix = value.filter(|value| value.starts_with('/'));
                    let prefix = prefix.ok_or_else(|| wrong(word, "the beginning of a path", value))?;
                    rule.path = Some(prefix.to_owned());
                }
                _ => retry_after = Some(number(word, value, "a number of seconds", 0)?),
            }
        }
        let (word, reaction) = reaction.ok_or(ParseFaultError::NoReaction)?;
        check_meaning(word, &reaction, &rule, &seen)?;
        rule.reaction = match reaction {
            Reaction::Http { status, .. } => Reaction::Http { status, retry_after },
            Reaction::Rest(RestFault::Http { status, .. }) => {
                Reaction::Rest(RestFault::Http { status, retry_after })
            }
            other => other,
        };
        Ok(rule)
    }
}

fn reactions() -> impl Iterator<Item = &'static str> {
    REACTIONS.into_iter().chain(rest::WORDS)
}

fn condition(word: &str) -> Result<&'static str, ParseFaultError> {
    CONDITIONS
        .into_iter()
        .find(|known| *known == word)
        .ok_or_else(|| ParseFaultError::UnknownWord {
            word: word.to_owned(),
            nearest: nearest(word),
        })
}

fn nearest(word: &str) -> Option<&'static str> {
    // A word counts as misspelt if it differs from a known word in at most a third of the characters.
    CONDITIONS
        .into_iter()
        .chain(reactions())
        .map(|known| (strsim::damerau_levenshtein(&word.to_lowercase(), known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
        .map(|(_, known)| known)
}

fn check_meaning(
    word: &'static str,
    reaction: &Reaction,
    rule: &FaultRule,
    seen: &[&'static str],
) -> Result<(), ParseFaultError> {
    let is_rest = reaction.phase() == Phase::Rest;
    let early = reaction.phase() != Phase::Events && !is_rest;
    let of_feed = seen.iter().find(|word| matches!(**word, "connection" | "after"));
    let of_rest = seen.iter().find(|word| matches!(**word, "request" | "path"));
    let (condition, reason) = if let Some(condition) = of_feed.filter(|_| is_rest) {
        (*condition, "the reaction answers a REST request")
    } else if let Some(condition) = of_rest.filter(|_| !is_rest) {
        (*condition, "the condition applies only to REST requests")
    } else if is_rest && matches!(rule.every, Some(Every::Events(_))) {
        (
            "every",
            "the reaction answers a REST request; give a duration with a unit, such as `every=30s`",
        )
    } else if early && seen.contains(&"after") {
        ("after", "the reaction comes before the first event")
    } else if early && matches!(rule.every, Some(Every::Events(_))) {
        (
            "every",
            "the reaction comes before the first event; give a duration with a unit, such as `every=30s`",
        )
    } else if seen.contains(&"retry-after") && !matches!(word, "http" | "rest-http") {
        ("retry-after", "only an HTTP response has this header")
    } else {
        return Ok(());
    };
    Err(ParseFaultError::Meaningless {
        condition,
        reaction: word,
        reason,
    })
}

/// Splits a rule at its commas; a backslash escapes a comma.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let last = parts.len() - 1;
        match character {
            ',' => parts.push(String::new()),
            '\\' => parts[last].push(characters.next().unwrap_or('\\')),
            other => parts[last].push(other),
        }
    }
    parts
}

fn parse_reaction(word: &'static str, value: Option<&str>) -> Result<Reaction, ParseFaultError> {
    if rest::WORDS.contains(&word) {
        return rest::parse(word, value).map(Reaction::Rest);
    }
    let text = |default: &str| value.unwrap_or(default).to_owned();
    let code = |default: Option<u16>| match (value, default) {
        (None, Some(code)) => Ok(code),
        _ => number(word, value, "a close code from 0 to 65535", 0).and_then(|code| {
            u16::try_from(code).map_err(|_| wrong(word, "a close code from 0 to 65535", value))
        }),
    };
    let reaction = match word {
        "http" => Reaction::Http {
            status: status(word, value)?,
            retry_after: None,
        },
        "refuse-token" => Reaction::RefuseToken {
            message: text(super::REFUSAL),
        },
        "wrong-auth" => Reaction::WrongAuth {
            value: text("denied"),
        },
        "close-after-auth" => Reaction::CloseAfterAuth {
            code: code(Some(1000))?,
        },
        "late-answer" => Reaction::LateAnswer {
            delay: value
                .and_then(duration_of)
                .ok_or_else(|| wrong(word, "a duration such as 500ms, 30s, 2m or 1h", value))?,
        },
        "close" => Reaction::Close { code: code(None)? },
        "drip" => Reaction::Drip {
            bytes_per_second: small(word, value, "a number of bytes per second from 1", 16)?,
        },
        "wrong-pong" => Reaction::WrongPong { value: text("PANG") },
        "error" => Reaction::Error {
            message: text(super::ERROR),
        },
        "send" => Reaction::Send {
            text: value
                .filter(|text| !text.is_empty())
                .ok_or_else(|| wrong(word, "the text of a frame", value))?
                .to_owned(),
        },
        "huge" => Reaction::Huge {
            bytes: size(word, value)?,
        },
        "duplicate" => Reaction::Duplicate {
            entries: small(word, value, "a number of entries from 1", 1)?,
        },
        _ => {
            if value.is_some() {
                return Err(wrong(word, "no value", value));
            }
            match word {
                "no-auth-answer" => Reaction::NoAuthAnswer,
                "cut" => Reaction::Cut,
                "reset" => Reaction::Reset,
                "half-open" => Reaction::HalfOpen,
                "no-pong" => Reaction::NoPong,
                "binary" => Reaction::Binary,
                "bad-utf8" => Reaction::BadUtf8,
                "bad-json" => Reaction::BadJson,
                "unknown-kind" => Reaction::UnknownKind,
                "same-id" => Reaction::SameId,
                "out-of-order" => Reaction::OutOfOrder,
                _ => Reaction::Silence,
            }
        }
    };
    Ok(reaction)
}

/// Parses a number from 1; `default` without a value.
pub(super) fn small(
    word: &'static str,
    value: Option<&str>,
    expected: &'static str,
    default: u32,
) -> Result<u32, ParseFaultError> {
    match value {
        None => Ok(default),
        Some(_) => number(word, value, expected, 1)
            .and_then(|number| u32::try_from(number).map_err(|_| wrong(word, expected, value))),
    }
}

pub(super) fn wrong(word: &'static str, expected: &'static str, value: Option<&str>) -> ParseFaultError {
    ParseFaultError::Value {
        word,
        expected,
        value: value.map(str::to_owned),
    }
}

fn number(
    word: &'static str,
    value: Option<&str>,
    expected: &'static str,
    least: u64,
) -> Result<u64, ParseFaultError> {
    let parsed = value.and_then(|value| value.trim().parse().ok());
    parsed
        .filter(|number| *number >= least)
        .ok_or_else(|| wrong(word, expected, value))
}

pub(super) fn status(word: &'static str, value: Option<&str>) -> Result<u16, ParseFaultError> {
    const EXPECTED: &str = "an HTTP status from 200 to 599";
    let status = number(word, value, EXPECTED, 200)?;
    u16::try_from(status)
        .ok()
        .filter(|status| *status < 600)
        .ok_or_else(|| wrong(word, EXPECTED, value))
}

fn every(value: Option<&str>) -> Result<Every, ParseFaultError> {
    const EXPECTED: &str = "a duration such as 500ms, 30s, 2m or 1h, or a number of events from 1";
    let parsed = value.and_then(|value| match value.trim().parse() {
        Ok(events) => (events > 0).then_some(Every::Events(events)),
        Err(_) => duration_of(value).map(Every::Time),
    });
    parsed.ok_or_else(|| wrong("every", EXPECTED, value))
}

/// Parses a duration with a unit.
pub(super) fn duration_of(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value.find(|character: char| !character.is_ascii_digit())?;
    let number: u64 = value[..digits].parse().ok().filter(|number| *number > 0)?;
    let milliseconds = match &value[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

pub(super) fn size(word: &'static str, value: Option<&str>) -> Result<usize, ParseFaultError> {
    let parse = || {
        let value = value?.trim();
        let digits = value
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(value.len());
        let number: u64 = value[..digits].parse().ok()?;
        let unit = match &value[digits..] {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            _ => return None,
        };
        number
            .checked_mul(unit)
            .filter(|bytes| (MIN_FRAME_BYTES as u64..=MAX_HUGE_BYTES).contains(bytes))
    };
    parse()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| wrong(word, "a size from 768 bytes to 256MiB, such as 64KiB", value))
}

impl Display for FaultRule {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.reaction)?;
        if let Some(connection) = self.connection {
            write!(out, ",connection={connection}")?;
        }
        if self.after > 0 && self.reaction.phase() == Phase::Events {
            write!(out, ",after={}", self.after)?;
        }
        if let Some(request) = self.request {
            write!(out, ",request={request}")?;
        }
        if let Some(path) = &self.path {
            write!(out, ",path={}", escaped(path))?;
        }
        if let Some(times) = self.times {
            write!(out, ",times={times}")?;
        }
        match self.every {
            Some(Every::Events(events)) => write!(out, ",every={events}"),
            Some(Every::Time(time)) => write!(out, ",every={}", duration(time)),
            None => Ok(()),
        }
    }
}

impl Display for Reaction {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { status, retry_after } => {
                write!(out, "http={status}")?;
                retry_after.map_or(Ok(()), |seconds| write!(out, ",retry-after={seconds}"))
            }
            Self::RefuseToken { message } => write!(out, "refuse-token={}", escaped(message)),
            Self::WrongAuth { value } => write!(out, "wrong-auth={}", escaped(value)),
            Self::NoAuthAnswer => out.write_str("no-auth-answer"),
            Self::LateAnswer { delay } => write!(out, "late-answer={}", duration(*delay)),
            Self::CloseAfterAuth { code } => write!(out, "close-after-auth={code}"),
            Self::Close { code } => write!(out, "close={code}"),
            Self::Cut => out.write_str("cut"),
            Self::Reset => out.write_str("reset"),
            Self::HalfOpen => out.write_str("half-open"),
            Self::Silence => out.write_str("silence"),
            Self::Drip { bytes_per_second } => write!(out, "drip={bytes_per_second}"),
            Self::NoPong => out.write_str("no-pong"),
            Self::WrongPong { value } => write!(out, "wrong-pong={}", escaped(value)),
            Self::Binary => out.write_str("binary"),
            Self::BadUtf8 => out.write_str("bad-utf8"),
            Self::BadJson => out.write_str("bad-json"),
            Self::UnknownKind => out.write_str("unknown-kind"),
            Self::Error { message } => write!(out, "error={}", escaped(message)),
            Self::Send { text } => write!(out, "send={}", escaped(text)),
            Self::Huge { bytes } => write!(out, "huge={}", text_of_size(*bytes)),
            Self::Duplicate { entries } => write!(out, "duplicate={entries}"),
            Self::SameId => out.write_str("same-id"),
            Self::OutOfOrder => out.write_str("out-of-order"),
            Self::Rest(fault) => write!(out, "{fault}"),
        }
    }
}

/// Escapes a text for a rule.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace(',', r"\,")
}

pub(super) fn text_of_size(bytes: usize) -> String {
    match bytes {
        bytes if bytes % (1 << 20) == 0 => format!("{}MiB", bytes >> 20),
        bytes if bytes % (1 << 10) == 0 => format!("{}KiB", bytes >> 10),
        bytes => bytes.to_string(),
    }
}

pub(super) fn duration(time: Duration) -> String {
    let milliseconds = time.as_millis();
    match milliseconds {
        hours if hours % 3_600_000 == 0 => format!("{}h", hours / 3_600_000),
        minutes if minutes % 60_000 == 0 => format!("{}m", minutes / 60_000),
        seconds if seconds % 1_000 == 0 => format!("{}s", seconds / 1_000),
        milliseconds => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests;
