//! Checks whether a file can be written, without writing to it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    libc::O_NONBLOCK,
    unistd::{AccessFlags, access},
};

use crate::{config::FileConfig, error::FileError, rotation::Place};

/// Checks whether a sink with this configuration could write to its file; creates and changes nothing. Returns a warning
/// for the operator, if there is one.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn try_out(config: &FileConfig, data_dir: &Path) -> Result<Option<String>, FileError> {
    let path = data_dir.join(&config.path);
    let lock_file = Place::new(&path)?.lock_file();
    for file in [&path, &lock_file] {
        // Opening must not wait for a reader of a pipe.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_NONBLOCK)
            .open(file);
        match opened {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::io("open", file)(error));
            }
            Ok(opened) if !opened.metadata().is_ok_and(|metadata| metadata.is_file()) => {
                return Err(FileError::NotRegular { path: file.clone() });
            }
            Ok(_) | Err(_) => {}
        }
    }
    // If the folder does not exist, it will be created in the nearest existing parent.
    let folder = path.ancestors().skip(1).find(|folder| folder.exists());
    let folder = folder.unwrap_or(Path::new("."));
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|error| FileError::io("create files in", folder)(error.into()))?;
    Ok(is_locked(&lock_file).then(|| {
        "another process writes to the file; if that process is not this bridge, configure separate paths for \
         the two"
            .to_owned()
    }))
}

fn is_locked(lock_file: &Path) -> bool {
    let Ok(file) = File::open(lock_file) else {
        return false;
    };
    matches!(
        Flock::lock(file, FlockArg::LockSharedNonblock),
        Err((_, Errno::EWOULDBLOCK))
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::folder;

    fn config(path: &str) -> FileConfig {
        serde_json::from_value(serde_json::json!({ "path": path })).unwrap()
    }

    #[test]
    fn trial_creates_nothing_and_names_obstacles() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(try_out(&config("a/b/events.jsonl"), root.path()).unwrap(), None);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

        fs::write(root.path().join("file"), "").unwrap();
        let error = try_out(&config("file/events.jsonl"), root.path()).unwrap_err();
        assert!(error.sentence().contains("cannot open"), "{}", error.sentence());
        fs::create_dir(root.path().join("folder")).unwrap();
        let error = try_out(&config("folder"), root.path()).unwrap_err();
        assert!(error.sentence().contains("directory"), "{}", error.sentence());
    }

    #[test]
    fn file_with_another_writer_has_a_warning() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("events.jsonl");
        fs::write(&path, "{}\n").unwrap();
        let lock = folder::lock(&Place::new(&path).unwrap().lock_file(), &path).unwrap();
        let warning = try_out(&config("events.jsonl"), root.path()).unwrap();
        assert!(warning.unwrap().contains("another process"));
        drop(lock);
        assert_eq!(try_out(&config("events.jsonl"), root.path()).unwrap(), None);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
    }
}
