//! A small file system for the data of the bridge, which tests can fill.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::process::Guardian;
use anyhow::{Context, Result};

/// The interval at which space that has become free is filled again.
const REFILL: Duration = Duration::from_millis(50);

/// A mounted file system, which is unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    place: PathBuf,
    guardian: Option<Guardian>,
}

impl SmallDisk {
    /// Creates the folder `place` and mounts a file system of `size_mib` there: ext4 in a file below `dir`, so that syncs reach
    /// the disk, or else a tmpfs. Returns `None` if neither can be mounted, for example without root privileges.
    ///
    /// # Errors
    /// Returns an error if the folder or the file cannot be created.
    pub fn mount(dir: &Path, place: &Path, size_mib: u64) -> Result<Option<Self>> {
        fs::create_dir_all(place).with_context(|| format!("creating the folder {}", place.display()))?;
        if !mount_ext4(&dir.join("disk.img"), place, size_mib)? && !mount_tmpfs(place, size_mib) {
            return Ok(None);
        }
        let guardian = Guardian::new(&["umount", "--lazy", &place.to_string_lossy()])?;
        Ok(Some(Self {
            place: place.to_path_buf(),
            guardian: Some(guardian),
        }))
    }

    /// Returns the ballast file of this file system.
    pub fn ballast(&self) -> Ballast {
        Ballast {
            path: self.place.join("ballast"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let place = self.place.to_string_lossy();
        if !succeeds("umount", &[&place]) {
            succeeds("umount", &["--lazy", &place]);
        }
        if let Some(guardian) = self.guardian.take() {
            guardian.retire();
        }
    }
}

fn mount_ext4(image: &Path, place: &Path, size_mib: u64) -> Result<bool> {
    let file = File::create(image).with_context(|| format!("creating {}", image.display()))?;
    file.set_len(size_mib << 20)
        .with_context(|| format!("sizing {}", image.display()))?;
    drop(file);
    let (image, place) = (image.to_string_lossy(), place.to_string_lossy());
    // No blocks are reserved for root, which may run this test.
    Ok(succeeds("mkfs.ext4", &["-q", "-F", "-m", "0", &image])
        && succeeds("mount", &["-o", "loop", &image, &place]))
}

fn mount_tmpfs(place: &Path, size_mib: u64) -> bool {
    let size = format!("size={size_mib}m");
    succeeds(
        "mount",
        &["-t", "tmpfs", "-o", &size, "tmpfs", &place.to_string_lossy()],
    )
}

/// Returns whether a program succeeds. The output of the program is discarded.
fn succeeds(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}

/// A file that fills the free space of a file system.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// Fills the free space, and fills space that becomes free later, until `is_needed` returns false. Then removes the file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be created, written or removed, except for a full disk.
    pub fn fill(&self, mut is_needed: impl FnMut() -> bool) -> Result<()> {
        let mut file = File::create(&self.path).context("creating the ballast")?;
        let filled = loop {
            if let Err(error) = fill_now(&mut file) {
                break Err(error);
            }
            if !is_needed() {
                break Ok(());
            }
            thread::sleep(REFILL);
        };
        fs::remove_file(&self.path).context("removing the ballast")?;
        filled
    }
}

fn fill_now(file: &mut File) -> Result<()> {
    // Small writes fill the last free bytes.
    for size in [1 << 20, 4096, 1] {
        let zeros = vec![0; size];
        loop {
            match file.write(&zeros) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error).context("writing the ballast"),
            }
        }
    }
    Ok(())
}
