//! Folders and files that survive a power cut, for their owner only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use nix::fcntl::{Flock, FlockArg};

use crate::error::FileError;

/// Events hold personal data.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Makes a folder, and those above it, unless it is there.
pub(crate) fn make(folder: &Path) -> Result<(), FileError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if parent != folder {
        make(parent)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        // Made by someone else meanwhile.
        Err(_) if folder.is_dir() => Ok(()),
        created => {
            created.map_err(FileError::io("make the folder", folder))?;
            sync(parent)
        }
    }
}

/// Waits until the names in a folder are on the disk.
pub(crate) fn sync(folder: &Path) -> Result<(), FileError> {
    File::open(folder)
        .map_err(FileError::io("open", folder))?
        .sync_all()
        .map_err(FileError::sync(folder))
}

/// Opens a file for reading and writing, making it unless it is there; whether it was made. Its name is not yet on the
/// disk then.
pub(crate) fn open(path: &Path) -> Result<(File, bool), FileError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            let file = options.open(path).map_err(FileError::io("open", path))?;
            Ok((file, false))
        }
        Err(error) => Err(FileError::io("make", path)(error)),
    }
}

/// Takes the lock of `lock_file` for as long as what is returned lives; `guarded` is the file it stands for.
pub(crate) fn lock(lock_file: &Path, guarded: &Path) -> Result<Flock<File>, FileError> {
    let (file, is_new) = open(lock_file)?;
    if is_new && let Some(folder) = lock_file.parent() {
        sync(folder)?;
    }
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => FileError::Locked {
            path: guarded.to_owned(),
        },
        error => FileError::io("lock", lock_file)(error.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_made_is_for_its_owner_only() {
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
    fn a_file_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = make(&file.join("folder")).unwrap_err().to_string();
        assert!(
            error.contains("can't make the folder") && error.contains("/file"),
            "{error}"
        );
    }
}
