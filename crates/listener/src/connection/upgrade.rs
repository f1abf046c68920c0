//! Requests the upgrade to a WebSocket, and checks the answer (RFC 6455, 4.1).
//!
//! tungstenite's own handshake fails on an interim answer, HTTP/1.0, a list in `Connection`, and many or slow
//! headers, and accepts extensions that were not offered.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{
    self,
    client::IntoClientRequest,
    handshake::{client::generate_request, derive_accept_key},
    http::{HeaderValue, Uri, header},
};

use super::head::{Head, HeadError};

/// Why the upgrade failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error("the request cannot be made")]
    Request(#[source] tungstenite::Error),
    #[error("the request could not be sent")]
    Send(#[source] io::Error),
    /// A status other than 101.
    #[error("HTTP {}", .0.status)]
    Status(Head),
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("the answer lacks `Upgrade: websocket`")]
    NoUpgrade,
    #[error("the answer lacks `Connection: Upgrade`")]
    NoConnection,
    #[error("the answer lacks `Sec-WebSocket-Accept`")]
    NoAccept,
    #[error(
        "`Sec-WebSocket-Accept` does not match the request: a cache or proxy in between may have answered"
    )]
    WrongAccept,
    // Without the value, which may be anything.
    #[error("the server uses a WebSocket extension that was not offered (`Sec-WebSocket-Extensions`)")]
    Extension,
    #[error("the server uses a subprotocol that was not offered (`Sec-WebSocket-Protocol`)")]
    Subprotocol,
}

/// Requests the upgrade and returns the head of the answer. Afterwards the stream contains frames.
///
/// # Errors
/// The connection failed, or the answer is not a valid upgrade.
pub(crate) async fn upgrade<S>(stream: &mut S, uri: &Uri) -> Result<Head, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (request, key) = request(uri).map_err(UpgradeError::Request)?;
    let sent = async {
        stream.write_all(&request).await?;
        stream.flush().await
    };
    let sent = sent.await;
    // Read even if the request could not be sent: a server may refuse a connection before it reads from it.
    let mut head = match (Head::read(stream).await, sent) {
        (Ok(head), _) => head,
        (Err(HeadError::Io(_) | HeadError::Incomplete), Err(error)) => return Err(UpgradeError::Send(error)),
        (Err(error), _) => return Err(error.into()),
    };
    if head.status != 101 {
        return Err(UpgradeError::Status(head));
    }
    head.complete()?;
    check(&head, &derive_accept_key(key.as_bytes()))?;
    Ok(head)
}

fn request(uri: &Uri) -> tungstenite::Result<(Vec<u8>, String)> {
    let mut request = uri.clone().into_client_request()?;
    request.headers_mut().insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("neurobridge/", env!("CARGO_PKG_VERSION"))),
    );
    generate_request(request)
}

fn check(head: &Head, accept_key: &str) -> Result<(), UpgradeError> {
    if !head.lists("upgrade", "websocket") {
        return Err(UpgradeError::NoUpgrade);
    }
    if !head.lists("connection", "upgrade") {
        return Err(UpgradeError::NoConnection);
    }
    match head.values("sec-websocket-accept").next() {
        None => return Err(UpgradeError::NoAccept),
        Some(key) if key != accept_key => return Err(UpgradeError::WrongAccept),
        Some(_) => {}
    }
    // Neither is offered. A server that compresses nevertheless sends frames that this client cannot read.
    if head.list("sec-websocket-extensions").next().is_some() {
        return Err(UpgradeError::Extension);
    }
    if head.list("sec-websocket-protocol").next().is_some() {
        return Err(UpgradeError::Subprotocol);
    }
    Ok(())
}

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod tests;
