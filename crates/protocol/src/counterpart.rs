//! The other end of a declared feed: recognises the requests and messages of a client, for simulators.

use crate::{
    check::{self, Compiled},
    declaration::Declaration,
    problem::Problem,
    text::{Recognised, Secrets, Template},
};

/// The other end of a declared feed. A secret without a known value matches any text of at least one character.
#[derive(Clone, Debug)]
pub struct Counterpart {
    declaration: Declaration,
    compiled: Compiled,
    secrets: Secrets,
}

/// The reason why a request is not the declared one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// Whether the part that differs contains a secret.
    pub is_secret: bool,
    /// The part that differs, without its value.
    pub message: String,
}

impl Counterpart {
    /// Compiles a declaration. `secrets` are the expected secrets.
    ///
    /// # Errors
    /// All configuration errors of the declaration.
    pub fn new(declaration: Declaration, secrets: Secrets) -> Result<Self, Vec<Problem>> {
        Ok(Self {
            compiled: check::compile(&declaration)?,
            declaration,
            secrets,
        })
    }

    /// Returns the declaration.
    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// Compares a request with the declared one, and returns the value of the parameter for resuming. `query` is the query as
    /// sent, without `?`; `header` returns the values of a header; `offered` are the offered sub-protocols.
    ///
    /// # Errors
    /// A header, a parameter or a sub-protocol is missing or has another value.
    pub fn check_request(
        &self,
        query: &str,
        header: &dyn Fn(&str) -> Vec<String>,
        offered: &[&str],
    ) -> Result<Option<String>, RequestError> {
        let secrets = &self.secrets;
        let error = |text: &crate::text::Text, message| RequestError {
            is_secret: text.has_secret(),
            message,
        };
        for (name, text) in &self.compiled.headers {
            let is_right = |value: &String| text.recognise(value, secrets, &mut Recognised::default());
            if !header(name).iter().any(is_right) {
                return Err(error(
                    text,
                    format!("the header \"{name}\" is missing or has another value"),
                ));
            }
        }
        let pairs = pairs(query);
        for (name, text) in &self.compiled.query {
            let is_right = |(found, value): &(String, String)| {
                found == name && text.recognise(value, secrets, &mut Recognised::default())
            };
            if !pairs.iter().any(is_right) {
                return Err(error(
                    text,
                    format!("the parameter \"{name}\" is missing or has another value"),
                ));
            }
        }
        let declared = &self.declaration.request.subprotocols;
        if let Some(missing) = declared.iter().find(|name| !offered.contains(&name.as_str())) {
            return Err(RequestError {
                is_secret: false,
                message: format!("the sub-protocol \"{missing}\" is not offered"),
            });
        }
        let resume = self.declaration.resume.as_ref().map(|resume| &resume.query);
        let value = pairs.into_iter().rfind(|(name, _)| Some(name) == resume);
        Ok(value.map(|(_, value)| value))
    }

    /// Recognises the message of an opening step.
    pub fn opening(&self, step: usize, message: &str) -> Option<Recognised> {
        self.recognise(self.compiled.open.get(step)?.as_ref(), message)
    }

    /// Recognises a ping.
    pub fn ping(&self, message: &str) -> Option<Recognised> {
        self.recognise(self.compiled.ping.as_ref(), message)
    }

    /// Recognises the reply of a rule, and returns the index of the rule.
    pub fn reply(&self, message: &str) -> Option<usize> {
        let matches = |template: &Option<Template>| self.recognise(template.as_ref(), message).is_some();
        self.compiled.replies.iter().position(matches)
    }

    /// Recognises an acknowledgement.
    pub fn acknowledgement(&self, message: &str) -> Option<Recognised> {
        self.recognise(self.compiled.ack.as_ref(), message)
    }

    fn recognise(&self, template: Option<&Template>, message: &str) -> Option<Recognised> {
        template?.recognise(message, &self.secrets)
    }
}

/// Returns the decoded names and values of a query.
fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digit = |at: usize| after.get(at).and_then(|byte| (*byte as char).to_digit(16));
        rest = after;
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            (b'+', ..) => bytes.push(b' '),
            (byte, ..) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use neurobridge_core::secret::Secret;

    use super::*;
    use crate::Declared;

    const FEED: &str = r#"
        secrets = { token = { value = "a b&c" } }
        request = { headers = { Authorization = "Bearer {secret.token}" }, query = { t = "{secret.token}", s = ["x", "y"] }, subprotocols = ["v1"] }
        rules = [{ is = "event" }]
        resume = { value = "n", query = "from" }
    "#;

    #[test]
    fn prepared_request_is_accepted_and_a_wrong_secret_refused() {
        let declaration: Declaration = toml::from_str(FEED).unwrap();
        let right = Secrets::from([("token".to_owned(), Secret::new("a b&c"))]);
        let other = Secrets::from([("token".to_owned(), Secret::new("other"))]);
        let client = Declared::new(declaration.clone(), &[]).unwrap();
        let server = Counterpart::new(declaration, right.clone()).unwrap();
        let check = |secrets: &Secrets, last, offered: &[&str]| {
            let request = client.request(secrets, last);
            let header = |name: &str| {
                let pairs = request.headers.iter();
                pairs
                    .filter(|pair| pair.0 == name)
                    .map(|pair| pair.1.clone())
                    .collect()
            };
            server.check_request(&request.query, &header, offered)
        };
        assert_eq!(check(&right, None, &["v1"]), Ok(None));
        assert_eq!(check(&right, Some("7"), &["v1"]), Ok(Some("7".to_owned())));
        assert!(check(&other, None, &["v1"]).unwrap_err().is_secret);
        assert!(!check(&right, None, &[]).unwrap_err().is_secret);
    }
}
