//! The loop that accepts HTTP connections, with limits for each client: connections, request heads, time.

use std::{
    convert::Infallible,
    error::Error,
    io::{self, ErrorKind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    STREAM,
    access::{Access, Peer},
    timed::Timed,
};
use crate::http_connections::{ConnectionSlot, Connections, Refusal};

/// The time limit for a request head, which fits into one packet, and for an idle connection.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// The largest request head: that of a browser with cookies of other programs on this host.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The time without progress after which a response is aborted.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// The time limit of a TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// The delay after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// The time limit of pending responses at the stop.
const STOP_LIMIT: Duration = Duration::from_millis(500);

/// Accepts connections until `stop`. No error ends the loop, because the causes may be temporary.
pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    access: &Arc<Access>,
    connections: &Arc<Connections>,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let connection = Connection {
                        peer: Peer(peer.ip()),
                        router: TowerToHyperService::new(router.clone()),
                        slot: connections.add(),
                        connections: Arc::clone(connections),
                        stop: stop.clone(),
                    };
                    tasks.spawn(connection.serve(stream, access.tls()));
                }
                Err(error) if is_of_client(&error) => debug!(%error, "HTTP connection closed before it was accepted"),
                Err(error) => {
                    warn!(%error, "HTTP server cannot accept a connection; closing the oldest one and retrying");
                    connections.refuse(Refusal::AcceptError);
                    // A closed connection may free a file descriptor.
                    connections.evict_oldest();
                    let _ = timeout(ACCEPT_PAUSE, stop.cancelled()).await;
                }
            },
        }
    }
    drop(listener);
    let _ = timeout(STOP_LIMIT, async { while tasks.join_next().await.is_some() {} }).await;
}

/// Returns whether the client, not the system, caused a failed accept.
fn is_of_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

/// An accepted connection.
struct Connection {
    peer: Peer,
    router: TowerToHyperService<Router>,
    slot: ConnectionSlot,
    connections: Arc<Connections>,
    stop: CancellationToken,
}

impl Connection {
    /// Serves a connection until its end, its eviction, or the end of its last response after `stop`.
    async fn serve(self, stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
        // Responses are short and must not wait for a full packet.
        let _ = stream.set_nodelay(true);
        // Set when bytes of an incomplete request head have arrived.
        let has_read = Arc::new(AtomicBool::new(false));
        let stream = Timed::new(stream, WRITE_LIMIT, Arc::clone(&has_read));
        let Some(tls) = tls else {
            return self.serve_on(stream, &has_read).await;
        };
        let handshake = timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(tls).accept(stream));
        let accepted = tokio::select! {
            biased;
            () = self.slot.evicted() => return,
            () = self.stop.cancelled() => return,
            accepted = handshake => accepted,
        };
        match accepted {
            Ok(Ok(stream)) => {
                has_read.store(false, Ordering::Relaxed);
                self.serve_on(stream, &has_read).await;
            }
            Ok(Err(error)) => {
                self.connections.refuse(Refusal::TlsHandshake);
                debug!(%error, "TLS handshake of an HTTP connection failed");
            }
            Err(_) => self.connections.refuse(Refusal::TlsHandshake),
        }
    }

    async fn serve_on(&self, stream: impl AsyncRead + AsyncWrite + Unpin, has_read: &AtomicBool) {
        let service = service_fn(|request| {
            has_read.store(false, Ordering::Relaxed);
            self.answer(request)
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service)
        );
        let ended = tokio::select! {
            biased;
            () = self.slot.evicted() => return,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
                return;
            }
            ended = &mut connection => ended,
        };
        if let Err(error) = ended {
            if is_write_timeout(&error) {
                self.connections.refuse(Refusal::WriteTimeout);
            } else if error.is_timeout() && has_read.load(Ordering::Relaxed) {
                self.connections.refuse(Refusal::HeadTimeout);
            }
            debug!(%error, "HTTP connection ended with an error");
        }
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        use hyper::service::Service;
        self.slot.note_request();
        request.extensions_mut().insert(self.peer);
        let is_stream = request.uri().path() == STREAM;
        let response = self.router.call(request).await?;
        if is_stream && response.status() == StatusCode::OK {
            self.slot.note_listener();
        }
        Ok(response)
    }
}

/// Returns whether [`Timed`] closed a connection.
fn is_write_timeout(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == ErrorKind::TimedOut)
}
