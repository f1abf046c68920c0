//! Dialling with TLS: certificates that are accepted, and the errors of those that are not.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Creates an authority, and a folder with its certificate, a client certificate and its key.
pub(super) fn authority() -> (Issuer<'static, KeyPair>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A different name each time, because authorities are found by name.
    let name = format!("authority {}", fastrand::u64(..));
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.path().join("client.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.path().join("client.key"), key.serialize_pem()).unwrap();
    (issuer, folder)
}

/// Starts a `wss` server with a certificate for `name`, which may require a client certificate.
pub(super) async fn tls_server(
    issuer: &Issuer<'static, KeyPair>,
    folder: &Path,
    name: &str,
    wants_certificate: bool,
) -> u16 {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .signed_by(&key, issuer)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if wants_certificate {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap())
            .unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = builder
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await
                && let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await
            {
                while let Some(Ok(_)) = socket.next().await {}
            }
        }
    });
    address.port()
}

#[tokio::test]
async fn certificate_errors_state_host_and_cause() {
    let (issuer, folder) = authority();
    let file = |name: &str| Some(folder.path().join(name));
    let trusting = |url: &str| dialler(url, |config| config.tls.ca_file = file("ca.pem"));
    let port = tls_server(&issuer, folder.path(), "localhost", false).await;
    trusting(&format!("wss://localhost:{port}"))
        .dial(&ConnectionRequest::default(), None)
        .await
        .unwrap();

    let error = failure(&trusting(&format!("wss://127.0.0.1:{port}"))).await;
    assert_eq!(error.outcome(), ConnectionOutcome::TlsFailed);
    let text = sentence(&error);
    assert!(
        text.starts_with("the certificate of 127.0.0.1 is for a different host name"),
        "{text}"
    );

    let (_, stranger) = authority();
    let distrusting = dialler(&format!("wss://localhost:{port}"), |config| {
        config.tls.ca_file = Some(stranger.path().join("ca.pem"));
    });
    let text = sentence(&failure(&distrusting).await);
    assert!(
        text.starts_with(
            "the certificate of localhost comes from an authority that this machine does not trust"
        ),
        "{text}"
    );

    let port = tls_server(&issuer, folder.path(), "localhost", true).await;
    let url = format!("wss://localhost:{port}");
    let error = failure(&trusting(&url)).await;
    assert_eq!(error.outcome(), ConnectionOutcome::TlsFailed);
    let text = sentence(&error);
    assert!(
        text.starts_with("localhost requires a client certificate: set `tls.cert_file`"),
        "{text}"
    );

    let with_certificate = dialler(&url, |config| {
        config.tls.ca_file = file("ca.pem");
        config.tls.cert_file = file("client.pem");
        config.tls.key_file = file("client.key");
    });
    with_certificate
        .dial(&ConnectionRequest::default(), None)
        .await
        .unwrap();

    // A missing file is a failure of this attempt only.
    std::fs::remove_file(folder.path().join("client.pem")).unwrap();
    let text = sentence(&failure(&with_certificate).await);
    assert!(text.starts_with("cannot read `tls.cert_file`"), "{text}");
}
