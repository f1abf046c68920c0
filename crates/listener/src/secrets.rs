//! Reads the secrets of a source (values, files, environment variables) for every connection, and detects changed files.

use std::{collections::BTreeMap, env, time::Duration};

use neurobridge_core::secret::{self, Secret, SecretError};
use neurobridge_protocol::{SecretSource, Secrets, TOKEN};
use tokio::time::sleep;

use crate::{
    config::SourceConfig,
    handle::{Live, ProviderError},
};

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}", unreadable_message(name))]
pub struct SecretsError {
    name: String,
    source: Reason,
}

fn unreadable_message(name: &str) -> String {
    match name {
        TOKEN => "the token cannot be read".to_owned(),
        name => format!("the secret \"{name}\" cannot be read"),
    }
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(transparent)]
    File(#[from] SecretError),
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("the environment variable {0} is not set or empty")]
    Variable(String),
}

/// Reads the current secrets of a source, by name.
///
/// # Errors
/// The first secret that cannot be read.
pub async fn read_secrets(config: &SourceConfig) -> Result<Secrets, SecretsError> {
    let reader = SecretReader {
        sources: config.secrets(),
        live: Live::default(),
    };
    reader.read().await
}

/// The places of the secrets, by name, and the token that the program sets or provides instead of the configured one.
#[derive(Clone, Debug, Default)]
pub(crate) struct SecretReader {
    pub(crate) sources: BTreeMap<String, SecretSource>,
    pub(crate) live: Live,
}

impl SecretReader {
    /// Returns whether no token is configured, set or provided, so that connecting waits for the first one.
    pub(crate) fn waits_for_token(&self) -> bool {
        let has_source = |source: &SecretSource| {
            source.value.is_some() || source.file.is_some() || source.variable.is_some()
        };
        !self.live.has_set_token()
            && !self.live.has_provider()
            && self.sources.get(TOKEN).is_some_and(|source| !has_source(source))
    }

    /// Reads the current secrets. Called for every connection, so that a replaced secret in a file is used.
    pub(crate) async fn read(&self) -> Result<Secrets, SecretsError> {
        let mut secrets = Secrets::new();
        for (name, source) in &self.sources {
            let secret = self.secret(name, source).await.map_err(|source| SecretsError {
                name: name.clone(),
                source,
            })?;
            secrets.insert(name.clone(), secret);
        }
        Ok(secrets)
    }

    /// Reads only the secrets that are in files.
    async fn read_files(&self) -> Result<Secrets, Reason> {
        let mut secrets = Secrets::new();
        for (name, source) in self.sources.iter().filter(|(_, source)| source.file.is_some()) {
            secrets.insert(name.clone(), read(name, source).await?);
        }
        Ok(secrets)
    }

    async fn secret(&self, name: &str, source: &SecretSource) -> Result<Secret, Reason> {
        if name == TOKEN
            && let Some(token) = self.live.token().await?
        {
            return Ok(token);
        }
        read(name, source).await
    }
}

/// The time between two checks of the secret files.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Detects changes of the secret files of a source by comparing their contents, because Kubernetes replaces files by changing
/// symbolic links.
pub(crate) struct SecretFileWatch {
    reader: SecretReader,
    known: Option<Secrets>,
}

impl SecretFileWatch {
    pub(crate) const fn new(reader: SecretReader) -> Self {
        Self { reader, known: None }
    }

    /// Waits for a change. Never returns if no secret is in a file. An unreadable file counts as unchanged, so the connections
    /// stay open. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if self.reader.sources.values().all(|source| source.file.is_none()) {
            return std::future::pending().await;
        }
        loop {
            if let Ok(secrets) = self.reader.read_files().await {
                match &self.known {
                    Some(known) if *known != secrets => {
                        self.known = Some(secrets);
                        return;
                    }
                    _ => self.known = Some(secrets),
                }
            }
            sleep(CHECK_INTERVAL).await;
        }
    }
}

async fn read(name: &str, source: &SecretSource) -> Result<Secret, Reason> {
    if let Some(value) = &source.value {
        return Ok(value.clone());
    }
    if let Some(path) = source.file.clone() {
        let key = match name {
            TOKEN => "token_file".to_owned(),
            name => format!("secrets.{name}.file"),
        };
        let read = tokio::task::spawn_blocking(move || secret::read_file(&key, &path));
        let secret = read
            .await
            .expect("reading a file neither panics nor is cancelled");
        return Ok(secret?);
    }
    let variable = source.variable.clone().unwrap_or_default();
    match env::var(&variable) {
        Ok(value) if !value.is_empty() => Ok(Secret::new(value)),
        _ => Err(Reason::Variable(variable)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(source: SecretSource) -> SecretReader {
        SecretReader {
            sources: BTreeMap::from([("token".to_owned(), source)]),
            live: Live::default(),
        }
    }

    #[tokio::test]
    async fn file_is_read_each_time_without_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let reader = reader(SecretSource {
            file: Some(path.clone()),
            ..SecretSource::default()
        });
        let error = |error: SecretsError| match error.source {
            Reason::File(error) => error,
            other => panic!("{other}"),
        };
        assert!(matches!(
            error(reader.read().await.unwrap_err()),
            SecretError::Unreadable { .. }
        ));
        for (text, is_empty) in [("\r\n", true), ("  ", true), ("first\nsecond\n", false)] {
            std::fs::write(&path, text).unwrap();
            match error(reader.read().await.unwrap_err()) {
                SecretError::EmptyFile { .. } => assert!(is_empty, "{text:?}"),
                SecretError::SeveralLines { .. } => assert!(!is_empty, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
        for token in ["first", " with spaces "] {
            std::fs::write(&path, format!("{token}\r\n")).unwrap();
            assert_eq!(reader.read().await.unwrap()["token"].expose(), token);
        }
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(matches!(
            error(reader.read().await.unwrap_err()),
            SecretError::TooLong { .. }
        ));
    }

    #[tokio::test]
    async fn unreadable_file_is_reported_with_its_key() {
        let source = SecretSource {
            file: Some("/nowhere".into()),
            ..SecretSource::default()
        };
        let reader = SecretReader {
            sources: BTreeMap::from([("api_key".to_owned(), source)]),
            live: Live::default(),
        };
        let error = crate::error::sentence(&reader.read().await.unwrap_err());
        assert!(
            error.starts_with(
                "the secret \"api_key\" cannot be read: \"secrets.api_key.file\": cannot read /nowhere"
            ),
            "{error}"
        );
    }

    #[tokio::test]
    async fn missing_variable_is_named() {
        let reader = reader(SecretSource {
            variable: Some("NO_SUCH_VARIABLE".into()),
            ..SecretSource::default()
        });
        let error = reader.read().await.unwrap_err();
        assert_eq!(
            crate::error::sentence(&error),
            "the token cannot be read: the environment variable NO_SUCH_VARIABLE is not set or empty"
        );
    }
}
