//! A certificate authority with a server's and a client's certificate, as files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::kafka::Secure;

/// Certificates of one authority. Each call of [`Certificates::generate`] creates another authority, so a second set
/// serves as untrusted certificates.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate in PEM.
    pub ca: PathBuf,
    /// The server's certificate for `localhost` and `127.0.0.1` in PEM.
    pub server_cert: PathBuf,
    /// The server's PKCS#8 key in PEM.
    pub server_key: PathBuf,
    /// The server's key, its certificate and the authority's certificate in one PEM file, as Kafka expects.
    pub server_keystore: PathBuf,
    /// The client's certificate in PEM, with the common name `client`.
    pub client_cert: PathBuf,
    /// The client's PKCS#8 key in PEM.
    pub client_key: PathBuf,
}

impl Certificates {
    /// Generates an authority and both certificates, and writes them to `dir`, which is created if necessary.
    ///
    /// # Errors
    /// Returns an error if the files cannot be generated or written.
    pub fn generate(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("creating the folder {}", dir.display()))?;
        let (ca_pem, issuer) = authority()?;
        let server = leaf(&issuer, "localhost", ExtendedKeyUsagePurpose::ServerAuth)?;
        let client = leaf(&issuer, "client", ExtendedKeyUsagePurpose::ClientAuth)?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            ca: write("ca.pem", &ca_pem)?,
            server_cert: write("server.pem", &server.cert)?,
            server_key: write("server.key", &server.key)?,
            server_keystore: write(
                "server-keystore.pem",
                &format!("{}{}{ca_pem}", server.key, server.cert),
            )?,
            client_cert: write("client.pem", &client.cert)?,
            client_key: write("client.key", &client.key)?,
        })
    }

    /// Returns the settings of Kafka's secure listeners, with these user names and passwords.
    pub fn secure_kafka(&self, users: &[(&str, &str)]) -> Secure {
        Secure {
            keystore: self.server_keystore.clone(),
            truststore: self.ca.clone(),
            users: users
                .iter()
                .map(|(name, password)| ((*name).to_owned(), (*password).to_owned()))
                .collect(),
        }
    }
}

struct Leaf {
    cert: String,
    key: String,
}

fn authority() -> Result<(String, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "neurobridge test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().context("creating the authority's key")?;
    let certificate = params
        .self_signed(&key)
        .context("signing the authority's certificate")?;
    Ok((certificate.pem(), Issuer::new(params, key)))
}

fn leaf(issuer: &Issuer<'_, KeyPair>, name: &str, purpose: ExtendedKeyUsagePurpose) -> Result<Leaf> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names).context("setting the names of a certificate")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().with_context(|| format!("creating the key of {name}"))?;
    let certificate = params
        .signed_by(&key, issuer)
        .with_context(|| format!("signing the certificate of {name}"))?;
    Ok(Leaf {
        cert: certificate.pem(),
        key: key.serialize_pem(),
    })
}
