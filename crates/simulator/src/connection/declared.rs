//! The server's side of a connection to a declared feed: the check of the upgrade request, the opening messages, and the
//! messages after the opening.

use std::{ops::RangeInclusive, time::Duration};

use tokio::{
    select,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::tungstenite::handshake::server::Request;
use tracing::debug;

use super::{
    session::{AUTH_TIMEOUT, End, REFUSED, Session},
    stream::Pong,
};
use crate::{
    declared::{Service, Start},
    faults::{Phase, REFUSAL, Reaction},
    http::{ErrorCode, Response},
    platform::{Count, Platform},
    wire::Opcode,
};

/// The state of a connection of a declared feed.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// The resume value: the client requests the events after it.
    pub(super) resume: Option<String>,
    /// The time of the next heartbeat of the feed.
    heartbeat: Option<Instant>,
    /// The time of the next message that expects a reply.
    ping: Option<Instant>,
    /// The time limit for the reply, while a reply is missing.
    reply: Option<Instant>,
}

/// Compares an upgrade request with the declared request, and returns the state of the connection with the accepted
/// sub-protocol.
pub(super) fn check_request(
    service: &Service,
    platform: &Platform,
    request: &Request,
) -> Result<(Client, Option<String>), Response> {
    let values = |name: &str| -> Vec<String> {
        let values = request.headers().get_all(name).iter();
        values
            .filter_map(|value| String::from_utf8(value.as_bytes().to_vec()).ok())
            .collect()
    };
    let offered = values("sec-websocket-protocol").join(",");
    let offered: Vec<&str> = offered
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let query = request.uri().query().unwrap_or_default();
    match service.check_request(query, &values, &offered) {
        Ok(resume) => {
            let client = Client {
                resume,
                ..Client::default()
            };
            let accepted = service.declaration().request.subprotocols.first().cloned();
            Ok((client, accepted))
        }
        Err(error) => {
            platform.count(Count::Refused);
            debug!(%error, "request refused");
            let (status, code) = match error.is_secret {
                true => (401, ErrorCode::Unauthorised),
                false => (400, ErrorCode::Invalid),
            };
            Err(Response::error(status, &error.to_string(), code, None))
        }
    }
}

impl Session<'_> {
    /// Performs the declared opening: receives the messages of the client, and sends the answers.
    pub(super) async fn open(&mut self, service: &Service) -> Result<(), End> {
        let plan = &self.platform.plan;
        let mut fault = self.faults.early(plan, Phase::Authentication, Instant::now());
        if fault.is_some() {
            self.platform.count(Count::Fault);
        }
        if matches!(fault, Some(Reaction::NoAuthAnswer)) && service.opening().is_empty() {
            return Err(End::HalfOpen);
        }
        for (index, step) in service.opening().iter().enumerate() {
            let mut request_id = None;
            if step.expects_message {
                let Some(found) = self.opening_message(service, index).await? else {
                    return self.refuse_opening(service, index, REFUSAL).await;
                };
                request_id = found.map(|id| id.to_string());
            }
            match &fault {
                Some(Reaction::RefuseToken { message }) if step.refusal.is_some() => {
                    let message = message.clone();
                    return self.refuse_opening(service, index, &message).await;
                }
                Some(Reaction::WrongAuth { value }) => {
                    self.platform.count(Count::Refused);
                    self.answers.push_json(&serde_json::json!({ "auth": value }));
                    self.send_answers().await?;
                    return Err(End::Close(REFUSED));
                }
                _ => {}
            }
            let Some(answer) = &step.answer else {
                continue;
            };
            match fault.take() {
                Some(Reaction::NoAuthAnswer) => return Err(End::HalfOpen),
                Some(Reaction::LateAnswer { delay }) => self.pause(delay).await?,
                other => fault = other,
            }
            let answer = answer.with(request_id.as_deref());
            self.answers.push(service.opcode(), answer.as_bytes());
            self.send_answers().await?;
        }
        match fault {
            Some(Reaction::CloseAfterAuth { code }) => Err(End::Close(code)),
            // No step of the feed has a refusal.
            Some(Reaction::RefuseToken { .. }) => {
                self.platform.count(Count::Refused);
                Err(End::Close(REFUSED))
            }
            _ => Ok(()),
        }
    }

    /// Waits for the message of an opening step, and returns the request id in this message, if there is one. Returns `None`
    /// for an unexpected message.
    async fn opening_message(&mut self, service: &Service, index: usize) -> Result<Option<Option<u64>>, End> {
        let deadline = Instant::now() + AUTH_TIMEOUT;
        loop {
            let Some(text) = self.next_text(deadline).await? else {
                return Ok(None);
            };
            if let Some(found) = service.counterpart().opening(index, &text) {
                return Ok(Some(found.request_id));
            }
            if service.counterpart().ping(&text).is_some() {
                self.platform.count(Count::Ping);
                if let Some(answer) = service.ping_answer() {
                    self.answers.push(service.opcode(), answer.as_bytes());
                }
            } else if service.counterpart().reply(&text).is_none() {
                return Ok(None);
            }
            self.send_answers().await?;
        }
    }

    /// Sends the refusal of an opening step if the feed declares one, and closes.
    async fn refuse_opening(&mut self, service: &Service, index: usize, text: &str) -> Result<(), End> {
        self.platform.count(Count::Refused);
        if let Some(refusal) = &service.opening()[index].refusal {
            self.answers
                .push(service.opcode(), refusal.with_text(text, REFUSAL).as_bytes());
            self.send_answers().await?;
        }
        Err(End::Close(REFUSED))
    }

    /// Waits for this time. Returns earlier if the simulator stops, or if all connections are cut.
    pub(super) async fn pause(&mut self, delay: Duration) -> Result<(), End> {
        let stop = self.stop.clone();
        select! {
            biased;
            () = stop.cancelled() => Err(End::Close(1001)),
            _ = self.cut.changed() => Err(End::Cut),
            () = sleep_until(Instant::now() + delay) => Ok(()),
        }
    }

    /// Returns the position at which the connection starts, and starts its timers.
    pub(super) fn start(&mut self, now: Instant) -> Start {
        let Some(service) = &self.platform.declared else {
            return Start::Now;
        };
        let heartbeat = service.heartbeat();
        self.client.heartbeat = heartbeat.idle_timeout.map(|idle| now + idle / 3);
        self.client.ping = service.ping().map(|_| now + heartbeat.interval);
        service.start(self.client.resume.as_deref(), &self.platform.feed, now)
    }

    /// Returns the time of the next heartbeat, of the next message that expects a reply, or of a missing reply.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        let client = &self.client;
        [client.heartbeat, client.ping, client.reply]
            .into_iter()
            .flatten()
            .min()
    }

    /// Sends a heartbeat or a ping that is due, and closes the connection if a reply is overdue.
    pub(super) fn tick(&mut self, now: Instant) -> Option<End> {
        let service = self.platform.declared.as_ref()?;
        let is_due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if is_due(self.client.reply) {
            debug!(
                connection = self.number,
                "no reply to a ping within the time limit; closing the connection"
            );
            return Some(End::Close(REFUSED));
        }
        let heartbeat = service.heartbeat();
        if is_due(self.client.heartbeat) {
            self.client.heartbeat = heartbeat.idle_timeout.map(|idle| now + idle / 3);
            match service.alive() {
                Some(alive) => self.answers.push(service.opcode(), alive.as_bytes()),
                None => self.answers.push(Opcode::Ping, b""),
            }
        }
        if is_due(self.client.ping) {
            self.client.ping = Some(now + heartbeat.interval);
            if let Some(ping) = service.ping() {
                self.answers.push(service.opcode(), ping.as_bytes());
                self.client.reply.get_or_insert(now + heartbeat.timeout);
            }
        }
        None
    }

    /// Handles a message of an open connection.
    pub(super) fn receive_declared(&mut self, service: &Service, text: &str) -> Option<End> {
        if service.counterpart().ping(text).is_some() {
            self.platform.count(Count::Ping);
            match (&self.fault_state.pong, service.ping_answer()) {
                (Pong::Right, Some(answer)) => self.answers.push(service.opcode(), answer.as_bytes()),
                (Pong::Wrong(value), _) => self.answers.push(service.opcode(), value.as_bytes()),
                _ => {}
            }
            return None;
        }
        if service.counterpart().reply(text).is_some() {
            self.client.reply = None;
            self.platform.count(Count::Reply);
            return None;
        }
        let newest = self.platform.feed.produced(Instant::now());
        let acknowledged = service
            .counterpart()
            .acknowledgement(text)
            .and_then(|found| service.acknowledge(&found.values, newest));
        if let Some(count) = acknowledged {
            self.platform.count_acknowledged(count);
            return None;
        }
        debug!(
            connection = self.number,
            "message not in the declaration; closing the connection"
        );
        self.platform.count(Count::Unexpected);
        Some(End::Close(REFUSED))
    }

    /// Appends the events up to and including `last` that are not acknowledged. If the feed has an array of events, a frame
    /// may contain several events.
    pub(super) fn push_events(&mut self, service: &Service, last: u64) {
        while self.next <= last && !self.outbox.is_full() {
            if service.is_acknowledged(self.next) {
                self.platform.mark_sent(self.number, self.next..=self.next);
                self.next += 1;
                continue;
            }
            let limit = (self.next..=service.frame_end(self.next, last))
                .take_while(|number| !service.is_acknowledged(*number))
                .last();
            let end = limit.unwrap_or(self.next);
            self.push_frame(service, self.next..=end);
            self.next = end + 1;
        }
    }

    /// Appends the next event in a frame of about this size.
    pub(super) fn push_huge(&mut self, service: &Service, bytes: usize) {
        let frame = service.huge(self.next, bytes);
        self.events += 1;
        self.outbox
            .push_events(service.opcode(), &frame, self.next..=self.next);
    }

    /// Appends a frame with the events of a range.
    pub(super) fn push_frame(&mut self, service: &Service, numbers: RangeInclusive<u64>) {
        let frame = service.frame(numbers.clone());
        self.events += numbers.end() - numbers.start() + 1;
        self.outbox.push_events(service.opcode(), &frame, numbers);
    }
}
