//! The API token: where it comes from, and that nobody sees it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use schemars::{Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserializer, Serialize, de};
use tokio::io::AsyncReadExt;

/// No token is that long; whoever names a large file by mistake learns it.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Why there is no token to authorise with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token file {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the token file {} is empty", path.display())]
    Empty { path: PathBuf },
    #[error("the token file {} is larger than {MAX_FILE_BYTES} bytes: that is no token", path.display())]
    TooLarge { path: PathBuf },
}

/// Where the token comes from.
#[derive(Clone, Debug)]
pub(crate) enum TokenSource {
    Text(SecretString),
    File(PathBuf),
}

impl TokenSource {
    /// The token as it is now: a file is read at every connection, so that a rotated one is picked up.
    pub(crate) async fn read(&self) -> Result<SecretString, TokenError> {
        match self {
            Self::Text(token) => Ok(token.clone()),
            Self::File(path) => read_file(path).await,
        }
    }
}

async fn read_file(path: &Path) -> Result<SecretString, TokenError> {
    let unreadable = |source| TokenError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut text = String::new();
    let length = file
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .await
        .map_err(unreadable)?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(TokenError::TooLarge {
            path: path.to_owned(),
        });
    }
    // Editors and `echo` end a file with a line break; no token ends with one.
    let token = text.trim_end_matches(['\r', '\n']);
    if token.is_empty() {
        return Err(TokenError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(token.into())
}

/// The AUTH message, which must be the first on a connection.
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

/// Reads any scalar as text: from the environment a token `007` or `true` arrives as a number or a boolean.
pub(crate) fn deserialize_scalar<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SecretString>, D::Error> {
    deserializer.deserialize_any(ScalarVisitor).map(Some)
}

/// The schema of [`deserialize_scalar`].
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
    async fn a_file_is_read_anew_each_time_without_its_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let source = TokenSource::File(path.clone());
        let error = source.read().await.unwrap_err();
        assert!(matches!(error, TokenError::Unreadable { .. }), "{error}");
        std::fs::write(&path, "\r\n").unwrap();
        assert!(matches!(source.read().await, Err(TokenError::Empty { .. })));
        for token in ["first", " with spaces "] {
            std::fs::write(&path, format!("{token}\r\n")).unwrap();
            assert_eq!(source.read().await.unwrap().expose_secret(), token);
        }
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(matches!(source.read().await, Err(TokenError::TooLarge { .. })));
    }

    #[test]
    fn the_auth_message_is_that_of_the_platforms_clients() {
        insta::assert_snapshot!(
            auth_message(&"a\"b".into()),
            @r#"{"action":"AUTH","data":{"token":"a\"b"}}"#
        );
    }
}
