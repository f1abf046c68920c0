//! The bridge's end of the tap.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::Path,
    process,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use neurobridge_core::reader::{Cursor, Read, Reader};
use neurobridge_spool::Spool;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Notify, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Arrival, Folder, Greeting, SOCKET};

/// Tails at a time: each may hold [`QUEUE_BYTES`].
const MOST_TAILS: usize = 8;
/// Batches, and bytes of them, that wait for one tail. What comes while it is full that tail misses.
const QUEUE: usize = 256;
const QUEUE_BYTES: usize = 4 << 20;
/// How long the end of a bridge may wait for tails that are still reading.
const FAREWELL: Duration = Duration::from_millis(500);
/// Another bridge that takes longer to accept is none.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// After an accept that failed: too many files are open.
const PAUSE: Duration = Duration::from_secs(1);
/// A tail that takes nothing for so long (stopped, or a pager that nobody reads on) leaves its place to others.
const WRITE_LIMIT: Duration = Duration::from_secs(300);
/// The root user may do whatever the owner may.
const ROOT: u32 = 0;

/// A socket that waits for tails.
#[derive(Debug)]
pub(crate) struct Tap {
    listener: UnixListener,
    path: std::path::PathBuf,
    /// The user whose bridge this is.
    owner: u32,
}

impl Tap {
    /// Makes the socket, in the place of one that a killed bridge has left.
    ///
    /// # Errors
    /// The folder or the socket can't be made, or another bridge has it.
    pub(crate) async fn bind(data_dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
        let folder = Folder::open(data_dir)?;
        if let Ok(Ok(_)) = timeout(ASK_LIMIT, UnixStream::connect(folder.join(SOCKET))).await {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another bridge runs with this data_dir",
            ));
        }
        // Under another name until its mode is right; the renaming also replaces what was left behind.
        let unfinished = folder.join(&format!(".{SOCKET}.{}", process::id()));
        let _ = fs::remove_file(&unfinished);
        let listener = UnixListener::bind(&unfinished)?;
        let path = super::path(data_dir);
        let owner = fs::symlink_metadata(&unfinished)?.uid();
        fs::set_permissions(&unfinished, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&unfinished, &path))
            .inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
        Ok(Self {
            listener,
            path,
            owner,
        })
    }

    /// Serves tails until `stop`, then lets those that keep up read to the end, for a short while.
    pub(crate) async fn serve(self, spool: Spool, greeting: Greeting, stop: CancellationToken) {
        let mut tails = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = tails.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    // In a folder that others may enter, the socket was open to them for a moment before its mode was right.
                    Ok((stream, _)) if !is_peer_allowed(&stream, self.owner) => {}
                    Ok((stream, _)) if tails.len() < MOST_TAILS => {
                        tails.spawn(serve(stream, spool.passing_reader(), greeting.clone()));
                    }
                    Ok(_) => debug!(most = MOST_TAILS, "connection for tail refused: limit exceeded"),
                    Err(error) => {
                        debug!(%error, "connection for tail not accepted");
                        let _ = timeout(PAUSE, stop.cancelled()).await;
                    }
                },
            }
        }
        // No more; and a bridge that starts meanwhile must find its own.
        drop(self.listener);
        let _ = fs::remove_file(&self.path);
        let _ = timeout(FAREWELL, async { while tails.join_next().await.is_some() {} }).await;
    }
}

/// Returns whether the process at the other end runs as the owner or as root; false where the system cannot tell.
fn is_peer_allowed(stream: &UnixStream, owner: u32) -> bool {
    match stream.peer_cred() {
        Ok(peer) if is_user_allowed(peer.uid(), owner) => true,
        Ok(peer) => {
            warn!(uid = peer.uid(), "connection for tail refused: another user");
            false
        }
        Err(error) => {
            warn!(%error, "connection for tail refused: unknown user");
            false
        }
    }
}

const fn is_user_allowed(peer: u32, owner: u32) -> bool {
    peer == owner || peer == ROOT
}

/// What is on its way to one tail.
#[derive(Debug, Default)]
struct Line {
    /// Bytes that wait.
    bytes: AtomicUsize,
    /// Nothing waits any more.
    emptied: Notify,
}

/// Serves one tail until it is gone or all is sent.
async fn serve(stream: UnixStream, reader: impl Reader, greeting: Greeting) {
    let (mut from_tail, mut to_tail) = stream.into_split();
    let Ok(mut words) = serde_json::to_vec(&greeting) else {
        return;
    };
    words.push(b'\n');
    let (queue, waiting) = mpsc::channel(QUEUE);
    let line = Line::default();
    let serving = async {
        if matches!(timeout(WRITE_LIMIT, to_tail.write_all(&words)).await, Ok(Ok(()))) {
            // When the tail is gone the queue closes, and with it the pump ends.
            tokio::join!(pump(reader, queue, &line), send(waiting, &mut to_tail, &line));
        }
    };
    tokio::select! {
        biased;
        // A tail says nothing: what can be read is its end. Without this, one that left would be noticed at the next event.
        _ = from_tail.read_u8() => {}
        () = serving => {}
    }
}

/// Takes what the spool hands over, at once and whatever the tail does, and queues what there is room for.
async fn pump(mut reader: impl Reader, queue: mpsc::Sender<Arrival>, line: &Line) {
    let mut missed = 0;
    loop {
        let read = tokio::select! {
            biased;
            read = reader.next() => read,
            // What was missed is told when the tail has caught up, without waiting for an event.
            () = line.emptied.notified(), if missed > 0 => {
                if let Ok(place) = queue.try_reserve() {
                    place.send(Arrival::Missed(std::mem::take(&mut missed)));
                }
                continue;
            }
        };
        match read {
            Ok(Read::Events(batch)) => {
                let next = batch.end();
                missed = queue_up(&queue, &line.bytes, Arrival::Events(batch), missed);
                let cursor = Cursor {
                    next,
                    ..reader.cursor().clone()
                };
                reader.commit(&cursor);
            }
            Ok(Read::Skipped { events, .. }) => missed += events,
            Ok(Read::End) | Err(_) => break,
        }
        if queue.is_closed() {
            return;
        }
    }
    // Those that come last may wait: nothing comes after them.
    if missed > 0 {
        let _ = queue.send(Arrival::Missed(missed)).await;
    }
    let _ = queue.send(Arrival::End).await;
}

/// Queues a batch, and before it how many events were missed; how many are missed now.
fn queue_up(queue: &mpsc::Sender<Arrival>, bytes: &AtomicUsize, arrival: Arrival, missed: u64) -> u64 {
    let Arrival::Events(batch) = &arrival else {
        return missed;
    };
    let (events, length) = (batch.events(), batch.bytes().len());
    let waiting = bytes.load(Ordering::Relaxed);
    // One that is larger than the whole queue goes in alone.
    let fits = waiting == 0 || waiting + length <= QUEUE_BYTES;
    // Both or none: a tail that is told what it missed goes on with what comes after it.
    let Some(mut places) = fits.then(|| queue.try_reserve_many(2).ok()).flatten() else {
        return missed + events;
    };
    if missed > 0
        && let Some(place) = places.next()
    {
        place.send(Arrival::Missed(missed));
    }
    if let Some(place) = places.next() {
        bytes.fetch_add(length, Ordering::Relaxed);
        place.send(arrival);
    }
    0
}

async fn send(mut waiting: mpsc::Receiver<Arrival>, to_tail: &mut (impl AsyncWrite + Unpin), line: &Line) {
    while let Some(arrival) = waiting.recv().await {
        match timeout(WRITE_LIMIT, arrival.write(to_tail)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                warn!(limit = ?WRITE_LIMIT, "connection for tail closed: nothing was read");
                return;
            }
        }
        if let Arrival::Events(batch) = &arrival {
            line.bytes.fetch_sub(batch.bytes().len(), Ordering::Relaxed);
        }
        if waiting.is_empty() {
            line.emptied.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_owner_and_root_are_allowed() {
        assert!(is_user_allowed(1000, 1000) && is_user_allowed(ROOT, 1000));
        assert!(!is_user_allowed(1001, 1000) && !is_user_allowed(1000, ROOT));
    }
}
