//! The errors of files, and their conversion to sink faults.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
};

use neurobridge_core::{
    os_error::ErrorClass,
    sink::{FaultKind, SinkFault},
};

/// The reason why a file cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system reported an error.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk, or the quota, is full.
    #[error("no space left to {action} {}; free space, and writing continues", path.display())]
    NoSpace {
        /// The operation.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The system lacks a resource for the moment: open files, memory, locks.
    #[error("the system cannot {action} {} now; retrying", path.display())]
    Busy {
        /// The operation.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process writes to the file, perhaps this bridge with another spelling of the path.
    #[error(
        "another process writes to {}; stop that process, or configure a separate path for each process",
        path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A sync failed, so the written bytes may not be on the disk, and no later sync can report that: the system may have
    /// marked them as clean. The file is not written again; events without an acknowledgement are written to a new file.
    #[error(
        "{} could not be synced to the disk; events without an acknowledgement are written to a new file. Check the \
         disk",
        path.display()
    )]
    Sync {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A device, a pipe or a socket: bytes written to it cannot be read back, rotated or synced.
    #[error("{} is not a regular file, expected a regular file, or a path that does not exist", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// The path does not name a file.
    #[error("found \"{}\", expected the path of a file", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// The write was not performed, or its result is lost: the program is stopping, the file was opened again in the meantime,
    /// or the writer has panicked.
    #[error(
        "the write to {} was abandoned, because the program is stopping, the file was opened again, or the writer \
         has failed",
        path.display()
    )]
    Abandoned {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    /// Returns a converter for `map_err`, with the operation and the path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let path = path.to_owned();
            match ErrorClass::of(&source) {
                ErrorClass::NoSpace => Self::NoSpace { action, path, source },
                ErrorClass::Temporary => Self::Busy { action, path, source },
                ErrorClass::Final => Self::Io { action, path, source },
            }
        }
    }

    /// Returns a converter for `map_err`, for a failed sync.
    pub(crate) fn sync(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Sync {
            path: path.to_owned(),
            source,
        }
    }

    /// Returns the error and its cause in one sentence.
    pub(crate) fn sentence(&self) -> String {
        match self.source() {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}

impl From<FileError> for SinkFault {
    fn from(error: FileError) -> Self {
        // No error is final: permissions, mounts, full disks and other processes change, and a failed sync leads to a new file.
        Self::new(FaultKind::Disk, error.sentence())
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        let kind = match &error {
            FileError::Io { source, .. }
            | FileError::NoSpace { source, .. }
            | FileError::Busy { source, .. }
            | FileError::Sync { source, .. } => source.kind(),
            FileError::Locked { .. } => io::ErrorKind::ResourceBusy,
            FileError::NotRegular { .. } | FileError::NoFile { .. } | FileError::Abandoned { .. } => {
                io::ErrorKind::Other
            }
        };
        Self::new(kind, error.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_are_never_final() {
        let path = Path::new("/x/events.jsonl");
        let full = FileError::io("write to", path)(io::ErrorKind::StorageFull.into());
        let fault = SinkFault::from(full);
        assert!(!fault.is_final && fault.kind == FaultKind::Disk);
        assert!(
            fault
                .reason
                .starts_with("no space left to write to /x/events.jsonl"),
            "{fault}"
        );
        let fault = SinkFault::from(FileError::sync(path)(io::Error::from_raw_os_error(5)));
        assert!(!fault.is_final);
        assert!(
            fault.reason.contains("to a new file") && fault.reason.ends_with("(os error 5)"),
            "{fault}"
        );
        for (code, text) in [
            (24, "now; retrying"),
            (12, "now; retrying"),
            (122, "no space left"),
            (30, "cannot open"),
        ] {
            let fault = SinkFault::from(FileError::io("open", path)(io::Error::from_raw_os_error(code)));
            assert!(!fault.is_final && fault.reason.contains(text), "{fault}");
        }
    }
}
