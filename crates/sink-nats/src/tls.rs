//! The TLS configuration of the client.

use std::error::Error;

use neurobridge_core::{
    sink::{FaultKind, SinkFault},
    tls::{self, TlsFiles, TlsSetupError},
};
use rustls::ClientConfig;

/// Reads the files. Blocks for up to [`file::TIME_LIMIT`](neurobridge_core::file::TIME_LIMIT) for each.
///
/// # Errors
/// A file cannot be read, or does not contain the expected section.
pub(crate) fn client_config(files: &TlsFiles) -> Result<ClientConfig, SinkFault> {
    tls::client_config(files).map_err(|error| fault(&error))
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
        let files = TlsFiles {
            ca_file: Some(path.clone()),
            ..TlsFiles::default()
        };
        let missing = client_config(&files).unwrap_err();
        assert!(
            missing.reason.contains("cannot read `tls.ca_file`") && missing.reason.contains("ca.pem"),
            "{missing}"
        );
        fs::write(&path, "no certificate").unwrap();
        let wrong = client_config(&files).unwrap_err();
        assert!(wrong.reason.contains("found no certificate (PEM) in"), "{wrong}");
    }
}
