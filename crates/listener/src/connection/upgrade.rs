//! Requests the upgrade to a WebSocket, and checks the answer (RFC 6455, 4.1).
//!
//! Does not use tungstenite's own handshake, which fails on an interim answer, HTTP/1.0, a list in `Connection`, and
//! many or slow headers, and which accepts extensions that were not offered.

use std::io;

use neurobridge_protocol::ConnectionRequest;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{
    self,
    client::IntoClientRequest,
    handshake::{client::generate_request, derive_accept_key},
    http::{HeaderName, HeaderValue, Uri, header, uri::PathAndQuery},
};

use super::head::{Head, HeadError};

/// Why the upgrade failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error("the upgrade request cannot be created")]
    Request(#[source] tungstenite::Error),
    // Without the value, which may contain a secret.
    #[error(
        "the header \"{0}\" contains a character that HTTP does not allow; check the secrets in this header"
    )]
    Header(String),
    #[error(
        "the query of the URL contains a character that HTTP does not allow, or is too long; check `url` and \
         `feed.request.query`"
    )]
    Query,
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
        "`Sec-WebSocket-Accept` does not match the request: a cache or proxy between the bridge and the server may \
         have answered"
    )]
    WrongAccept,
    // Without the value, which the server may choose freely.
    #[error("the server uses a WebSocket extension that was not offered (`Sec-WebSocket-Extensions`)")]
    Extension,
    #[error("the server uses a subprotocol that was not offered (`Sec-WebSocket-Protocol`)")]
    Subprotocol,
}

/// Requests the upgrade and returns the head of the answer. Afterwards the stream contains frames.
///
/// # Errors
/// The connection failed, or the answer is not a valid upgrade.
pub(crate) async fn upgrade<S>(
    stream: &mut S,
    uri: &Uri,
    additions: &ConnectionRequest,
) -> Result<Head, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (request, key) = request(uri, additions)?;
    let sent = async {
        stream.write_all(&request).await?;
        stream.flush().await
    };
    let sent = sent.await;
    // The answer is read even if the request could not be sent: a server may refuse a connection without reading the
    // request.
    let mut head = match (Head::read(stream).await, sent) {
        (Ok(head), _) => head,
        (Err(HeadError::Io(_) | HeadError::Incomplete), Err(error)) => return Err(UpgradeError::Send(error)),
        (Err(error), _) => return Err(error.into()),
    };
    if head.status != 101 {
        return Err(UpgradeError::Status(head));
    }
    head.complete()?;
    check(&head, &derive_accept_key(key.as_bytes()), &additions.subprotocols)?;
    Ok(head)
}

/// Returns the encoded request, and the key in its header `Sec-WebSocket-Key`.
fn request(uri: &Uri, additions: &ConnectionRequest) -> Result<(Vec<u8>, String), UpgradeError> {
    let mut request = with_query(uri, &additions.query)?
        .into_client_request()
        .map_err(UpgradeError::Request)?;
    let headers = request.headers_mut();
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("neurobridge/", env!("CARGO_PKG_VERSION"))),
    );
    for (name, value) in &additions.headers {
        let invalid = || UpgradeError::Header(name.clone());
        let value = HeaderValue::from_str(value).map_err(|_| invalid())?;
        headers.insert(HeaderName::try_from(name).map_err(|_| invalid())?, value);
    }
    if !additions.subprotocols.is_empty() {
        let offered = additions.subprotocols.join(", ");
        let offered = HeaderValue::from_str(&offered)
            .map_err(|_| UpgradeError::Header("Sec-WebSocket-Protocol".to_owned()))?;
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
    }
    generate_request(request).map_err(UpgradeError::Request)
}

/// Adds parameters to the query of an address.
fn with_query(uri: &Uri, query: &str) -> Result<Uri, UpgradeError> {
    if query.is_empty() {
        return Ok(uri.clone());
    }
    let own = uri.path_and_query().map_or("/", |own| own.as_str());
    let separator = if own.contains('?') { '&' } else { '?' };
    let mut parts = uri.clone().into_parts();
    let path: Result<PathAndQuery, _> = format!("{own}{separator}{query}").try_into();
    parts.path_and_query = Some(path.map_err(|_| UpgradeError::Query)?);
    Uri::from_parts(parts).map_err(|_| UpgradeError::Query)
}

fn check(head: &Head, accept_key: &str, offered: &[String]) -> Result<(), UpgradeError> {
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
    // No extension is offered. A server that compresses nevertheless sends frames that this client cannot read.
    if head.list("sec-websocket-extensions").next().is_some() {
        return Err(UpgradeError::Extension);
    }
    // A server that supports none of the offered subprotocols may answer without the header (RFC 6455, 4.2.2).
    if head
        .list("sec-websocket-protocol")
        .any(|chosen| !offered.iter().any(|offered| offered == chosen))
    {
        return Err(UpgradeError::Subprotocol);
    }
    Ok(())
}

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod tests;
