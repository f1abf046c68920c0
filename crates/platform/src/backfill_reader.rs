//! Reads the events that a source missed during a gap from a list of past events: sends the requests for each page, retries
//! them, and sends the events to a channel.

use std::{fmt, time::Duration};

use hyper::Method;
use jiff::Timestamp;
use neurobridge_core::{
    backoff::Backoff,
    clock,
    secret::{self, Secret},
    units::format_duration,
};
use neurobridge_listener::{SourceConfig, read_secrets};
use neurobridge_protocol::{EventList, ListError};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use crate::{
    client::{Access, Client},
    declared::DeclaredListing,
    error::RequestError,
    listing::{Listing, Unreadable},
    neuroio::EntryListing,
    page::{self, PageError},
    pager::{MissedEvent, PagingError},
};

/// The number of attempts for one page.
const ATTEMPTS: u32 = 5;
/// The maximum number of events in one message to the channel: the events of a list with the newest first are sent
/// together, when the list was read to its end.
const MAX_SENT: usize = 4096;
/// The longest delay that a server may request. After a longer one the events would be of little use to a waiting consumer, and
/// the same gap can be filled by hand.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// The expected shape of a declared list, for error texts.
const EXPECTED_LIST: &str = "an array at the path `feed.backfill.list`, or the answer itself as an array";

/// A reader of a list of past events: `GET /v1/entries/` of NeuroIO, or the list of a declared feed.
#[derive(Debug)]
pub struct BackfillReader {
    requester: Requester,
    list: List,
}

/// The list to read.
#[derive(Debug)]
enum List {
    Neuroio {
        /// Whether requests contain `ordering`; false after the server has refused it.
        requests_order: bool,
    },
    Declared(Box<EventList>),
}

/// Sends the requests for one list.
#[derive(Debug)]
struct Requester {
    client: Client,
    config: SourceConfig,
    /// The time before which no request may be sent.
    next_request: Instant,
}

/// The gap to fill: the part of the list that the source missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The newest id before the gap, if it is known. For NeuroIO this id alone selects the first entry, because creation
    /// times are neither in the order of the ids nor close to the times of recognition.
    pub after: Option<String>,
    /// Whether the event with the id `after` and older events are dropped, because the deduplication window may not recognise
    /// them. Those of NeuroIO's list are always dropped.
    pub skips_known: bool,
    /// The start of the gap.
    pub from: Timestamp,
    /// The end of the gap; `None` to read the list to its end.
    pub to: Option<Timestamp>,
    /// The time by which the gap is extended at both ends, because clocks deviate.
    pub overlap: Duration,
}

/// The result of reading the entries of a gap.
#[derive(Debug)]
pub struct BackfillReport {
    /// The number of pages that were read.
    pub pages: u32,
    /// The number of requests, including repeated ones.
    pub requests: u32,
    /// The number of events that were sent to the channel.
    pub entries: u64,
    /// The number of entries in the answers that the source had received before the gap.
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

/// The reason why not all entries were read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// A request failed with a permanent error, or in the last of several attempts.
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
        "entries of the list were skipped, because they have no whole number as `id` (skipped: {count}); check \
         `backfill.url`"
    )]
    WithoutId {
        /// The number of skipped entries.
        count: u64,
    },
    /// Entries of a declared list were skipped.
    #[error(
        "entries of the list were skipped, because with `feed.backfill.frame`, `feed.rules` and `feed.event.id` they \
         yield no event with an id (skipped: {count}); correct these keys"
    )]
    NoEvents {
        /// The number of skipped entries.
        count: u64,
    },
    /// The start of a declared list is unknown.
    #[error(
        "no event before the gap is known, and no time selects the start of the list; add {{from}} to `feed.backfill`, or fill the \
         gap with `neurobridge backfill --after ID`"
    )]
    NoStart,
    /// The receiver of the events was dropped.
    #[error("the fetching of missed events was stopped")]
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

/// The counts of one call of [`BackfillReader::fetch`].
#[derive(Default)]
struct Counts {
    requests: u32,
    entries: u64,
}

impl BackfillReader {
    /// Creates a reader with a client of the REST interface and the settings of a source: its token, `backfill` and
    /// `backoff`.
    pub fn new(client: Client, config: &SourceConfig) -> Self {
        let list = List::Neuroio { requests_order: true };
        Self::of(client, config, list)
    }

    /// Creates a reader of a declared list, with a client of its [`origin`](EventList::origin), and the secrets, `backfill` and
    /// `backoff` of a source.
    pub fn declared(client: Client, config: &SourceConfig, list: EventList) -> Self {
        Self::of(client, config, List::Declared(Box::new(list)))
    }

    fn of(client: Client, config: &SourceConfig, list: List) -> Self {
        Self {
            requester: Requester {
                client,
                config: config.clone(),
                next_request: Instant::now(),
            },
            list,
        }
    }

    /// Reads the entries of a window, and sends them to `events`, page by page, in the order in which they occurred
    /// (NeuroIO: in ascending order of id), as the events that the feed would have sent. Returns when the list is read, or
    /// cannot be read further; waits while the channel is full. Dropping the future stops the reading.
    ///
    /// Reads the secrets at the start, so that a rotated token is used. The events of a list with the newest entries first are
    /// held in memory, at most 64 MiB, and sent at the end.
    pub async fn fetch(
        &mut self,
        window: &Window,
        events: &mpsc::Sender<Vec<MissedEvent>>,
    ) -> BackfillReport {
        match &mut self.list {
            List::Neuroio { requests_order } => {
                let mut listing =
                    EntryListing::new(window, self.requester.config.backfill.max_pages, requests_order);
                let token = match self.requester.token().await {
                    Ok(token) => token,
                    Err(error) => return BackfillReport::failed(error.into()),
                };
                let report = self
                    .requester
                    .run(&mut listing, Access::Token(&token), events)
                    .await;
                report.with_skipped(|count| StopReason::WithoutId { count })
            }
            List::Declared(list) => {
                if window.after.is_none() && list.needs_last_id() {
                    return BackfillReport::failed(StopReason::NoStart);
                }
                let secrets = match read_secrets(&self.requester.config).await {
                    Ok(secrets) => secrets,
                    Err(error) => return BackfillReport::failed(RequestError::from(error).into()),
                };
                self.requester.client.add_secrets(secrets.values());
                let headers = list.headers(&secrets);
                let max_pages = self.requester.config.backfill.max_pages;
                let mut listing = DeclaredListing::new(list, window, max_pages, &secrets, clock::now());
                let report = self
                    .requester
                    .run(&mut listing, Access::Headers(&headers), events)
                    .await;
                report.with_skipped(|count| StopReason::NoEvents { count })
            }
        }
    }
}

impl BackfillReport {
    /// Returns the report of a reading that sent no request.
    fn failed(reason: StopReason) -> Self {
        Self {
            pages: 0,
            requests: 0,
            entries: 0,
            known: 0,
            without_id: 0,
            outcome: Outcome::Failed(reason),
        }
    }

    /// Sets the reason if entries were skipped and the list was read to its end, or as far as the receiver needed.
    fn with_skipped(mut self, reason: impl FnOnce(u64) -> StopReason) -> Self {
        let is_read = matches!(self.outcome.reason(), None | Some(StopReason::Stopped));
        if is_read && self.without_id > 0 {
            let reason = reason(self.without_id);
            self.outcome = if self.entries > 0 {
                Outcome::Partly(reason)
            } else {
                Outcome::Failed(reason)
            };
        }
        self
    }
}

impl Requester {
    /// Reads a list to its end, or as far as possible.
    async fn run(
        &mut self,
        listing: &mut (dyn Listing + Send),
        access: Access<'_>,
        events: &mpsc::Sender<Vec<MissedEvent>>,
    ) -> BackfillReport {
        let mut counts = Counts::default();
        let mut stopped = self.read(listing, access, events, &mut counts).await.err();
        if !matches!(stopped, Some(StopReason::Stopped)) {
            let rest = listing.finish();
            if let Err(reason) = send(events, rest, &mut counts).await {
                stopped = Some(reason);
            }
        }
        let tally = listing.tally();
        BackfillReport {
            pages: tally.pages,
            requests: counts.requests,
            entries: counts.entries,
            known: tally.known,
            without_id: tally.without_id,
            outcome: match stopped {
                None => Outcome::Complete,
                Some(reason) if counts.entries > 0 => Outcome::Partly(reason),
                Some(reason) => Outcome::Failed(reason),
            },
        }
    }

    async fn read(
        &mut self,
        listing: &mut (dyn Listing + Send),
        access: Access<'_>,
        events: &mpsc::Sender<Vec<MissedEvent>>,
        counts: &mut Counts,
    ) -> Result<(), StopReason> {
        loop {
            let body = match self.page(listing, access, events, counts).await {
                Ok(body) => body,
                Err(StopReason::Request(RequestError::TooLarge { .. })) if listing.shrink() => continue,
                Err(reason) => return Err(reason),
            };
            let is_end = listing.accept(&body).map_err(|error| match error {
                Unreadable::Paging(error) => StopReason::from(error),
                Unreadable::Page(PageError::OtherShape(problem)) => {
                    self.client.other_shape(&problem, page::EXPECTED).into()
                }
                Unreadable::List(problem @ ListError::NoArray { .. }) => self
                    .client
                    .other_shape(&problem.to_string(), EXPECTED_LIST)
                    .into(),
                Unreadable::Page(PageError::NotJson) | Unreadable::List(ListError::NotJson) => {
                    self.client.not_json(&body).into()
                }
            })?;
            send(events, listing.take_ready(), counts).await?;
            if is_end {
                return Ok(());
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

    /// Requests one page, and retries after a temporary error while the receiver of the events exists.
    async fn page(
        &mut self,
        listing: &mut (dyn Listing + Send),
        access: Access<'_>,
        events: &mpsc::Sender<Vec<MissedEvent>>,
        counts: &mut Counts,
    ) -> Result<bytes::Bytes, StopReason> {
        let mut backoff = Backoff::new(self.config.backoff.min, self.config.backoff.max);
        let mut failures = 0;
        loop {
            let target = listing.next()?;
            self.wait_for_turn().await;
            counts.requests += 1;
            let error = match self.client.request(Method::GET, &target, access, None).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            if matches!(error, RequestError::Status { status: 400, .. }) && listing.change_refused() {
                continue;
            }
            if events.is_closed() {
                return Err(StopReason::Stopped);
            }
            failures += 1;
            if !error.is_retryable() || failures >= ATTEMPTS {
                return Err(error.into());
            }
            let delay = match error.retry_after() {
                Some(delay) if delay > MAX_RETRY_AFTER => return Err(StopReason::Delay { delay }),
                requested => requested.unwrap_or_default().max(backoff.next_delay()),
            };
            debug!(
                ?delay,
                "request for missed events failed, retrying: {}",
                crate::sentence(&error)
            );
            sleep(delay).await;
        }
    }

    /// Waits until `backfill.rate` allows another request.
    async fn wait_for_turn(&mut self) {
        sleep_until(self.next_request).await;
        self.next_request = Instant::now() + Duration::from_secs(1) / self.config.backfill.rate.max(1);
    }
}

async fn send(
    events: &mpsc::Sender<Vec<MissedEvent>>,
    missed: Vec<MissedEvent>,
    counts: &mut Counts,
) -> Result<(), StopReason> {
    let mut missed = missed.into_iter();
    loop {
        let part: Vec<_> = missed.by_ref().take(MAX_SENT).collect();
        let sent = part.len() as u64;
        if sent == 0 {
            return Ok(());
        }
        events.send(part).await.map_err(|_| StopReason::Stopped)?;
        counts.entries += sent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_entry_replaces_a_complete_or_stopped_outcome() {
        for outcome in [Outcome::Complete, Outcome::Partly(StopReason::Stopped)] {
            let report = BackfillReport {
                entries: 3,
                without_id: 1,
                outcome,
                ..BackfillReport::failed(StopReason::Stopped)
            };
            let report = report.with_skipped(|count| StopReason::WithoutId { count });
            let reason = report.outcome.reason();
            assert!(
                matches!(reason, Some(StopReason::WithoutId { count: 1 })),
                "{reason:?}"
            );
        }
    }

    #[tokio::test]
    async fn long_list_is_sent_in_parts() {
        let (events, mut received) = mpsc::channel(3);
        let missed = |id: usize| MissedEvent {
            id: id.to_string(),
            time: None,
            frame: String::new(),
        };
        let mut counts = Counts::default();
        let all = (0..2 * MAX_SENT + 1).map(missed).collect();
        send(&events, all, &mut counts).await.unwrap();
        drop(events);
        let mut parts = Vec::new();
        while let Some(part) = received.recv().await {
            parts.push(part.len());
        }
        assert_eq!(parts, [MAX_SENT, MAX_SENT, 1]);
    }
}
