//! TLS: whom to trust and what to show.

use std::{path::Path, sync::Arc};

use neurobridge_core::{
    file::{self, Content},
    pem::Certificates,
    sink::{FaultKind, SinkFault},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use tracing::warn;

use crate::config::TlsConfig;

/// All certificates that systems trust are a quarter of a MiB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Reads the files. Blocks for up to [`file::TIME_LIMIT`] for each.
///
/// # Errors
/// A file can't be read, or has not in it what it should have.
pub(crate) fn client_config(config: &TlsConfig) -> Result<ClientConfig, SinkFault> {
    // The provider is named here: with two of them compiled into a program, rustls refuses to choose.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default protocol versions")
        .with_root_certificates(roots(config.ca_file.as_deref())?);
    let (Some(cert_file), Some(key_file)) = (&config.cert_file, &config.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates("cert_file", cert_file)?;
    let key = PrivateKeyDer::from_pem_slice(read("key_file", key_file)?.bytes())
        .map_err(|_| wrong("key_file", key_file, "private key (PEM)"))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        fault(format!(
            "tls.cert_file and tls.key_file can't be used together: {error}"
        ))
    })
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, SinkFault> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
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
                    Some(error) => fault(format!("tls.ca_file: {} can't be used: {error}", path.display())),
                    None => wrong("ca_file", path, "certificate (PEM)"),
                });
            }
            // The others may be all that is needed.
            if let Some(words) = found.skipped_words(&path.display().to_string(), &unusable) {
                warn!("tls.ca_file: {words}");
            }
        }
        None => {
            let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if usable == 0 {
                return Err(fault(
                    "found no certificates of authorities on this system: install ca-certificates, or set tls.ca_file".into(),
                ));
            }
        }
    }
    Ok(roots)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SinkFault> {
    let found = parse(&read(key, path)?);
    // Of our own chain none may be missing.
    if found.readable.is_empty() || !found.unreadable.is_empty() {
        return Err(wrong(key, path, "certificate (PEM)"));
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

fn read(key: &str, path: &Path) -> Result<Content, SinkFault> {
    file::read(path, MAX_FILE_BYTES)
        .map_err(|error| fault(format!("tls.{key}: can't read {}: {error}", path.display())))
}

fn wrong(key: &str, path: &Path, expected: &str) -> SinkFault {
    fault(format!("tls.{key}: found no {expected} in {}", path.display()))
}

fn fault(reason: String) -> SinkFault {
    SinkFault::new(FaultKind::Unauthorised, reason)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_wrong_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let config = TlsConfig {
            ca_file: Some(path.clone()),
            ..TlsConfig::default()
        };
        let missing = client_config(&config).unwrap_err();
        assert!(
            missing.reason.contains("can't read") && missing.reason.contains("ca.pem"),
            "{missing}"
        );
        fs::write(&path, "no certificate").unwrap();
        let wrong = client_config(&config).unwrap_err();
        assert!(wrong.reason.contains("found no certificate (PEM) in"), "{wrong}");
    }
}
