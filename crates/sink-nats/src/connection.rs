//! An open connection: sends messages and receives acknowledgements.

use std::{
    fmt::Write,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use async_nats::{Client, PublishErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use neurobridge_core::{
    event::{Event, Sequence},
    sink::{
        Ack, AfterOutcomes, ClientGauges, FaultKind, Outcome, PublishError, Rejection, RejectionReason,
        SinkFault,
    },
};
use tokio::{
    task::coop::unconstrained,
    time::{Instant, sleep_until},
};

use crate::{
    backend::{Backend, UsualAnswer},
    chain::{self, Chain, ChainedBy, Ownership},
    config::NatsConfig,
    destination::Places,
    dial::Dialled,
    echo::{self, Echoes},
    encode::Message,
    error,
    events::Events,
    following::Following,
    in_flight::{InFlight, Role, Sent},
    limits::Limits,
    payload::payload_in,
    receive_limit::ReceiveLimit,
    recovery::{EndRequest, Recovery},
    routes::Routes,
    stream::Stream,
    subject,
    subjects::{MovedSubject, Subjects},
};

mod answers;
mod continuation;
mod membership;

/// The time limit of an acknowledgement with strict order. Short, because a single missing one blocks all later events.
const STRICT_PROGRESS_LIMIT: Duration = Duration::from_secs(3);
/// The largest number of acknowledgements that are processed together.
const MAX_ANSWERS: usize = 4096;

/// An open connection.
pub(crate) struct Connection {
    client: Client,
    replies: Subscriber,
    inbox: String,
    events: Arc<Events>,
    /// The limit on received messages and lines, which ends with the connection.
    _receive_limit: ReceiveLimit,
    backend: Backend,
    in_flight: InFlight,
    /// The outcomes of events that are already stored and were not sent again.
    known: Vec<Ack>,
    max_in_flight: usize,
    is_full: bool,
    limits: Limits,
    dead_letter_subject: Option<String>,
    /// The pattern of the events' subjects.
    pattern: String,
    /// Set if the stream does not accept all subjects of the pattern.
    routes: Option<Routes>,
    ack_timeout: Duration,
    last_answer: Instant,
    /// The time from sending to the answer of the most recently answered message.
    round_trip: Option<Duration>,
    /// The time of the first message since the last flush, which all messages until the next flush share: reading the clock
    /// for each message would cost more than it is worth.
    run_began: Option<Instant>,
    reply_subjects: Subjects,
    /// The pending request for the end of the stream.
    end_request: Option<EndRequest>,
    ownership: Ownership,
    places: Places,
    /// Set in a cluster.
    following: Option<Following>,
    /// How messages refer to the message before; `None` without strict order.
    chained_by: Option<ChainedBy>,
}

impl Connection {
    pub(crate) fn new(config: &NatsConfig, dialled: Dialled, following: Option<Following>) -> Self {
        let max_message = dialled
            .stream
            .as_ref()
            .and_then(|stream| usize::try_from(stream.config.max_msg_size).ok())
            .filter(|size| *size > 0);
        let limits = Limits::new(dialled.client.max_payload(), max_message);
        let backend = match config.jetstream() {
            Some(stream) => Backend::Stream {
                name: stream.name.as_str().into(),
                usual: UsualAnswer::of(&stream.name),
                chain: dialled.chain,
                replayed_after: dialled.replayed_after,
            },
            None => Backend::Core(Echoes::new(dialled.client.statistics())),
        };
        Self {
            client: dialled.client,
            replies: dialled.replies,
            inbox: dialled.inbox,
            events: dialled.events,
            _receive_limit: dialled.receive_limit,
            backend,
            in_flight: InFlight::default(),
            known: Vec::new(),
            max_in_flight: config.max_in_flight as usize,
            is_full: false,
            limits,
            pattern: subject::pattern(&config.subject),
            routes: dialled
                .stream
                .as_ref()
                .and_then(|stream| Routes::of(config, stream)),
            dead_letter_subject: config.dead_letter_subject().map(str::to_owned),
            ack_timeout: config.ack_timeout,
            last_answer: Instant::now(),
            round_trip: None,
            run_began: None,
            reply_subjects: Subjects::default(),
            end_request: None,
            ownership: dialled.ownership,
            places: Places::default(),
            following,
            chained_by: dialled
                .stream
                .as_ref()
                .filter(|_| config.is_strict())
                .map(Stream::chained_by),
        }
    }

    /// Returns whether the acknowledgement of an event also confirms all events before it.
    pub(crate) fn acks_are_cumulative(&self) -> bool {
        self.backend.chain().is_some_and(Chain::acks_are_cumulative)
    }

    /// Checks whether an event may be sent.
    pub(crate) fn ready(&mut self) -> Result<(), PublishError> {
        if self.backend.recovery().is_some_and(Recovery::is_broken) {
            return Err(PublishError::Full);
        }
        self.check_lead()?;
        self.ready_for_dead_letter()
    }

    /// Checks whether a dead letter may be sent. Unlike an event it may be sent while the chain is broken.
    pub(crate) fn ready_for_dead_letter(&mut self) -> Result<(), PublishError> {
        let expected = self.following.as_ref().map_or(0, Following::expected);
        let used = self.in_flight.len() + self.known.len() + expected;
        // Full until a quarter is free: otherwise each acknowledgement would cause a wake-up and a write for one message.
        let limit = self.most_in_flight();
        self.is_full = used >= limit || self.is_full && used > limit - limit / 4;
        let must_wait = self.sends_alone() && self.in_flight.len() > 0;
        if self.is_full || must_wait {
            return Err(PublishError::Full);
        }
        Ok(())
    }

    /// Sends the message of an event. An event that is known to be stored is settled without being sent.
    /// `buffer` is the buffer that may hold the payload.
    pub(crate) fn send(
        &mut self,
        event: &Event<'_>,
        mut message: Message<'_>,
        buffer: &Bytes,
    ) -> Result<(), PublishError> {
        let sequence = event.sequence;
        let mut role = Role::Free;
        match &mut self.backend {
            Backend::Stream {
                chain: Some((chain, _)),
                ..
            } => {
                if let Some(id) = message.id {
                    role = chain.add_to(&mut message.headers, sequence, id);
                }
            }
            Backend::Stream {
                replayed_after: Some(value),
                ..
            } => message.headers.add(chain::HEADER, value),
            Backend::Stream { .. } | Backend::Core(_) => {}
        }
        self.limits.check(message.size(), role)?;
        if let Some(routes) = &self.routes
            && let Err(error) = routes.check(sequence, &message.subject)
        {
            let has_outcomes = self.in_flight.len() + self.known.len() > 0;
            return Err(match error {
                // Outcomes of earlier events are reported first: a fault now would discard them.
                PublishError::Fault(_) if has_outcomes => PublishError::Full,
                error => error,
            });
        }
        if self.is_not_sent(event, &message.subject, message.id) {
            return Ok(());
        }
        // Checked only for events that can be sent: one rejected above is not stored, although later ones are.
        if self.backend.chain().is_some_and(|chain| chain.has(sequence)) {
            self.known.push(Ack {
                sequence,
                outcome: Outcome::Delivered,
            });
            return Ok(());
        }
        let payload = payload_in(buffer, message.payload.as_bytes());
        self.pass_to_client(sequence, message, payload, role)?;
        if let Some(chain) = self.backend.chain_mut() {
            chain.sent();
        }
        Ok(())
    }

    /// Sends a dead letter. It is stored in another stream than the events, so it is not part of their chain.
    pub(crate) fn send_dead_letter(
        &mut self,
        sequence: Sequence,
        message: Message<'_>,
    ) -> Result<(), PublishError> {
        self.limits.check(message.size(), Role::DeadLetter)?;
        let payload = Bytes::copy_from_slice(message.payload.as_bytes());
        self.pass_to_client(sequence, message, payload, Role::DeadLetter)
    }

    fn pass_to_client(
        &mut self,
        sequence: Sequence,
        message: Message<'_>,
        payload: Bytes,
        role: Role,
    ) -> Result<(), PublishError> {
        if self.in_flight.len() == 0
            && let Backend::Core(echoes) = &mut self.backend
        {
            echoes.begin();
        }
        let size = message.size();
        let at = *self.run_began.get_or_insert_with(Instant::now);
        let subject_bytes = message.subject.len();
        let subject = MovedSubject::from(message.subject);
        let headers = message.headers.into_map();
        let passed = match (&self.backend, headers) {
            (Backend::Stream { .. }, headers) => {
                let number = self.in_flight.next_number();
                let reply = self.reply_subjects.make(|text| {
                    text.push_str(&self.inbox);
                    // Writing to a string cannot fail.
                    let _ = write!(text, "{number}");
                });
                let headers = headers.unwrap_or_default();
                now(pin!(self.client.publish_with_reply_and_headers(
                    subject,
                    MovedSubject::from(reply),
                    headers,
                    payload
                )))
            }
            (Backend::Core(_), Some(headers)) => {
                now(pin!(self.client.publish_with_headers(subject, headers, payload)))
            }
            (Backend::Core(_), None) => now(pin!(self.client.publish(subject, payload))),
        };
        if !matches!(passed, Some(Ok(()))) {
            // A rejected message does not set the time, since the next message may be sent much later.
            self.run_began = None;
        }
        match passed {
            Some(Ok(())) => {
                if self.in_flight.len() == 0 {
                    self.last_answer = at;
                }
                self.in_flight.push(Sent {
                    sequence,
                    at,
                    role,
                    subject_bytes,
                    after: self.places.last(),
                });
                Ok(())
            }
            Some(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                // The limit was lowered after the connection; the next connection reads the new one.
                Err(PublishError::Rejected(Rejection {
                    reason: RejectionReason::TooLarge,
                    detail: format!("found a message of {size} bytes with its headers: {error}"),
                }))
            }
            Some(Err(_)) => Err(PublishError::Fault(self.broken())),
            None => Err(PublishError::Fault(SinkFault::new(
                FaultKind::Other,
                "the client's channel is full below the limit of messages in flight; this is a bug; retrying",
            ))),
        }
    }

    /// Ends a run of messages, which share a time. The client sends them by itself. In core mode, which has no
    /// acknowledgements, an echo is requested.
    pub(crate) fn flush(&mut self) -> Result<(), SinkFault> {
        self.run_began = None;
        let has_sent = self.in_flight.len() > 0;
        match &mut self.backend {
            Backend::Core(echoes) if has_sent && !echoes.is_pending => {
                echoes.is_pending = true;
                self.echo()
            }
            _ => Ok(()),
        }
    }

    /// Waits for acknowledgements and appends the outcomes. Cancel-safe: never waits between an acknowledgement and its
    /// outcome.
    pub(crate) async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        if !self.known.is_empty() {
            acks.append(&mut self.known);
            return Ok(AfterOutcomes::Continue);
        }
        if self.in_flight.len() == 0 && self.is_follower() {
            return self.follow(acks).await;
        }
        let before = acks.len();
        while acks.len() == before {
            let is_broken = self.backend.recovery().is_some_and(Recovery::is_broken);
            if is_broken && self.in_flight.len() == 0 {
                return self.continue_chain(acks).await;
            }
            let late = late(self.ack_deadline());
            let repeat = at(self.repeat_at());
            let reply = tokio::select! {
                biased;
                reply = self.replies.next() => reply,
                // After the acknowledgements, since those received before the fault still count.
                fault = self.events.faulted() => return Err(fault),
                fault = late => return Err(fault),
                () = repeat => {
                    if let Backend::Core(echoes) = &mut self.backend {
                        echoes.repeat_at = None;
                    }
                    self.echo()?;
                    continue;
                }
            };
            let Some(reply) = reply else {
                return Err(self.broken());
            };
            self.last_answer = Instant::now();
            self.apply_answer(&reply, acks)?;
            for _ in 0..MAX_ANSWERS {
                match now(pin!(self.replies.next())) {
                    Some(Some(reply)) => self.apply_answer(&reply, acks)?,
                    Some(None) | None => break,
                }
            }
        }
        Ok(AfterOutcomes::Continue)
    }

    /// Returns the place of the last acknowledged message. If the stream was recreated since the last call, also the last
    /// place in the old stream and the first place in the new stream.
    pub(crate) fn take_places(&mut self) -> (u64, Option<(u64, u64)>) {
        (self.places.last(), self.places.take_restarted())
    }

    /// Returns the length in bytes of a subject that the server did not accept, if it closed the connection because of one.
    pub(crate) fn refused_subject(&self) -> Option<usize> {
        // The refused subject has no acknowledgement, and every longer subject is refused too.
        let longest = self.in_flight.longest_subject();
        longest.filter(|_| self.events.is_line_too_long())
    }

    /// Returns the number of messages without an answer, and the round-trip time of the last answer.
    pub(crate) fn gauges(&self) -> ClientGauges {
        ClientGauges {
            queued_messages: Some(self.in_flight.len() as u64),
            queued_bytes: None,
            round_trip: self.round_trip,
        }
    }

    /// Returns the fault that the client has reported, if no event waits for its outcome.
    pub(crate) fn idle_fault(&self) -> Option<SinkFault> {
        let is_idle = self.in_flight.len() == 0 && self.known.is_empty();
        self.events.fault().filter(|_| is_idle)
    }

    /// Returns for how long the oldest acknowledgement has been pending.
    pub(crate) fn waiting_for(&self) -> Option<Duration> {
        self.in_flight.oldest().map(|oldest| {
            let since = oldest.at.max(self.last_answer);
            Instant::now().saturating_duration_since(since)
        })
    }

    /// Returns the deadline of the next acknowledgement, and its time limit.
    fn ack_deadline(&self) -> (Option<Instant>, Duration) {
        let Some(oldest) = self.in_flight.oldest() else {
            return (None, self.ack_timeout);
        };
        let at_last = oldest.at + self.ack_timeout;
        let progress = oldest.at.max(self.last_answer) + STRICT_PROGRESS_LIMIT;
        match &self.backend {
            Backend::Stream { chain: Some(_), .. } if progress < at_last => {
                (Some(progress), STRICT_PROGRESS_LIMIT)
            }
            _ => (Some(at_last), self.ack_timeout),
        }
    }

    /// Requests an echo, which the server returns after it has processed all messages sent so far.
    fn echo(&self) -> Result<(), SinkFault> {
        let subject = format!("{}{}", self.inbox, self.in_flight.next_number());
        match now(pin!(
            self.client.publish(subject, Bytes::from_static(echo::PAYLOAD))
        )) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => Err(self.broken()),
        }
    }

    /// Returns the time at which another echo is to be requested.
    const fn repeat_at(&self) -> Option<Instant> {
        match &self.backend {
            Backend::Core(echoes) => echoes.repeat_at,
            Backend::Stream { .. } => None,
        }
    }

    fn broken(&self) -> SinkFault {
        self.events.fault().unwrap_or_else(error::broken)
    }
}

/// Returns the result of a future that does not wait. Polls outside of the runtime's budget, which could suspend a busy task
/// here, so that the message would be lost.
///
/// Takes the future pinned, because the future of a publish is larger than most messages and moving it would copy it.
fn now<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    unconstrained(future).now_or_never()
}

/// Waits until a time; for ever without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until the deadline and returns the fault of a missing acknowledgement.
async fn late((deadline, limit): (Option<Instant>, Duration)) -> SinkFault {
    at(deadline).await;
    SinkFault::new(
        FaultKind::Timeout,
        format!(
            "no acknowledgement for {} seconds; check the servers and the network; unacknowledged events are sent again",
            limit.as_secs()
        ),
    )
}
