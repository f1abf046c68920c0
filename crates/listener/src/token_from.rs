//! The configuration `token_from`: the credential with which the program creates the tokens of a source.

use std::path::PathBuf;

use neurobridge_core::{address, secret::Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::backfill::parse_endpoint;

/// The address of the platform's own IAM interface.
const PLATFORM_IAM: &str = "https://iam.neuroio.com";

/// A long-lived credential with which the bridge creates temporary tokens at the platform's IAM interface, in place of
/// `token` and `token_file`.
///
/// The program that runs the source creates the tokens. The source connects after the program has
/// [set](crate::Handle::set_token) the first one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TokenFromConfig {
    /// Address of the IAM interface: `https://host[:port][/path]`, or `http://` without TLS. The proxy, certificates and
    /// `open_timeout` of the source apply to it too.
    #[schemars(extend("format" = address::SCHEMA_FORMAT))]
    pub url: String,
    /// The long-lived credential: a permanent token. Exactly one of `credential` and `credential_file` is required.
    pub credential: Option<Secret>,
    /// A file with the credential, read at every request, so that a rotated credential is used. A line break at its end
    /// does not belong to the credential.
    pub credential_file: Option<PathBuf>,
    /// The id of the space for which tokens are created. By default the space of the credential, or the default space of its
    /// account if the credential belongs to no space.
    pub space: Option<u64>,
}

impl Default for TokenFromConfig {
    fn default() -> Self {
        Self {
            url: PLATFORM_IAM.to_owned(),
            credential: None,
            credential_file: None,
            space: None,
        }
    }
}

impl TokenFromConfig {
    /// Returns the configuration errors, each with its key below the source and a sentence that states the found and the
    /// expected value.
    pub(crate) fn check(&self) -> Vec<(&'static str, String)> {
        let mut errors = Vec::new();
        if let Err(error) = parse_endpoint(&self.url) {
            errors.push(("token_from.url", error));
        }
        match (&self.credential, &self.credential_file) {
            (Some(_), Some(_)) => errors.push((
                "token_from.credential",
                "given together with `credential_file`: expected one of them".to_owned(),
            )),
            (None, None) => errors.push((
                "token_from.credential",
                "missing: expected a permanent token here, or a file with it as `credential_file`".to_owned(),
            )),
            (Some(credential), None) if credential.expose().trim().is_empty() => errors.push((
                "token_from.credential",
                "empty: expected a permanent token".to_owned(),
            )),
            _ => {}
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_and_one_credential_are_required() {
        let errors = |credential: Option<&str>, file: Option<&str>, url: &str| {
            let config = TokenFromConfig {
                url: url.to_owned(),
                credential: credential.map(Into::into),
                credential_file: file.map(Into::into),
                space: None,
            };
            let errors = config.check();
            errors
                .into_iter()
                .map(|(key, text)| format!("{key}: {text}"))
                .collect::<Vec<_>>()
        };
        assert!(errors(Some("c"), None, PLATFORM_IAM).is_empty());
        assert!(errors(None, Some("/run/c"), "http://127.0.0.1:1").is_empty());
        let all = [
            errors(None, None, "wss://u:hunter2@iam"),
            errors(Some("c"), Some("/run/c"), PLATFORM_IAM),
            errors(Some(" "), None, PLATFORM_IAM),
        ];
        insta::assert_snapshot!(all.concat().join("\n"), @r#"
        token_from.url: found the scheme wss://, expected https://host[:port][/path], or http:// without TLS
        token_from.credential: missing: expected a permanent token here, or a file with it as `credential_file`
        token_from.credential: given together with `credential_file`: expected one of them
        token_from.credential: empty: expected a permanent token
        "#);
    }
}
