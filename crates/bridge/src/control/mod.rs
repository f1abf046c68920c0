//! The control socket: other commands on the same machine send their requests to the running bridge through it.
//!
//! It is a Unix socket in the data folder, for its owner only, and not an HTTP path, because it sends events and changes the
//! bridge. The bridge sends a greeting, the client sends a request as one line of JSON, and the bridge answers: with events for
//! `neurobridge tail` (a *tail*), with a line of JSON for every other request. The bridge never waits for a tail: a tail that is
//! too slow misses events and receives their number.

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
    protocol::{Answer, Greeting, Request, TailMessage},
    server::{Control, PendingRequest},
};

/// The name of the socket in the data folder.
const SOCKET: &str = "control.sock";

/// The longest path of a socket that every kernel accepts (108 bytes on Linux, 104 elsewhere). Paths of folders may be
/// longer.
const MAX_PATH_BYTES: usize = 100;

/// Returns the path of the socket in a data folder.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// An open folder, with paths of sockets that the kernel accepts.
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

    /// Returns a path to a file in the folder: through its file descriptor if the folder's own path is too long.
    fn join(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        if path.as_os_str().len() <= MAX_PATH_BYTES {
            return path;
        }
        Path::new("/proc/self/fd")
            .join(self.handle.as_raw_fd().to_string())
            .join(name)
    }
}

#[cfg(test)]
mod tests;
