//! The other end of a declared feed: recognises the requests and messages of a client, for simulators.

use neurobridge_core::path::Path;

use crate::{
    check::{self, Compiled},
    declaration::Declaration,
    declaration_error::DeclarationError,
    percent::{decoded, pairs},
    text::{Recognised, Secrets, Template},
};

/// The other end of a declared feed. A secret without a known value matches any text of at least one character.
#[derive(Clone, Debug)]
pub struct Counterpart {
    declaration: Declaration,
    compiled: Compiled,
    secrets: Secrets,
}

/// The difference between a request and the declared one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// Whether the part that differs contains a secret.
    pub is_secret: bool,
    /// A sentence that names the part that differs, without the value.
    pub message: String,
}

/// The query parameter with the cursor in links to the next page, which [`Counterpart::check_list_request`] reads.
pub const CURSOR: &str = "cursor";

/// A request for the list of past events. The values are texts as requested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// The value of `{from}`.
    pub from: Option<String>,
    /// The value of `{to}`.
    pub to: Option<String>,
    /// The value of `{last_id}`.
    pub last_id: Option<String>,
    /// The offset, the number of the page, or the cursor. A link contains the cursor in the parameter [`CURSOR`].
    pub position: Option<String>,
    /// The number of entries.
    pub limit: Option<String>,
}

impl Counterpart {
    /// Compiles a declaration. `secrets` are the expected secrets.
    ///
    /// # Errors
    /// All configuration errors of the declaration.
    pub fn new(declaration: Declaration, secrets: Secrets) -> Result<Self, Vec<DeclarationError>> {
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
    /// A header, a parameter or a sub-protocol is missing or differs from the declared value.
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
                    format!("the header \"{name}\" is missing or differs from the declared value"),
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
                    format!("the parameter \"{name}\" is missing or differs from the declared value"),
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

    /// Compares a request for the list of past events with the declared one; `None` if `path` is not the path of the list.
    ///
    /// # Errors
    /// A header or a parameter is missing or differs from the declared value.
    pub fn check_list_request(
        &self,
        path: &str,
        query: &str,
        header: &dyn Fn(&str) -> Vec<String>,
    ) -> Option<Result<ListRequest, RequestError>> {
        let (list, declaration) = (self.compiled.list.as_ref()?, self.declaration.backfill.as_ref()?);
        let secrets = &self.secrets;
        let mut found = Recognised::default();
        if !list.path.recognise(&decoded(path), secrets, &mut found) {
            return None;
        }
        let wrong = |text: &crate::text::Text, what: &str, name: &str| {
            Some(Err(RequestError {
                is_secret: text.has_secret(),
                message: format!("the {what} \"{name}\" is missing or differs from the declared value"),
            }))
        };
        for (name, text) in &list.headers {
            let is_right = |value: &String| text.recognise(value, secrets, &mut Recognised::default());
            if !header(name).iter().any(is_right) {
                return wrong(text, "header", name);
            }
        }
        let pairs = pairs(query);
        let value = |name: &str| {
            let mut pairs = pairs.iter();
            pairs
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
        };
        let pages = declaration.pages.as_ref();
        let position = pages.and_then(|pages| pages.parameter()).unwrap_or(CURSOR);
        for (name, text) in list.query.iter().filter(|(name, _)| name != position) {
            let values = pairs.iter().filter(|(known, _)| known == name);
            let is_right = values
                .map(|(_, value)| value)
                .any(|value| text.recognise(value, secrets, &mut found));
            if !is_right && !text.uses_window()[2] {
                return wrong(text, "parameter", name);
            }
        }
        let [from, to, last_id] = found.window;
        Some(Ok(ListRequest {
            from,
            to,
            last_id,
            position: value(position),
            limit: pages.and_then(|pages| value(pages.limit_parameter())),
        }))
    }

    /// Returns the path of an entry of the list in its frame.
    pub fn entry_path(&self) -> Path {
        let list = self.compiled.list.as_ref();
        let frame = list.and_then(|list| list.frame.as_ref());
        frame.and_then(|frame| frame.entry_path()).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use neurobridge_core::secret::Secret;

    use super::*;
    use crate::Interpreter;

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
        let client = Interpreter::new(declaration.clone(), &[]).unwrap();
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
