//! Durable folders and files, accessible to their owner only. All changes on the disk use these functions. Each function that
//! changes the disk has a failpoint, at which tests inject an error.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use neurobridge_core::{
    os_error::{self, ErrorClass},
    private_folder::{self, FILE_MODE},
};
use nix::errno::Errno;

/// The maximum number of slices per write; the system's own limit is 1,024.
const SLICES: usize = 256;
/// The number of immediate retries of a reservation that a signal interrupts.
#[cfg(target_os = "linux")]
const INTERRUPTIONS: u32 = 16;

/// An error that the disk reported.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct DiskError {
    /// The operation: "write", "sync", …
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The system's error.
    pub source: Arc<io::Error>,
    class: ErrorClass,
}

impl DiskError {
    pub(crate) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self {
            action,
            path,
            class: ErrorClass::of(&source),
            source: Arc::new(source),
        }
    }

    /// Returns a converter for a failed sync, which is final for every error of the system.
    fn of_sync(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let error = Self::of(action, path);
        move |source| Self {
            class: ErrorClass::Final,
            ..error(source)
        }
    }

    /// Whether the operation may be retried: once there is space ([`ErrorClass::NoSpace`]), or a resource of the process or
    /// the system ([`ErrorClass::Temporary`]). Every other error ends the log.
    pub const fn class(&self) -> ErrorClass {
        self.class
    }

    pub(crate) const fn is_retryable(&self) -> bool {
        self.class.is_retryable()
    }
}

/// Creates a folder and its missing parents.
pub(crate) fn make_folder(folder: &Path) -> Result<(), DiskError> {
    let create = |folder: &Path| {
        point("folder-create")
            .and_then(|()| private_folder::create(folder))
            .map_err(DiskError::of("create the folder", folder))
    };
    private_folder::create_all(folder, &create, &sync_folder)
}

/// Waits until the names in a folder are on the disk. On a file system that cannot sync a folder the call returns at once: the
/// operator was warned when the log was opened.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), DiskError> {
    can_sync_folder(folder).map(drop)
}

/// Syncs a folder; returns whether its file system supports that. Some network and FUSE file systems return `EINVAL`.
pub(crate) fn can_sync_folder(folder: &Path) -> Result<bool, DiskError> {
    // Separate from the sync: a lack of file descriptors is temporary, and an error of a sync is final.
    let open = point("folder-open")
        .and_then(|()| File::open(folder))
        .map_err(DiskError::of("open the folder", folder))?;
    match point("folder-sync").and_then(|()| open.sync_all()) {
        Ok(()) => Ok(true),
        Err(error) if os_error::is_unsupported(&error) => Ok(false),
        Err(error) => Err(DiskError::of_sync("sync the folder", folder)(error)),
    }
}

/// Creates an empty file, replacing an existing one.
pub(crate) fn create(path: &Path) -> Result<File, DiskError> {
    point("file-create")
        .and_then(|()| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(FILE_MODE)
                .open(path)
        })
        .map_err(DiskError::of("create", path))
}

/// Opens a file for reading and writing, and creates it if it does not exist.
pub(crate) fn open_or_create(path: &Path) -> Result<File, DiskError> {
    point("file-open")
        .and_then(|()| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(FILE_MODE)
                .open(path)
        })
        .map_err(DiskError::of("open", path))
}

/// Reserves space, so that a full disk is detected when a file is created and not during a write. On a file system
/// without reservations the file grows as it is written.
pub(crate) fn reserve(file: &File, path: &Path, length: u64) -> Result<(), DiskError> {
    #[cfg(target_os = "linux")]
    {
        use nix::fcntl::{FallocateFlags, fallocate};
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let mut interruptions = 0;
        let reserved = point("file-reserve").and_then(|()| {
            loop {
                match fallocate(file, FallocateFlags::empty(), 0, length) {
                    Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => return Ok(()),
                    Err(Errno::EINTR) if interruptions < INTERRUPTIONS => interruptions += 1,
                    Err(error) => return Err(error.into()),
                }
            }
        });
        reserved.map_err(DiskError::of("reserve space for", path))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, path, length);
        Ok(())
    }
}

/// Writes all bytes at an offset.
pub(crate) fn write_at(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
    point("file-write")
        .and_then(|()| file.write_all_at(bytes, offset))
        .map_err(DiskError::of("write", path))
}

/// Writes slices one after the other from an offset, without copying them.
pub(crate) fn write_pieces(
    mut file: &File,
    path: &Path,
    pieces: &[Bytes],
    offset: u64,
) -> Result<(), DiskError> {
    let mut write = || -> io::Result<()> {
        point("segment-write")?;
        file.seek(SeekFrom::Start(offset))?;
        for pieces in pieces.chunks(SLICES) {
            let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut slices = &mut slices[..];
            while !slices.is_empty() {
                match file.write_vectored(slices) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => IoSlice::advance_slices(&mut slices, written),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    };
    write().map_err(DiskError::of("write", path))
}

/// Waits until a file's content is on the disk. Must never be retried after an error: the system may have marked
/// unwritten data as written.
pub(crate) fn sync(file: &File, path: &Path) -> Result<(), DiskError> {
    point("file-sync")
        .and_then(|()| file.sync_data())
        .map_err(DiskError::of_sync("sync", path))
}

/// Truncates a file to a length.
pub(crate) fn truncate(file: &File, path: &Path, length: u64) -> Result<(), DiskError> {
    point("file-cut")
        .and_then(|()| file.set_len(length))
        .map_err(DiskError::of("truncate", path))
}

/// Renames a file. The caller syncs the folder as a separate operation, so that each one can be retried alone.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    point("file-rename")
        .and_then(|()| fs::rename(from, to))
        .map_err(DiskError::of("rename", from))
}

/// Replaces a small file atomically through a temporary file: after a crash the file has the old or the new content.
pub(crate) fn replace(folder: &Path, name: &str, content: &[u8]) -> Result<(), DiskError> {
    let temporary = folder.join(temporary_name(name));
    let file = create(&temporary)?;
    write_at(&file, &temporary, content, 0)?;
    sync(&file, &temporary)?;
    rename(&temporary, &folder.join(name))?;
    sync_folder(folder)
}

/// Returns the name of the temporary file that [`replace`] writes.
pub(crate) fn temporary_name(name: &str) -> String {
    format!("{name}.tmp")
}

/// Returns whether an open file has been removed from its folder: data written to it is lost when it is closed.
pub(crate) fn is_removed(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}

/// Returns the identity of the folder at a path: device and inode.
pub(crate) fn folder_identity(folder: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(folder)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Returns the size in bytes of the file system that contains a folder; `None` if it is unknown.
pub(crate) fn file_system_size(folder: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(folder).ok()?;
    let size = (found.blocks() as u64).checked_mul(found.fragment_size() as u64)?;
    (size > 0).then_some(size)
}

/// Removes a file if it exists. The caller syncs the folder.
pub(crate) fn remove(path: &Path) -> Result<(), DiskError> {
    match point("file-remove").and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(DiskError::of("remove", path)),
    }
}

/// Returns the network file system that contains a folder; `None` also if the file system is unknown.
pub(crate) fn network_file_system(folder: &Path) -> Option<&'static str> {
    #[cfg(target_os = "linux")]
    {
        // From the kernel's `magic.h`.
        match nix::sys::statfs::statfs(folder).ok()?.filesystem_type().0 as u32 {
            0x6969 => Some("NFS"),
            0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
            0x5346_414f => Some("AFS"),
            0x00c3_6400 => Some("Ceph"),
            0x0102_1997 => Some("9P"),
            _ => None,
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        None
    }
}

/// A point at which a test makes the following call fail: `return` injects the error of a broken disk, `return(NAME)` a
/// temporary error, or the error of a file system that does not support the call.
#[cfg(feature = "failpoints")]
fn point(name: &'static str) -> io::Result<()> {
    fail::fail_point!(name, |how: Option<String>| Err(match how.as_deref() {
        Some("full") => io::ErrorKind::StorageFull.into(),
        Some("files") => Errno::EMFILE.into(),
        Some("memory") => Errno::ENOMEM.into(),
        Some("interrupted") => Errno::EINTR.into(),
        Some("unsupported") => Errno::EINVAL.into(),
        _ => io::Error::other("a test lets the disk fail"),
    }));
    Ok(())
}

#[cfg(not(feature = "failpoints"))]
#[expect(clippy::unnecessary_wraps, reason = "it fails in tests")]
const fn point(_: &'static str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn created_files_are_private() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        make_folder(&folder).unwrap();
        make_folder(&folder).unwrap();
        create(&folder.join("x")).unwrap();
        open_or_create(&folder.join("y")).unwrap();
        for (path, mode) in [("a", 0o700), ("a/b", 0o700), ("a/b/x", 0o600), ("a/b/y", 0o600)] {
            let permissions = root.path().join(path).metadata().unwrap().permissions();
            assert_eq!(permissions.mode() & 0o777, mode, "{path}");
        }
    }

    #[test]
    fn slices_are_written_in_order() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x");
        let file = create(&path).unwrap();
        let pieces: Vec<Bytes> = (0..600u32)
            .map(|i| Bytes::from(i.to_le_bytes().to_vec()))
            .collect();
        write_pieces(&file, &path, &pieces, 8).unwrap();
        let written = fs::read(&path).unwrap();
        assert_eq!(
            written[8..],
            (0..600u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()
        );
    }
}
