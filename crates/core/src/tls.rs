//! TLS of clients and servers: loads certificates and keys from files, and describes why a certificate is refused.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme, WantsVerifier,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    file::{self, Content},
    pem::{self, Certificates},
};

/// The maximum size of a file. The certificates of all authorities that a system trusts need a quarter of a MiB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Certificates and keys in PEM files, read at every connection, so that renewed ones are used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificates of the trusted authorities, instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client certificate with its chain; requires `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`.
    pub key_file: Option<PathBuf>,
}

/// Why TLS cannot be set up. Public, because the constructor of a source may return this error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsSetupError {
    /// The system has no certificates of authorities.
    #[error(
        "found no certificates of authorities on this system ({problems}): install ca-certificates, or set `tls.ca_file`"
    )]
    NoRoots {
        /// The errors while reading the system's certificates.
        problems: String,
    },
    /// A file cannot be read.
    #[error("cannot read `tls.{key}`, {}", path.display())]
    Unreadable {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file does not contain the expected PEM section.
    #[error("found no {expected} in `tls.{key}`, {}", path.display())]
    NotPem {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The expected section.
        expected: &'static str,
    },
    /// A certificate of a chain is damaged.
    #[error(
        "certificate {position} in `tls.{key}`, {}, is unreadable; expected a complete PEM section with valid base64",
        path.display()
    )]
    UnreadableCertificate {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The position of the certificate in the file, from 1.
        position: usize,
    },
    /// A private key is encrypted.
    #[error(
        "the private key in `tls.{key}`, {}, is encrypted; expected one without a passphrase, as `openssl pkey -in FILE -out NEW` \
         writes it",
        path.display()
    )]
    EncryptedKey {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The files are readable, but unusable alone or in combination.
    #[error("the certificates of `tls.{key}` cannot be used")]
    Unusable {
        /// The key of the configuration.
        key: &'static str,
        /// The reason.
        source: rustls::Error,
    },
}

impl TlsSetupError {
    /// Returns whether reading a file reached the time limit. Unlike a wrong file, a disk that hangs may be temporary.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::TimedOut)
    }
}

/// The system's root certificates, read once: a hundred sources share them.
static SYSTEM_ROOTS: LazyLock<Result<Arc<RootCertStore>, String>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let problems: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(if problems.is_empty() {
            "no certificate file in the usual folders".to_owned()
        } else {
            problems.join("; ")
        });
    }
    Ok(Arc::new(roots))
});

/// Returns the TLS configuration of a client, with the certificates and the key in `files`. Blocks for up to
/// [`file::TIME_LIMIT`] for each file.
///
/// # Errors
/// A file cannot be read, or does not contain the expected section.
///
/// # Panics
/// Never: the provider supports the default protocol versions.
pub fn client_config(files: &TlsFiles) -> Result<ClientConfig, TlsSetupError> {
    let builder = client(provider()).with_root_certificates(roots(files.ca_file.as_deref())?);
    let (Some(cert_file), Some(key_file)) = (&files.cert_file, &files.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates("cert_file", cert_file)?;
    let key = private_key("key_file", key_file)?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|source| TlsSetupError::Unusable {
            key: "cert_file",
            source,
        })
}

/// Returns the cryptography provider explicitly: if two providers are compiled into a program, rustls does not choose one.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client(provider: Arc<CryptoProvider>) -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        // Fails only for a provider without cipher suites of these versions.
        .expect("ring has the default protocol versions")
}

/// The TLS of a server.
#[derive(Debug)]
pub struct ServerTls {
    /// The configuration for new connections.
    pub config: Arc<ServerConfig>,
    /// The certificate with its chain.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Returns the TLS configuration of a server, with its certificate, the chain and the private key. Blocks for up to
/// [`file::TIME_LIMIT`] for each file.
///
/// # Errors
/// A file cannot be read or does not contain the expected section, or the key does not belong to the certificate.
///
/// # Panics
/// Never: the provider supports the default protocol versions.
pub fn server_tls(cert_file: &Path, key_file: &Path) -> Result<ServerTls, TlsSetupError> {
    let chain = certificates("cert_file", cert_file)?;
    let key = private_key("key_file", key_file)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        // Fails only for a provider without cipher suites of these versions.
        .expect("ring has the default protocol versions")
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key)
        .map_err(|source| TlsSetupError::Unusable {
            key: "cert_file",
            source,
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(ServerTls {
        config: Arc::new(config),
        chain,
    })
}

/// Returns the TLS configuration of a client that accepts any certificate: for health checks of this machine's own server, which
/// send no secret. The certificate is for the server's public name, and the check connects to an address.
///
/// # Panics
/// Never: the provider supports the default protocol versions.
pub fn client_without_verification() -> ClientConfig {
    let provider = provider();
    client(Arc::clone(&provider))
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth()
}

/// Accepts any certificate, if its key signs the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns why a server's certificate is refused: a predicate for the subject "the certificate".
/// `address_key` is the configuration key that contains the server's name.
pub fn describe_certificate_error(error: &CertificateError, address_key: &str) -> String {
    let words = match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "comes from an authority that this machine does not trust: set `tls.ca_file` if the authority is your own"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            return format!(
                "is for a different host name: correct the certificate, or the host in `{address_key}`"
            );
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired (or the clock of this machine is wrong)"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet (or the clock of this machine is wrong)"
        }
        CertificateError::Revoked => "is revoked",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not for a server: issue one with the extended key usage serverAuth"
        }
        // The verification library has names for these errors, and rustls has none.
        CertificateError::Other(other) => match format!("{other:?}") {
            name if name.contains("UnsupportedCertVersion") => {
                "is of X.509 version 1: issue one of version 3, with a subjectAltName"
            }
            name if name.contains("CaUsedAsEndEntity") => {
                "is that of an authority (CA:TRUE): let the authority issue one for this server"
            }
            _ => "is refused",
        },
        _ => "is refused",
    };
    words.to_owned()
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
    // The remaining certificates may be sufficient.
    if let Some(words) = found.skipped_message(&path.display().to_string(), &unusable) {
        warn!("tls.ca_file: {words}");
    }
    Ok(Arc::new(roots))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let found = parse(&read(key, path)?);
    if let Some(position) = found.unreadable.first() {
        // The client's own chain must be complete.
        return Err(TlsSetupError::UnreadableCertificate {
            key,
            path: path.to_owned(),
            position: *position,
        });
    }
    if found.readable.is_empty() {
        return Err(no_certificate(key, path));
    }
    Ok(found
        .readable
        .into_iter()
        .map(|certificate| certificate.der.into())
        .collect())
}

fn private_key(key: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, TlsSetupError> {
    let content = read(key, path)?;
    if pem::has_encrypted_key(&String::from_utf8_lossy(content.bytes())) {
        return Err(TlsSetupError::EncryptedKey {
            key,
            path: path.to_owned(),
        });
    }
    PrivateKeyDer::from_pem_slice(content.bytes()).map_err(|_| TlsSetupError::NotPem {
        key,
        path: path.to_owned(),
        expected: "private key (PEM)",
    })
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
