//! An authenticated connection: the order of answers and events, and the effects of fault rules.

use std::{io, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt, WriteHalf},
    select,
    time::{Instant, sleep_until},
};
use tracing::debug;

use super::{
    session::{End, REFUSED, REPLACED, Session, read_message},
    socket::Socket,
};
use crate::{
    declared::Service,
    faults::{Due, Reaction},
    feed::Allowance,
    iam::{Dismissal, TokenEnd},
    platform::Count,
    wire::{Message, Opcode, ReadError},
};

/// The maximum size of the pending answers in bytes. While there are more, the connection does not read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The effects of fault rules on the connection.
#[derive(Debug, Default)]
pub(super) struct FaultState {
    pub(super) pong: Pong,
    /// The time before the answer to AUTH.
    pub(super) late_answer: Option<Duration>,
    silent: bool,
    drip: Option<Drip>,
    /// A fault that waits for the entries that it needs.
    waiting: Option<Reaction>,
    /// The number of `same-id` faults, from which each one has another body.
    variants: u64,
}

/// The answers to pings.
#[derive(Debug, Default)]
pub(super) enum Pong {
    #[default]
    Right,
    Wrong(String),
    None,
}

/// A limit of the sending speed: `bytes` in each `interval`.
#[derive(Debug)]
struct Drip {
    bytes: usize,
    interval: Duration,
    /// The time from which the next bytes may be sent.
    next: Instant,
}

/// The result of filling the outbox.
enum Fill {
    Ready,
    /// There is nothing to send until this time, or until the feed changes.
    Idle(Option<Instant>),
    End(End),
}

impl Session<'_> {
    /// Sends events until the connection has to end, and returns the way in which it ends.
    pub(super) async fn stream(&mut self) -> End {
        let stop = self.stop.clone();
        let mut changes = self.platform.feed.changes();
        let mut tokens = self.platform.iam.changes();
        // The token may have expired before the subscription.
        tokens.mark_changed();
        // Bytes that the socket accepted may remain in the TLS layer until it is flushed.
        let mut flushed = true;
        loop {
            let mut wake = None;
            if self.outbox.is_done() && flushed {
                // Changes are marked as seen before the check, so that a change during the check is noticed.
                changes.mark_unchanged();
                match self.fill(Instant::now()) {
                    Fill::Ready => {}
                    Fill::Idle(until) => wake = until,
                    Fill::End(end) => return end,
                }
            }
            let idle = self.outbox.is_done() && flushed;
            let mut drip_wait = None;
            let mut piece = usize::MAX;
            if let Some(drip) = self.fault_state.drip.as_ref().filter(|_| !idle) {
                drip_wait = Some(drip.next).filter(|next| *next > Instant::now());
                piece = drip.bytes;
            }
            let timer = wake
                .or(drip_wait)
                .into_iter()
                .chain(self.expires)
                .chain(self.next_tick())
                .min();
            let may_read = self.answers.rest().len() < MAX_ANSWER_BYTES;
            select! {
                biased;
                () = stop.cancelled() => return End::Close(1001),
                _ = self.cut.changed() => return End::Cut,
                _ = tokens.changed() => {
                    if let Some(end) = self.check_token(Instant::now()) {
                        return end;
                    }
                }
                message = read_message(&mut self.reader, &mut self.decoder), if may_read => {
                    if let Some(end) = self.receive(message) {
                        return end;
                    }
                }
                progress = write_or_flush(&mut self.writer, self.outbox.rest(), piece), if !idle && drip_wait.is_none() => {
                    match progress {
                        Ok(0) => flushed = true,
                        Ok(bytes) => {
                            flushed = false;
                            self.outbox.advance(bytes, self.number, self.platform);
                            if let Some(drip) = &mut self.fault_state.drip {
                                drip.next = Instant::now() + drip.interval;
                            }
                        }
                        Err(_) => return End::Gone,
                    }
                }
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    let now = Instant::now();
                    if let Some(end) = self.tick(now) {
                        return end;
                    }
                    if self.expires.is_some_and(|expires| expires <= now) {
                        self.expires = None;
                        if let Some(end) = self.check_token(now) {
                            return end;
                        }
                    }
                }
                _ = changes.changed(), if idle => {}
            }
        }
    }

    /// Closes or silences the connection if its token has expired, and closes it if a newer connection replaces it.
    fn check_token(&mut self, now: Instant) -> Option<End> {
        match self.platform.iam.dismissal(&self.token, self.number, now)? {
            Dismissal::Replaced => Some(End::Close(REPLACED)),
            Dismissal::Expired if self.platform.iam.options.end == TokenEnd::Close => {
                Some(End::Close(REFUSED))
            }
            Dismissal::Expired => {
                self.fault_state.silent = true;
                self.platform.feed.leave(self.number, now);
                None
            }
        }
    }

    /// Handles a message of an authenticated client.
    fn receive(&mut self, message: Result<Option<Message>, ReadError>) -> Option<End> {
        match message {
            Ok(Some(Message::Text(text))) => match &self.platform.declared {
                Some(service) => return self.receive_declared(service, &text),
                None => self.receive_text(&text),
            },
            Ok(Some(Message::Ping(payload))) if !matches!(self.fault_state.pong, Pong::None) => {
                self.answers.push(Opcode::Pong, &payload);
            }
            Ok(Some(Message::Ping(_) | Message::Pong | Message::Binary)) => {}
            Ok(Some(Message::Close(code))) => return Some(End::Close(code.unwrap_or(1000))),
            Ok(None) => return Some(End::Gone),
            Err(error) => {
                debug!(connection = self.number, %error, "protocol violation; closing the connection");
                return Some(End::Close(error.close_code()));
            }
        }
        None
    }

    fn receive_text(&mut self, text: &str) {
        let action: Option<Value> = serde_json::from_str(text).ok();
        match action.as_ref().and_then(|message| message["action"].as_str()) {
            Some("PING") => {
                self.platform.count(Count::Ping);
                match &self.fault_state.pong {
                    Pong::Right => self.answers.push_json(&json!({ "PING": "PONG" })),
                    Pong::Wrong(value) => self.answers.push_json(&json!({ "PING": value })),
                    Pong::None => {}
                }
            }
            Some("AUTH") => self.answers.push_json(&json!({ "auth": "ok" })),
            // *Assumed*: the platform answers an unknown request with an error and keeps the connection open.
            _ => self
                .answers
                .push_json(&json!({ "error": "unknown action; expected AUTH or PING" })),
        }
    }

    /// Fills the outbox with answers first, then with due faults, then with entries.
    fn fill(&mut self, now: Instant) -> Fill {
        self.outbox.reset();
        if !self.answers.is_done() {
            std::mem::swap(&mut self.outbox, &mut self.answers);
            return Fill::Ready;
        }
        if self.fault_state.silent {
            return Fill::Idle(None);
        }
        if let Some(reaction) = self.fault_state.waiting.take() {
            return self.react_with_entries(reaction, now);
        }
        match self.faults.next(&self.platform.plan, self.events, now) {
            Due::Now(reaction) => {
                debug!(connection = self.number, events = self.events, %reaction, "fault applied");
                self.platform.count(Count::Fault);
                self.react(reaction, now)
            }
            Due::Later { events, at } => match self.allowance(self.block_end(), now) {
                Allowance::UpTo(last) => {
                    let last = last.min(self.next.saturating_add(events - 1));
                    if let Some(service) = &self.platform.declared {
                        self.push_events(service, last);
                        if self.outbox.is_done() {
                            // All of these events are acknowledged.
                            return self.fill(now);
                        }
                    }
                    while self.next <= last && !self.outbox.is_full() {
                        let end = last.min(self.block_end());
                        if end == self.next {
                            self.push_entry(end, None);
                        } else {
                            for position in self.order.of(self.next..=end) {
                                self.push_entry(position, None);
                            }
                        }
                        self.next = end + 1;
                    }
                    Fill::Ready
                }
                Allowance::At(due) => Fill::Idle(Some(at.map_or(due, |at| at.min(due)))),
                Allowance::Wait => Fill::Idle(at),
            },
        }
    }

    /// Returns the last position of the block that is sent next.
    fn block_end(&self) -> u64 {
        if self.platform.declared.is_some() {
            return self.next;
        }
        self.order
            .block_end(self.next)
            .min(self.platform.feed.last_id())
            .max(self.next)
    }

    /// Returns the entries that may be sent, after the delay of this connection.
    fn allowance(&self, next: u64, now: Instant) -> Allowance {
        let delay = self.order.delay();
        let earlier = now.checked_sub(delay).unwrap_or(now);
        match self.platform.feed.allowance(next, earlier) {
            Allowance::At(due) => Allowance::At(due + delay),
            other => other,
        }
    }

    fn push_entry(&mut self, position: u64, bytes: Option<usize>) {
        if let Some(service) = &self.platform.declared {
            return self.push_frame(service, position..=position);
        }
        self.outbox.push_entry(&self.platform.entries, position, bytes);
        self.events += 1;
    }

    fn react(&mut self, reaction: Reaction, now: Instant) -> Fill {
        let entries = &self.platform.entries;
        match reaction {
            Reaction::Close { code } => return Fill::End(End::Close(code)),
            Reaction::Cut => return Fill::End(End::Cut),
            Reaction::Reset => return Fill::End(End::Reset),
            Reaction::HalfOpen => return Fill::End(End::HalfOpen),
            Reaction::Silence => {
                self.fault_state.silent = true;
                self.platform.feed.leave(self.number, now);
                return Fill::Idle(None);
            }
            Reaction::NoPong => self.fault_state.pong = Pong::None,
            Reaction::WrongPong { value } => self.fault_state.pong = Pong::Wrong(value),
            Reaction::Drip { bytes_per_second } => {
                self.fault_state.drip = Some(Drip::new(bytes_per_second, now));
                self.platform.feed.exclude_from_pace(self.number);
            }
            Reaction::Binary => self.outbox.push(Opcode::Binary, &[0, 1, 2, 0xfe, 0xff]),
            Reaction::BadUtf8 => self.outbox.push(Opcode::Text, b"{\"id\":\"\xff\xfe\"}"),
            Reaction::BadJson => self.outbox.push(Opcode::Text, br#"{"id":1,"data":{"result":"#),
            Reaction::UnknownKind => self.outbox.push_json(&json!({ "maintenance": "soon" })),
            Reaction::Error { message } if let Some(service) = &self.platform.declared => {
                if let Some(error) = service.error(&message) {
                    self.outbox.push(service.opcode(), error.as_bytes());
                }
            }
            Reaction::Send { text } => {
                let declared = self.platform.declared.as_ref();
                let opcode = declared.map_or(Opcode::Text, Service::opcode);
                self.outbox.push(opcode, text.as_bytes());
            }
            Reaction::Error { message } => self.outbox.push_json(&json!({ "error": message })),
            Reaction::Duplicate { entries: copies } => {
                let from = self.next.saturating_sub(u64::from(copies)).max(self.first);
                for id in from..self.next {
                    match &self.platform.declared {
                        Some(service) => self
                            .outbox
                            .push_frame_copy(service.opcode(), &service.frame(id..=id)),
                        None => self.outbox.push_copy(entries, id),
                    }
                }
            }
            Reaction::SameId => {
                self.fault_state.variants += 1;
                let (last, variant) = (self.next - 1, self.fault_state.variants);
                match &self.platform.declared {
                    Some(service) => self
                        .outbox
                        .push_frame_copy(service.opcode(), &service.variant(last, variant)),
                    None => self.outbox.push_variant(entries, last, variant),
                }
            }
            other => return self.react_with_entries(other, now),
        }
        // A reaction that only changes the state sends nothing, so the next rule or entry follows immediately.
        if self.outbox.is_done() {
            self.fill(now)
        } else {
            Fill::Ready
        }
    }

    /// Applies a reaction that needs the next entries of the sequence, or waits until they are released.
    fn react_with_entries(&mut self, reaction: Reaction, now: Instant) -> Fill {
        let needed = if reaction == Reaction::OutOfOrder { 2 } else { 1 };
        let last = self.next + needed - 1;
        if last > self.platform.feed.last_id() {
            // The sequence ends before that many entries. The remaining ones are sent without the reaction.
            return self.fill(now);
        }
        match self.allowance(last, now) {
            Allowance::UpTo(_) => {}
            Allowance::At(due) => {
                self.fault_state.waiting = Some(reaction);
                return Fill::Idle(Some(due));
            }
            Allowance::Wait => {
                self.fault_state.waiting = Some(reaction);
                return Fill::Idle(None);
            }
        }
        match reaction {
            Reaction::Huge { bytes } => match &self.platform.declared {
                Some(service) => self.push_huge(service, bytes),
                None => self.push_entry(self.next, Some(bytes)),
            },
            _ => {
                self.push_entry(self.next + 1, None);
                self.push_entry(self.next, None);
            }
        }
        self.next = last + 1;
        Fill::Ready
    }
}

impl Drip {
    fn new(bytes_per_second: u32, now: Instant) -> Self {
        // At most 100 pieces each second, because the timer has a resolution of one millisecond. Up to 100 bytes per
        // second, a piece is a single byte.
        let bytes = bytes_per_second.div_ceil(100).max(1);
        let interval = Duration::from_secs(1) * bytes / bytes_per_second.max(1);
        Self {
            bytes: bytes as usize,
            interval,
            next: now,
        }
    }
}

/// Writes at most `most` bytes and returns their number; without bytes, flushes and returns 0. Cancelling the future loses
/// nothing, because each branch has one await.
async fn write_or_flush(writer: &mut WriteHalf<Socket>, bytes: &[u8], most: usize) -> io::Result<usize> {
    if bytes.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    writer.write(&bytes[..bytes.len().min(most)]).await
}
