//! Redaction and pseudonymisation, applied before an event is stored.

mod pattern;

use std::{
    borrow::Cow,
    fmt, io,
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit, Mac};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::{
    event::Event,
    event_buf::EventBuf,
    file,
    json::{self, JsonError, Key, Scanner, Span},
    positions::Positions,
};

pub use self::pattern::{Pattern, PatternError};

/// The minimum length of a pseudonymisation key. With a shorter key, a name could be found by trying all
/// keys.
pub const MIN_KEY_BYTES: usize = 16;

/// The fields whose values are replaced by pseudonyms, and the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pseudonymise {
    /// Names, patterns or paths, as for `redact`.
    pub fields: Vec<Pattern>,
    /// File with the key: at least 16 bytes, without the surrounding white space (`openssl rand -hex 32`).
    /// Whoever has the key can compute the pseudonym of a known value.
    pub key_file: PathBuf,
}

/// Redacts values of events and replaces others by pseudonyms.
///
/// - A pattern without a dot matches the key with that name at any depth, also within arrays.
/// - A pattern with dots matches a path of keys from the body (`space.name`) or from the frame (`data.pid`,
///   `meta.x`). Indexes of arrays are not part of the path. A value beside the body is also matched as if it were
///   within the body.
/// - `*` matches any part of a name. Patterns are compared with names without escapes.
///
/// The body and the parts of the id are never replaced, because an event needs them; matching values within them are
/// replaced. If a matching value contains the body or a part of the id, everything else in the value is replaced.
///
/// A redacted value becomes `null`. A pseudonym is the HMAC-SHA-256 of the value's text as 64 hexadecimal
/// digits: equal values have equal pseudonyms, also `1` and `"1"`; objects and arrays become `null`. A value
/// that matches both is redacted.
#[derive(Clone, Default)]
pub struct Redaction {
    redact: Vec<Pattern>,
    pseudonymise: Vec<Pattern>,
    /// The key; `None` if no field is pseudonymised.
    key: Option<Hmac<Sha256>>,
    /// Whether any pattern is a path: only then the walk records the current path.
    has_paths: bool,
}

impl Redaction {
    /// Creates a redaction. Reads the key file, which blocks for the time that a small file takes.
    ///
    /// # Errors
    /// The key file cannot be read or the key is too short.
    pub fn new(redact: &[Pattern], pseudonymise: Option<&Pseudonymise>) -> Result<Self, KeyFileError> {
        let key = pseudonymise
            .map(|config| read_key(&config.key_file))
            .transpose()?;
        let pseudonymise = pseudonymise.map_or_else(Vec::new, |config| config.fields.clone());
        let has_paths = redact.iter().chain(&pseudonymise).any(Pattern::is_path);
        Ok(Self {
            redact: redact.to_vec(),
            pseudonymise,
            key,
            has_paths,
        })
    }

    /// Returns a digest of the key for comparisons, from which the key cannot be computed; `None` without a key.
    pub fn key_digest(&self) -> Option<String> {
        let mut mac = self.key.clone()?;
        mac.update(b"neurobridge: comparison of keys");
        let digest = mac.finalize().into_bytes();
        Some(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Returns whether there are no patterns, so that every frame stays unchanged.
    pub fn is_empty(&self) -> bool {
        self.redact.is_empty() && self.pseudonymise.is_empty()
    }

    /// Returns the event after redaction: the event itself if nothing matches, otherwise one with a new frame in `out`.
    /// All text but the replaced values is unchanged.
    ///
    /// # Errors
    /// The frame is not JSON, or too long after the redaction.
    pub fn apply<'a>(&self, event: &Event<'a>, out: &'a mut EventBuf) -> Result<Event<'a>, RedactError> {
        if self.is_empty() {
            return Ok(*event);
        }
        self.walk(event, out)?;
        Ok(out.finish(event)?)
    }

    /// Reads the frame, and replaces the values that match.
    fn walk(&self, event: &Event<'_>, out: &mut EventBuf) -> Result<(), JsonError> {
        out.begin();
        let mut walk = Walk {
            redaction: self,
            frame: event.frame,
            exempt: Exempt(event.positions),
            path: Vec::new(),
            out,
        };
        let mut scanner = Scanner::new(event.frame)?;
        walk.value(&mut scanner, None)?;
        scanner.end()
    }

    /// Returns the replacement of the value at `path`, whose last key is `name`; `None` if no pattern matches.
    fn replacement(&self, name: &str, path: &[Cow<'_, str>], body_depth: usize) -> Option<Replacement> {
        let any = |patterns: &[Pattern]| {
            patterns
                .iter()
                .any(|pattern| pattern.matches(name, path, body_depth))
        };
        if any(&self.redact) {
            Some(Replacement::Null)
        } else if any(&self.pseudonymise) {
            Some(Replacement::Pseudonym)
        } else {
            None
        }
    }

    /// Appends the pseudonym of a value.
    fn push_pseudonym(&self, value: &str, out: &mut String) {
        let (Some(key), Some(text)) = (&self.key, json::text(value)) else {
            out.push_str(NULL);
            return;
        };
        let digest = key.clone().chain_update(text.as_bytes()).finalize().into_bytes();
        out.push('"');
        for byte in digest {
            for digit in [byte >> 4, byte & 0xf] {
                out.push(char::from(HEX[usize::from(digit)]));
            }
        }
        out.push('"');
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redaction")
            .field("redact", &self.redact)
            .field("pseudonymise", &self.pseudonymise)
            .finish_non_exhaustive()
    }
}

/// Why an event cannot be redacted. The text of such an event must not be shown or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event cannot be redacted: {0}")]
pub struct RedactError(JsonError);

impl From<JsonError> for RedactError {
    fn from(error: JsonError) -> Self {
        Self(error)
    }
}

/// Why the pseudonymisation key is unusable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("cannot read the pseudonymisation key from {}, expected a file of at least {MIN_KEY_BYTES} bytes (openssl rand -hex 32)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The key is so short that it could be guessed.
    #[error("found a pseudonymisation key of {found} bytes in {}, expected at least {MIN_KEY_BYTES} (openssl rand -hex 32)", path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// The number of bytes, without the surrounding white space.
        found: usize,
    },
}

/// The maximum size of a key file: larger than any key, so that a wrong path is reported as an error.
const MAX_KEY_FILE_BYTES: u64 = 1024 * 1024;

fn read_key(path: &Path) -> Result<Hmac<Sha256>, KeyFileError> {
    let unreadable = |source| KeyFileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let content = file::read(path, MAX_KEY_FILE_BYTES).map_err(unreadable)?;
    // The key is often text written by a command. The line break at its end does not belong to the key, because an
    // editor may add or remove one. A byte order mark belongs to the key: without the mark, a key in use would
    // produce other pseudonyms.
    let key = content.raw().trim_ascii();
    if key.len() < MIN_KEY_BYTES {
        return Err(KeyFileError::TooShort {
            path: path.to_owned(),
            found: key.len(),
        });
    }
    Ok(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
}

const NULL: &str = "null";
const HEX: &[u8; 16] = b"0123456789abcdef";

#[derive(Clone, Copy)]
enum Replacement {
    Null,
    Pseudonym,
}

/// The values that are never replaced: the body and the parts of the id.
#[derive(Clone, Copy)]
struct Exempt<'a>(Positions<'a>);

impl Exempt<'_> {
    fn spans(self) -> impl Iterator<Item = Span> {
        let spans = std::iter::once(self.0.body()).chain(self.0.ids());
        spans.filter(|span| !span.is_absent())
    }

    /// Returns whether `value` is exempt.
    fn is(self, value: Span) -> bool {
        self.spans().any(|span| span == value)
    }

    /// Returns whether `value` contains an exempt value.
    fn is_within(self, value: Span) -> bool {
        self.spans()
            .any(|span| value.start <= span.start && span.end <= value.end)
    }
}

/// A pass through a frame.
struct Walk<'r, 'a> {
    redaction: &'r Redaction,
    frame: &'a str,
    exempt: Exempt<'a>,
    /// The keys from the frame to the current value. Empty unless a pattern is a path.
    path: Vec<Cow<'a, str>>,
    out: &'r mut EventBuf,
}

impl<'a> Walk<'_, 'a> {
    /// Reads a value. `inherited` is set if a pattern matches the surrounding value, which contains an exempt value: then
    /// everything except the exempt value is replaced.
    fn value(&mut self, scanner: &mut Scanner<'a>, inherited: Option<Replacement>) -> Result<(), JsonError> {
        if scanner.at_object() {
            scanner.object(|scanner, key| self.member(scanner, key, inherited))?;
        } else if scanner.at_array() {
            scanner.array(|scanner| match inherited {
                Some(replacement) => self.replace(scanner, replacement),
                None => self.value(scanner, None),
            })?;
        } else {
            scanner.value()?;
        }
        Ok(())
    }

    fn member(
        &mut self,
        scanner: &mut Scanner<'a>,
        key: Key<'a>,
        inherited: Option<Replacement>,
    ) -> Result<(), JsonError> {
        let name = key.name();
        // A key with an unpaired surrogate has no text, and consumers interpret such a key differently. The value is
        // redacted in any case, because any pattern might match.
        let is_unreadable = matches!(&name, Cow::Borrowed(name) if name.contains('\\'));
        let has_paths = self.redaction.has_paths;
        if has_paths {
            self.path.push(name.clone());
        }
        let replacement = if is_unreadable {
            Some(Replacement::Null)
        } else {
            let body_depth = self.exempt.0.body_depth();
            let own = self.redaction.replacement(&name, &self.path, body_depth);
            match (own, inherited) {
                (_, Some(Replacement::Null)) => Some(Replacement::Null),
                (own, inherited) => own.or(inherited),
            }
        };
        match replacement {
            Some(replacement) => self.replace(scanner, replacement)?,
            None => self.value(scanner, None)?,
        }
        if has_paths {
            self.path.pop();
        }
        Ok(())
    }

    /// Replaces the next value, except for exempt values within it.
    fn replace(&mut self, scanner: &mut Scanner<'a>, replacement: Replacement) -> Result<(), JsonError> {
        let mut ahead = scanner.clone();
        let span = ahead.value()?;
        if self.exempt.is(span) {
            return self.value(scanner, None);
        }
        if self.exempt.is_within(span) {
            return self.value(scanner, Some(replacement));
        }
        *scanner = ahead;
        let value = &self.frame[span.start as usize..span.end as usize];
        if value != NULL {
            let redaction = self.redaction;
            self.out.replace(self.frame, span, |out| match replacement {
                Replacement::Null => out.push_str(NULL),
                Replacement::Pseudonym => redaction.push_pseudonym(value, out),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
