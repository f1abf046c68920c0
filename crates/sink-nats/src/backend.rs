//! The storage of the events in NATS, and the acknowledgements that it sends.

use std::{borrow::Cow, sync::Arc};

use serde::Deserialize;

use crate::{chain::Chain, echo::Echoes, error::ApiError, recovery::Recovery};

/// The storage of the events, which determines the acknowledgements.
pub(crate) enum Backend {
    /// A stream, which acknowledges each message.
    Stream {
        name: Arc<str>,
        usual: UsualAnswer,
        /// With strict order; `None` for a replay, and while a member of a cluster follows.
        chain: Option<(Chain, Recovery)>,
        /// The chain header of each message of a replay with strict order.
        replayed_after: Option<String>,
    },
    /// No storage (core mode): the server returns an echo to the sink after it has processed all messages before the echo.
    Core(Echoes),
}

impl Backend {
    /// Returns the chain of strict order.
    pub(crate) const fn chain(&self) -> Option<&Chain> {
        match self {
            Self::Stream {
                chain: Some((chain, _)),
                ..
            } => Some(chain),
            _ => None,
        }
    }

    pub(crate) const fn chain_mut(&mut self) -> Option<&mut Chain> {
        match self {
            Self::Stream {
                chain: Some((chain, _)),
                ..
            } => Some(chain),
            _ => None,
        }
    }

    /// Returns the state of the chain of strict order.
    pub(crate) const fn recovery(&self) -> Option<&Recovery> {
        match self {
            Self::Stream {
                chain: Some((_, recovery)),
                ..
            } => Some(recovery),
            _ => None,
        }
    }

    pub(crate) const fn recovery_mut(&mut self) -> Option<&mut Recovery> {
        match self {
            Self::Stream {
                chain: Some((_, recovery)),
                ..
            } => Some(recovery),
            _ => None,
        }
    }
}

/// The acknowledgement of a message by a stream.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer<'a> {
    #[serde(borrow, default)]
    pub(crate) stream: Cow<'a, str>,
    /// The place of the message: its sequence in the stream.
    #[serde(default)]
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) duplicate: bool,
    #[serde(default)]
    pub(crate) error: Option<ApiError>,
}

impl<'a> Answer<'a> {
    /// Creates the acknowledgement of a message that is not a duplicate.
    pub(crate) const fn stored(stream: &'a str, seq: u64) -> Self {
        Self {
            stream: Cow::Borrowed(stream),
            seq,
            duplicate: false,
            error: None,
        }
    }
}

/// The exact text of a server's usual acknowledgement. Comparing it is ten times as fast as a JSON parser, and applies to
/// nearly all acknowledgements.
#[derive(Debug)]
pub(crate) struct UsualAnswer {
    before_place: Vec<u8>,
}

impl UsualAnswer {
    pub(crate) fn of(stream: &str) -> Self {
        let before_place = format!(r#"{{"stream":{}, "seq":"#, serde_json::Value::from(stream));
        Self {
            before_place: before_place.into_bytes(),
        }
    }

    /// Returns the place of the message; `None` if the text differs.
    pub(crate) fn place(&self, answer: &[u8]) -> Option<u64> {
        let digits = answer
            .strip_prefix(self.before_place.as_slice())?
            .strip_suffix(b"}")?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        str::from_utf8(digits).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_path_of_acknowledgements_equals_the_parser() {
        let usual = UsualAnswer::of("EVENTS");
        // The text of servers 2.9 and 2.15.
        let answer = r#"{"stream":"EVENTS", "seq":18446744073709551615}"#;
        assert_eq!(usual.place(answer.as_bytes()), Some(u64::MAX));
        let read: Answer<'_> = serde_json::from_str(answer).unwrap();
        assert_eq!((read.stream.as_ref(), read.seq), ("EVENTS", u64::MAX));
        for other in [
            r#"{"stream":"EVENTS", "seq":18446744073709551616}"#,
            r#"{"stream":"EVENTS", "seq":}"#,
            r#"{"stream":"EVENTS", "seq":+1}"#,
            r#"{"stream":"EVENTS", "seq":1,"duplicate": true}"#,
            r#"{"stream":"EVENTS", "seq":1"#,
            r#"{"stream":"OTHER", "seq":1}"#,
            r#"{"stream":"EVENTS","seq":1}"#,
            r#"{"error":{"code":503}}"#,
            "",
        ] {
            assert_eq!(usual.place(other.as_bytes()), None, "{other}");
        }
    }
}
