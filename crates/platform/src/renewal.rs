//! Decides when a temporary token is replaced and the old one deleted, without I/O.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use neurobridge_core::backoff::Backoff;

use crate::{iam::CreatedToken, token_file::StoredToken};

/// The share of its lifetime after which a token is renewed, as numerator and denominator. The rest, a fifth of usually 24
/// hours, is left for retries while the platform cannot be reached.
const RENEW_AFTER: (u32, u32) = (4, 5);

/// The minimum and maximum delay after a failed request. The maximum also limits a delay that the platform requests.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// The maximum delay after a failed request without a valid token, because the source receives no event then. A retry
/// follows the expiry of the current token by at most this time, too. A delay that the platform requests may be longer, up
/// to that of [`RETRY`].
const WITHOUT_TOKEN: Duration = Duration::from_secs(10);

/// The minimum and maximum delay before the bridge replaces a refused token by a new token.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The age from which a token counts as having worked before it was refused: the delays start again at the minimum.
const STABLE: Duration = Duration::from_secs(600);
/// The shortest time between the creation of two tokens, so that tokens with a very short lifetime make no hot loop.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The current time by both local clocks. The monotonic clock does not jump, and may stop while the machine is suspended;
/// the other one continues across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub monotonic: Instant,
    /// The clock of the system.
    pub wall: Timestamp,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

/// The next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create a token, and report the result by [`Renewal::created`] or [`Renewal::failed`].
    Create,
    /// Delete the token with this id, and report the result by [`Renewal::deleted`] or [`Renewal::failed`].
    Delete(u64),
    /// Do nothing until this time has passed.
    Wait(Duration),
}

/// The tokens that the bridge creates for a source: at most two are valid at a time.
#[derive(Debug)]
pub struct Renewal {
    current: Option<Held>,
    /// The previous token, until it is deleted or has expired.
    old: Option<Held>,
    /// Whether the current token is in use, so that the old one is no longer needed.
    is_in_use: bool,
    /// Whether the platform refused the current token.
    is_refused: bool,
    /// Whether the platform refused the old token, while that was the current one.
    is_old_refused: bool,
    refusals: Backoff,
    /// The start and length of a pause in which no token is created.
    pause: Option<(Instant, Duration)>,
    backoff: Backoff,
    /// The time of the last failure, and the delay after it.
    failure: Option<(Instant, Duration)>,
}

/// A token, and the times at which it was received.
#[derive(Clone, Debug)]
struct Held {
    token: CreatedToken,
    /// The monotonic time of receipt; for a token of an earlier process, the time at which its file was read.
    since: Instant,
    /// The age of the token at `since`.
    age_then: Duration,
    /// The time of receipt by the system's clock.
    received_at: Timestamp,
}

impl Held {
    /// Returns the age: the larger one of the ages by the two clocks, so that a token is never used for too long.
    fn age(&self, now: Now) -> Duration {
        let monotonic = self.age_then + now.monotonic.saturating_duration_since(self.since);
        let wall = now.wall.duration_since(self.received_at);
        monotonic.max(wall.try_into().unwrap_or_default())
    }

    /// Returns the time until the token expires; `None` if it does not.
    fn left(&self, now: Now) -> Option<Duration> {
        Some(self.token.lifetime?.saturating_sub(self.age(now)))
    }

    fn is_expired(&self, now: Now) -> bool {
        self.left(now).is_some_and(|left| left.is_zero())
    }

    /// Returns the time until the token has to be renewed; `None` for never.
    fn until_renewal(&self, now: Now) -> Option<Duration> {
        let (numerator, denominator) = RENEW_AFTER;
        let share = self.token.lifetime? / denominator * numerator;
        Some(share.saturating_sub(self.age(now)))
    }
}

impl Renewal {
    /// Starts without a token, or with that of an earlier process. If the time of receipt of a stored token is in the future,
    /// because the clock was set back, the age is unknown and the token is replaced at once.
    pub fn new(stored: Option<StoredToken>, now: Now) -> Self {
        let mut renewal = Self {
            current: None,
            old: None,
            is_in_use: false,
            is_refused: false,
            is_old_refused: false,
            refusals: Backoff::new(REFUSED.0, REFUSED.1),
            pause: None,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            failure: None,
        };
        let Some(stored) = stored else {
            return renewal;
        };
        let held = |token: CreatedToken, received_at: Timestamp| {
            let age = Duration::try_from(now.wall.duration_since(received_at)).ok();
            Held {
                age_then: age.or(token.lifetime).unwrap_or_default(),
                token,
                since: now.monotonic,
                received_at,
            }
        };
        renewal.current = Some(held(stored.token, stored.received_at));
        renewal.old = stored.old.map(|(token, received_at)| held(token, received_at));
        renewal
    }

    /// Returns the token to use; `None` if there is none, or it has expired.
    pub fn token(&self, now: Now) -> Option<&CreatedToken> {
        let current = self.current.as_ref()?;
        (!current.is_expired(now)).then_some(&current.token)
    }

    /// Returns the time until the current token expires; `None` without a temporary token.
    pub fn expires_in(&self, now: Now) -> Option<Duration> {
        self.current.as_ref()?.left(now)
    }

    /// Returns the time until the next attempt to create a token, including the delay after a failure; `None` if the
    /// current token does not expire.
    pub fn renews_in(&self, now: Now) -> Option<Duration> {
        let planned = match &self.current {
            Some(current) if !self.is_refused => current.until_renewal(now)?,
            _ => Duration::ZERO,
        };
        let delays = [self.failure, self.pause].into_iter();
        Some(
            delays
                .filter_map(|delay| left(delay, now))
                .fold(planned, Duration::max),
        )
    }

    /// Returns the tokens to store for the next start; `None` without a token.
    pub fn to_stored(&self) -> Option<StoredToken> {
        let current = self.current.as_ref()?;
        Some(StoredToken {
            token: current.token.clone(),
            received_at: current.received_at,
            old: self.old.as_ref().map(|old| (old.token.clone(), old.received_at)),
        })
    }

    /// Returns the number of tokens that may be valid.
    pub fn valid_tokens(&self, now: Now) -> usize {
        [&self.current, &self.old]
            .into_iter()
            .flatten()
            .filter(|held| !held.is_expired(now))
            .count()
    }

    /// Returns the next action.
    pub fn step(&mut self, now: Now) -> Step {
        self.old.take_if(|old| old.is_expired(now));
        let needs_token = match &self.current {
            None => true,
            Some(_) if self.is_refused => true,
            Some(current) => current.until_renewal(now).is_some_and(|left| left.is_zero()),
        };
        // A refused or expired token is no longer needed, so it is deleted before another one is created.
        let is_old_unused = self.is_in_use || needs_token;
        let step = match (&self.old, &self.current) {
            // The refused token is deleted: no connection uses it, and open connections may use the old one.
            (Some(_), Some(current)) if self.is_refused && !self.is_old_refused => {
                Step::Delete(current.token.id)
            }
            (Some(old), _) if is_old_unused => Step::Delete(old.token.id),
            (None, _) if needs_token => Step::Create,
            _ => Step::Wait(self.until_change(now)),
        };
        let retry = left(self.failure, now);
        let pause = left(self.pause, now);
        match step {
            Step::Create => retry.max(pause).map_or(step, Step::Wait),
            Step::Delete(_) => retry.map_or(step, Step::Wait),
            Step::Wait(_) => step,
        }
    }

    /// Accepts a token that was created. The previous token is kept until the new one is [in use](Self::used).
    pub fn created(&mut self, token: CreatedToken, now: Now) {
        self.succeeded();
        let held = Held {
            token,
            since: now.monotonic,
            age_then: Duration::ZERO,
            received_at: now.wall,
        };
        if let Some(current) = self.current.replace(held) {
            self.old = Some(current);
            self.is_old_refused = self.is_refused;
        }
        self.pause = Some((now.monotonic, MIN_INTERVAL));
        (self.is_in_use, self.is_refused) = (false, false);
    }

    /// Notes that the platform accepted the current token on every connection that needs one.
    pub const fn used(&mut self) {
        (self.is_in_use, self.is_refused) = (true, false);
    }

    /// Notes that the platform refused the current token: it is replaced before its time, after a delay that grows with each
    /// refusal of a new token.
    pub fn refused(&mut self, now: Now) {
        let Some(current) = self.current.as_ref().filter(|_| !self.is_refused) else {
            return;
        };
        self.is_refused = true;
        if current.age(now) >= STABLE {
            self.refusals.reset();
            self.pause = None;
        } else {
            self.pause = Some((now.monotonic, self.refusals.next_delay()));
        }
    }

    /// Notes that a token was deleted, or did not exist. After the deletion of a refused token the old one is the current one
    /// again.
    pub fn deleted(&mut self, id: u64) {
        self.succeeded();
        let is = |held: &mut Held| held.token.id == id;
        if self.old.take_if(is).is_none() && self.current.take_if(is).is_some() {
            self.current = self.old.take();
            (self.is_in_use, self.is_refused) = (false, self.is_old_refused);
        }
    }

    /// Notes that a request failed; `retry_after` is the delay that the platform requested.
    pub fn failed(&mut self, now: Now, retry_after: Option<Duration>) {
        let requested = retry_after.unwrap_or_default().min(RETRY.1);
        let valid_for = self.current.as_ref().map(|current| current.left(now));
        let longest = match valid_for {
            Some(None) => RETRY.1,
            Some(Some(left)) => left.max(WITHOUT_TOKEN),
            None => WITHOUT_TOKEN,
        };
        let delay = requested.max(self.backoff.next_delay().min(longest));
        self.failure = Some((now.monotonic, delay));
    }

    fn succeeded(&mut self) {
        self.backoff.reset();
        self.failure = None;
    }

    /// Returns the time until the next step may be another action.
    fn until_change(&self, now: Now) -> Duration {
        let renewal = self
            .current
            .as_ref()
            .and_then(|current| current.until_renewal(now));
        let expiry = self.old.as_ref().and_then(|old| old.left(now));
        let next = renewal
            .filter(|left| !left.is_zero())
            .into_iter()
            .chain(expiry)
            .min();
        // The step for a permanent token changes only when another method is called.
        next.unwrap_or(Duration::from_secs(3_600))
    }
}

/// Returns the rest of a delay; `None` if it has passed.
fn left(delay: Option<(Instant, Duration)>, now: Now) -> Option<Duration> {
    let (at, delay) = delay?;
    let left = delay.saturating_sub(now.monotonic.saturating_duration_since(at));
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
#[path = "renewal_tests.rs"]
mod tests;
