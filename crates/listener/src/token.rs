//! The API token: where it is read from, and the AUTH message.

use std::{fmt, path::PathBuf};

use neurobridge_core::secret::{self, SecretError};
use schemars::{Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserializer, Serialize, de};

/// Why no token is available.
#[derive(Debug, thiserror::Error)]
#[error("the token file cannot be read")]
pub(crate) struct TokenError(#[source] SecretError);

/// Where the token is read from.
#[derive(Clone, Debug)]
pub(crate) enum TokenSource {
    Text(SecretString),
    File(PathBuf),
}

impl TokenSource {
    /// Reads the current token: a file is read at every connection, so that a rotated token is used.
    pub(crate) async fn read(&self) -> Result<SecretString, TokenError> {
        match self {
            Self::Text(token) => Ok(token.clone()),
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || secret::read_file("token", &path));
                let token = read
                    .await
                    .expect("reading a file neither panics nor is cancelled")
                    .map_err(TokenError)?;
                Ok(token.expose().into())
            }
        }
    }
}

/// Returns the AUTH message, which must be the first message on a connection.
pub(crate) fn auth_message(token: &SecretString) -> String {
    #[derive(Serialize)]
    struct Auth<'a> {
        action: &'static str,
        data: Data<'a>,
    }
    #[derive(Serialize)]
    struct Data<'a> {
        token: &'a str,
    }
    let message = Auth {
        action: "AUTH",
        data: Data {
            token: token.expose_secret(),
        },
    };
    serde_json::to_string(&message).expect("two structs of text have no way to fail")
}

/// Deserialises any scalar as text: a token `007` or `true` arrives from the environment as a number or a
/// boolean.
pub(crate) fn deserialize_scalar<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SecretString>, D::Error> {
    deserializer.deserialize_any(ScalarVisitor).map(Some)
}

/// Returns the schema of [`deserialize_scalar`].
pub(crate) fn scalar_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "integer", "number", "boolean"],
        "format": neurobridge_core::secret::SCHEMA_FORMAT,
        "writeOnly": true,
    })
}

struct ScalarVisitor;

impl de::Visitor<'_> for ScalarVisitor {
    type Value = SecretString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number or a boolean")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretString, E> {
        Ok(text.into())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<SecretString, E> {
        secret(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<SecretString, E> {
        secret(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<SecretString, E> {
        secret(value)
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<SecretString, E> {
        secret(value)
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<SecretString, E> {
        secret(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<SecretString, E> {
        secret(value)
    }
}

fn secret<E>(value: impl ToString) -> Result<SecretString, E> {
    Ok(value.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn token_file_is_read_each_time_without_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let source = TokenSource::File(path.clone());
        let error = source.read().await.unwrap_err();
        assert!(matches!(error.0, SecretError::Unreadable { .. }), "{error}");
        for (text, is_empty) in [("\r\n", true), ("  ", true), ("first\nsecond\n", false)] {
            std::fs::write(&path, text).unwrap();
            match source.read().await {
                Err(TokenError(SecretError::EmptyFile { .. })) => assert!(is_empty, "{text:?}"),
                Err(TokenError(SecretError::SeveralLines { .. })) => assert!(!is_empty, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
        for token in ["first", " with spaces "] {
            std::fs::write(&path, format!("{token}\r\n")).unwrap();
            assert_eq!(source.read().await.unwrap().expose_secret(), token);
        }
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(matches!(
            source.read().await,
            Err(TokenError(SecretError::TooLong { .. }))
        ));
    }

    #[test]
    fn auth_message_equals_that_of_official_clients() {
        insta::assert_snapshot!(
            auth_message(&"a\"b".into()),
            @r#"{"action":"AUTH","data":{"token":"a\"b"}}"#
        );
    }
}
