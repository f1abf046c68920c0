//! The TLS configuration of the listener, loaded from PEM files.

use std::{path::PathBuf, sync::Arc};

use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use thiserror::Error;

use crate::options::TlsFiles;

/// An error that prevents the simulator from serving TLS.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("cannot read {what} from {path:?}")]
    Pem {
        /// The expected content of the file.
        what: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The cause, as the PEM parser reported it.
        source: pem::Error,
    },
    /// The certificate or the key is unusable, or they do not match.
    #[error("certificate {certificates:?} and key {key:?} are invalid or do not match")]
    Unusable {
        /// The path of the certificate file.
        certificates: PathBuf,
        /// The path of the key file.
        key: PathBuf,
        /// The cause, as the TLS library reported it.
        source: rustls::Error,
    },
}

/// Loads the certificate chain and the private key. The crypto provider is set explicitly, because a process with two
/// providers would panic otherwise.
pub(crate) fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable = |what, path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::Pem { what, path, source }
    };
    let unusable = |source| TlsError::Unusable {
        certificates: files.certificates.clone(),
        key: files.key.clone(),
        source,
    };
    let chain = CertificateDer::pem_file_iter(&files.certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable("a certificate", &files.certificates))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable("a private key", &files.key))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    Ok(Arc::new(config))
}
