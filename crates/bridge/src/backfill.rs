//! Fetches the events of gaps, and reports the gaps that cannot be filled to the sinks.
//!
//! A gap ends with the authentication of a connection. From then on the events of the feed wait for at most `backfill.hold`,
//! while the events of the gap are read from the platform's list and stored, so that the events of each key keep their order.
//! Events that are fetched later are marked as late. The list is read once more some seconds later, because an event that was
//! recognised while the connection was opened may be missing both in the list and on the connection. The outcome of a gap is
//! recorded when its events are stored.

pub(crate) mod manual;
mod outcome;
mod part;
mod settings;

use std::{collections::BTreeMap, future::pending, sync::Arc, sync::atomic::Ordering, time::Duration};

use jiff::{SignedDuration, Timestamp};
use neurobridge_core::{backoff::Backoff, clock, event::Origin, ledger::SourceLedger};
use neurobridge_listener::{Batcher, FeedEvent, GapEnded, MalformedReason, Received};
use neurobridge_platform::{MissedEvent, Outcome, StopReason, Window, sentence};
use neurobridge_protocol::Action;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::part::{Bound, Fetched, Marks};
pub(crate) use self::settings::{FillerSettings, missed_events_reader, protocol};
use crate::{
    cluster::Coverage,
    gaps::Gap,
    intake::{Encoded, Encoder, IntakeSource},
    parts::BackfillRequest,
    state::State,
};

/// The assumed time after the authentication of a connection within which each event that was recognised earlier
/// is in the list of the platform, or sent on the connection.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
/// The time after the end of a gap within which the events of the feed wait for those of the gap.
const JUST_ENDED: Duration = Duration::from_secs(1);
/// The shortest and the longest delay between attempts to fill a gap.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The interval at which the reports of the other members of a cluster are examined.
const COVERAGE_INTERVAL: Duration = Duration::from_secs(1);
/// The interval at which the fetched events are checked for being stored.
const STORED_INTERVAL: Duration = Duration::from_millis(5);

/// Fetches the events of the gaps of one source.
pub(crate) struct Filler {
    settings: FillerSettings,
    source: Arc<IntakeSource>,
    /// Receives the first authentication and the end of each gap. While the received value exists, and for at most
    /// `backfill.hold`, the events of the feed wait.
    ends: mpsc::Receiver<GapEnded>,
    encoder: Encoder,
    batches: mpsc::Sender<Encoded>,
    requests: mpsc::Receiver<BackfillRequest>,
    started: Timestamp,
    /// Cancelled when the gaps of a replaced instance of the source are to be filled.
    take_over: Option<CancellationToken>,
    /// Cancelled when the intake has loaded the events of earlier runs with which fetched events are compared.
    known_events_loaded: CancellationToken,
    /// The number of events that earlier attempts have stored, by the id of the gap.
    fetched: BTreeMap<u64, u64>,
}

/// The next work of a filler.
enum Wake {
    /// Fill all gaps. With a gap that has just ended: the events of the feed wait for the events of this gap.
    Gap(Option<GapEnded>),
    /// Fetch the events of a period.
    Request(BackfillRequest),
    /// End, because the source has ended.
    Ended,
}

/// The reason why the filling of a gap was interrupted.
enum Interrupted {
    /// Another gap has ended, and the events of the feed wait for the events of that gap.
    GapEnded(GapEnded),
    /// The bridge is stopping.
    Stopped,
}

impl Filler {
    pub(crate) fn new(
        settings: FillerSettings,
        source: Arc<IntakeSource>,
        ends: mpsc::Receiver<GapEnded>,
        encoder: Encoder,
        batches: mpsc::Sender<Encoded>,
        requests: mpsc::Receiver<BackfillRequest>,
    ) -> Self {
        Self {
            settings,
            source,
            ends,
            encoder,
            batches,
            requests,
            started: clock::now(),
            take_over: None,
            known_events_loaded: CancellationToken::new(),
            fetched: BTreeMap::new(),
        }
    }

    /// Makes the filler also fill the gaps that the filler of an earlier instance of the source has not filled, once
    /// `authenticated` is cancelled.
    pub(crate) fn taking_over(mut self, authenticated: Option<CancellationToken>) -> Self {
        self.take_over = authenticated;
        self
    }

    /// Makes the filler fill the gaps of earlier runs only after `known_events_loaded` is cancelled.
    pub(crate) fn comparing_after(mut self, known_events_loaded: CancellationToken) -> Self {
        self.known_events_loaded = known_events_loaded;
        self
    }

    /// Fills the gaps of the source until `stop` is cancelled or the source ends. Gaps that are not filled by then are filled in
    /// the next run.
    pub(crate) async fn run(mut self, state: Arc<State>, stop: CancellationToken) {
        stop.run_until_cancelled(self.fill_gaps(&state)).await;
    }

    async fn fill_gaps(&mut self, state: &State) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut retry_at = None;
        let mut next = None;
        loop {
            let wake = match next.take() {
                Some(ended) => Wake::Gap(Some(ended)),
                None => self.wait(retry_at).await,
            };
            let mut error = None;
            let filled = match wake {
                Wake::Gap(hold) => {
                    retry_at = None;
                    self.fill_all(hold, state, &mut error).await
                }
                Wake::Request(request) => {
                    if let Err(Interrupted::Stopped) = self.fetch_on_request(request, state).await {
                        return;
                    }
                    continue;
                }
                Wake::Ended => return,
            };
            match filled {
                Ok(false) => {}
                Ok(true) => retry_at = Some(Instant::now() + COVERAGE_INTERVAL),
                Err(Interrupted::GapEnded(ended)) => next = Some(ended),
                Err(Interrupted::Stopped) => return,
            }
            if let Some(error) = error {
                let delay = backoff.next_delay();
                warn!(source = %self.source.name, ?delay, "missed events cannot be fetched: {error}; retrying");
                retry_at = Some(Instant::now() + delay);
            } else {
                backoff.reset();
            }
        }
    }

    /// Fills all gaps of the source, the newest first, because the events of the feed wait only for the events of the newest gap.
    /// Sets `error` if a gap is left for another attempt. Returns whether a gap waits for the reports of other members of the
    /// cluster.
    async fn fill_all(
        &mut self,
        mut hold: Option<GapEnded>,
        state: &State,
        error: &mut Option<String>,
    ) -> Result<bool, Interrupted> {
        let mut is_waiting = false;
        // Each view updates the history, so that it has the gap that has just ended.
        drop(state.view());
        for gap in state.history.filling(&self.source.name).iter().rev() {
            match self.coverage(gap, state) {
                Coverage::Unknown => {
                    is_waiting = true;
                    continue;
                }
                Coverage::NoMember => {}
                covered => {
                    self.record_covered(gap, &covered, state);
                    continue;
                }
            }
            let before = self.backfilled();
            let result = match error {
                // This gap would fail in the same way. One that is given up is fetched for the last time, and gets its outcome.
                Some(_) if !self.is_given_up(gap) => continue,
                _ => self.fill(gap, hold.take(), state).await,
            };
            let stored = self.backfilled() - before;
            // A failed or interrupted attempt may have stored a part of the events.
            let fetched = self.fetched.entry(gap.id).or_default();
            *fetched += stored;
            let fetched = *fetched;
            let reason = result?;
            if let Some(reason) = &reason {
                let failures = &self.source.stats.backfill_failures;
                failures.fetch_add(1, Ordering::Relaxed);
                if may_be_temporary(reason) && !self.is_given_up(gap) {
                    error.get_or_insert_with(|| sentence(reason));
                    continue;
                }
            }
            self.fetched.remove(&gap.id);
            self.record(gap, fetched, reason.as_ref(), state).await?;
        }
        let left = state.history.filling(&self.source.name);
        self.fetched.retain(|id, _| left.iter().any(|gap| gap.id == *id));
        if !left.is_empty() && !is_waiting {
            error.get_or_insert_with(|| {
                "the gap was extended before all of its events were fetched".to_owned()
            });
        }
        Ok(is_waiting)
    }

    /// Waits until there is something to fetch.
    async fn wait(&mut self, retry_at: Option<Instant>) -> Wake {
        let take_over = async {
            match &self.take_over {
                Some(authenticated) => authenticated.cancelled().await,
                None => pending().await,
            }
        };
        let retry = async {
            match retry_at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        let wake = tokio::select! {
            biased;
            ended = self.ends.recv() => ended.map_or(Wake::Ended, |ended| Wake::Gap(Some(ended))),
            () = take_over => Wake::Gap(None),
            () = retry => Wake::Gap(None),
            Some(request) = self.requests.recv() => Wake::Request(request),
        };
        if matches!(wake, Wake::Gap(_)) {
            self.take_over = None;
        }
        wake
    }

    /// Returns the number of fetched events that were stored.
    fn backfilled(&self) -> u64 {
        self.source.stats.backfilled.load(Ordering::Relaxed)
    }

    /// Returns whether a gap ended so long ago that no further attempt is made.
    fn is_given_up(&self, gap: &Gap) -> bool {
        let limit =
            SignedDuration::try_from(self.settings.config.give_up_after).unwrap_or(SignedDuration::MAX);
        gap.ended
            .is_none_or(|ended| clock::now().duration_since(ended) >= limit)
    }

    /// Fetches and stores the events of a gap. Returns when these events are stored; with a reason if some are missing.
    async fn fill(
        &mut self,
        gap: &Gap,
        hold: Option<GapEnded>,
        state: &State,
    ) -> Result<Option<StopReason>, Interrupted> {
        if self.settings.reader.is_none() {
            return Ok(None);
        }
        if gap.ended.is_some_and(|ended| ended < self.started) {
            tokio::select! {
                biased;
                // Disabled when the source has ended.
                Some(ended) = self.ends.recv() => return Err(Interrupted::GapEnded(ended)),
                () = self.known_events_loaded.cancelled() => {}
            }
        }
        let mut window = self.window(gap, state);
        let settles = self.until_settled(gap);
        let settled_at = Instant::now() + settles;
        // If the gap ended earlier, later events of the feed are stored already, and waiting would not restore the order.
        let hold = hold.filter(|_| settles + JUST_ENDED > SETTLED_AFTER);
        let first = self.fetch(&window, self.bound(gap), hold.as_ref()).await?;
        drop(hold);
        let mut reason = first.reason;
        if reason.is_none() && !settles.is_zero() {
            tokio::select! {
                biased;
                // Disabled when the source has ended.
                Some(ended) = self.ends.recv() => return Err(Interrupted::GapEnded(ended)),
                () = sleep_until(settled_at) => {}
            }
            // The second reading skips most of the events that the first one has found.
            if let Some(mark) = first.mark {
                mark.start(&mut window);
            }
            // The view updates the history: it may know the next event of the feed now.
            drop(state.view());
            let gaps = state.history.filling(&self.source.name);
            let bound = gaps.iter().find(|other| other.id == gap.id);
            let bound = bound.and_then(|gap| self.bound(gap));
            reason = self.fetch(&window, bound, None).await?.reason;
        }
        self.stored().await;
        Ok(reason)
    }

    /// Returns the time until the events that precede the connection are in the list.
    fn until_settled(&self, gap: &Gap) -> Duration {
        let age = gap.ended.map(|ended| clock::now().duration_since(ended));
        let age = age.and_then(|age| Duration::try_from(age).ok());
        SETTLED_AFTER.saturating_sub(age.unwrap_or_default())
    }

    /// Returns the part of the list that covers a gap.
    fn window(&self, gap: &Gap, state: &State) -> Window {
        // After a restart the deduplication window may not have the events before the gap.
        let skips_known = gap.began < self.started;
        let overlap = if skips_known { 0 } else { self.settings.id_overlap };
        let last = gap.last_event.as_deref();
        let (after, to) = if self.settings.counts_ids {
            let after = last.and_then(|id| id.parse::<u64>().ok());
            // With ids, the next event of the feed is the bound, which does not depend on any clock.
            let to = gap.ended.filter(|_| after.is_none());
            (after.map(|id| id.saturating_sub(overlap).to_string()), to)
        } else {
            (last.map(str::to_owned), gap.ended)
        };
        Window {
            after,
            skips_known,
            from: gap.began,
            to,
            overlap: self.settings.config.overlap + self.skew(state),
        }
    }

    /// Returns the measured deviation of the platform's clock.
    fn skew(&self, state: &State) -> Duration {
        let source = state.parts.source(&self.source.name);
        let skew = source.and_then(|source| source.stats.snapshot().clock_skew_seconds);
        Duration::try_from_secs_f64(skew.unwrap_or_default().abs()).unwrap_or_default()
    }

    /// Returns the event of the feed up to which the events of a gap are fetched; `None` to read the list to its end.
    fn bound(&self, gap: &Gap) -> Option<Bound> {
        Bound::new(gap.next_event.as_deref()?, self.settings.counts_ids)
    }

    /// Reads a part of the list, and passes the events up to `bound` to the intake.
    async fn fetch(
        &mut self,
        window: &Window,
        bound: Option<Bound>,
        hold: Option<&GapEnded>,
    ) -> Result<Fetched, Interrupted> {
        let Some(mut reader) = self.settings.reader.take() else {
            return Ok(Fetched::default());
        };
        let (sender, mut pages) = mpsc::channel(1);
        let reading = async {
            let report = reader.fetch(window, &sender).await;
            drop(sender);
            report
        };
        let storing = async {
            let mut marks = Marks::new(self.settings.settling_ids);
            while let Some(mut page) = pages.recv().await {
                let has_sent_rest = bound.as_ref().is_some_and(|bound| bound.cut(&mut page));
                let is_late = !hold.is_some_and(GapEnded::is_holding);
                if !page.is_empty() && !self.store(&page, is_late).await {
                    return Err(Interrupted::Stopped);
                }
                marks.add(&page);
                if has_sent_rest {
                    break;
                }
            }
            drop(pages);
            Ok(marks)
        };
        let (report, stored) = tokio::join!(reading, storing);
        self.settings.reader = Some(reader);
        let marks = stored?;
        Ok(Fetched {
            sent: marks.sent(),
            mark: marks.into_mark(),
            reason: match report.outcome {
                // The reading was stopped at the bound.
                Outcome::Complete
                | Outcome::Partly(StopReason::Stopped)
                | Outcome::Failed(StopReason::Stopped) => None,
                Outcome::Partly(reason) | Outcome::Failed(reason) => Some(reason),
            },
        })
    }

    /// Passes events to the intake. Returns false if the bridge is stopping.
    async fn store(&mut self, page: &[MissedEvent], is_late: bool) -> bool {
        self.encoder.set_origin(if is_late {
            Origin::LateBackfill
        } else {
            Origin::Backfill
        });
        let mut pushed = 0;
        for missed in page {
            let encoder = &mut self.encoder;
            self.settings.protocol.receive(&missed.frame, &mut |action| {
                pushed += 1;
                encoder.push(match action {
                    // The feed did not send this event, so it has no resume value and is not acknowledged.
                    Action::Event(event) => Received::Event(FeedEvent {
                        resume: None,
                        ack: None,
                        ..event
                    }),
                    _ => Received::Malformed {
                        text: &missed.frame,
                        reason: MalformedReason::UnknownKind,
                    },
                });
            });
        }
        let batch = self.encoder.take(clock::now());
        self.send(batch, pushed).await
    }

    async fn send(&self, batch: Encoded, events: u64) -> bool {
        let Ok(room) = self.batches.reserve().await else {
            return false;
        };
        // Without an await in between, so that all counted events are in the channel.
        self.source.ledger.receive(events);
        room.send(batch);
        true
    }

    /// Waits until the events that were sent are stored. The channel keeps the order, so they are stored when the ledger has
    /// settled as many events as it had received at the call.
    async fn stored(&self) {
        let ledger: &SourceLedger = &self.source.ledger;
        let received = ledger.counts().received;
        loop {
            let counts = ledger.counts();
            if counts.received - counts.in_flight >= received {
                return;
            }
            sleep(STORED_INTERVAL).await;
        }
    }
}

/// Returns whether a later attempt may succeed.
const fn may_be_temporary(reason: &StopReason) -> bool {
    matches!(reason, StopReason::Request(_) | StopReason::Delay { .. })
}
