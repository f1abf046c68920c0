//! The `Session`: an open WebSocket with its heartbeat and the state of its protocol. Handles each received message and
//! queues the messages to send.

use std::task::{Context, Poll, ready};

use neurobridge_core::{secret::SecretSet, units::ByteSize};
use neurobridge_protocol::{Action, MalformedReason, Ping, Protocol, Secrets};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop,
    time::Instant,
};
use tokio_tungstenite::tungstenite::{self, Bytes, Message, protocol::CloseFrame};
use tracing::warn;

use super::{Notice, Outlet, Socket, SourceLink};
use crate::{
    error::ConnectionEnd,
    heartbeat::{Answer, Heartbeat},
    received::Received,
    stats::{FrameKind, Reading},
};

/// An open connection.
pub(crate) struct Session<S> {
    pub(crate) socket: Socket<S>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) protocol: Protocol,
    /// The sent values that must not be shown if the server repeats them.
    pub(crate) secrets: SecretSet,
    max_frame_size: ByteSize,
    /// The replies that the frame being handled requires.
    replies: Vec<neurobridge_protocol::Message>,
    /// Whether written data may still be unflushed.
    pub(crate) is_flushing: bool,
    /// The error after which nothing can be written. Reading continues until no data is left: a server that closes the
    /// connection has often sent events and the reason before.
    write_error: Option<ConnectionEnd>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(crate) fn new(
        socket: Socket<S>,
        protocol: Protocol,
        secrets: SecretSet,
        max_frame_size: ByteSize,
    ) -> Self {
        Self {
            socket,
            heartbeat: Heartbeat::new(protocol.pings(), Instant::now()),
            protocol,
            secrets,
            max_frame_size,
            replies: Vec::new(),
            is_flushing: false,
            write_error: None,
        }
    }

    /// Returns whether the opening is complete.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.protocol.is_ready()
    }

    /// Queues the first messages of the opening, which are sent by the next poll.
    pub(crate) fn begin(&mut self, secrets: Secrets) {
        for message in self.protocol.begin(secrets) {
            self.send(Message::text(message.into_text()));
        }
    }

    /// Queues acknowledgements of stored events.
    pub(crate) fn acknowledge(&mut self, values: &[String]) {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        for message in self.protocol.acknowledge(&values) {
            self.send(Message::text(message.into_text()));
        }
    }

    /// Sends a ping, unless written data is not flushed yet: the data queued for a server that reads nothing must be
    /// bounded.
    pub(crate) fn ping(&mut self) {
        let now = Instant::now();
        if self.is_flushing || self.write_error.is_some() {
            self.heartbeat.skip(now);
            return;
        }
        let Some(ping) = self.protocol.ping() else {
            self.heartbeat.skip(now);
            return;
        };
        self.heartbeat.sent(now);
        self.send(match ping {
            Ping::Message(message) => Message::text(message.into_text()),
            Ping::WebSocket => Message::Ping(Bytes::new()),
        });
    }

    /// Queues a close frame.
    pub(crate) fn send_close(&mut self, frame: CloseFrame) {
        self.send(Message::Close(Some(frame)));
    }

    /// Flushes the queued data, including pongs of the WebSocket protocol. Ready when everything is flushed.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_flushing {
            let flushed = ready!(self.socket.poll_flush(cx));
            self.written(flushed);
        }
        Poll::Ready(())
    }

    /// Reads a message.
    pub(crate) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, ConnectionEnd>> {
        let lost = match self.socket.poll_message(cx) {
            Poll::Ready(Ok(message)) => return Poll::Ready(Ok(message)),
            Poll::Ready(Err(error)) => ConnectionEnd::of_socket(error, self.max_frame_size),
            Poll::Pending => match self.write_error.take() {
                // No data is left to read before the write error is returned.
                Some(lost) if coop::has_budget_remaining() => lost,
                write_error => {
                    self.write_error = write_error;
                    return Poll::Pending;
                }
            },
        };
        Poll::Ready(Err(lost))
    }

    /// Handles a message. An error ends the connection.
    pub(crate) fn handle<O: Outlet>(
        &mut self,
        message: Message,
        link: &mut SourceLink<O>,
        reading: &mut Reading,
    ) -> Result<(), ConnectionEnd> {
        match message {
            Message::Text(text) => {
                reading.bytes += text.len() as u64;
                self.interpret(&text, link, reading)
            }
            Message::Binary(bytes) if self.protocol.reads_binary() => {
                reading.bytes += bytes.len() as u64;
                match std::str::from_utf8(&bytes) {
                    Ok(text) => self.interpret(text, link, reading),
                    Err(_) => {
                        reading.frames.add(FrameKind::NotJson, 1);
                        reading.malformed += 1;
                        let (text, reason) = (String::from_utf8_lossy(&bytes), MalformedReason::NotUtf8);
                        warn_malformed(link, reason, text.len());
                        link.outlet.push(Received::Malformed { text: &text, reason });
                        Ok(())
                    }
                }
            }
            Message::Binary(bytes) => {
                reading.bytes += bytes.len() as u64;
                reading.frames.add(FrameKind::Binary, 1);
                if let Some(suppressed) = link.throttle.allow("binary") {
                    warn!(source = %link.name, length = bytes.len(), suppressed, "dropped a binary frame: events are text frames");
                }
                Ok(())
            }
            Message::Ping(_) => {
                // tungstenite has queued the answer, and sends it with the next read or flush. A flush is requested, because
                // the next read may be far away.
                self.is_flushing = true;
                reading.frames.add(FrameKind::Control, 1);
                Ok(())
            }
            Message::Pong(_) => {
                reading.frames.add(FrameKind::Control, 1);
                if self.heartbeat.uses_websocket() {
                    self.answered(link);
                }
                Ok(())
            }
            Message::Close(frame) => {
                // The answer to a close frame is queued too.
                self.is_flushing = true;
                let frame = frame.map(|frame| self.socket.as_sent(frame));
                Err(ConnectionEnd::Closed(describe_close(frame, &self.secrets)))
            }
            // tungstenite never returns this variant when reading, according to its documentation.
            Message::Frame(_) => Ok(()),
        }
    }

    /// Interprets the text of a frame, and performs the actions that it requires.
    fn interpret<O: Outlet>(
        &mut self,
        text: &str,
        link: &mut SourceLink<O>,
        reading: &mut Reading,
    ) -> Result<(), ConnectionEnd> {
        let was_ready = self.protocol.is_ready();
        let is_declared = matches!(self.protocol, Protocol::Declared(_));
        // A frame is counted as one kind: that of its first action.
        let (mut kind, mut is_alive, mut lost) = (None, false, None);
        self.protocol.receive(text, &mut |action| {
            kind.get_or_insert(kind_of(&action, was_ready));
            match action {
                Action::Event(event) => {
                    reading.events += 1;
                    link.outlet.push(Received::Event(event));
                }
                Action::Malformed(text, reason) => {
                    reading.malformed += 1;
                    warn_malformed(link, reason, text.len());
                    link.outlet.push(Received::Malformed { text, reason });
                }
                Action::Alive => is_alive = true,
                Action::Ready => {
                    if !was_ready {
                        link.outlet.notice(Notice::Authenticated);
                    }
                }
                Action::Refused(text) => {
                    let answer = self.secrets.clean(&text);
                    link.outlet.notice(Notice::Error(&answer));
                    lost.get_or_insert(ConnectionEnd::TokenRefused { answer, is_declared });
                }
                Action::UnexpectedAnswer(text) => {
                    let answer = self.secrets.clean(&text);
                    lost.get_or_insert(ConnectionEnd::BadPong { answer });
                }
                Action::Error(text) => {
                    let text = self.secrets.clean(&text);
                    link.outlet.notice(Notice::Error(&text));
                    if let Some(suppressed) = link.throttle.allow("error") {
                        warn!(
                            source = %link.name, error = text, suppressed,
                            "the feed reports an error; the connection stays open"
                        );
                    }
                    reading.platform_errors += 1;
                    reading.last_platform_error = Some(text);
                }
                Action::Ended(text) => {
                    let text = self.secrets.clean(&text);
                    lost.get_or_insert(ConnectionEnd::Ended { text });
                }
                Action::Reply(message) => self.replies.push(message),
                Action::Ignore => {}
            }
        });
        reading.frames.add(kind.unwrap_or(FrameKind::Auth), 1);
        if is_alive {
            self.answered(link);
        }
        for message in std::mem::take(&mut self.replies) {
            self.send(Message::text(message.into_text()));
        }
        lost.map_or(Ok(()), Err)
    }

    /// Records an answer to a ping.
    fn answered<O: Outlet>(&mut self, link: &mut SourceLink<O>) {
        let Answer {
            round_trip,
            pinged_at,
        } = self.heartbeat.answered(Instant::now());
        if let Some(pinged_at) = pinged_at {
            self.socket.answered(pinged_at);
        }
        if let Some(round_trip) = round_trip {
            link.stats.pong(round_trip);
        }
        link.outlet.notice(Notice::Pong { round_trip });
    }

    fn send(&mut self, message: Message) {
        // Sent without waiting for the socket: data that it does not accept is buffered, up to the limit of the write
        // buffer.
        let sent = self.socket.queue(message);
        let is_sent = sent.is_ok();
        self.written(sent);
        self.is_flushing = is_sent;
    }

    fn written(&mut self, result: tungstenite::Result<()>) {
        self.is_flushing = false;
        if let Err(error) = result {
            let lost = ConnectionEnd::of_socket(error, self.max_frame_size);
            self.write_error.get_or_insert(lost);
        }
    }
}

const fn kind_of(action: &Action<'_>, was_ready: bool) -> FrameKind {
    match action {
        Action::Event(_) => FrameKind::Event,
        Action::Malformed(_, MalformedReason::NotJson(_) | MalformedReason::NotUtf8) => FrameKind::NotJson,
        Action::Malformed(..) => FrameKind::Unknown,
        Action::Alive | Action::UnexpectedAnswer(_) => FrameKind::Pong,
        Action::Ready | Action::Refused(_) => FrameKind::Auth,
        Action::Error(_) | Action::Ended(_) => FrameKind::Error,
        // The next message of the opening is a reply to an answer of the feed.
        Action::Reply(_) if !was_ready => FrameKind::Auth,
        Action::Reply(_) => FrameKind::Request,
        Action::Ignore => FrameKind::Ignored,
    }
}

fn warn_malformed<O: Outlet>(link: &mut SourceLink<O>, reason: MalformedReason, length: usize) {
    if let Some(suppressed) = link.throttle.allow(reason.as_str()) {
        let reason = crate::error::sentence(&reason);
        // Without the text, which may be a damaged event with personal data.
        warn!(source = %link.name, reason, length, suppressed, "malformed frame; it is not delivered as an event");
    }
}

fn describe_close(frame: Option<CloseFrame>, secrets: &SecretSet) -> String {
    match frame {
        None => "without a code".to_owned(),
        Some(frame) if frame.reason.is_empty() => format!("code {}", u16::from(frame.code)),
        Some(frame) => {
            let reason = secrets.clean(&frame.reason);
            format!("code {}, \"{reason}\"", u16::from(frame.code))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_reason_is_one_line_without_the_token() {
        let secrets = SecretSet::default();
        secrets.add("a-\"token\"");
        let frame = CloseFrame {
            code: 4001.into(),
            reason: "not\nwith a-\"token\"".into(),
        };
        assert_eq!(
            describe_close(Some(frame), &secrets),
            "code 4001, \"not\\nwith [redacted]\""
        );
    }
}
