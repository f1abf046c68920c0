//! What leaves an event before anything else sees it: values taken out, persons under another name.

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

/// The shortest key for pseudonyms: with fewer bytes a person's name could be found by trying keys.
pub const MIN_KEY_BYTES: usize = 16;

/// Which fields get a pseudonym instead of their value, and with which key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pseudonymise {
    /// Names, patterns or paths, as for `redact`.
    pub fields: Vec<Pattern>,
    /// File with the key: at least 16 bytes, the white space around them not counted (`openssl rand -hex 32`). Who has
    /// it can tell which pseudonym belongs to a known value.
    pub key_file: PathBuf,
}

/// Takes values out of frames and replaces others by pseudonyms.
///
/// A pattern without a dot means the key of that name at any depth, within arrays too; one with dots means the path from
/// `data` on (or from the frame on: `data.pid` and `meta.x` are understood), where arrays count for nothing. `*` stands for
/// any part of a name. Patterns see names without escapes. The frame's own `id` and `data` are never replaced, as without
/// them there would be no event; what is within them is.
///
/// A redacted value becomes `null`. A pseudonym is the HMAC-SHA-256 of the value's text as 64 hexadecimal digits: equal
/// values have equal pseudonyms, `1` and `"1"` too; objects and arrays have none and become `null`. Where both are asked
/// for, the value is redacted.
#[derive(Clone, Default)]
pub struct Redaction {
    redact: Vec<Pattern>,
    pseudonymise: Vec<Pattern>,
    /// Set when there is anything to pseudonymise.
    key: Option<Hmac<Sha256>>,
    /// Whether any pattern is a path: only then the walk keeps one.
    has_paths: bool,
}

impl Redaction {
    /// Reads the key file, which blocks for the time that a small file takes.
    ///
    /// # Errors
    /// There is no useful key.
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

    /// Whether no frame is ever changed.
    pub fn is_empty(&self) -> bool {
        self.redact.is_empty() && self.pseudonymise.is_empty()
    }

    /// Whether anything in `frame` was to be replaced; then `out` is the new frame, the same text but for those values.
    /// Otherwise what `out` holds means nothing.
    ///
    /// `frame` must be one that [`read`](crate::envelope::read) has taken. Of any other text nothing gets through: `out`
    /// is `null`.
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

    /// What becomes of the value at `path`, of which `name` is the last key.
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

    /// Appends what stands for a value that is to be pseudonymised.
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

/// Why there is no key for pseudonyms.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file can't be read.
    #[error("can't read the key for pseudonyms from {}, expected a file of at least {MIN_KEY_BYTES} bytes (openssl rand -hex 32)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key is so short that it could be guessed.
    #[error("found a key for pseudonyms of {found} bytes in {}, expected at least {MIN_KEY_BYTES} (openssl rand -hex 32)", path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// How many bytes there are, the white space around them not counted.
        found: usize,
    },
}

/// No key is that long; whoever names a large file by mistake learns it.
const MAX_KEY_FILE_BYTES: u64 = 1024 * 1024;

fn read_key(path: &Path) -> Result<Hmac<Sha256>, KeyFileError> {
    let unreadable = |source| KeyFileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let content = file::read(path, MAX_KEY_FILE_BYTES).map_err(unreadable)?;
    // A key is often text that a command wrote, with a line break that an editor adds or takes away: not part of it. A byte
    // order mark is: without it, a key in use would give other pseudonyms.
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

/// One way through a frame.
struct Walk<'r, 'a> {
    redaction: &'r Redaction,
    frame: &'a str,
    /// The keys that lead here, from the frame on. Empty unless there are patterns with paths.
    path: Vec<Cow<'a, str>>,
    /// How many objects are open.
    depth: usize,
    /// How much of the frame is in `out`, or replaced there. Nothing is, before the first value that is replaced.
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
        // A key with half a surrogate pair has no text, and comes as it is written. Readers differ in what they make of it,
        // so no pattern can be trusted to miss it.
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
