//! The folder of all that a bridge keeps: locked, so that one bridge runs on it.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::{
    exit::{Exit, Failure},
    feed::joined,
};

/// Events hold personal data.
const FOLDER_MODE: u32 = 0o700;
/// Bits of a mode by which others than owner and group may enter, or make and remove files.
const OTHERS_ENTER: u32 = 0o001;
const OTHERS_WRITE: u32 = 0o002;

/// A data folder that this process alone may use. Dropped, it is free.
///
/// The lock is that of the folder itself: a file with a lock can be deleted, and the next bridge would lock another one of the same
/// name.
#[derive(Debug)]
pub(crate) struct DataDir {
    /// Nothing where the file system has no such lock.
    _lock: Option<Flock<File>>,
}

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// A bridge, or a replay in its place, uses it.
    #[error("another bridge runs on this data_dir, {}", path.display())]
    Locked { path: PathBuf },
    /// The system refused to create or to open it.
    #[error("cannot {action} the data_dir {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl DataDir {
    /// Creates the folder unless it exists, for its owner only, and locks it.
    ///
    /// # Errors
    /// See [`DataDirError`]; the exit code tells whether to come back later.
    pub(crate) async fn lock(path: &Path) -> Result<Self, Failure> {
        let path = path.to_owned();
        // A folder may be on a file system that hangs.
        joined(spawn_blocking(move || Self::lock_now(&path)).await).map_err(|error| {
            let exit = match error {
                DataDirError::Locked { .. } => Exit::TryLater,
                DataDirError::Io { .. } => Exit::Disk,
            };
            Failure::new(exit, error)
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
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(path)
            .map_err(failed("create"))?;
        let folder = File::open(path).map_err(failed("open"))?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: Some(lock) }),
            Err((_, Errno::EWOULDBLOCK)) => Err(DataDirError::Locked {
                path: path.to_owned(),
            }),
            // NFS, for one, locks files only. A spool on disk has a lock of its own, in a file.
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

/// Returns what others than its owner and group may do in a folder, in a sentence, unless that is nothing or it does not exist.
pub(crate) fn open_to_others(path: &Path) -> Option<String> {
    let mode = |path: &Path| Some(fs::metadata(path).ok()?.permissions().mode());
    let folder = path.canonicalize().ok()?;
    let found = mode(&folder)?;
    // A folder that others can't come to is theirs in no way, whatever its own mode says.
    let is_reachable = folder
        .ancestors()
        .skip(1)
        .all(|above| mode(above).is_some_and(|mode| mode & OTHERS_ENTER != 0));
    let what = match (found & OTHERS_ENTER != 0, found & OTHERS_WRITE != 0) {
        _ if !is_reachable => return None,
        (true, true) => "enter it, and replace its files",
        (true, false) => "enter it",
        _ => return None,
    };
    Some(format!(
        "{} has the mode {:04o}: every user of this machine may {what}; chmod 0700 denies access to others",
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
        // Whatever is deleted inside of it.
        fs::write(folder.join("x"), "").unwrap();
        fs::remove_file(folder.join("x")).unwrap();
        let error = DataDir::lock_now(&folder).unwrap_err();
        assert!(matches!(error, DataDirError::Locked { .. }), "{error}");
        drop(first);
        DataDir::lock_now(&folder).unwrap();
    }

    #[test]
    fn file_in_place_of_the_folder_is_named() {
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
    fn folder_that_others_may_enter_is_reported() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        assert_eq!(open_to_others(&folder), None, "there is none yet");
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
        assert_eq!(report(0o700, 0o777), None, "nobody else comes to it");
    }
}
