//! A small file system of its own for the bridge's data, which can be full.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use neurobridge_tests::process::Guardian;

use crate::shell::{say, succeeds};

/// Some minutes of events: it fills by itself as well, with what the spool retains.
const SIZE_MIB: u64 = 256;
/// How often what became free meanwhile is taken again.
const REFILL: Duration = Duration::from_millis(50);

/// A file system that is mounted; dropped, it is unmounted.
#[derive(Debug)]
pub(super) struct SmallDisk {
    place: PathBuf,
    guardian: Option<Guardian>,
}

impl SmallDisk {
    /// Mounts one at `place`: ext4 in a file below `dir`, where syncing is real; or a tmpfs. Nothing where neither may be
    /// mounted, which is said in words.
    pub(super) fn mount(dir: &Path, place: &Path) -> Result<Option<Self>> {
        fs::create_dir_all(place).with_context(|| format!("making the folder {}", place.display()))?;
        let mounted = mount_ext4(&dir.join("disk.img"), place)? || mount_tmpfs(place);
        if !mounted {
            say(
                "nothing can be mounted here (that takes root): the disk is never full in this run; the spool is, \
                 at its max_size, when brokers are away for long",
            );
            return Ok(None);
        }
        let guardian = Guardian::new(&["umount", "--lazy", &place.to_string_lossy()])?;
        Ok(Some(Self {
            place: place.to_path_buf(),
            guardian: Some(guardian),
        }))
    }

    /// Where a ballast may be put.
    pub(super) fn ballast(&self) -> Ballast {
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

fn mount_ext4(image: &Path, place: &Path) -> Result<bool> {
    let file = File::create(image).with_context(|| format!("making {}", image.display()))?;
    file.set_len(SIZE_MIB << 20)
        .with_context(|| format!("sizing {}", image.display()))?;
    drop(file);
    let (image, place) = (image.to_string_lossy(), place.to_string_lossy());
    // No block is kept for root, who may run this.
    Ok(succeeds("mkfs.ext4", &["-q", "-F", "-m", "0", &image])
        && succeeds("mount", &["-o", "loop", &image, &place]))
}

fn mount_tmpfs(place: &Path) -> bool {
    let size = format!("size={SIZE_MIB}m");
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place);
    command.output().is_ok_and(|output| output.status.success())
}

/// A file that takes all the room there is.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// Takes all room, and what becomes free, for so long; then gives it back.
    pub(super) fn fill(&self, lasts: Duration) -> Result<()> {
        let until = Instant::now() + lasts;
        let mut file = File::create(&self.path).context("making the ballast")?;
        let filled = loop {
            if let Err(error) = take_all(&mut file) {
                break Err(error);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Ok(());
            }
            thread::sleep(REFILL.min(left));
        };
        fs::remove_file(&self.path).context("removing the ballast")?;
        filled
    }
}

fn take_all(file: &mut File) -> Result<()> {
    // The last free bytes are taken by small writes.
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
