//! The server of the control socket, in the bridge.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use neurobridge_core::reader::{Cursor, Read, Reader};
use neurobridge_spool::Spool;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Notify, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Answer, Folder, Greeting, Request, SOCKET, TailMessage,
    protocol::{read_line, write_line},
};
use crate::exit::Exit;

/// The limit of concurrent tails, each with a queue of up to [`QUEUE_BYTES`].
const MAX_TAILS: usize = 8;
/// The capacity of one tail's queue, in messages and in bytes. A tail misses events that arrive while its queue is full.
const QUEUE_MESSAGES: usize = 256;
const QUEUE_BYTES: usize = 4 << 20;
/// The time limit at the stop for tails that are still reading.
const STOP_LIMIT: Duration = Duration::from_millis(500);
/// The time limit of a connection to an existing socket, which shows whether another bridge serves it.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// The limit of concurrent connections, so that other requests find room beside the tails.
const MAX_CONNECTIONS: usize = 2 * MAX_TAILS;
/// The largest request.
const MAX_REQUEST_BYTES: u64 = 16 << 10;
/// The time limit for a request after the connection.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The delay after a failed accept, for example because too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// The time without progress after which a tail is disconnected: its process is stopped, or its pager waits for a key.
const WRITE_LIMIT: Duration = Duration::from_secs(300);
/// The root user has the same access as the owner.
const ROOT: u32 = 0;

/// The listening socket.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: std::path::PathBuf,
    /// The user that runs the bridge.
    owner: u32,
}

impl Control {
    /// Creates the socket, and replaces one left by a killed bridge.
    ///
    /// # Errors
    /// Returns an error if the folder or the socket cannot be created, or another bridge serves the socket.
    pub(crate) async fn bind(data_dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
        let folder = Folder::open(data_dir)?;
        if let Ok(Ok(_)) = timeout(CONNECT_LIMIT, UnixStream::connect(folder.join(SOCKET))).await {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another bridge runs with this data_dir",
            ));
        }
        // Created under another name until its mode is set. The rename also replaces the socket of a killed bridge.
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

    /// Serves requests until `stop`, then gives the clients a short time to read all remaining events and answers. Requests other
    /// than those of tails are passed to `requests`.
    pub(crate) async fn serve(
        self,
        spool: Spool,
        greeting: watch::Receiver<Greeting>,
        requests: mpsc::Sender<PendingRequest>,
        stop: CancellationToken,
    ) {
        let mut clients = JoinSet::new();
        let tails = Arc::new(Semaphore::new(MAX_TAILS));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = clients.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    // If other users may enter the folder, the socket was open to them until its mode was set.
                    Ok((stream, _)) if !is_peer_allowed(&stream, self.owner) => {}
                    Ok((stream, _)) if clients.len() < MAX_CONNECTIONS => {
                        let client = Client {
                            stream,
                            spool: spool.clone(),
                            greeting: greeting.borrow().clone(),
                            tails: Arc::clone(&tails),
                            requests: requests.clone(),
                        };
                        clients.spawn(client.serve());
                    }
                    Ok(_) => debug!(limit = MAX_CONNECTIONS, "connection to the control socket refused: limit exceeded"),
                    Err(error) => {
                        debug!(%error, "control socket cannot accept a connection; retrying");
                        let _ = timeout(ACCEPT_PAUSE, stop.cancelled()).await;
                    }
                },
            }
        }
        // Removed before the wait for the clients: later, the file could be the socket of a bridge that was started meanwhile.
        drop(self.listener);
        let _ = fs::remove_file(&self.path);
        let _ = timeout(STOP_LIMIT, async { while clients.join_next().await.is_some() {} }).await;
    }
}

/// Returns whether the process at the other end runs as the owner or as root; false if its user is unknown.
fn is_peer_allowed(stream: &UnixStream, owner: u32) -> bool {
    match stream.peer_cred() {
        Ok(peer) if is_user_allowed(peer.uid(), owner) => true,
        Ok(peer) => {
            warn!(
                uid = peer.uid(),
                "connection to the control socket refused: only root and the user of the bridge may use it"
            );
            false
        }
        Err(error) => {
            warn!(%error, "connection to the control socket refused: the user of the client cannot be determined");
            false
        }
    }
}

const fn is_user_allowed(peer: u32, owner: u32) -> bool {
    peer == owner || peer == ROOT
}

/// The fill level of one tail's queue.
#[derive(Debug, Default)]
struct Backlog {
    /// The number of queued bytes.
    bytes: AtomicUsize,
    /// Notified when the queue is empty.
    emptied: Notify,
}

/// A request that the bridge answers.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// A connection of another command.
struct Client {
    stream: UnixStream,
    spool: Spool,
    greeting: Greeting,
    tails: Arc<Semaphore>,
    requests: mpsc::Sender<PendingRequest>,
}

impl Client {
    /// Serves one client until it disconnects or has its answer.
    async fn serve(self) {
        let (from_client, mut to_client) = self.stream.into_split();
        let mut from_client = BufReader::new(from_client);
        if !matches!(
            timeout(WRITE_LIMIT, write_line(&mut to_client, &self.greeting)).await,
            Ok(Ok(()))
        ) {
            return;
        }
        let Ok(Ok(line)) = timeout(REQUEST_LIMIT, read_line(&mut from_client, MAX_REQUEST_BYTES)).await
        else {
            return;
        };
        if line.is_empty() {
            return;
        }
        let request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                warn!(
                    %error,
                    "unknown request to the control socket rejected; run the command with the bridge's program"
                );
                let text = format!("unknown request ({error}); run the command with the bridge's program");
                let answer = Answer::failed(Exit::Usage, text);
                let _ = timeout(WRITE_LIMIT, write_line(&mut to_client, &answer)).await;
                return;
            }
        };
        if request == Request::Tail {
            // Without a permit the connection is closed: the client knows that the limit is the reason.
            if let Ok(_permit) = self.tails.try_acquire() {
                serve_tail(from_client, to_client, self.spool.observer_reader()).await;
            }
            return;
        }
        let (answer, answered) = oneshot::channel();
        let pending = PendingRequest { request, answer };
        let answer = match self.requests.try_send(pending) {
            Ok(()) => answered.await.unwrap_or_else(|_| {
                Answer::failed(
                    Exit::TryLater,
                    "the bridge is stopping; the request has no effect",
                )
            }),
            Err(_) => Answer::failed(Exit::TryLater, "the bridge has too many requests; try again"),
        };
        let _ = timeout(WRITE_LIMIT, write_line(&mut to_client, &answer)).await;
    }
}

/// Sends events to a tail until it disconnects or all events are sent.
async fn serve_tail(
    mut from_tail: impl AsyncRead + Unpin,
    mut to_tail: impl AsyncWrite + Unpin,
    reader: impl Reader,
) {
    let (queue, waiting) = mpsc::channel(QUEUE_MESSAGES);
    let backlog = Backlog::default();
    let serving = async {
        let accepted = Answer::default();
        let accepted = write_line(&mut to_tail, &accepted);
        if matches!(timeout(WRITE_LIMIT, accepted).await, Ok(Ok(()))) {
            // When the tail disconnects, `send` ends and drops the receiver, which ends `enqueue`.
            tokio::join!(
                enqueue(reader, queue, &backlog),
                send(waiting, &mut to_tail, &backlog)
            );
        }
    };
    tokio::select! {
        biased;
        // A tail sends nothing more, so this read ends only with the connection. Without the read, a disconnected tail would be
        // noticed only at the next event.
        _ = from_tail.read_u8() => {}
        () = serving => {}
    }
}

/// Reads the spool without ever waiting for the tail, and queues the batches that fit.
async fn enqueue(mut reader: impl Reader, queue: mpsc::Sender<TailMessage>, backlog: &Backlog) {
    let mut missed = 0;
    loop {
        let read = tokio::select! {
            biased;
            read = reader.next() => read,
            // The number of missed events is sent when the tail has caught up, without waiting for the next event.
            () = backlog.emptied.notified(), if missed > 0 => {
                if let Ok(slot) = queue.try_reserve() {
                    slot.send(TailMessage::Missed(std::mem::take(&mut missed)));
                }
                continue;
            }
        };
        match read {
            Ok(Read::Events(batch)) => {
                let next = batch.end();
                missed = enqueue_batch(&queue, &backlog.bytes, TailMessage::Events(batch), missed);
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
    // The last messages may wait for space: no event follows them.
    if missed > 0 {
        let _ = queue.send(TailMessage::Missed(missed)).await;
    }
    let _ = queue.send(TailMessage::End).await;
}

/// Queues a batch, preceded by the number of missed events. Returns the new number: 0, or more if the batch does not fit.
fn enqueue_batch(
    queue: &mpsc::Sender<TailMessage>,
    bytes: &AtomicUsize,
    message: TailMessage,
    missed: u64,
) -> u64 {
    let TailMessage::Events(batch) = &message else {
        return missed;
    };
    let (events, length) = (batch.events(), batch.bytes().len());
    let waiting = bytes.load(Ordering::Relaxed);
    // A batch larger than the capacity is queued alone.
    let fits = waiting == 0 || waiting + length <= QUEUE_BYTES;
    // Two slots or none: the number of missed events must be followed by the next events.
    let Some(mut slots) = fits.then(|| queue.try_reserve_many(2).ok()).flatten() else {
        return missed + events;
    };
    if missed > 0
        && let Some(slot) = slots.next()
    {
        slot.send(TailMessage::Missed(missed));
    }
    if let Some(slot) = slots.next() {
        bytes.fetch_add(length, Ordering::Relaxed);
        slot.send(message);
    }
    0
}

async fn send(
    mut waiting: mpsc::Receiver<TailMessage>,
    to_tail: &mut (impl AsyncWrite + Unpin),
    backlog: &Backlog,
) {
    while let Some(message) = waiting.recv().await {
        match timeout(WRITE_LIMIT, message.write(to_tail)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                warn!(limit = ?WRITE_LIMIT, "connection of a tail closed: the client did not read within the limit");
                return;
            }
        }
        if let TailMessage::Events(batch) = &message {
            backlog.bytes.fetch_sub(batch.bytes().len(), Ordering::Relaxed);
        }
        if waiting.is_empty() {
            backlog.emptied.notify_one();
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
