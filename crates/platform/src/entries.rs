//! Reads the entries of a gap.

use std::{fmt, time::Duration};

use hyper::Method;
use jiff::{SignedDuration, Timestamp};
use neurobridge_core::{
    backoff::Backoff,
    secret::{self, Secret},
    units::format_duration,
};
use neurobridge_listener::SourceConfig;
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use crate::{
    client::Client,
    error::RequestError,
    page::{self, PageError},
    pager::{Missed, Pager, PagingError, Part, Progress},
};

/// The number of attempts for one page.
const ATTEMPTS: u32 = 5;
/// The longest delay that a server may request. Entries that are read later are of little use to a consumer that waits,
/// and the same gap can be filled by hand.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// The query parameter that requests the oldest entries first. *Assumed*: no public client uses it.
const OLDEST_FIRST: &str = "&ordering=id";

/// The list of entries of a platform, `GET /v1/entries/`.
#[derive(Debug)]
pub struct Entries {
    client: Client,
    config: SourceConfig,
    /// The time before which no request may be sent.
    next_request: Instant,
    /// Whether requests contain `ordering`; false after the server has refused it.
    asks_for_order: bool,
}

/// The part of the list that was missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The newest id before the gap, if it is known. Then it alone selects the first entry: creation times are neither
    /// in the order of ids nor close to the time of recognition.
    pub after: Option<u64>,
    /// The start of the gap.
    pub from: Timestamp,
    /// The end of the gap; `None` to read the list to its end.
    pub to: Option<Timestamp>,
    /// The time by which the gap is extended at both ends, because clocks deviate.
    pub overlap: Duration,
}

/// The result of reading the entries of a gap.
#[derive(Debug)]
pub struct Report {
    /// The number of pages that were read.
    pub pages: u32,
    /// The number of requests, including repeated ones.
    pub requests: u32,
    /// The number of events that were sent to the channel.
    pub entries: u64,
    /// The number of entries that the answers contained, but that were known before the gap.
    pub known: u64,
    /// The number of entries that were skipped because they have no usable id.
    pub without_id: u64,
    /// Whether all entries were read.
    pub outcome: Outcome,
}

/// Whether all entries of a gap were read.
#[derive(Debug)]
pub enum Outcome {
    /// The list was read to its end. Entries that the platform has deleted or no longer retains are not in it.
    Complete,
    /// Some entries were read.
    Partly(StopReason),
    /// No entry was read.
    Failed(StopReason),
}

/// Why not all entries were read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// A request failed, also when it was repeated.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The list cannot be read further, although the server answers.
    #[error(transparent)]
    Paging(#[from] PagingError),
    /// The delay that the server requests is too long.
    #[error("the platform requests a delay of {}, which is more than {}; fill the gap later", format_duration(*delay), format_duration(MAX_RETRY_AFTER))]
    Delay {
        /// The delay.
        delay: Duration,
    },
    /// Entries without an id were skipped.
    #[error(
        "{count} entries have no whole number as `id`; expected one in each entry, so that it can be identified"
    )]
    WithoutId {
        /// Their number.
        count: u64,
    },
    /// The receiver of the events was dropped.
    #[error("the reading of events was stopped")]
    Stopped,
}

impl Outcome {
    /// Returns the reason why not all entries were read.
    pub const fn reason(&self) -> Option<&StopReason> {
        match self {
            Self::Complete => None,
            Self::Partly(reason) | Self::Failed(reason) => Some(reason),
        }
    }

    /// Returns a word for the outcome: `complete`, `partly` or `failed`.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partly(_) => "partly",
            Self::Failed(_) => "failed",
        }
    }

    /// Returns whether the platform refused the token.
    pub const fn is_token_refused(&self) -> bool {
        matches!(
            self.reason(),
            Some(StopReason::Request(RequestError::Unauthorised { .. }))
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())?;
        self.reason()
            .map_or(Ok(()), |reason| write!(f, ": {}", crate::sentence(reason)))
    }
}

/// The counts of one run.
#[derive(Default)]
struct Counts {
    pages: u32,
    requests: u32,
    entries: u64,
}

impl Entries {
    /// Creates a reader with a client of the REST interface and the settings of a source: its token, `backfill` and
    /// `backoff`.
    pub fn new(client: Client, config: &SourceConfig) -> Self {
        Self {
            client,
            config: config.clone(),
            next_request: Instant::now(),
            asks_for_order: true,
        }
    }

    /// Reads the entries of a window, and sends them to `events`, page by page, in ascending order of id, as the events
    /// that the feed would have sent. Returns when the list is read, or cannot be read further; waits while the channel
    /// is full. Dropping the future stops the reading.
    ///
    /// Reads the token at the start, so that a rotated token is used. A list with the newest entries first is held in
    /// memory, at most 64 MiB of it, and sent at the end.
    pub async fn fetch(&mut self, window: &Window, events: &mpsc::Sender<Vec<Missed>>) -> Report {
        let mut counts = Counts::default();
        let max_pages = self.config.backfill.max_pages;
        let mut pager = Pager::new(window.after, window.after.is_some(), max_pages);
        let mut stopped = self.read(window, &mut pager, events, &mut counts).await.err();
        if !matches!(stopped, Some(StopReason::Stopped)) {
            let rest = pager.finish();
            if let Err(reason) = send(events, rest, &mut counts).await {
                stopped = Some(reason);
            }
        }
        if stopped.is_none() && pager.without_id() > 0 {
            stopped = Some(StopReason::WithoutId {
                count: pager.without_id(),
            });
        }
        Report {
            pages: counts.pages + pager.pages(),
            requests: counts.requests,
            entries: counts.entries,
            known: pager.known(),
            without_id: pager.without_id(),
            outcome: match stopped {
                None => Outcome::Complete,
                Some(reason) if counts.entries > 0 => Outcome::Partly(reason),
                Some(reason) => Outcome::Failed(reason),
            },
        }
    }

    async fn read(
        &mut self,
        window: &Window,
        pager: &mut Pager,
        events: &mpsc::Sender<Vec<Missed>>,
        counts: &mut Counts,
    ) -> Result<(), StopReason> {
        let token = self.token().await?;
        let mut is_by_id = window.after.is_some();
        loop {
            let part = pager.next()?;
            let body = match self.page(window, is_by_id, part, &token, counts).await {
                Ok(body) => body,
                Err(StopReason::Request(error @ RequestError::TooLarge { .. })) => {
                    if pager.shrink() {
                        continue;
                    }
                    return Err(error.into());
                }
                Err(reason) => return Err(reason),
            };
            let page = page::parse(&body, part.offset).map_err(|error| match error {
                PageError::NotJson => self.client.not_json(&body),
                PageError::OtherShape(problem) => self.client.other_shape(&problem, page::EXPECTED),
            })?;
            let progress = pager.accept(&page)?;
            send(events, pager.take_ready(), counts).await?;
            match progress {
                Progress::Continue => {}
                Progress::Done => return Ok(()),
                Progress::IgnoresId => {
                    debug!("the platform ignores `id_from`; reading by time");
                    is_by_id = false;
                    counts.pages += pager.pages();
                    let left = self.config.backfill.max_pages.saturating_sub(counts.pages);
                    *pager = Pager::new(window.after, false, left);
                }
            }
        }
    }

    async fn token(&self) -> Result<Secret, RequestError> {
        let (value, file) = match &self.config.token_from {
            // A token that the bridge creates may expire while a long gap is read; the credential does not.
            Some(from) => (from.credential.clone(), from.credential_file.clone()),
            None => (self.config.token.clone(), self.config.token_file.clone()),
        };
        let read = spawn_blocking(move || secret::resolve("token", value.as_ref(), file.as_deref()));
        let token = read
            .await
            .expect("reading a file neither panics nor is cancelled")
            .map_err(RequestError::Token)?;
        Ok(token.unwrap_or_else(|| Secret::new("")))
    }

    /// Requests one part, and retries if the error may be temporary.
    async fn page(
        &mut self,
        window: &Window,
        is_by_id: bool,
        part: Part,
        token: &Secret,
        counts: &mut Counts,
    ) -> Result<bytes::Bytes, StopReason> {
        let mut backoff = Backoff::new(self.config.backoff.min, self.config.backoff.max);
        let mut failures = 0;
        loop {
            self.wait_for_turn().await;
            counts.requests += 1;
            let mut path = query(window, is_by_id, part);
            if self.asks_for_order {
                path.push_str(OLDEST_FIRST);
            }
            let error = match self.client.request(Method::GET, &path, token, None).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            if self.asks_for_order && matches!(error, RequestError::Status { status: 400, .. }) {
                self.asks_for_order = false;
                continue;
            }
            failures += 1;
            if !error.may_pass() || failures >= ATTEMPTS {
                return Err(error.into());
            }
            let delay = match error.retry_after() {
                Some(delay) if delay > MAX_RETRY_AFTER => return Err(StopReason::Delay { delay }),
                requested => requested.unwrap_or_default().max(backoff.next_delay()),
            };
            debug!(
                "request for missed events failed, retrying: {}",
                crate::sentence(&error)
            );
            sleep(delay).await;
        }
    }

    /// Waits until the rate allows another request.
    async fn wait_for_turn(&mut self) {
        sleep_until(self.next_request).await;
        self.next_request = Instant::now() + Duration::from_secs(1) / self.config.backfill.rate.max(1);
    }
}

async fn send(
    events: &mpsc::Sender<Vec<Missed>>,
    missed: Vec<Missed>,
    counts: &mut Counts,
) -> Result<(), StopReason> {
    if missed.is_empty() {
        return Ok(());
    }
    let sent = missed.len() as u64;
    events.send(missed).await.map_err(|_| StopReason::Stopped)?;
    counts.entries += sent;
    Ok(())
}

/// Returns path and query of a request for a part of the list.
///
/// With a known id there is no lower limit of the time. The id itself is requested too, in case the limit is exclusive.
fn query(window: &Window, is_by_id: bool, part: Part) -> String {
    let overlap = SignedDuration::try_from(window.overlap).unwrap_or(SignedDuration::MAX);
    let upper = window.to.map_or_else(String::new, |to| {
        format!("&date_to={}", to.checked_add(overlap).unwrap_or(Timestamp::MAX))
    });
    let lower = match window.after.filter(|_| is_by_id) {
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
    use super::*;

    #[test]
    fn query_has_the_id_or_the_extended_window() {
        let window = Window {
            after: Some(7),
            from: "2026-01-31T12:00:00Z".parse().unwrap(),
            to: Some("2026-01-31T13:00:00.5Z".parse().unwrap()),
            overlap: Duration::from_secs(60),
        };
        let part = Part {
            offset: 99,
            limit: 100,
        };
        insta::assert_snapshot!(
            query(&window, true, part),
            @"/v1/entries/?id_from=7&date_to=2026-01-31T13:01:00.5Z&limit=100&offset=99"
        );
        insta::assert_snapshot!(
            query(&window, false, part),
            @"/v1/entries/?date_from=2026-01-31T11:59:00Z&date_to=2026-01-31T13:01:00.5Z&limit=100&offset=99"
        );
    }
}
