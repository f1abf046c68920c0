//! TLS for the listener, from PEM files.

use std::{path::PathBuf, sync::Arc};

use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use thiserror::Error;

use crate::options::TlsFiles;

/// Why TLS cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file that cannot be read as PEM.
    #[error("{what} cannot be read from {path:?}")]
    Pem {
        /// What was expected in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// A certificate and a key that cannot be used, or not together.
    #[error("certificate {certificates:?} and key {key:?} cannot be used together")]
    Unusable {
        /// The certificate file.
        certificates: PathBuf,
        /// The key file.
        key: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
}

/// Reads the files. The crypto provider is named, so that a process with two of them does not panic.
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
