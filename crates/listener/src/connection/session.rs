//! An open WebSocket, and the handling of each message.

use std::task::{Context, Poll, ready};

use neurobridge_core::{neuroio::Frames, secret::SecretSet, units::ByteSize};
use secrecy::SecretString;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop,
    time::Instant,
};
use tokio_tungstenite::tungstenite::{self, Message, protocol::CloseFrame};
use tracing::warn;

use super::{Link, Notice, Outlet, Socket};
use crate::{
    error::Lost,
    frame::{self, Classified, Content, Control, Foreign, Frame, MalformedReason},
    heartbeat::Heartbeat,
    stats::{FrameKind, Reading},
    token,
};

/// The ping message of the platform's protocol.
const PING: &str = r#"{"action":"PING"}"#;

/// An open connection.
pub(crate) struct Session<S> {
    pub(crate) socket: Socket<S>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) is_authorised: bool,
    token: SecretString,
    /// The values that must not be shown if the platform repeats them, including the token.
    pub(crate) secrets: SecretSet,
    max_frame_size: ByteSize,
    frames: Frames,
    /// Whether written data may still be unflushed.
    pub(crate) is_flushing: bool,
    /// The error after which nothing can be written. Reading continues until no data is left: a server that
    /// closes has often sent events and its reason before.
    write_error: Option<Lost>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(crate) fn new(
        socket: Socket<S>,
        token: SecretString,
        secrets: SecretSet,
        max_frame_size: ByteSize,
        heartbeat: Heartbeat,
        frames: Frames,
    ) -> Self {
        Self {
            socket,
            heartbeat,
            is_authorised: false,
            token,
            secrets,
            max_frame_size,
            frames,
            is_flushing: false,
            write_error: None,
        }
    }

    /// Queues AUTH, which is sent by the next poll.
    pub(crate) fn send_auth(&mut self) {
        let message = token::auth_message(&self.token);
        self.send(Message::text(message));
    }

    /// Sends a ping, unless the last one is not flushed yet: writes to a server that reads nothing must be
    /// bounded, and the answer to the queued ping is awaited already.
    pub(crate) fn ping(&mut self) {
        let now = Instant::now();
        if self.is_flushing || self.write_error.is_some() {
            self.heartbeat.skip(now);
        } else {
            self.heartbeat.sent(now);
            self.send(Message::text(PING));
        }
    }

    /// Queues a close frame.
    pub(crate) fn send_close(&mut self, frame: CloseFrame) {
        self.send(Message::Close(Some(frame)));
    }

    /// Flushes the written data, including pongs of the WebSocket protocol. Ready when everything is flushed.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_flushing {
            let flushed = ready!(self.socket.poll_flush(cx));
            self.written(flushed);
        }
        Poll::Ready(())
    }

    /// Reads a message.
    pub(crate) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Lost>> {
        let lost = match self.socket.poll_message(cx) {
            Poll::Ready(Ok(message)) => return Poll::Ready(Ok(message)),
            Poll::Ready(Err(error)) => Lost::of_socket(error, self.max_frame_size),
            Poll::Pending => match self.write_error.take() {
                // All data before the error is read.
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
    pub(crate) fn take<O: Outlet>(
        &mut self,
        message: Message,
        link: &mut Link<O>,
        reading: &mut Reading,
    ) -> Result<(), Lost> {
        match message {
            Message::Text(text) => {
                reading.bytes += text.len() as u64;
                let Classified { content, control } = frame::classify(&mut self.frames, &text);
                // A frame is counted as one kind: that of its content, or without content that of its control
                // message.
                match (&content, &control) {
                    (Some(content), _) => reading.frames.add(kind_of(content), 1),
                    (None, Some(control)) => reading.frames.add(kind_of_control(control), 1),
                    (None, None) => {}
                }
                if let Some(content) = content {
                    if let Content::Malformed(reason) = content {
                        warn_malformed(link, reason, text.len());
                    }
                    link.outlet.frame(Frame { text: &text, content });
                }
                control.map_or(Ok(()), |control| self.take_control(control, link, reading))
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
                // The answer is queued and sent with the next read or flush; the next read may be far away.
                self.is_flushing = true;
                reading.frames.add(FrameKind::Control, 1);
                Ok(())
            }
            Message::Pong(_) => {
                reading.frames.add(FrameKind::Control, 1);
                Ok(())
            }
            Message::Close(frame) => {
                // The answer to a close is queued too.
                self.is_flushing = true;
                let frame = frame.map(|frame| self.socket.as_sent(frame));
                Err(Lost::Closed(describe_close(frame, &self.secrets)))
            }
            // Never returned by reading, according to its documentation.
            Message::Frame(_) => Ok(()),
        }
    }

    fn take_control<O: Outlet>(
        &mut self,
        control: Control,
        link: &mut Link<O>,
        reading: &mut Reading,
    ) -> Result<(), Lost> {
        match control {
            Control::Pong(answer) => {
                if let Err(answer) = answer {
                    let answer = self.shown(&answer);
                    return Err(Lost::BadPong { answer });
                }
                let round_trip = self.heartbeat.answered(Instant::now());
                if let Some(round_trip) = round_trip {
                    link.stats.pong(round_trip);
                }
                link.outlet.notice(Notice::Pong { round_trip });
            }
            Control::Auth(answer) => {
                if let Err(answer) = answer {
                    let answer = self.shown(&answer);
                    return Err(Lost::TokenRefused { answer });
                }
                if !self.is_authorised {
                    self.is_authorised = true;
                    link.outlet.notice(Notice::Authorised);
                }
            }
            Control::Error(text) => {
                let text = self.shown(&text);
                link.outlet.notice(Notice::Error(&text));
                if !self.is_authorised {
                    return Err(Lost::TokenRefused { answer: text });
                }
                if let Some(suppressed) = link.throttle.allow("error") {
                    warn!(source = %link.name, error = text, suppressed, "the platform reports an error");
                }
                reading.platform_errors += 1;
                reading.last_platform_error = Some(text);
            }
        }
        Ok(())
    }

    fn send(&mut self, message: Message) {
        // Does not check for readiness: data that the socket does not accept is buffered, up to the limit of
        // the write buffer.
        let sent = self.socket.queue(message);
        let is_sent = sent.is_ok();
        self.written(sent);
        self.is_flushing = is_sent;
    }

    fn written(&mut self, result: tungstenite::Result<()>) {
        self.is_flushing = false;
        if let Err(error) = result {
            let lost = Lost::of_socket(error, self.max_frame_size);
            self.write_error.get_or_insert(lost);
        }
    }

    fn shown(&self, text: &Foreign) -> String {
        self.secrets.clean(&text.0)
    }
}

const fn kind_of(content: &Content<'_>) -> FrameKind {
    match content {
        Content::Event(_) => FrameKind::Event,
        Content::Malformed(MalformedReason::UnknownKind) => FrameKind::Unknown,
        Content::Malformed(_) => FrameKind::NotJson,
    }
}

const fn kind_of_control(control: &Control) -> FrameKind {
    match control {
        Control::Pong(_) => FrameKind::Pong,
        Control::Auth(_) => FrameKind::Auth,
        Control::Error(_) => FrameKind::Error,
    }
}

fn warn_malformed<O: Outlet>(link: &mut Link<O>, reason: MalformedReason, length: usize) {
    if let Some(suppressed) = link.throttle.allow(reason.as_str()) {
        let reason = crate::error::sentence(&reason);
        // Without the text, which may be a damaged event with personal data.
        warn!(source = %link.name, reason, length, suppressed, "malformed frame");
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
    fn reason_is_one_line_without_the_token() {
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
