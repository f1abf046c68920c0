//! The REST interface: recent entries and the statistics of a person.
//!
//! Entries are regenerated from the seed, so nothing is stored. The window is limited nevertheless, because a real
//! platform does not search an unlimited range in one request either.
//!
//! *Assumed*, since no public client shows it: the newest entry comes first; a page has at most 100 entries;
//! `date_from`, `date_to` and `id_from` are inclusive; `id_from` is a lower bound; the fields of a person's statistics;
//! the words in `error_codes`.

mod query;

use jiff::Timestamp;
use tokio_tungstenite::tungstenite::handshake::server::Request;

use self::query::Query;
use crate::{
    entries::{Entries, Entry, EntryResult},
    http::Response,
};

/// The number of recent entries that the REST interface returns.
pub const REST_WINDOW: u64 = 100_000;

/// The largest page. *Assumed*: that the platform has such a limit.
pub const MAX_PAGE: usize = 100;

/// The largest response body. A page with large inline pictures is cut short at this size to limit memory.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Answers an authenticated request.
pub(crate) fn respond(request: &Request, entries: &Entries, produced: u64) -> Response {
    let path = request.uri().path().trim_end_matches('/');
    if path == "/v1/entries" {
        return match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => list(&query, entries, produced),
            Err(error) => Response::error(400, &error.to_string(), "invalid", &[error.field()]),
        };
    }
    match path.strip_prefix("/v1/entries/stats/pid/") {
        Some(pid) if !pid.is_empty() && !pid.contains('/') => statistics(pid, entries, produced),
        _ => not_found("no such path"),
    }
}

/// Returns the token of an `Authorization: Token …` header.
pub(crate) fn token(request: &Request) -> Option<&str> {
    request
        .headers()
        .get("authorization")?
        .to_str()
        .ok()?
        .strip_prefix("Token ")
        .map(str::trim)
}

/// Answers a request with a missing or wrong token.
pub(crate) fn unauthorised() -> Response {
    Response::error(401, "missing or invalid token", "authentication_failed", &[])
}

fn not_found(message: &str) -> Response {
    Response::error(404, message, "not_found", &[])
}

fn newest_first(entries: &Entries, produced: u64) -> impl Iterator<Item = Entry> + '_ {
    let oldest = produced.saturating_sub(REST_WINDOW) + 1;
    (oldest..=produced).rev().map(|id| entries.describe(id))
}

fn list(query: &Query, entries: &Entries, produced: u64) -> Response {
    let matching = newest_first(entries, produced)
        .filter(|entry| query.matches(entry, entries))
        .skip(query.offset)
        .take(query.limit.min(MAX_PAGE));
    let mut body = br#"{"results":["#.to_vec();
    for (index, entry) in matching.enumerate() {
        if body.len() + entries.frame_bytes_hint() > MAX_BODY_BYTES && index > 0 {
            break;
        }
        if index > 0 {
            body.push(b',');
        }
        entries.write_entry(&entry, &mut body);
    }
    body.extend_from_slice(b"]}");
    Response::new(200, body)
}

fn statistics(pid: &str, entries: &Entries, produced: u64) -> Response {
    let mut person = None;
    let mut newest_to_oldest = Vec::new();
    for entry in newest_first(entries, produced) {
        let Some(found) = entry.person else { continue };
        if person.is_none() && entries.pid(found).to_string() == pid {
            person = Some(found);
        }
        if person == Some(found) {
            newest_to_oldest.push(entry);
        }
    }
    let (Some(newest), Some(oldest)) = (newest_to_oldest.first(), newest_to_oldest.last()) else {
        return not_found("no entry of this person");
    };
    let results: serde_json::Map<String, serde_json::Value> = EntryResult::ALL
        .into_iter()
        .map(|result| {
            let count = newest_to_oldest
                .iter()
                .filter(|entry| entry.result == result)
                .count();
            (result.as_str().to_owned(), count.into())
        })
        .collect();
    let body = serde_json::json!({
        "pid": pid,
        "count": newest_to_oldest.len(),
        "first_entry": time(oldest),
        "last_entry": time(newest),
        "results": results,
    });
    Response::new(200, body.to_string().into_bytes())
}

fn time(entry: &Entry) -> Option<String> {
    Timestamp::from_microsecond(entry.created)
        .ok()
        .map(|time| time.to_string())
}

#[cfg(test)]
mod tests;
