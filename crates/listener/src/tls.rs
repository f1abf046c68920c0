//! TLS for connections to a feed: the configuration from files, the handshake and its errors, and a stream with or without
//! TLS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

pub use neurobridge_core::tls::TlsSetupError;
use neurobridge_core::tls::{self, TlsFiles};
use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Why a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error(transparent)]
    Setup(#[from] TlsSetupError),
    #[error("\"{host}\" is not a valid name for a certificate; expected a host name or an IP address")]
    Name { host: String },
    #[error("the certificate of {host} {what}")]
    Certificate {
        host: String,
        what: String,
        source: rustls::Error,
    },
    #[error("{host} {what}")]
    Alert {
        host: String,
        what: &'static str,
        source: rustls::Error,
    },
    #[error("the TLS handshake with {host} failed")]
    Handshake { host: String, source: io::Error },
}

/// A connection with or without TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Returns the connection below TLS.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// Reads the TLS files and creates the configuration. Blocks for up to
/// [`file::TIME_LIMIT`](neurobridge_core::file::TIME_LIMIT) for each file.
pub(crate) fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsSetupError> {
    tls::client_config(files).map(Arc::new)
}

/// Performs the TLS handshake with `host`.
pub(crate) async fn connect(
    config: Arc<ClientConfig>,
    host: &str,
    stream: TcpStream,
) -> Result<Stream, TlsError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name {
        host: host.to_owned(),
    })?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| explain(host, error))?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// Returns whether an error of a stream is a TLS error: with TLS 1.3 a server refuses the client's
/// certificate only after the handshake.
pub(crate) fn is_tls_error(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Converts an error of the handshake with `host`, so that its text states the cause.
pub(crate) fn explain(host: &str, error: io::Error) -> TlsError {
    let host = host.to_owned();
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::InvalidCertificate(kind)) => TlsError::Certificate {
            host,
            what: tls::describe_certificate_error(kind, "url"),
            source: rustls::Error::InvalidCertificate(kind.clone()),
        },
        Some(rustls::Error::AlertReceived(alert)) => TlsError::Alert {
            host,
            what: describe_alert(*alert),
            source: rustls::Error::AlertReceived(*alert),
        },
        _ => TlsError::Handshake { host, source: error },
    }
}

fn describe_alert(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired => {
            "requires a client certificate: set `tls.cert_file` and `tls.key_file`"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::DecryptError
        | AlertDescription::AccessDenied => {
            "refused the client certificate, or requires a client certificate: check `tls.cert_file` and \
             `tls.key_file`"
        }
        _ => "refused the TLS handshake",
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
