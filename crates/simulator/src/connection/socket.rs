//! The socket under a connection, plain or with TLS, and its ways to end.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// A socket, plain or with TLS.
pub(crate) type Socket = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// How long a client is given to end its side. A socket that is dropped with bytes unread sends a reset, and the client may
/// lose what was sent before it.
const LINGER: Duration = Duration::from_secs(5);

/// Reads and forgets until the client ends its side.
pub(super) async fn linger<S: AsyncRead + Unpin>(reader: &mut S) {
    // Whatever the reason, the socket is dropped next.
    let _ = timeout(LINGER, discard(reader)).await;
}

/// Reads and forgets until the connection ends.
pub(super) async fn discard<S: AsyncRead + Unpin>(reader: &mut S) {
    let mut buffer = [0; 1024];
    while matches!(reader.read(&mut buffer).await, Ok(1..)) {}
}

/// Ends a connection by a reset.
pub(super) fn reset(socket: Socket) {
    let tcp = match &socket {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    };
    if let Err(error) = tcp.set_zero_linger() {
        tracing::debug!(%error, "the connection ends without a reset");
    }
}
