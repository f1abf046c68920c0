//! Keeps one connection of a source open: dials, authenticates, receives, closes, and after a delay begins again.

use std::time::Duration;

use jiff::SignedDuration;
use neurobridge_core::{backoff::Backoff, clock, throttle, units::format_duration};
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    connection::{self, Dial, Notice, Outlet, Period, Session, SourceLink},
    error::{ConnectionEnd, DialError, SourceError, sentence},
    source::Setup,
    stats::{DisconnectReason, GapOutcome, HiddenGap, Label, SourceState, WasAuthenticated},
};

/// The longest delay that a server can request with `Retry-After`: a wrong value must not silence a source for days.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The maximum length of the shown reason of a failure, in characters: the reason may quote text of the server.
const MAX_REASON_CHARS: usize = 1000;

impl<D> Setup<D> {
    /// Formats an error and its causes as one sentence without secrets.
    fn shown(&self, error: &dyn std::error::Error) -> String {
        self.secrets.clean_to(&sentence(error), MAX_REASON_CHARS)
    }
}

/// Why an attempt, or the resulting connection, ended.
enum Ended {
    NotOpened(DialError),
    NotAuthenticated(ConnectionEnd),
    /// A connection was lost after it was authenticated for this time.
    Lost(ConnectionEnd, Duration),
}

/// The place of one connection among those of a source. A connection that ends is opened again in the same slot.
pub(crate) struct Slot {
    /// The number of the slot.
    pub(crate) number: u64,
    /// Cancelled when the connection is being replaced, so that it is not opened again when it ends.
    pub(crate) replaced: CancellationToken,
    /// The channel for reports to the owner of all slots of the source.
    pub(crate) reports: mpsc::UnboundedSender<(u64, Report)>,
}

/// A change of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The connection is authenticated, with the token of this version.
    Authenticated {
        /// The version of the token.
        version: u64,
    },
    /// The feed refused the token of this version.
    Refused {
        /// The version of the token.
        version: u64,
    },
    /// The authenticated connection ended.
    Lost {
        /// Whether the server closed the connection.
        by_server: bool,
    },
}

impl Slot {
    fn report(&self, report: Report) {
        // Cannot fail: the owner waits for all slots before it ends.
        let _ = self.reports.send((self.number, report));
    }
}

/// Keeps a connection open until it is stopped or replaced.
pub(crate) async fn keep_connected<D: Dial, O: Outlet>(
    setup: &Setup<D>,
    mut link: SourceLink<O>,
    slot: Slot,
) -> Result<(), SourceError> {
    let bounds = &setup.config.backoff;
    let mut backoff = Backoff::new(bounds.min, bounds.max);
    let mut outage = Outage::begin();
    loop {
        let ended = attempt(setup, &mut link, &slot).await;
        link.flush().await;
        if let Ended::Lost(lost, _) = &ended {
            let by_server = matches!(
                lost.root(),
                ConnectionEnd::Closed(_) | ConnectionEnd::Broken { .. }
            );
            slot.report(Report::Lost { by_server });
        }
        if slot.replaced.is_cancelled() {
            if let Ended::Lost(lost, _) = &ended
                && !matches!(lost, ConnectionEnd::Stopped)
                && !link.stats.is_authenticated()
            {
                let (reason, text) = (lost.reason().as_str(), setup.shown(lost));
                warn!(source = %link.name, reason, "connection lost before its replacement was ready: {text}");
                link.stats.waiting(SourceState::Waiting, text);
            }
            return Ok(());
        }
        let (state, retry_after, label, text) = match &ended {
            Ended::NotAuthenticated(ConnectionEnd::Stopped) | Ended::Lost(ConnectionEnd::Stopped, _) => {
                return Ok(());
            }
            Ended::NotOpened(error) => (
                SourceState::Waiting,
                error.retry_after(),
                error.outcome().as_str(),
                setup.shown(error),
            ),
            Ended::NotAuthenticated(lost @ ConnectionEnd::TokenRefused { answer, is_declared })
            | Ended::Lost(lost @ ConnectionEnd::TokenRefused { answer, is_declared }, _) => {
                // Not while another connection is authenticated, which may use the previous token.
                if setup.config.exit_on_refused_token && !link.stats.is_authenticated() {
                    let reason = setup.shown(lost);
                    link.stats.waiting(SourceState::Refused, reason);
                    return Err(SourceError::TokenRefused {
                        name: link.name.to_string(),
                        answer: answer.clone(),
                        is_declared: *is_declared,
                    });
                }
                (
                    SourceState::Refused,
                    None,
                    lost.reason().as_str(),
                    setup.shown(lost),
                )
            }
            Ended::NotAuthenticated(lost) | Ended::Lost(lost, _) => (
                SourceState::Waiting,
                None,
                lost.reason().as_str(),
                setup.shown(lost),
            ),
        };
        if let Ended::Lost(_, authenticated_for) = ended
            && authenticated_for >= bounds.stable_after
        {
            backoff.reset();
        }
        let delay = retry_delay(&mut backoff, retry_after);
        if matches!(ended, Ended::Lost(..)) {
            outage = Outage::begin();
        }
        outage.attempts += 1;
        let until = Instant::now() + delay;
        // The loss of an authenticated connection is a change of state, which is always logged; failed attempts
        // are throttled.
        if link.throttle.allow(label).is_some() || matches!(ended, Ended::Lost(..)) {
            outage.log(&link.name, label, &text, until);
        }
        link.stats.waiting(state, text.clone());
        loop {
            select! {
                biased;
                () = link.stop.cancelled() => return Ok(()),
                () = link.items.closed() => return Ok(()),
                () = slot.replaced.cancelled() => return Ok(()),
                () = sleep_until(until) => break,
                // Repeats the line about the outage, because the server may request a delay of more than a minute.
                () = sleep(throttle::INTERVAL) => outage.log(&link.name, label, &text, until),
            }
        }
    }
}

/// Returns the delay before the next attempt, which is not shorter than the server's `Retry-After`.
fn retry_delay(backoff: &mut Backoff, retry_after: Option<Duration>) -> Duration {
    // The sum of both, not the longer one: otherwise all clients that a server rejected would reconnect at the same
    // moment.
    backoff.next_delay() + retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)
}

/// The time since the last authenticated connection, or since the start of the source, and the attempts in it.
struct Outage {
    since: Instant,
    attempts: u64,
}

impl Outage {
    fn begin() -> Self {
        Self {
            since: Instant::now(),
            attempts: 0,
        }
    }

    /// Logs that the source is not connected; after the first line with the duration of the outage.
    fn log(&self, source: &str, reason: &str, text: &str, until: Instant) {
        let elapsed = Duration::from_secs(self.since.elapsed().as_secs());
        let lasted = (!elapsed.is_zero()).then(|| format_duration(elapsed));
        warn!(
            source,
            reason,
            lasted,
            attempts = self.attempts,
            "not connected: {text}; retrying in {}",
            format_duration(until.saturating_duration_since(Instant::now()))
        );
    }
}

/// Runs one connection from the first step to the last.
async fn attempt<D: Dial, O: Outlet>(setup: &Setup<D>, link: &mut SourceLink<O>, slot: &Slot) -> Ended {
    let stop = link.stop.clone();
    if setup.reader.waits_for_token() {
        let reason = "waiting for the first token".to_owned();
        link.stats.waiting(SourceState::Waiting, reason);
        if stop
            .run_until_cancelled(setup.reader.live.token_was_set())
            .await
            .is_none()
        {
            return Ended::NotAuthenticated(ConnectionEnd::Stopped);
        }
    }
    link.stats.dialling();
    // The version is read before the secrets: a token that is set in between has a higher version, and replaces this
    // connection.
    let version = setup.reader.live.version();
    let expires = setup.reader.live.expires();
    let opened = stop
        .run_until_cancelled(async {
            let secrets = setup.reader.read().await?;
            for secret in secrets.values() {
                setup.secrets.add(secret.expose());
            }
            let last = link.stored.resume();
            let request = setup.protocol.request(&secrets, last.as_deref());
            let resumes = last.is_some() && setup.protocol.resumes();
            let other = setup.reader.live.endpoint();
            Ok((
                secrets,
                resumes,
                setup.dialler.dial(&request, other.as_deref()).await?,
            ))
        })
        .await;
    let (secrets, resumes, dialled) = match opened {
        None => return Ended::NotAuthenticated(ConnectionEnd::Stopped),
        Some(Err(error)) => {
            let error: DialError = error;
            link.stats.attempt_failed(error.outcome());
            return Ended::NotOpened(error);
        }
        Some(Ok(opened)) => opened,
    };
    if let Some(ahead) = dialled.clock_skew_seconds {
        clock::compare_with_server(SignedDuration::try_from_secs_f64(ahead).unwrap_or(SignedDuration::MAX));
    }
    link.stats.opening(dialled.clock_skew_seconds);
    let mut session = Session::new(
        dialled.socket,
        setup.protocol.clone(),
        setup.secrets.clone(),
        setup.config.max_frame_size,
    );
    link.begin();
    let mut authenticated_at = None;
    let authenticated = connection::authenticate(&mut session, link, secrets).await;
    let mut ended = match authenticated {
        Err(lost) => {
            if !matches!(lost, ConnectionEnd::Stopped) {
                link.stats.attempt_failed(lost.outcome());
            }
            Ended::NotAuthenticated(lost)
        }
        Ok(()) => {
            // Not throttled, like every change of state: the backoff limits the number of connections.
            let authenticated = link.stats.authenticated(resumes);
            link.period = Some(Period::new(authenticated.at, expires));
            log_authenticated(link, authenticated.gap, resumes);
            if authenticated.is_only && !resumes {
                link.hold.begin();
            }
            slot.report(Report::Authenticated { version });
            authenticated_at = Some(authenticated.at);
            session.heartbeat.start(authenticated.at);
            let lost = connection::receive(&mut session, link).await;
            Ended::Lost(lost, authenticated.at.elapsed())
        }
    };
    if let Ended::NotAuthenticated(ConnectionEnd::TokenRefused { .. })
    | Ended::Lost(ConnectionEnd::TokenRefused { .. }, _) = &ended
    {
        slot.report(Report::Refused { version });
    }
    if let Ended::NotAuthenticated(lost) | Ended::Lost(lost, _) = &mut ended {
        let mut last_read = session.socket.last_read();
        // The end is counted after the close, because events that are read during the close belong to this connection.
        let is_all_read = connection::close(&mut session, link, lost).await;
        if is_all_read {
            last_read = session.socket.last_read();
        }
        drop(session);
        if !is_all_read {
            link.stats.disconnected_unread();
        }
        if !is_all_read && lost.is_unreadable_frame() {
            let source = Box::new(std::mem::replace(lost, ConnectionEnd::Stopped));
            *lost = ConnectionEnd::Unread { source };
        }
        let reason = match lost {
            ConnectionEnd::Stopped if slot.replaced.is_cancelled() => DisconnectReason::Replaced,
            _ => lost.reason(),
        };
        let last_read = link
            .period
            .take()
            .map_or(last_read, |period| period.received_until(last_read));
        let was = authenticated_at.map(|since| WasAuthenticated { since, last_read });
        if let Some(gap) = link.stats.disconnected(reason, was) {
            hidden_gap(link, reason, &gap);
        }
        let sentence = setup.shown(lost);
        link.outlet.notice(Notice::Disconnected {
            reason,
            sentence: &sentence,
        });
    }
    ended
}

/// Logs an authentication; after a gap with the duration, and whether the events of the gap are missed.
fn log_authenticated<O: Outlet>(link: &SourceLink<O>, gap: Option<Duration>, resumes: bool) {
    match gap {
        None => info!(source = %link.name, "authenticated"),
        Some(gap) if resumes => info!(
            source = %link.name,
            gap = format_duration(gap),
            "authenticated again; the feed continues after the last stored event"
        ),
        Some(gap) if link.hold.is_observed() => {
            info!(source = %link.name, gap = format_duration(gap), "authenticated again");
        }
        Some(gap) => info!(
            source = %link.name,
            gap = format_duration(gap),
            "authenticated again; events of the gap are missed"
        ),
    }
}

/// Logs a gap that a dead connection has hidden, and reports it, so that the program can fetch the events of the gap.
fn hidden_gap<O: Outlet>(link: &SourceLink<O>, reason: DisconnectReason, gap: &HiddenGap) {
    let length = format_duration(gap.length);
    let reason = reason.as_str();
    if gap.outcome == GapOutcome::Recovered {
        info!(
            source = %link.name, reason, gap = length,
            "connection was dead before the next one was authenticated; the feed continues after the last stored event"
        );
        return;
    }
    let missed = if link.hold.is_observed() {
        ""
    } else {
        "; events of the gap are missed"
    };
    warn!(
        source = %link.name, reason, gap = length,
        "connection was dead before the next one was authenticated{missed}"
    );
    // Without an authenticated connection, the hold begins at the next authentication.
    if gap.is_connected {
        link.hold.begin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_obeyed_up_to_a_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_secs(1));
        for seconds in [0, 1, 299, 300, 301, 86_400] {
            let wanted = Duration::from_secs(seconds).min(MAX_RETRY_AFTER);
            let delay = retry_delay(&mut backoff, Some(Duration::from_secs(seconds)));
            assert!(
                delay >= wanted && delay <= wanted + Duration::from_secs(1),
                "{delay:?}"
            );
        }
    }
}
