//! The REST interface: recent entries, the statistics of a person, and tokens.
//!
//! Entries are regenerated from the seed, so nothing is stored. Retention is limited nevertheless, because a real
//! platform does not search an unlimited range in one request.
//!
//! *Assumed*, since no public client shows it: a list is ordered by id; `date_from`, `date_to` and `id_from` are
//! inclusive; `id_from` is a lower bound; the fields of a person's statistics.

mod list;
mod options;
mod query;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{handshake::server::Request, http::Method};

pub use self::options::{RestOptions, RestOrder, RestShape};
use self::{list::Archive, query::Query};
use crate::{
    entries::{Entry, EntryResult},
    faults::RestFault,
    http::{ErrorCode, Response},
    platform::Platform,
};

/// Answers a request; `fault` changes the list of entries.
pub(crate) fn respond(
    request: &Request,
    body: &[u8],
    platform: &Platform,
    fault: Option<&RestFault>,
) -> Response {
    let now = Instant::now();
    let Some(access) = token(request).and_then(|token| platform.iam.access(token, now)) else {
        return Response::error(401, "missing or invalid token", ErrorCode::Unauthorised, None);
    };
    let path = request.uri().path().trim_end_matches('/');
    if let Some(response) = platform.iam.respond(request.method(), path, body, &access, now) {
        return response;
    }
    if request.method() != Method::GET {
        return not_found("unknown path, or wrong method for this path");
    }
    let archive = Archive {
        entries: &platform.entries,
        options: &platform.rest,
        newest: platform.feed.produced(now),
        now: Timestamp::now(),
    };
    if path == "/v1/entries" {
        return match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => Response::new(200, archive.list(query, fault)),
            Err(error) => Response::error(400, &error.to_string(), ErrorCode::Invalid, Some(error.field())),
        };
    }
    match path.strip_prefix("/v1/entries/stats/pid/") {
        Some(pid) if !pid.is_empty() && !pid.contains('/') => statistics(pid, archive),
        _ => not_found("unknown path, or wrong method for this path"),
    }
}

/// Returns the token of an `Authorization: Token …` header.
fn token(request: &Request) -> Option<&str> {
    request
        .headers()
        .get("authorization")?
        .to_str()
        .ok()?
        .strip_prefix("Token ")
        .map(str::trim)
}

pub(crate) fn not_found(message: &str) -> Response {
    Response::error(404, message, ErrorCode::NotFound, None)
}

fn statistics(pid: &str, archive: Archive<'_>) -> Response {
    let mut person = None;
    let mut newest_to_oldest = Vec::new();
    for entry in archive.newest_first() {
        let Some(found) = entry.person else { continue };
        if person.is_none() && archive.entries.pid(found).to_string() == pid {
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
    Response::json(200, &body)
}

fn time(entry: &Entry) -> Option<String> {
    Timestamp::from_microsecond(entry.created)
        .ok()
        .map(|time| time.to_string())
}

#[cfg(test)]
mod tests;
