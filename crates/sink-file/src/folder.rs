//! Creates, opens, locks and syncs folders and files, which only their owner may access.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Once,
};

use neurobridge_core::{
    os_error,
    private_folder::{self, FILE_MODE},
};
use nix::fcntl::{Flock, FlockArg};
use tracing::warn;

use crate::error::FileError;

/// Creates a folder and its missing parents.
pub(crate) fn make(folder: &Path) -> Result<(), FileError> {
    let create =
        |folder: &Path| private_folder::create(folder).map_err(FileError::io("create the folder", folder));
    private_folder::create_all(folder, &create, &sync)
}

/// Waits until the names in a folder are on the disk. Some network file systems report that they cannot sync a folder;
/// they are used with a warning.
pub(crate) fn sync(folder: &Path) -> Result<(), FileError> {
    let file = File::open(folder).map_err(FileError::io("open", folder))?;
    match synced(folder, || file.sync_all()) {
        Err(error) if os_error::is_unsupported(&error) => {
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                warn!(folder = %folder.display(), "the file system cannot sync a folder; new files may not survive a power cut");
            });
            Ok(())
        }
        synced => synced.map_err(FileError::sync(folder)),
    }
}

/// Waits until the content of a file is on the disk.
pub(crate) fn sync_file(file: &File, path: &Path) -> Result<(), FileError> {
    synced(path, || file.sync_data()).map_err(FileError::sync(path))
}

#[cfg(not(test))]
fn synced(_path: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    sync()
}

#[cfg(test)]
fn synced(path: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    testing::fail(path).map_or_else(sync, Err)
}

/// Injected faults for tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::{
        collections::HashMap,
        path::PathBuf,
        sync::{LazyLock, Mutex},
    };

    use super::*;

    static FAULTS: LazyLock<Mutex<HashMap<PathBuf, (u32, i32)>>> = LazyLock::new(Mutex::default);

    /// Makes the next `times` operations on a path (each sync, each write) fail with the error number `code`.
    pub(crate) fn inject(path: &Path, times: u32, code: i32) {
        FAULTS.lock().unwrap().insert(path.to_owned(), (times, code));
    }

    /// Returns the error with which the present operation on a path has to fail, if one was injected.
    pub(crate) fn fail(path: &Path) -> Option<io::Error> {
        let mut faults = FAULTS.lock().unwrap();
        let (times, code) = faults.get_mut(path)?;
        *times = times.checked_sub(1)?;
        Some(io::Error::from_raw_os_error(*code))
    }
}

/// Opens a file for reading and writing and creates it if it does not exist; returns whether the file is new. The folder of
/// a new file still has to be synced.
pub(crate) fn open(path: &Path) -> Result<(File, bool), FileError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            let file = options.open(path).map_err(FileError::io("open", path))?;
            Ok((file, false))
        }
        Err(error) => Err(FileError::io("create", path)(error)),
    }
}

/// Locks `lock_file` for the lifetime of the returned lock. `guarded`: the file that the lock protects, which the error names.
pub(crate) fn lock(lock_file: &Path, guarded: &Path) -> Result<Flock<File>, FileError> {
    let (file, is_new) = open(lock_file)?;
    if is_new {
        sync_name(lock_file)?;
    }
    lock_open(file, lock_file, guarded)
}

/// Opens the active file, creates it if it does not exist, and locks it. The lock file guards the name; this lock guards
/// the file itself, which may have several names.
pub(crate) fn open_locked(path: &Path) -> Result<Flock<File>, FileError> {
    let (file, is_new) = open(path)?;
    let metadata = file.metadata().map_err(FileError::io("read", path))?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular {
            path: path.to_owned(),
        });
    }
    if is_new {
        sync_name(path)?;
    }
    lock_open(file, path, path)
}

/// Waits until the name of a new file is on the disk. Removes the file on failure: the next attempt creates and syncs it.
fn sync_name(path: &Path) -> Result<(), FileError> {
    sync(private_folder::parent(path)).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

fn lock_open(file: File, path: &Path, guarded: &Path) -> Result<Flock<File>, FileError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => FileError::Locked {
            path: guarded.to_owned(),
        },
        error => FileError::io("lock", path)(error.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn created_files_are_private() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        make(&folder).unwrap();
        make(&folder).unwrap();
        let (_, is_new) = open(&folder.join("x")).unwrap();
        assert!(is_new && !open(&folder.join("x")).unwrap().1);
        for (path, mode) in [("a", 0o700), ("a/b", 0o700), ("a/b/x", 0o600)] {
            let permissions = root.path().join(path).metadata().unwrap().permissions();
            assert_eq!(permissions.mode() & 0o777, mode, "{path}");
        }
    }

    #[test]
    fn file_in_place_of_a_folder_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = make(&file.join("folder")).unwrap_err().to_string();
        assert!(
            error.contains("cannot create the folder") && error.contains("/file"),
            "{error}"
        );
    }
}
