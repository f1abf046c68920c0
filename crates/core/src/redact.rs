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
    file,
    json::{self, JsonError, Key, Scanner, Span},
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

/// Redacts values of frames and replaces others by pseudonyms.
///
/// A pattern without a dot matches the key with that name at any depth, also within arrays. A pattern with
/// dots matches the path from `data` (or from the frame: `data.pid` and `meta.x` match too), in which arrays
/// are not counted. `*` matches any part of a name. Patterns are compared with names without escapes. The
/// frame's own `id` and `data` are never replaced, because an event needs them; values within them are.
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

    /// Returns whether no frame is ever changed.
    pub fn is_empty(&self) -> bool {
        self.redact.is_empty() && self.pseudonymise.is_empty()
    }

    /// Redacts `frame`. Returns true if a value was replaced: then `out` is the new frame, with all other
    /// text unchanged. If it returns false, the content of `out` is undefined.
    ///
    /// `frame` must be valid for [`read`](crate::envelope::read). For any other text `out` becomes `null`, so
    /// that no value leaks.
    pub fn apply(&self, frame: &str, out: &mut String) -> bool {
        out.clear();
        if self.is_empty() {
            return false;
        }
        let mut walk = Walk {
            redaction: self,
            frame,
            path: Vec::new(),
            depth: 0,
            copied: 0,
            out,
        };
        let walked = Scanner::new(frame).and_then(|mut scanner| {
            walk.value(&mut scanner)?;
            scanner.end()
        });
        let copied = walk.copied;
        if walked.is_err() {
            out.clear();
            out.push_str(NULL);
            return true;
        }
        if copied == 0 {
            return false;
        }
        out.push_str(&frame[copied..]);
        true
    }

    /// Returns the action for the value at `path`, whose last key is `name`.
    fn judge(&self, name: &str, path: &[Cow<'_, str>]) -> Action {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name, path));
        if any(&self.redact) {
            Action::Redact
        } else if any(&self.pseudonymise) {
            Action::Pseudonymise
        } else {
            Action::Keep
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
    // A key is often text written by a command, with a line break that an editor may add or remove: it does
    // not belong to the key. A byte order mark does: without it, a key in use would produce other pseudonyms.
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
enum Action {
    Keep,
    Redact,
    Pseudonymise,
}

/// A pass through a frame.
struct Walk<'r, 'a> {
    redaction: &'r Redaction,
    frame: &'a str,
    /// The keys from the frame to the current value. Empty unless a pattern is a path.
    path: Vec<Cow<'a, str>>,
    /// The number of open objects.
    depth: usize,
    /// The length of the part of the frame that was copied or replaced in `out`. 0 before the first replaced
    /// value.
    copied: usize,
    out: &'r mut String,
}

impl<'a> Walk<'_, 'a> {
    fn value(&mut self, scanner: &mut Scanner<'a>) -> Result<(), JsonError> {
        if scanner.at_object() {
            self.depth += 1;
            scanner.object(|scanner, key| self.member(scanner, key))?;
            self.depth -= 1;
        } else if scanner.at_array() {
            scanner.array(|scanner| self.value(scanner))?;
        } else {
            scanner.value()?;
        }
        Ok(())
    }

    fn member(&mut self, scanner: &mut Scanner<'a>, key: Key<'a>) -> Result<(), JsonError> {
        let name = key.name();
        // A key with an unpaired surrogate has no text and is compared as written. Consumers interpret such a
        // key differently, so every pattern has to match it.
        let is_unreadable = matches!(&name, Cow::Borrowed(name) if name.contains('\\'));
        let is_frame_level = self.depth == 1;
        let has_paths = self.redaction.has_paths;
        if has_paths {
            self.path.push(name.clone());
        }
        let action = if is_frame_level && matches!(name.as_ref(), "id" | "data") {
            Action::Keep
        } else if is_unreadable {
            Action::Redact
        } else {
            self.redaction.judge(&name, &self.path)
        };
        match action {
            Action::Keep => self.value(scanner)?,
            Action::Redact | Action::Pseudonymise => {
                let span = scanner.value()?;
                self.replace(span, action);
            }
        }
        if has_paths {
            self.path.pop();
        }
        Ok(())
    }

    fn replace(&mut self, span: Span, action: Action) {
        let value = &self.frame[span.start as usize..span.end as usize];
        if value == NULL {
            return;
        }
        self.out.push_str(&self.frame[self.copied..span.start as usize]);
        match action {
            Action::Pseudonymise => self.redaction.push_pseudonym(value, self.out),
            Action::Keep | Action::Redact => self.out.push_str(NULL),
        }
        self.copied = span.end as usize;
    }
}

#[cfg(test)]
mod tests;
