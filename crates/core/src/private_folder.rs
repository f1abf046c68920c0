//! Durable folders that only their owner can access, because events contain personal data.

use std::{fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::Path};

/// The mode of a file with events: access for the owner only.
pub const FILE_MODE: u32 = 0o600;
/// The mode of a folder with events: access for the owner only.
pub const FOLDER_MODE: u32 = 0o700;

/// Creates a folder and its missing parents. `create` creates one folder, and `sync` waits until the names in a folder are on
/// the disk. The caller passes both functions to use its own error type and to inject faults in tests.
///
/// # Errors
/// Returns the errors of `create` and `sync`.
pub fn create_all<E>(
    folder: &Path,
    create: &impl Fn(&Path) -> Result<(), E>,
    sync: &impl Fn(&Path) -> Result<(), E>,
) -> Result<(), E> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = parent(folder);
    if parent != folder {
        create_all(parent, create, sync)?;
    }
    match create(folder) {
        // Another process has created the folder in the meantime.
        Err(_) if folder.is_dir() => Ok(()),
        created => created.and_then(|()| sync(parent)),
    }
}

/// Creates a folder whose parent exists.
///
/// # Errors
/// Returns the error of the operating system.
pub fn create(folder: &Path) -> io::Result<()> {
    DirBuilder::new().mode(FOLDER_MODE).create(folder)
}

/// Returns the folder that contains a file or folder.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn created_folders_are_private() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        for _ in 0..2 {
            create_all(&folder, &create, &|_: &Path| Ok(())).unwrap();
        }
        for path in ["a", "a/b"] {
            let mode = root.path().join(path).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, FOLDER_MODE, "{path}");
        }
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(create_all(&file.join("folder"), &create, &|_: &Path| Ok(())).is_err());
    }

    #[test]
    fn parent_of_a_bare_file_name_is_the_current_folder() {
        assert_eq!(parent(Path::new("a")), Path::new("."));
        assert_eq!(parent(Path::new("a/b")), Path::new("a"));
    }
}
