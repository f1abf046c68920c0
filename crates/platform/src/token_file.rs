//! The file in which a bridge stores the token that it created, so that a restart does not create another one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use neurobridge_core::{
    file,
    private_folder::{FILE_MODE, parent},
    secret::{MAX_FILE_BYTES, Secret},
};
use serde::{Deserialize, Serialize};

use crate::iam::CreatedToken;

/// The version of the format.
const VERSION: u32 = 1;
/// The consequence of an unusable file, for error texts.
const NEW_TOKEN: &str = "expected the token that this bridge stored; a new token is created";

/// A stored token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredToken {
    /// The token.
    pub token: CreatedToken,
    /// The time at which it was received, by the local clock.
    pub received_at: Timestamp,
    /// The previous token, if it was not deleted yet.
    pub old: Option<(CreatedToken, Timestamp)>,
}

/// The file of a stored token, readable for its owner only. The token belongs to a scope, such as an account or a space
/// at an address; a stored token of another scope is not used.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
    scope: String,
}

/// The reason why a token cannot be read from the file or stored in the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// The file cannot be read.
    #[error("the stored token in {} cannot be read, {NEW_TOKEN}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file has been changed or is incomplete.
    #[error("the stored token in {} is damaged, {NEW_TOKEN}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer program.
    #[error(
        "the stored token in {} has version {version}, written by a newer neurobridge, expected version {VERSION}; a \
         new token is created",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version.
        version: u32,
    },
    /// Others may have read the token.
    #[error(
        "the stored token in {} is readable for other users (mode {mode:o}), expected mode 600; a new token is \
         created",
        path.display()
    )]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// The permissions.
        mode: u32,
    },
    /// The token belongs to another scope.
    #[error(
        "the stored token in {} was created for a different account, space or address; a new token is created",
        path.display()
    )]
    OtherScope {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("the token cannot be stored in {}; after a restart the bridge will create a new token", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    scope: String,
    token: TokenEntry,
    old: Option<TokenEntry>,
}

/// The version alone: the rest of a newer file is unknown.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct TokenEntry {
    id: u64,
    key: String,
    life_seconds: Option<f64>,
    received_at: Timestamp,
}

impl TokenEntry {
    fn new(token: &CreatedToken, received_at: Timestamp) -> Self {
        Self {
            id: token.id,
            key: token.key.expose().to_owned(),
            life_seconds: token.lifetime.map(|lifetime| lifetime.as_secs_f64()),
            received_at,
        }
    }

    /// Returns the token; `None` if a value is not valid.
    fn read(self) -> Option<(CreatedToken, Timestamp)> {
        let lifetime = match self.life_seconds {
            Some(seconds) => Some(Duration::try_from_secs_f64(seconds).ok()?),
            None => None,
        };
        let token = CreatedToken {
            id: self.id,
            key: Secret::new(self.key),
            lifetime,
        };
        (!token.key.expose().is_empty()).then_some((token, self.received_at))
    }
}

impl TokenFile {
    /// Creates the handle of a file and the scope of its token, without I/O.
    pub fn new(path: impl Into<PathBuf>, scope: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            scope: scope.into(),
        }
    }

    /// Reads the token; `None` if there is no file. Blocks for up to [`file::TIME_LIMIT`].
    ///
    /// # Errors
    /// The file cannot be used. The caller reports the error and continues without a stored token.
    pub fn read(&self) -> Result<Option<StoredToken>, TokenFileError> {
        let path = || self.path.clone();
        let unreadable = |source| TokenFileError::Unreadable { path: path(), source };
        let damaged = || TokenFileError::Damaged { path: path() };
        let mode = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.mode() & 0o777,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        if mode & 0o077 != 0 {
            return Err(TokenFileError::OpenToOthers { path: path(), mode });
        }
        let content = file::read(&self.path, MAX_FILE_BYTES).map_err(unreadable)?;
        let version: Version = serde_json::from_slice(content.bytes()).map_err(|_| damaged())?;
        if version.version > VERSION {
            return Err(TokenFileError::Newer {
                path: path(),
                version: version.version,
            });
        }
        let content: Content = serde_json::from_slice(content.bytes()).map_err(|_| damaged())?;
        if content.scope != self.scope {
            return Err(TokenFileError::OtherScope { path: path() });
        }
        let (token, received_at) = content.token.read().ok_or_else(damaged)?;
        let old = match content.old {
            Some(old) => Some(old.read().ok_or_else(damaged)?),
            None => None,
        };
        Ok(Some(StoredToken {
            token,
            received_at,
            old,
        }))
    }

    /// Replaces the file atomically. Blocks until it is on the disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, stored: &StoredToken) -> Result<(), TokenFileError> {
        let old = stored.old.as_ref();
        let content = Content {
            version: VERSION,
            scope: self.scope.clone(),
            token: TokenEntry::new(&stored.token, stored.received_at),
            old: old.map(|(token, received_at)| TokenEntry::new(token, *received_at)),
        };
        self.replace(&content)
            .map_err(|source| TokenFileError::Unwritable {
                path: self.path.clone(),
                source,
            })
    }

    fn replace(&self, content: &Content) -> io::Result<()> {
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = Path::new(&new);
        // A crash may have left a temporary file with another mode.
        match fs::remove_file(new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(new)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.sync_all()?;
        fs::rename(new, &self.path)?;
        File::open(parent(&self.path))?.sync_all()
    }
}

#[cfg(test)]
#[path = "token_file_tests.rs"]
mod tests;
