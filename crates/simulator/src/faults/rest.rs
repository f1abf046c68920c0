//! Faults of REST answers.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use super::parse::{ParseFaultError, duration, duration_of, size, small, status, text_of_size, wrong};

/// The words for these faults in the text of a rule.
pub(super) const WORDS: [&str; 11] = [
    "rest-http",
    "rest-slow",
    "rest-drip",
    "rest-cut",
    "rest-no-json",
    "rest-other-shape",
    "rest-endless",
    "rest-same-page",
    "rest-backwards",
    "rest-no-id",
    "rest-huge",
];

/// A fault of a REST answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestFault {
    /// Answers with an HTTP status; the request has no effect.
    Http {
        /// The HTTP status, from 200 to 599.
        status: u16,
        /// The value of a `Retry-After` header in seconds.
        retry_after: Option<u64>,
    },
    /// Answers after this time.
    Slow {
        /// The time before the answer.
        delay: Duration,
    },
    /// Limits the speed of the answer.
    Drip {
        /// Bytes per second, at least 1.
        bytes_per_second: u32,
    },
    /// Ends the connection in the middle of the answer.
    Cut,
    /// Answers with a page of HTML; the request has no effect.
    NoJson,
    /// Answers with JSON of an undocumented shape; the request has no effect.
    OtherShape,
    /// Fills each page of a list up with entries that do not exist, so that no page is the last one.
    Endless,
    /// Ignores `offset` and `id_from` of a list.
    SamePage,
    /// Reverses the order within each page of a list.
    Backwards,
    /// Omits the id of the first, third, fifth, … entry of a list.
    NoId,
    /// Answers a list with at least this many bytes; its first entry has an inline picture.
    Huge {
        /// The minimum size of the body in bytes.
        bytes: usize,
    },
}

/// The default size of [`RestFault::Huge`].
const HUGE_BYTES: usize = 10 << 20;

pub(super) fn parse(word: &'static str, value: Option<&str>) -> Result<RestFault, ParseFaultError> {
    let fault = match word {
        "rest-http" => RestFault::Http {
            status: status(word, value)?,
            retry_after: None,
        },
        "rest-slow" => RestFault::Slow {
            delay: value
                .and_then(duration_of)
                .ok_or_else(|| wrong(word, "a duration such as 500ms, 30s, 2m or 1h", value))?,
        },
        "rest-drip" => RestFault::Drip {
            bytes_per_second: small(word, value, "a number of bytes per second from 1", 16)?,
        },
        "rest-huge" => RestFault::Huge {
            bytes: value.map_or(Ok(HUGE_BYTES), |_| size(word, value))?,
        },
        _ if value.is_some() => return Err(wrong(word, "no value", value)),
        "rest-cut" => RestFault::Cut,
        "rest-no-json" => RestFault::NoJson,
        "rest-other-shape" => RestFault::OtherShape,
        "rest-endless" => RestFault::Endless,
        "rest-same-page" => RestFault::SamePage,
        "rest-backwards" => RestFault::Backwards,
        _ => RestFault::NoId,
    };
    Ok(fault)
}

impl Display for RestFault {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { status, retry_after } => {
                write!(out, "rest-http={status}")?;
                retry_after.map_or(Ok(()), |seconds| write!(out, ",retry-after={seconds}"))
            }
            Self::Slow { delay } => write!(out, "rest-slow={}", duration(*delay)),
            Self::Drip { bytes_per_second } => write!(out, "rest-drip={bytes_per_second}"),
            Self::Cut => out.write_str("rest-cut"),
            Self::NoJson => out.write_str("rest-no-json"),
            Self::OtherShape => out.write_str("rest-other-shape"),
            Self::Endless => out.write_str("rest-endless"),
            Self::SamePage => out.write_str("rest-same-page"),
            Self::Backwards => out.write_str("rest-backwards"),
            Self::NoId => out.write_str("rest-no-id"),
            Self::Huge { bytes } => write!(out, "rest-huge={}", text_of_size(*bytes)),
        }
    }
}
