//! The tap: the events of a running bridge, for `neurobridge tail` on the same machine.
//!
//! A Unix socket in the data folder, for its owner only and never over HTTP: what comes out are events. A tail looks on
//! and is waited for by nobody: what it is too slow for it misses, and is told how much that was.

mod client;
mod protocol;
mod server;

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

pub(crate) use self::{
    client::Client,
    protocol::{Arrival, Greeting},
    server::Tap,
};

/// The socket's name in the data folder.
const SOCKET: &str = "tail.sock";

/// The kernel takes paths of some hundred bytes (108 on Linux, 104 elsewhere) for a socket; folders may have longer ones.
const LONGEST: usize = 100;

/// The socket of a data folder.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// A folder in which sockets are named by paths that the kernel takes.
struct Folder {
    path: PathBuf,
    handle: File,
}

impl Folder {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            handle: File::open(path)?,
        })
    }

    /// A path of a file in it, by way of the open folder where the folder's own path is too long.
    fn join(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        if path.as_os_str().len() <= LONGEST {
            return path;
        }
        Path::new("/proc/self/fd")
            .join(self.handle.as_raw_fd().to_string())
            .join(name)
    }
}

#[cfg(test)]
mod tests;
