//! The data folder of a bridge, locked so that only one bridge uses it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use neurobridge_core::private_folder;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::{
    exit::{Exit, Failure, STOP_OTHER},
    task::joined,
};

/// The file of the history in the folder.
pub(crate) const HISTORY: &str = "history.ndjson";
/// The mode bits that allow others than owner and group to enter, or to create and remove files.
const OTHERS_ENTER: u32 = 0o001;
const OTHERS_WRITE: u32 = 0o002;

/// A data folder locked by this process until it is dropped.
///
/// The lock is on the folder itself: a lock file can be deleted, and the next bridge would lock a new file of the same
/// name.
#[derive(Debug)]
pub(crate) struct DataDir {
    /// `None` if the file system does not support locks on folders.
    _lock: Option<Flock<File>>,
}

/// The reason why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// A bridge, or a replay that replaces it, uses the folder.
    #[error("another bridge runs on this data_dir, {}", path.display())]
    Locked { path: PathBuf },
    /// The folder cannot be created or opened.
    #[error("cannot {action} the data_dir {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl DataDir {
    /// Creates the folder with access for its owner only, unless it exists, and locks it.
    ///
    /// # Errors
    /// See [`DataDirError`]. The exit code shows whether a later attempt may succeed.
    pub(crate) async fn lock(path: &Path) -> Result<Self, Failure> {
        let path = path.to_owned();
        // The file system may hang.
        joined(spawn_blocking(move || Self::lock_now(&path)).await).map_err(|error| match error {
            DataDirError::Locked { .. } => Failure::new(Exit::TryLater, error).with_step(STOP_OTHER),
            DataDirError::Io { .. } => Failure::new(Exit::Disk, error),
        })
    }

    fn lock_now(path: &Path) -> Result<Self, DataDirError> {
        let failed = |action| {
            move |source| DataDirError::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        // Only the owner has access, because events contain personal data.
        private_folder::create_all(path, &private_folder::create, &|_| Ok(())).map_err(failed("create"))?;
        let folder = File::open(path).map_err(failed("open"))?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: Some(lock) }),
            Err((_, Errno::EWOULDBLOCK)) => Err(DataDirError::Locked {
                path: path.to_owned(),
            }),
            // NFS, for example, locks files only. A spool on disk has a lock file of its own.
            Err((_, error)) => {
                warn!(
                    data_dir = %path.display(),
                    %error,
                    "file system does not support locks; a second bridge in this data_dir would not be detected"
                );
                Ok(Self { _lock: None })
            }
        }
    }
}

/// Returns a warning if other users than owner and group have access to a folder; `None` if they have not, or if the
/// folder does not exist.
pub(crate) fn open_to_others(path: &Path) -> Option<String> {
    let mode = |path: &Path| Some(fs::metadata(path).ok()?.permissions().mode());
    let folder = path.canonicalize().ok()?;
    let found = mode(&folder)?;
    // If a parent folder denies access to others, the folder's own mode does not matter.
    let is_reachable = folder
        .ancestors()
        .skip(1)
        .all(|above| mode(above).is_some_and(|mode| mode & OTHERS_ENTER != 0));
    let actions = match (found & OTHERS_ENTER != 0, found & OTHERS_WRITE != 0) {
        _ if !is_reachable => return None,
        (true, true) => "enter it, and replace its files",
        (true, false) => "enter it",
        _ => return None,
    };
    Some(format!(
        "{} has the mode {:04o}: every user of this machine may {actions}; chmod 0700 denies access to others",
        path.display(),
        found & 0o7777
    ))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn second_lock_is_refused_until_the_first_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/data");
        let first = DataDir::lock_now(&folder).unwrap();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        // The lock survives the removal of files in the folder.
        fs::write(folder.join("x"), "").unwrap();
        fs::remove_file(folder.join("x")).unwrap();
        let error = DataDir::lock_now(&folder).unwrap_err();
        assert!(matches!(error, DataDirError::Locked { .. }), "{error}");
        drop(first);
        DataDir::lock_now(&folder).unwrap();
    }

    #[test]
    fn file_in_place_of_the_folder_is_named_in_the_error() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::lock_now(&file).unwrap_err();
        assert!(
            matches!(error, DataDirError::Io { .. }) && error.to_string().contains("/file"),
            "{error}"
        );
    }

    #[test]
    fn folder_accessible_to_other_users_is_reported() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        assert_eq!(open_to_others(&folder), None, "the folder does not exist yet");
        fs::create_dir(&folder).unwrap();
        let report = |above, mode| {
            fs::set_permissions(root.path(), Permissions::from_mode(above)).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
            open_to_others(&folder)
        };
        for mode in [0o700, 0o750, 0o770] {
            assert_eq!(report(0o755, mode), None, "{mode:o}");
        }
        let enter = report(0o755, 0o755).unwrap();
        assert!(enter.contains("0755") && !enter.contains("replace"), "{enter}");
        assert!(report(0o755, 0o777).unwrap().contains("replace"));
        assert_eq!(report(0o700, 0o777), None, "the parent denies access");
    }
}
