//! The declaration of a list with past events.

use std::collections::BTreeMap;

use neurobridge_core::{address, positions::TimeFormat};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::notation::{FeedPath, MessageTemplate, QueryValues, texts_schema};

/// A list with past events of a feed at a REST interface, from which the events of gaps are fetched.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillList {
    /// Address of the list: `https://host[:port]/path[?query]`, or `http://` without TLS. `{from}` and `{to}` are replaced by the
    /// start and the end of the gap, extended by `overlap` of the source, and `{last_id}` by the id of the last event before it.
    #[schemars(extend("format" = address::SCHEMA_FORMAT))]
    pub url: String,
    /// Further query parameters, by name, with the same placeholders and `{secret.NAME}`; a list repeats the parameter. A
    /// parameter with `{last_id}` is left out while no event is known.
    #[serde(default)]
    pub query: BTreeMap<String, QueryValues>,
    /// Headers, by name.
    #[serde(default)]
    #[schemars(schema_with = "texts_schema")]
    pub headers: BTreeMap<String, String>,
    /// The format of `{from}` and `{to}`, RFC 3339 by default.
    #[serde(default)]
    pub unit: TimeFormat,
    /// Path of the array with the entries in an answer. The answer itself by default.
    #[serde(default)]
    pub list: Option<FeedPath>,
    /// How to request the next part of the list. By default one answer has all entries.
    #[serde(default)]
    pub pages: Option<Pages>,
    /// The order of the entries. By default it is recognised from the times of the events.
    #[serde(default)]
    pub order: Option<ListOrder>,
    /// The frame that the feed would have sent for an entry: a table with `{entry:json}` in place of the entry. By default the
    /// entry itself, or with `events` a frame with the entry as the only element of that array.
    #[serde(default)]
    pub frame: Option<MessageTemplate>,
}

/// How to request the next part of a list.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    /// `offset` counts entries, `page` counts pages, `next` follows the link or the cursor in each answer.
    #[serde(rename = "type")]
    pub kind: PageType,
    /// The query parameter for the offset (`offset` by default), the number of the page (`page` by default) or the cursor.
    /// Without it, `next` follows a link.
    #[serde(default)]
    pub parameter: Option<String>,
    /// The number of the first page, 1 by default.
    #[serde(default)]
    pub first: Option<u64>,
    /// Path of the link or the cursor in an answer. The list ends with an answer without it, or with null.
    #[serde(default)]
    pub path: Option<FeedPath>,
    /// The number of entries to request on a page. By default that of the server.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10_000))]
    pub limit: Option<u32>,
    /// The query parameter for `limit`, `limit` by default.
    #[serde(default)]
    pub limit_parameter: Option<String>,
}

/// The kind of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PageType {
    /// The number of entries before the page.
    Offset,
    /// The number of the page.
    Page,
    /// A link or a cursor in the answer.
    Next,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListOrder {
    /// The oldest event first.
    OldestFirst,
    /// The newest event first.
    NewestFirst,
}

impl Pages {
    /// Returns the query parameter for the position; `None` if links are followed.
    pub fn parameter(&self) -> Option<&str> {
        let default = match self.kind {
            PageType::Offset => Some("offset"),
            PageType::Page => Some("page"),
            PageType::Next => None,
        };
        self.parameter.as_deref().or(default)
    }

    /// Returns the query parameter for the number of entries.
    pub fn limit_parameter(&self) -> &str {
        self.limit_parameter.as_deref().unwrap_or("limit")
    }
}
