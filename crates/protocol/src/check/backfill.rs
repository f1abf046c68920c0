//! Validates and compiles the declaration of a list with past events.

use neurobridge_core::address::{Address, describe_scheme};
use serde_json::Value;

use super::Check;
use crate::{
    backfill::{BackfillList, PageType, Pages},
    declaration::Declaration,
    notation::{MessageTemplate, Paths},
    percent::pairs,
    text::{Allowed, Template, Text},
};

/// The largest number of entries to request on a page.
const MAX_LIMIT: u32 = 10_000;

/// Scheme, host and port of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) is_tls: bool,
    /// In lower case.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// Returns the origin of an address; `None` without a scheme of HTTP, or with a user.
    pub(crate) fn of(address: &Address<'_>) -> Option<Self> {
        let scheme = address.scheme?;
        let is_tls = scheme.eq_ignore_ascii_case("https");
        let is_http = is_tls || scheme.eq_ignore_ascii_case("http");
        (is_http && address.user.is_none()).then(|| Self {
            is_tls,
            host: address.host.to_ascii_lowercase(),
            port: address.port.unwrap_or(if is_tls { 443 } else { 80 }),
        })
    }
}

/// The compiled declaration of a list.
#[derive(Clone, Debug)]
pub(crate) struct CompiledList {
    pub(crate) origin: Origin,
    /// The scheme, host and port as written.
    pub(crate) address: String,
    pub(crate) path: Text,
    /// The parameters of the address, then those of `query`.
    pub(crate) query: Vec<(String, Text)>,
    pub(crate) headers: Vec<(String, Text)>,
    /// The frame of an entry; `None` if it is the entry itself.
    pub(crate) frame: Option<Template>,
}

impl Check<'_> {
    /// Validates and compiles the list of past events; `None` without a list, or after an error.
    pub(super) fn backfill(&mut self, declaration: &Declaration) -> Option<CompiledList> {
        let list = declaration.backfill.as_ref()?;
        if declaration.resume.is_some() {
            self.add(
                &["backfill"],
                "found together with \"resume\", expected one of them: a feed that resumes sends missed events itself",
            );
        }
        if declaration.event.id.is_none() {
            self.add(
                &["event", "id"],
                "missing: a fetched event is recognised as a duplicate by its id, expected the path of the id, or no \
                 \"backfill\"",
            );
        }
        if let Some(pages) = &list.pages {
            self.pages(pages);
        }
        let headers = self.headers(&["backfill", "headers"], &list.headers);
        let frame = self.frame(declaration, list);
        let (origin, address, path, mut query) = self.list_address(list)?;
        for (name, values) in &list.query {
            for value in values.iter() {
                let key = ["backfill", "query", name.as_str()];
                query.push((name.clone(), self.window_text(&key, value, true)?));
            }
        }
        self.window(declaration, list, &path, &query);
        Some(CompiledList {
            origin,
            address,
            path,
            query,
            headers,
            frame: frame?,
        })
    }

    /// Returns the origin, the address as written up to the path, the path and the query.
    #[expect(
        clippy::type_complexity,
        reason = "the parts of one address, taken apart at once"
    )]
    fn list_address(&mut self, list: &BackfillList) -> Option<(Origin, String, Text, Vec<(String, Text)>)> {
        const EXPECTED: &str = "expected https://host[:port]/path, or http:// without TLS";
        const KEY: [&str; 2] = ["backfill", "url"];
        let url = &list.url;
        let address = match Address::parse(url) {
            Ok(address) => address,
            Err(error) => {
                self.add(&KEY, format!("{error}, {EXPECTED}"));
                return None;
            }
        };
        let Some(origin) = Origin::of(&address) else {
            let found = match address.user {
                Some(_) => "found a user or password in the URL".to_owned(),
                None => describe_scheme(address.scheme),
            };
            self.add(&KEY, format!("{found}, {EXPECTED}"));
            return None;
        };
        let written = &url[..url.len() - address.rest.len()];
        let (path, query) = address.rest.split_once('?').unwrap_or((address.rest, ""));
        let path = if path.is_empty() { "/" } else { path };
        if path.chars().any(|c| !c.is_ascii_graphic()) {
            self.add(
                &KEY,
                "found a blank or a character other than ASCII in the path, expected it percent-encoded, such as %20",
            );
            return None;
        }
        let path = self.window_text(&KEY, path, false)?;
        let mut compiled = Vec::new();
        for (name, value) in pairs(query) {
            compiled.push((name, self.window_text(&KEY, &value, false)?));
        }
        Some((origin, written.to_owned(), path, compiled))
    }

    fn window_text(&mut self, key: &[&str], text: &str, with_secrets: bool) -> Option<Text> {
        if !with_secrets && text.contains("{secret.") {
            self.add(
                key,
                "found a secret in the address, expected it in \"backfill.query\" or \"backfill.headers\"",
            );
            return None;
        }
        let allowed = Allowed {
            secrets: self.secrets,
            window: true,
            ..Allowed::default()
        };
        Text::parse(text, allowed)
            .map_err(|message| self.add(key, message))
            .ok()
    }

    /// Checks that a request can select the part of the list that belongs to a gap.
    fn window(
        &mut self,
        declaration: &Declaration,
        list: &BackfillList,
        path: &Text,
        query: &[(String, Text)],
    ) {
        let url = &["backfill", "url"];
        if path.uses_window()[2] {
            self.add(
                url,
                "found {last_id} in the path, expected it in a query parameter, which can be left out while no event is known",
            );
        }
        let texts = query.iter().map(|(_, text)| text).chain([path]);
        let [from, to, last_id] = texts.map(Text::uses_window).fold([false; 3], |all, one| {
            std::array::from_fn(|index| all[index] || one[index])
        });
        if !from && !last_id {
            self.add(
                url,
                "found neither {from} nor {last_id} here or in \"backfill.query\", expected one of them, so that the answer \
                 begins with the gap",
            );
        }
        let has_order = list.order.is_some() && to;
        if declaration.event.id.is_some() && declaration.event.time.is_none() && !has_order {
            self.add(
                &["event", "time"],
                "missing: the order of the list and the end of the gap are recognised by the time of an event, expected the \
                 path of the time, or \"backfill.order\" and {to}",
            );
        }
        let parts = declaration.event.id.iter().flat_map(Paths::iter).count();
        if last_id && parts > 1 {
            self.add(
                url,
                format!(
                    "found {{last_id}} with an id of {parts} values, expected {{from}}, or an id of one value"
                ),
            );
        }
        let Some(pages) = &list.pages else {
            return;
        };
        let limit = pages.limit.map(|_| pages.limit_parameter());
        let position = pages.parameter().filter(|_| pages.kind != PageType::Next);
        for (key, name) in [("parameter", position), ("limit_parameter", limit)] {
            if let Some(name) = name
                && query.iter().any(|(known, _)| known == name)
            {
                self.add(
                    &["backfill", "pages", key],
                    format!("found \"{name}\", which the address or \"backfill.query\" also contains, expected it in one place"),
                );
            }
        }
    }

    fn pages(&mut self, pages: &Pages) {
        let kind = pages.kind;
        let mut add = |key: &str, message: &str| self.add(&["backfill", "pages", key], message);
        if kind == PageType::Next && pages.path.is_none() {
            add(
                "path",
                "missing: expected the path of the next link or cursor in an answer, such as \"paging.next\"",
            );
        }
        if kind != PageType::Next && pages.path.is_some() {
            add("path", "found without a next link, expected type = \"next\"");
        }
        if kind != PageType::Page && pages.first.is_some() {
            add(
                "first",
                "found without numbers of pages, expected type = \"page\"",
            );
        }
        if pages.limit.is_none() && pages.limit_parameter.is_some() {
            add(
                "limit_parameter",
                "found without \"limit\", expected the number of entries on a page as \"limit\"",
            );
        }
        for (key, name) in [
            ("parameter", &pages.parameter),
            ("limit_parameter", &pages.limit_parameter),
        ] {
            if name.as_deref() == Some("") {
                add(key, "found an empty name, expected the name of a query parameter");
            }
        }
        if let Some(limit) = pages.limit.filter(|limit| !(1..=MAX_LIMIT).contains(limit)) {
            add("limit", &format!("found {limit}, expected 1 to {MAX_LIMIT}"));
        }
    }

    /// Returns the frame of an entry; `Some(None)` if the frame is the entry itself, `None` after an error.
    #[expect(clippy::option_option, reason = "no frame is a valid one")]
    fn frame(&mut self, declaration: &Declaration, list: &BackfillList) -> Option<Option<Template>> {
        const KEY: [&str; 2] = ["backfill", "frame"];
        let message = match (&list.frame, &declaration.events) {
            (Some(frame), _) => frame.clone(),
            (None, Some(events)) => {
                let mut frame = Value::from("{entry:json}");
                for step in ["0"]
                    .into_iter()
                    .chain(events.steps().iter().rev().map(|step| &**step))
                {
                    frame = match step.parse::<usize>() {
                        Ok(index) => {
                            let before = std::iter::repeat_n(Value::Null, index);
                            Value::Array(before.chain([frame]).collect())
                        }
                        Err(_) => Value::Object([(step.to_owned(), frame)].into_iter().collect()),
                    };
                }
                MessageTemplate(frame)
            }
            (None, None) => return Some(None),
        };
        let allowed = Allowed {
            entry: true,
            ..Allowed::default()
        };
        match Template::parse(&message, allowed) {
            Ok(template @ Template::Json(_)) if template.uses_entry() => Some(Some(template)),
            Ok(_) => {
                self.add(
                    &KEY,
                    "found no entry, expected a table with \"{entry:json}\" in place of the entry, such as { data = [\"{entry:json}\"] }",
                );
                None
            }
            Err(message) => {
                self.add(&KEY, message);
                None
            }
        }
    }
}

#[cfg(test)]
#[path = "backfill_tests.rs"]
mod tests;
