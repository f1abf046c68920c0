//! Creates and deletes tokens: the IAM interface of the platform.

use std::time::Duration;

use hyper::Method;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use neurobridge_core::secret::Secret;
use serde::{Deserialize, Deserializer};

use crate::{
    client::{Access, Client},
    error::RequestError,
};

/// The address of the platform's own IAM interface.
pub const IAM_URL: &str = "https://iam.neuroio.com";

/// The documented lifetime of a temporary token, for an answer that does not state the lifetime.
const DOCUMENTED_LIFETIME: Duration = Duration::from_secs(24 * 3_600);

const TOKEN: &str =
    "{\"id\": …, \"key\": \"…\", \"is_active\": true, \"created\": \"…\", \"expires\": \"…\"}";
const IDENTITY: &str = "{\"account\": {\"id\": …}, \"space\": {\"id\": …}}";

/// The IAM interface of a platform.
#[derive(Debug)]
pub struct Iam {
    client: Client,
}

/// The owner of a new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The owner of the credential: an account or a space. A token of an account acts on the default space of the account.
    Own,
    /// A space of the account.
    Space(u64),
}

/// A token that the platform created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedToken {
    /// The id, for its deletion.
    pub id: u64,
    /// The token.
    pub key: Secret,
    /// The time from creation to expiry; `None` for a permanent token. The difference of two times of the platform's clock, so
    /// that a deviation of the local clock has no effect.
    pub lifetime: Option<Duration>,
}

/// The account and space of a token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Identity {
    /// The account.
    pub account: Named,
    /// The space; `None` for a token of the account.
    #[serde(default)]
    pub space: Option<Named>,
}

/// An id with a name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Named {
    /// The id.
    pub id: u64,
    /// The name.
    #[serde(default)]
    pub name: Option<String>,
}

impl Iam {
    /// Creates the interface with a client for its address.
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a token. A request that was sent is not repeated: if the answer is lost, a token exists whose key is unknown. A
    /// temporary token then expires by itself.
    ///
    /// # Errors
    /// The platform refuses the credential or the request, or cannot be reached.
    pub async fn create_token(
        &self,
        credential: &Secret,
        scope: Scope,
        permanent: bool,
    ) -> Result<CreatedToken, RequestError> {
        let path = match scope {
            Scope::Own => "/v1/tokens/".to_owned(),
            Scope::Space(id) => format!("/v1/spaces/{id}/tokens"),
        };
        let body = format!(r#"{{"permanent":{permanent}}}"#);
        let answer = self
            .client
            .request(Method::POST, &path, Access::Token(credential), Some(body))
            .await?;
        // The answer may contain a token, so no error quotes it.
        let token: Token = serde_json::from_slice(&answer).map_err(|error| {
            if !error.is_data() {
                return self.client.not_json(b"(not shown: it may contain a token)");
            }
            let (line, column) = (error.line(), error.column());
            let problem = format!("found an unexpected value at line {line}, column {column}");
            self.client.other_shape(&problem, TOKEN)
        })?;
        if token.is_active == Some(false) || token.key.expose().is_empty() {
            return Err(self
                .client
                .other_shape("found a token that is inactive or empty", TOKEN));
        }
        let between = match (token.created, token.expires) {
            (Some(created), Some(expires)) => expires.duration_since(created).try_into().ok(),
            _ => None,
        };
        Ok(CreatedToken {
            id: token.id,
            key: token.key,
            lifetime: between.or((!permanent).then_some(DOCUMENTED_LIFETIME)),
        })
    }

    /// Deletes a token. Returns false if it did not exist.
    ///
    /// # Errors
    /// The platform refuses the credential, or cannot be reached.
    pub async fn delete_token(&self, credential: &Secret, id: u64) -> Result<bool, RequestError> {
        let path = format!("/v1/tokens/{id}");
        match self
            .client
            .request(Method::DELETE, &path, Access::Token(credential), None)
            .await
        {
            Ok(_) => Ok(true),
            Err(RequestError::Status { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the account and the space of a token. *Assumed*: the path and the fields of the answer.
    ///
    /// # Errors
    /// The platform refuses the token, or cannot be reached.
    pub async fn whoami(&self, token: &Secret) -> Result<Identity, RequestError> {
        let answer = self
            .client
            .request(Method::GET, "/v1/whoami", Access::Token(token), None)
            .await?;
        self.client.parse(&answer, IDENTITY)
    }
}

#[derive(Deserialize)]
struct Token {
    id: u64,
    key: Secret,
    #[serde(default)]
    is_active: Option<bool>,
    #[serde(default, deserialize_with = "time")]
    created: Option<Timestamp>,
    #[serde(default, deserialize_with = "time")]
    expires: Option<Timestamp>,
}

/// Parses a time with or without an offset; a time without an offset is in UTC. Returns `None` for any other text.
fn time<'de, D: Deserializer<'de>>(time: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(time)?;
    Ok(text.and_then(|text| {
        text.parse().ok().or_else(|| {
            let civil: DateTime = text.parse().ok()?;
            Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
        })
    }))
}
