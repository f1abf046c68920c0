//! Reads certificates and keys from PEM files, which librdkafka receives as text.

use std::path::Path;

use neurobridge_core::{
    file,
    pem::{Certificate, Certificates},
    sink::{FaultKind, SinkFault},
};
use tracing::warn;

/// The limit on the size of a file. All the authorities that a system trusts by default have about a quarter of a MiB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Returns the readable certificates of a file of authorities, as PEM.
///
/// # Errors
/// The file cannot be read, or contains no certificate.
pub(crate) fn authorities(path: &Path) -> Result<String, SinkFault> {
    let found = Certificates::parse(&read("ca_file", path)?);
    if found.readable.is_empty() {
        let reason = format!("tls.ca_file: found no certificate (PEM) in {}", path.display());
        return Err(SinkFault::new(FaultKind::Other, reason));
    }
    // Only a warning, because the readable certificates may be sufficient.
    if let Some(words) = found.skipped_message(&path.display().to_string(), &[]) {
        warn!("tls.ca_file: {words}");
    }
    Ok(found.readable.iter().map(Certificate::pem).collect())
}

/// Returns the text of the file that a key of the table `tls` names.
///
/// # Errors
/// The file cannot be read, or not in time.
pub(crate) fn read(key: &str, path: &Path) -> Result<String, SinkFault> {
    file::read(path, MAX_FILE_BYTES)
        .and_then(|content| content.text().map(str::to_owned))
        .map_err(|error| {
            let reason = format!(
                "tls.{key} = \"{}\" cannot be read: {error}; make it readable for the bridge, or name another file",
                path.display()
            );
            SinkFault::new(FaultKind::Other, reason)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_certificates_of_a_bundle_are_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let good = Certificate {
            number: 1,
            der: vec![0x30, 1, 7],
        };
        std::fs::write(
            &path,
            format!("\u{feff}{}{}", good.pem(), good.pem().replace("MAEH", "MAE")),
        )
        .unwrap();
        assert_eq!(authorities(&path).unwrap(), good.pem());
        std::fs::write(&path, "nothing").unwrap();
        let fault = authorities(&path).unwrap_err();
        assert!(fault.reason.contains("found no certificate (PEM) in"), "{fault}");
    }
}
