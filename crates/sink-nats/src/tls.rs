//! TLS: whom to trust and what to show.

use std::error::Error;

use neurobridge_core::{
    sink::{FaultKind, SinkFault},
    tls::{self, TlsPaths, TlsSetupError},
};
use rustls::ClientConfig;

use crate::config::TlsConfig;

/// Reads the files. Blocks for up to [`file::TIME_LIMIT`](neurobridge_core::file::TIME_LIMIT) for each.
///
/// # Errors
/// A file can't be read, or has not in it what it should have.
pub(crate) fn client_config(config: &TlsConfig) -> Result<ClientConfig, SinkFault> {
    let paths = TlsPaths {
        ca_file: config.ca_file.as_deref(),
        cert_file: config.cert_file.as_deref(),
        key_file: config.key_file.as_deref(),
    };
    tls::client_config(paths).map_err(|error| fault(&error))
}

fn fault(error: &TlsSetupError) -> SinkFault {
    let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
    SinkFault::new(FaultKind::Unauthorised, format!("{error}{cause}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn invalid_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let config = TlsConfig {
            ca_file: Some(path.clone()),
            ..TlsConfig::default()
        };
        let missing = client_config(&config).unwrap_err();
        assert!(
            missing.reason.contains("cannot read `tls.ca_file`") && missing.reason.contains("ca.pem"),
            "{missing}"
        );
        fs::write(&path, "no certificate").unwrap();
        let wrong = client_config(&config).unwrap_err();
        assert!(wrong.reason.contains("found no certificate (PEM) in"), "{wrong}");
    }
}
