//! Tokens and passwords: read from the configuration or a file, and never shown.

mod set;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::set::SecretSet;
use crate::file;

/// The maximum size of a file with a secret. Far above any token, so that a wrong path is reported as an
/// error.
pub const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The `format` of a secret in the JSON Schema. It marks the keys whose values must not be shown or parsed.
pub const SCHEMA_FORMAT: &str = "password";

/// A token or a password, shown as `[redacted]` and wiped from memory when dropped.
///
/// In a configuration a secret may be any scalar, and is converted to text: the unquoted token `true` arrives as a
/// boolean and `123` as a number. The conversion cannot restore the original text of every scalar: `007` may arrive as
/// 7, and `1.50` as 1.5. The bridge therefore does not parse environment variables with secrets: their values arrive
/// as text.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Creates a secret from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// Returns the text: only for sending, never for a log.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// Reads the secret of a configuration key that exists in two forms: `value` is the value of `<key>`, `file`
/// that of `<key>_file`. `None` if neither is set.
///
/// See [`read_file`]. The file is read at each call, so that a secret can be replaced while the program runs.
/// Blocks for up to [`file::TIME_LIMIT`].
///
/// # Errors
/// Both are set, or the file cannot be read or contains no secret.
pub fn resolve(
    key: &'static str,
    value: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Secret>, SecretError> {
    match (value, file) {
        (Some(_), Some(_)) => Err(SecretError::Both { key }),
        (Some(value), None) if value.expose().is_empty() => Err(SecretError::Empty { key }),
        (Some(value), None) => Ok(Some(value.clone())),
        (None, Some(path)) => read_file(&format!("{key}_file"), path).map(Some),
        (None, None) => Ok(None),
    }
}

/// Returns the secret in a file: the only non-blank line, without line break and byte order mark. Blanks in the line
/// belong to the secret. `key` is the configuration key, for errors. Blocks for up to [`file::TIME_LIMIT`].
///
/// # Errors
/// The file cannot be read, or contains no secret: all lines are blank, or several are not.
pub fn read_file(key: &str, path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |source: io::Error| {
        let (key, path) = (key.to_owned(), path.to_owned());
        match source.kind() {
            io::ErrorKind::FileTooLarge => SecretError::TooLong { key, path },
            _ => SecretError::Unreadable { key, path, source },
        }
    };
    let content = file::read(path, MAX_FILE_BYTES).map_err(unreadable)?;
    let text = content.text().map_err(unreadable)?;
    let mut lines = text.split(['\n', '\r']).filter(|line| !line.trim().is_empty());
    match (lines.next(), lines.next()) {
        (Some(line), None) => Ok(Secret::new(line)),
        (Some(_), Some(_)) => Err(SecretError::SeveralLines {
            key: key.to_owned(),
            path: path.to_owned(),
        }),
        (None, _) => Err(SecretError::EmptyFile {
            key: key.to_owned(),
            path: path.to_owned(),
        }),
    }
}

/// Why a secret is unusable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Both `<key>` and `<key>_file` are set.
    #[error("found both \"{key}\" and \"{key}_file\", expected one of them")]
    Both {
        /// The key without `_file`.
        key: &'static str,
    },
    /// The value is empty.
    #[error("found an empty \"{key}\", expected a text of at least one character")]
    Empty {
        /// The key.
        key: &'static str,
    },
    /// The file cannot be read, or is not text.
    #[error("\"{key}\": cannot read {}, expected a file with the secret as its only text", path.display())]
    Unreadable {
        /// The key of the file.
        key: String,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file contains more than one line with text.
    #[error("\"{key}\": found more than one line in {}, expected the secret as its only line", path.display())]
    SeveralLines {
        /// The key of the file.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// The file contains only white space.
    #[error("\"{key}\": found nothing but blanks in {}, expected the secret as its only line", path.display())]
    EmptyFile {
        /// The key of the file.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// The file is larger than any secret.
    #[error(
        "\"{key}\": found more than {MAX_FILE_BYTES} bytes in {}, expected the secret as its only text",
        path.display()
    )]
    TooLong {
        /// The key of the file.
        key: String,
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyScalar)
    }
}

/// Writes `[redacted]`, so that a printed configuration shows no secret.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer", "number", "boolean"],
            "format": SCHEMA_FORMAT,
            "writeOnly": true,
        })
    }
}

const REDACTED: &str = "[redacted]";

/// Converts scalars to text. Its errors never quote the value, which may be the secret.
struct AnyScalar;

const NOT_A_SCALAR: &str = "found an array or a table, expected a text; within a table in an environment variable, a \
                          secret that begins with a bracket or a brace needs quotes of its own ('\"[…]\"'), or a \
                          file";

impl<'de> de::Visitor<'de> for AnyScalar {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Secret, E> {
        Ok(Secret::new(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Secret, E> {
        Ok(Secret::new(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Secret, E> {
        Ok(Secret::new(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Secret, E> {
        Ok(Secret::new(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Secret, E> {
        Ok(Secret::new(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Secret, E> {
        // `Debug` keeps the decimal point: `1.0` stays `1.0`.
        Ok(Secret::new(format!("{value:?}")))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<Secret, A::Error> {
        Err(de::Error::custom(NOT_A_SCALAR))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, _: A) -> Result<Secret, A::Error> {
        Err(de::Error::custom(NOT_A_SCALAR))
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn scalar_is_converted_to_text() {
        for (json, text) in [
            ("\"a b\"", "a b"),
            ("123", "123"),
            ("-5", "-5"),
            ("true", "true"),
            ("1.5", "1.5"),
            ("1.0", "1.0"),
            ("\"007\"", "007"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            let secret: Secret = serde_json::from_str(json).unwrap();
            assert_eq!(secret.expose(), text, "{json}");
        }
    }

    #[test]
    fn value_without_text_is_rejected_and_not_shown() {
        for json in ["[\"hunter2\"]", "{\"hunter2\":1}", "null"] {
            let error = serde_json::from_str::<Secret>(json).unwrap_err().to_string();
            assert!(
                error.contains("expected a text") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }

    #[test]
    fn secret_is_redacted_in_debug_and_json() {
        let secret = Secret::new("hunter2");
        assert_eq!(
            format!("{secret:?} {:?}", Some(&secret)),
            "[redacted] Some([redacted])"
        );
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"[redacted]\"");
    }

    #[test]
    fn file_and_value_together_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "hunter2\n").unwrap();
        let value = Secret::new("hunter3");
        let text = |value: Option<&Secret>, file: Option<&Path>| {
            resolve("token", value, file).map(|secret| secret.map(|secret| secret.expose().to_owned()))
        };
        assert_eq!(text(None, None).unwrap(), None);
        assert_eq!(text(None, Some(&path)).unwrap().as_deref(), Some("hunter2"));
        assert_eq!(text(Some(&value), None).unwrap().as_deref(), Some("hunter3"));
        assert_eq!(
            text(Some(&value), Some(&path)).unwrap_err().to_string(),
            "found both \"token\" and \"token_file\", expected one of them"
        );
        let empty = Secret::new("");
        assert!(matches!(
            text(Some(&empty), None),
            Err(SecretError::Empty { key: "token" })
        ));
    }

    #[test]
    fn secret_is_the_only_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (text, secret) in [
            ("hunter2", Some("hunter2")),
            ("hunter2\r\n", Some("hunter2")),
            ("\u{feff}hunter2\n", Some("hunter2")),
            ("\n hunter 2 \n \n", Some(" hunter 2 ")),
            ("hunter2\nhunter3\n", None),
            ("\u{feff}\r\n", None),
            ("   ", None),
        ] {
            std::fs::write(&path, text).unwrap();
            match (read_file("token_file", &path), secret) {
                (Ok(found), Some(secret)) => assert_eq!(found.expose(), secret),
                (Err(error), None) => {
                    let words = error.to_string();
                    assert!(
                        words.contains("only line") && !words.contains("hunter"),
                        "{words}"
                    );
                }
                (found, _) => panic!("{text:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn error_names_the_unusable_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let error = || resolve("token", None, Some(&path)).unwrap_err();
        let missing = error();
        assert!(missing.to_string().contains(path.to_str().unwrap()), "{missing}");
        assert!(missing.source().is_some());
        std::fs::write(&path, " \n").unwrap();
        assert!(matches!(error(), SecretError::EmptyFile { .. }));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(error(), SecretError::Unreadable { .. }));
        std::fs::write(&path, vec![b'a'; MAX_FILE_BYTES as usize + 1]).unwrap();
        assert!(matches!(error(), SecretError::TooLong { .. }));
    }
}
