//! Reads NeuroIO's list of entries, `GET /v1/entries/`, without I/O: renders the requests and passes the answers to a [`Pager`].

use jiff::{SignedDuration, Timestamp};
use tracing::debug;

use crate::{
    backfill_reader::Window,
    listing::{Listing, Tally, Unreadable},
    page,
    pager::{MissedEvent, Pager, PagingError, Part, Progress},
};

/// The query parameter that requests the oldest entries first. *Assumed*: no public client uses it.
const OLDEST_FIRST: &str = "&ordering=id";

/// The state of reading NeuroIO's list.
pub(crate) struct EntryListing<'a> {
    window: &'a Window,
    after: Option<u64>,
    /// Whether requests contain `id_from`.
    is_by_id: bool,
    /// Whether requests contain `ordering`.
    requests_order: &'a mut bool,
    max_pages: u32,
    /// The number of pages that a replaced pager has read.
    earlier_pages: u32,
    pager: Pager,
}

impl<'a> EntryListing<'a> {
    pub(crate) fn new(window: &'a Window, max_pages: u32, requests_order: &'a mut bool) -> Self {
        let after = window.after.as_deref().and_then(|id| id.parse().ok());
        Self {
            window,
            after,
            is_by_id: after.is_some(),
            requests_order,
            max_pages,
            earlier_pages: 0,
            pager: Pager::new(after, after.is_some(), max_pages),
        }
    }
}

impl Listing for EntryListing<'_> {
    fn next(&self) -> Result<String, PagingError> {
        let after = self.after.filter(|_| self.is_by_id);
        let mut target = query(self.window, after, self.pager.next()?);
        if *self.requests_order {
            target.push_str(OLDEST_FIRST);
        }
        Ok(target)
    }

    fn accept(&mut self, body: &[u8]) -> Result<bool, Unreadable> {
        let page = page::parse(body, self.pager.next()?.offset).map_err(Unreadable::Page)?;
        match self.pager.accept(&page)? {
            Progress::Continue => Ok(false),
            Progress::Done => Ok(true),
            Progress::IgnoresId => {
                debug!("the platform ignores `id_from`; reading by time");
                self.is_by_id = false;
                self.earlier_pages += self.pager.pages();
                let left = self.max_pages.saturating_sub(self.earlier_pages);
                self.pager = Pager::new(self.after, false, left);
                Ok(false)
            }
        }
    }

    fn change_refused(&mut self) -> bool {
        std::mem::take(self.requests_order)
    }

    fn shrink(&mut self) -> bool {
        self.pager.shrink()
    }

    fn take_ready(&mut self) -> Vec<MissedEvent> {
        self.pager.take_ready()
    }

    fn finish(&mut self) -> Vec<MissedEvent> {
        self.pager.finish()
    }

    fn tally(&self) -> Tally {
        Tally {
            pages: self.earlier_pages + self.pager.pages(),
            known: self.pager.known(),
            without_id: self.pager.without_id(),
        }
    }
}

/// Returns the path and query of a request for a part of the list.
///
/// With a known id there is no lower limit of the time. `id_from` is the known id and not the next one, in case the platform
/// excludes the id itself.
fn query(window: &Window, after: Option<u64>, part: Part) -> String {
    let overlap = SignedDuration::try_from(window.overlap).unwrap_or(SignedDuration::MAX);
    let upper = window.to.map_or_else(String::new, |to| {
        format!("&date_to={}", to.checked_add(overlap).unwrap_or(Timestamp::MAX))
    });
    let lower = match after {
        Some(id) => format!("id_from={id}"),
        None => {
            let from = window.from.checked_sub(overlap).unwrap_or(Timestamp::MIN);
            format!("date_from={from}")
        }
    };
    let Part { offset, limit } = part;
    format!("/v1/entries/?{lower}{upper}&limit={limit}&offset={offset}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn query_has_the_id_or_the_extended_window() {
        let window = Window {
            after: Some("7".to_owned()),
            skips_known: false,
            from: "2026-01-31T12:00:00Z".parse().unwrap(),
            to: Some("2026-01-31T13:00:00.5Z".parse().unwrap()),
            overlap: Duration::from_secs(60),
        };
        let part = Part {
            offset: 99,
            limit: 100,
        };
        insta::assert_snapshot!(
            query(&window, Some(7), part),
            @"/v1/entries/?id_from=7&date_to=2026-01-31T13:01:00.5Z&limit=100&offset=99"
        );
        insta::assert_snapshot!(
            query(&window, None, part),
            @"/v1/entries/?date_from=2026-01-31T11:59:00Z&date_to=2026-01-31T13:01:00.5Z&limit=100&offset=99"
        );
    }
}
