use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Returns why a client that trusts this certificate refuses it in a handshake with a server that uses it.
async fn refusal(certificate: CertificateDer<'static>, key: &KeyPair, trusted: &Path) -> String {
    let key = ring::sign::any_supported_type(&PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config)).accept(stream).await.err()
    });
    let files = TlsFiles {
        ca_file: Some(trusted.to_owned()),
        ..TlsFiles::default()
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let Err(error) = connect(client_config(&files).unwrap(), "localhost", stream).await else {
        panic!("the certificate is accepted");
    };
    assert!(server.await.unwrap().is_some());
    error.to_string()
}

/// Converts a certificate to version 1, without the version field. The version is checked before the
/// signature.
fn version_1(certificate: &[u8]) -> CertificateDer<'static> {
    const VERSION: [u8; 5] = [0xa0, 3, 2, 1, 2];
    let mut der = certificate.to_vec();
    assert_eq!(der[8..13], VERSION);
    der.drain(8..13);
    for at in [2, 6] {
        let length = u16::from_be_bytes([der[at], der[at + 1]]) - VERSION.len() as u16;
        der[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    der.into()
}

#[tokio::test]
async fn unsuitable_certificates_are_rejected_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    std::fs::write(&trusted, authority.pem()).unwrap();
    assert_eq!(
        refusal(authority.der().clone(), &key, &trusted).await,
        "the certificate of localhost is that of an authority (CA:TRUE): let the authority issue one for this server"
    );
    assert_eq!(
        refusal(version_1(authority.der()), &key, &trusted).await,
        "the certificate of localhost is of X.509 version 1: issue one of version 3, with a subjectAltName"
    );
}

/// Returns the key of a client and its certificate (PEM).
fn client_certificate() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    (key, certificate)
}

#[test]
fn encrypted_or_missing_private_key_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (folder.path().join("client.pem"), folder.path().join("client.key"));
    let (key, certificate) = client_certificate();
    std::fs::write(&cert_file, certificate).unwrap();
    let files = TlsFiles {
        ca_file: Some(cert_file.clone()),
        cert_file: Some(cert_file),
        key_file: Some(key_file.clone()),
    };
    // Concatenated, so that no key in this repository looks like a secret.
    for text in [
        format!(
            "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n",
            "ENCRYPTED PRIVATE KEY"
        ),
        format!(
            "-----BEGIN {0}-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END {0}-----\n",
            "RSA PRIVATE KEY"
        ),
    ] {
        std::fs::write(&key_file, text).unwrap();
        let error = client_config(&files).unwrap_err().to_string();
        assert!(
            error.starts_with("the private key in `tls.key_file`") && error.contains("is encrypted"),
            "{error}"
        );
    }
    std::fs::write(&key_file, "none").unwrap();
    let error = client_config(&files).unwrap_err().to_string();
    assert!(error.starts_with("found no private key (PEM)"), "{error}");
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    client_config(&files).unwrap();
}

#[test]
fn damaged_certificate_of_a_chain_is_reported_with_its_position() {
    let folder = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (folder.path().join("client.pem"), folder.path().join("client.key"));
    let (key, certificate) = client_certificate();
    let damaged = certificate.replace("MII", "!!!");
    std::fs::write(&cert_file, format!("{certificate}{damaged}")).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let files = TlsFiles {
        ca_file: None,
        cert_file: Some(cert_file),
        key_file: Some(key_file),
    };
    let error = client_config(&files).unwrap_err().to_string();
    assert!(error.starts_with("certificate 2 in `tls.cert_file`"), "{error}");
}
