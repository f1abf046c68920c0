//! The paths of the workspace, of the target directory, and of temporary folders below the target directory.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result};

/// Returns the folder that contains the workspace's `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Returns cargo's target directory: `CARGO_TARGET_DIR` if it is set, otherwise `target` in the workspace.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace_root().join(dir),
        None => workspace_root().join("target"),
    }
}

/// Returns the folder of all broker files; its `cache` contains the downloads.
pub fn brokers_dir() -> PathBuf {
    target_dir().join("brokers")
}

/// Returns the folder that contains every [`Scratch`].
pub fn scratch_dir() -> PathBuf {
    brokers_dir().join("run")
}

/// A temporary folder of this process, `target/brokers/run/<name>-<pid>-<n>`.
///
/// When dropped, the folder is removed, unless the thread panics: the logs in the folder are then needed.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    kept: bool,
}

impl Scratch {
    /// Creates a new folder whose name begins with `name`.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created.
    pub fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::at(scratch_dir().join(format!("{name}-{}-{number}", process::id())))
    }

    /// Creates a folder at exactly this path; an existing one is removed first.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created or removed.
    pub fn at(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("removing the old folder {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("creating the folder {}", path.display()))?;
        Ok(Self { path, kept: false })
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of an item in the folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps the folder when this value is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.kept || thread::panicking() {
            return;
        }
        // A folder that cannot be removed now is removed by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the temporary folders of processes that no longer exist (after a signal or a failed test).
///
/// # Errors
/// Returns an error if the parent folder cannot be read.
pub fn sweep_scratch() -> Result<()> {
    let dir = scratch_dir();
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name
            .to_string_lossy()
            .rsplit('-')
            .nth(1)
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_removed_unless_kept() {
        let scratch = Scratch::new("scratch-test").unwrap();
        let path = scratch.path().to_path_buf();
        assert!(path.is_dir());
        drop(scratch);
        assert!(!path.exists());

        let mut scratch = Scratch::new("scratch-test").unwrap();
        scratch.keep();
        let path = scratch.path().to_path_buf();
        drop(scratch);
        assert!(path.is_dir());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn sweep_removes_only_folders_of_dead_processes() {
        let mine = Scratch::new("sweep-test").unwrap();
        // Larger than the largest process id of Linux (2^22), so that no process has it.
        let orphan = scratch_dir().join("sweep-test-4194999-0");
        fs::create_dir_all(&orphan).unwrap();
        sweep_scratch().unwrap();
        assert!(mine.path().is_dir());
        assert!(!orphan.exists());
    }
}
