//! TLS: whom to trust, what to show, and the stream that may or may not be encrypted.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
};

use neurobridge_core::{
    file::{self, Content},
    pem::Certificates,
};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use tracing::warn;

use crate::config::TlsFiles;

/// All certificates that systems trust are a quarter of a MiB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Why TLS cannot be set up. Public, because it stops a source from being made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsSetupError {
    /// The system has no certificates of authorities.
    #[error(
        "found no certificates of authorities on this system ({problems}): install ca-certificates, or set `tls.ca_file`"
    )]
    NoRoots {
        /// What went wrong on the way.
        problems: String,
    },
    /// A file cannot be read.
    #[error("cannot read `tls.{key}`, {}", path.display())]
    Unreadable {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file has not in it what it should have.
    #[error("found no {expected} in `tls.{key}`, {}", path.display())]
    NotPem {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should have held.
        expected: &'static str,
    },
    /// The files are readable, but not usable, or not together.
    #[error("the certificates of `tls.{key}` cannot be used")]
    Unusable {
        /// The key of the configuration.
        key: &'static str,
        /// Why not.
        source: rustls::Error,
    },
}

impl TlsSetupError {
    /// Whether a disk hangs. That may pass, other than a wrong file.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::TimedOut)
    }
}

/// Why a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error(transparent)]
    Setup(#[from] TlsSetupError),
    #[error("\"{host}\" is no name that a certificate could be for")]
    Name { host: String },
    #[error("the certificate of {host} {what}")]
    Certificate {
        host: String,
        what: &'static str,
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

/// A connection, encrypted or not.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The system's roots, read once: a hundred sources share them.
static SYSTEM_ROOTS: LazyLock<Result<Arc<RootCertStore>, String>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let problems: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(if problems.is_empty() {
            "no certificate file where systems have one".to_owned()
        } else {
            problems.join("; ")
        });
    }
    Ok(Arc::new(roots))
});

/// Reads the files. Blocks for up to [`file::TIME_LIMIT`] for each.
pub(crate) fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsSetupError> {
    // The provider is named here: with two of them compiled into a program, rustls refuses to choose.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default protocol versions")
        .with_root_certificates(roots(files.ca_file.as_deref())?);
    let config = match (&files.cert_file, &files.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let chain = certificates("cert_file", cert_file)?;
            let pem = read("key_file", key_file)?;
            let key = PrivateKeyDer::from_pem_slice(pem.bytes()).map_err(|_| TlsSetupError::NotPem {
                key: "key_file",
                path: key_file.clone(),
                expected: "private key (PEM)",
            })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|source| TlsSetupError::Unusable {
                    key: "cert_file",
                    source,
                })?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// Does the handshake.
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

/// Whether an error of a stream came from TLS: with TLS 1.3 a server refuses our certificate after the handshake only.
pub(crate) fn is_tls_error(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Says in words what failed.
pub(crate) fn explain(host: &str, error: io::Error) -> TlsError {
    let host = host.to_owned();
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::InvalidCertificate(kind)) => TlsError::Certificate {
            host,
            what: certificate_words(kind),
            source: rustls::Error::InvalidCertificate(kind.clone()),
        },
        Some(rustls::Error::AlertReceived(alert)) => TlsError::Alert {
            host,
            what: alert_words(*alert),
            source: rustls::Error::AlertReceived(*alert),
        },
        _ => TlsError::Handshake { host, source: error },
    }
}

fn certificate_words(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "comes from an authority that is not trusted here: set `tls.ca_file` where it is one of your own"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name: look at the host in `url`"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired (or the clock here is wrong)"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet (or the clock here is wrong)"
        }
        CertificateError::Revoked => "is revoked",
        _ => "is refused",
    }
}

fn alert_words(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired => {
            "wants a certificate from us: set `tls.cert_file` and `tls.key_file`"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::DecryptError
        | AlertDescription::AccessDenied => "refused our certificate, or the lack of one",
        _ => "refused the TLS handshake",
    }
}

fn roots(ca_file: Option<&Path>) -> Result<Arc<RootCertStore>, TlsSetupError> {
    let Some(path) = ca_file else {
        return SYSTEM_ROOTS
            .clone()
            .map_err(|problems| TlsSetupError::NoRoots { problems });
    };
    let mut roots = RootCertStore::empty();
    let found = parse(&read("ca_file", path)?);
    let (mut unusable, mut refusal) = (Vec::new(), None);
    for certificate in &found.readable {
        if let Err(error) = roots.add(certificate.der.clone().into()) {
            unusable.push(certificate.number);
            refusal = Some(error);
        }
    }
    if roots.is_empty() {
        return Err(match refusal {
            Some(source) => TlsSetupError::Unusable {
                key: "ca_file",
                source,
            },
            None => no_certificate("ca_file", path),
        });
    }
    // The others may be all that is needed.
    if let Some(words) = found.skipped_words(&path.display().to_string(), &unusable) {
        warn!("tls.ca_file: {words}");
    }
    Ok(Arc::new(roots))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let found = parse(&read(key, path)?);
    // Of our own chain none may be missing.
    if found.readable.is_empty() || !found.unreadable.is_empty() {
        return Err(no_certificate(key, path));
    }
    Ok(found
        .readable
        .into_iter()
        .map(|certificate| certificate.der.into())
        .collect())
}

fn parse(content: &Content) -> Certificates {
    Certificates::parse(&String::from_utf8_lossy(content.bytes()))
}

fn no_certificate(key: &'static str, path: &Path) -> TlsSetupError {
    TlsSetupError::NotPem {
        key,
        path: path.to_owned(),
        expected: "certificate (PEM)",
    }
}

fn read(key: &'static str, path: &Path) -> Result<Content, TlsSetupError> {
    file::read(path, MAX_FILE_BYTES).map_err(|source| TlsSetupError::Unreadable {
        key,
        path: path.to_owned(),
        source,
    })
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
