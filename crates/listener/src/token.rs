//! The API token: where it is read from, and the AUTH message.

use std::path::PathBuf;

use neurobridge_core::secret::{self, Secret, SecretError};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

/// Why no token is available.
#[derive(Debug, thiserror::Error)]
#[error("the token file cannot be read")]
pub(crate) struct TokenError(#[source] SecretError);

/// Where the token is read from.
#[derive(Clone, Debug)]
pub(crate) enum TokenSource {
    Text(Secret),
    File(PathBuf),
}

impl TokenSource {
    /// Reads the current token: a file is read at every connection, so that a rotated token is used.
    pub(crate) async fn read(&self) -> Result<SecretString, TokenError> {
        match self {
            Self::Text(token) => Ok(token.expose().into()),
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
