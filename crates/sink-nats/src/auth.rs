//! Authentication, with credentials that are read at each connection.

use std::path::Path;

use async_nats::{Auth, AuthError};
use neurobridge_core::{
    file,
    secret::{self, Secret, SecretError},
    sink::{FaultKind, SinkFault},
};
use nkeys::KeyPair;

use crate::config::AuthConfig;

/// The credentials from the configuration and its files.
pub(crate) enum Identity {
    Anonymous,
    User(String, Secret),
    Token(Secret),
    Nkey(KeyPair),
    Jwt(Secret, KeyPair),
}

impl Identity {
    /// Reads the credentials. Files are read each time, so that replaced files are used. Blocks for up to
    /// [`file::TIME_LIMIT`].
    ///
    /// # Errors
    /// Returns a fault if a file cannot be read or has unexpected content.
    pub(crate) fn read(config: Option<&AuthConfig>) -> Result<Self, SinkFault> {
        let Some(config) = config else {
            return Ok(Self::Anonymous);
        };
        let secret = |key, value: &Option<Secret>, file: &Option<_>| {
            secret::resolve(key, value.as_ref(), file.as_deref()).map_err(|error| unreadable(&error))
        };
        if let (Some(user), Some(password)) = (
            &config.user,
            secret("password", &config.password, &config.password_file)?,
        ) {
            return Ok(Self::User(user.clone(), password));
        }
        if let Some(token) = secret("token", &config.token, &config.token_file)? {
            return Ok(Self::Token(token));
        }
        if let Some(seed) = secret("nkey", &config.nkey, &config.nkey_file)? {
            return key_pair(seed.expose(), "auth.nkey").map(Self::Nkey);
        }
        match &config.credentials_file {
            Some(path) => read_credentials(path),
            None => Ok(Self::Anonymous),
        }
    }

    /// Returns the credentials for a server, with the signature of its nonce where the method needs one.
    pub(crate) fn prove(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        match self {
            Self::Anonymous => {}
            Self::User(user, password) => {
                auth.username = Some(user.clone());
                auth.password = Some(password.expose().to_owned());
            }
            Self::Token(token) => auth.token = Some(token.expose().to_owned()),
            Self::Nkey(key) => {
                auth.nkey = Some(key.public_key());
                auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
            }
            Self::Jwt(jwt, key) => {
                auth.jwt = Some(jwt.expose().to_owned());
                auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
            }
        }
        Ok(auth)
    }
}

/// Reads a credentials file as created by `nsc`: the JWT and the seed, each between two lines of dashes with a title.
fn read_credentials(path: &Path) -> Result<Identity, SinkFault> {
    let unusable = |what: &str| {
        SinkFault::new(
            FaultKind::Unauthorised,
            format!(
                "auth.credentials_file: {what} in {}, expected a user's JWT and seed as nsc writes them",
                path.display()
            ),
        )
    };
    let unreadable = |error: std::io::Error| unusable(&format!("unreadable content ({error})"));
    let content = file::read(path, secret::MAX_FILE_BYTES).map_err(unreadable)?;
    let text = content.text().map_err(unreadable)?;
    let mut parts = blocks(text);
    let (Some(jwt), Some(seed)) = (parts.next(), parts.next()) else {
        return Err(unusable("found fewer than two blocks"));
    };
    Ok(Identity::Jwt(
        Secret::new(jwt),
        key_pair(seed, "auth.credentials_file")?,
    ))
}

/// Returns for each block its first line, which follows a line of dashes with a title: `-----BEGIN …-----`. Closing lines
/// have a title too, but no content after them.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut opened = false;
    text.lines().map(str::trim).filter(move |line| {
        let is_dashes = line.starts_with("---");
        let is_content = opened && !is_dashes && !line.is_empty();
        if is_dashes || is_content {
            opened = line.contains("BEGIN");
        }
        is_content
    })
}

fn key_pair(seed: &str, key: &str) -> Result<KeyPair, SinkFault> {
    KeyPair::from_seed(seed).map_err(|error| {
        SinkFault::new(
            FaultKind::Unauthorised,
            format!(
                "{key}: found a text that is not the seed of an nkey ({error}), expected a seed such as SU…"
            ),
        )
    })
}

fn unreadable(error: &SecretError) -> SinkFault {
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(" ({cause})"));
    SinkFault::new(FaultKind::Unauthorised, format!("auth: {error}{cause}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FILE: &str = "-----BEGIN NATS USER JWT-----\neyJ0.abc-_.x\n------END NATS USER JWT------\n\n\
        ************************* IMPORTANT *************************\nNKEY Seed printed below can be used sign and prove \
        identity.\n\n-----BEGIN USER NKEY SEED-----\nSUSEED\n------END USER NKEY SEED------\n\n****\n";

    #[test]
    fn jwt_and_seed_are_found_in_a_credentials_file() {
        assert_eq!(blocks(FILE).collect::<Vec<_>>(), ["eyJ0.abc-_.x", "SUSEED"]);
        let windows = FILE.replace('\n', "\r\n");
        assert_eq!(blocks(&windows).collect::<Vec<_>>(), ["eyJ0.abc-_.x", "SUSEED"]);
    }

    #[test]
    fn each_authentication_method_proves_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::new_user();
        let path = folder.path().join("user.creds");
        fs::write(&path, FILE.replace("SUSEED", &key.seed().unwrap())).unwrap();
        let proof = |config: AuthConfig| Identity::read(Some(&config)).unwrap().prove(b"nonce").unwrap();

        let auth = proof(AuthConfig {
            credentials_file: Some(path),
            ..AuthConfig::default()
        });
        assert_eq!(auth.jwt.as_deref(), Some("eyJ0.abc-_.x"));
        key.verify(b"nonce", &auth.signature.unwrap()).unwrap();

        let auth = proof(AuthConfig {
            nkey: Some(Secret::new(key.seed().unwrap())),
            ..AuthConfig::default()
        });
        assert_eq!(auth.nkey, Some(key.public_key()));
        key.verify(b"nonce", &auth.signature.unwrap()).unwrap();

        let auth = proof(AuthConfig {
            user: Some("u".into()),
            password: Some(Secret::new("p")),
            ..AuthConfig::default()
        });
        assert_eq!(
            (auth.username.as_deref(), auth.password.as_deref()),
            (Some("u"), Some("p"))
        );
        let auth = proof(AuthConfig {
            token: Some(Secret::new("t")),
            ..AuthConfig::default()
        });
        assert_eq!(auth.token.as_deref(), Some("t"));
        assert!(Identity::read(None).unwrap().prove(b"").unwrap().token.is_none());
    }

    #[test]
    fn invalid_secret_file_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wrong");
        let fault = |config: AuthConfig| Identity::read(Some(&config)).err().unwrap();
        let with_file = || AuthConfig {
            credentials_file: Some(path.clone()),
            ..AuthConfig::default()
        };
        let missing = fault(with_file());
        assert!(
            missing.kind == FaultKind::Unauthorised && missing.reason.contains("wrong"),
            "{missing}"
        );
        fs::write(&path, "hunter2").unwrap();
        let wrong = fault(with_file());
        assert!(
            wrong.reason.contains("two blocks") && !wrong.reason.contains("hunter2"),
            "{wrong}"
        );
        let seed = fault(AuthConfig {
            nkey_file: Some(path.clone()),
            ..AuthConfig::default()
        });
        assert!(
            seed.reason.contains("not the seed") && !seed.reason.contains("hunter2"),
            "{seed}"
        );
    }
}
