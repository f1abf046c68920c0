//! The list of past events (`backfill`) of a declared feed, which the simulator serves over HTTP according to the
//! declaration.

use jiff::Timestamp;
use neurobridge_core::{cloudevents, path::Path};
use neurobridge_protocol::{BackfillList, CURSOR, FeedPath, ListRequest, PageType, Paths};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{handshake::server::Request, http::Method};

use super::{Service, build::put};
use crate::{
    faults::RestFault,
    http::{ErrorCode, Response},
    platform::Platform,
    rest::{RestOrder, not_found},
};

/// The placeholder for the entries while an answer is built. The entries replace it as text, so that they stay unchanged.
const ENTRIES: &str = "\u{0}entries";

/// The part of the list that a request selects.
struct Selected {
    /// The events, in the order of the list.
    numbers: Vec<u64>,
    /// The number of the last event of the page, if there are further events.
    next: Option<u64>,
}

impl Service {
    /// Returns whether the feed has a list of past events.
    pub(crate) fn has_list(&self) -> bool {
        self.declaration().backfill.is_some()
    }

    /// Answers a request for the list of past events.
    pub(crate) fn list(&self, request: &Request, platform: &Platform, fault: Option<&RestFault>) -> Response {
        let values = |name: &str| -> Vec<String> {
            let values = request.headers().get_all(name).iter();
            values
                .filter_map(|value| value.to_str().ok().map(str::to_owned))
                .collect()
        };
        let uri = request.uri();
        let query = uri.query().unwrap_or_default();
        let checked = self.counterpart().check_list_request(uri.path(), query, &values);
        let (Some(checked), Some(list)) = (checked, &self.declaration().backfill) else {
            return not_found("unknown path, expected the path of the list of past events");
        };
        if request.method() != Method::GET {
            return not_found("the list of past events is requested with GET");
        }
        let wanted = match checked {
            Ok(wanted) => wanted,
            Err(error) => {
                let (status, code) = match error.is_secret {
                    true => (401, ErrorCode::Unauthorised),
                    false => (400, ErrorCode::Invalid),
                };
                return Response::error(status, &error.to_string(), code, None);
            }
        };
        let Some(mut selected) = self.select(list, &wanted, platform, fault) else {
            let message = "a parameter of the request has an invalid value";
            return Response::error(400, message, ErrorCode::Invalid, None);
        };
        if fault == Some(&RestFault::Backwards) {
            selected.numbers.reverse();
        }
        Response::new(200, self.body(list, &selected, uri.path(), query).into_bytes())
    }

    /// Selects the events of a page; `None` if a parameter of the request has an invalid value.
    fn select(
        &self,
        list: &BackfillList,
        wanted: &ListRequest,
        platform: &Platform,
        fault: Option<&RestFault>,
    ) -> Option<Selected> {
        let options = &platform.rest;
        let newest = platform.feed.produced(Instant::now());
        let mut first = newest.saturating_sub(options.keep) + 1;
        let mut last = newest;
        let time = |text: &String| cloudevents::timestamp(text, list.unit);
        if let Some(from) = &wanted.from {
            let before = Timestamp::from_nanosecond(time(from)?.as_nanosecond() - 1).ok()?;
            first = first.max(self.events.number_at(before) + 1);
        }
        if let Some(to) = &wanted.to {
            last = last.min(self.events.number_at(time(to)?));
        }
        if let Some(id) = &wanted.last_id {
            let path = self.declaration().event.id.iter().flat_map(Paths::iter).next()?;
            first = first.max(self.events.number_of(path, id)? + 1);
        }
        let position: Option<u64> = match &wanted.position {
            Some(_) if fault == Some(&RestFault::SamePage) => None,
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        let requested = match &wanted.limit {
            Some(limit) => limit.parse().ok().filter(|limit| *limit > 0)?,
            None => u64::MAX,
        };
        let limit = requested.min(options.max_page.get());
        let is_newest_first = options.order == RestOrder::NewestFirst;
        let pages = list.pages.as_ref();
        let mut skip = 0;
        match (pages.map(|pages| pages.kind), position) {
            (Some(PageType::Next), Some(cursor)) if is_newest_first => {
                last = last.min(cursor.checked_sub(1)?)
            }
            (Some(PageType::Next), Some(cursor)) => first = first.max(cursor + 1),
            (Some(PageType::Offset), Some(offset)) => skip = offset,
            (Some(PageType::Page), Some(number)) => {
                let from = pages.and_then(|pages| pages.first).unwrap_or(1);
                skip = number.checked_sub(from)?.saturating_mul(limit);
            }
            _ => {}
        }
        // A list without pages contains all events in one answer.
        let limit = if pages.is_some() { limit } else { u64::MAX };
        let at = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let range = first..=last;
        let numbers: Vec<u64> = match is_newest_first {
            true => range.rev().skip(at(skip)).take(at(limit)).collect(),
            false => range.skip(at(skip)).take(at(limit)).collect(),
        };
        let next = numbers.last().copied().filter(|number| match is_newest_first {
            true => *number > first,
            false => *number < last,
        });
        Some(Selected { numbers, next })
    }

    fn body(&self, list: &BackfillList, selected: &Selected, path: &str, query: &str) -> String {
        let entry_path = self.counterpart().entry_path();
        let entries: Vec<String> = selected
            .numbers
            .iter()
            .map(|number| {
                let frame = self.frame(*number..=*number);
                let entry = if entry_path == Path::default() {
                    None
                } else {
                    entry_path.of(&frame).map(str::to_owned)
                };
                entry.unwrap_or(frame)
            })
            .collect();
        let mut answer = Value::Null;
        let steps = list.list.as_ref().map_or(&[][..], FeedPath::steps);
        put(&mut answer, steps, ENTRIES.into());
        if let Some(pages) = &list.pages
            && let Some(at) = pages.path.as_ref().filter(|_| pages.kind == PageType::Next)
        {
            let next = match (selected.next, pages.parameter()) {
                (None, _) => Value::Null,
                (Some(next), Some(_)) => json!(next.to_string()),
                (Some(next), None) => {
                    let others = query.split('&').filter(|pair| !pair.starts_with("cursor="));
                    let others: Vec<&str> = others.collect();
                    json!(format!("{path}?{}&{CURSOR}={next}", others.join("&")))
                }
            };
            put(&mut answer, at.steps(), next);
        }
        let placeholder = json!(ENTRIES).to_string();
        answer
            .to_string()
            .replacen(&placeholder, &format!("[{}]", entries.join(",")), 1)
    }
}
