//! The socket of a connection, plain or with TLS, and the ways to close it.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// A plain or TLS socket.
pub(crate) type Socket = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The time limit for a client to close its side. The input is read until then, because a socket that is dropped with
/// unread input sends a reset, and the client may then lose bytes that were sent before.
const LINGER: Duration = Duration::from_secs(5);

/// Discards input until the client closes its side, at most for `LINGER`.
pub(super) async fn linger<S: AsyncRead + Unpin>(reader: &mut S) {
    // The socket is dropped next, whatever the result.
    let _ = timeout(LINGER, discard(reader)).await;
}

/// Discards input until the connection ends.
pub(super) async fn discard<S: AsyncRead + Unpin>(reader: &mut S) {
    let mut buffer = [0; 1024];
    while matches!(reader.read(&mut buffer).await, Ok(1..)) {}
}

/// Resets a connection.
pub(super) fn reset(socket: Socket) {
    let tcp = match &socket {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    };
    if let Err(error) = tcp.set_zero_linger() {
        tracing::debug!(%error, "cannot reset the connection");
    }
}
