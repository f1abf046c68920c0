//! A WebSocket connection: authentication, then events. The function of each phase returns the way in which the connection
//! ends.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    select,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    declared::Client,
    order::Order,
    outbox::Outbox,
    socket::{Socket, discard, linger, reset},
    stream::FaultState,
};
use crate::{
    faults::{ConnectionFaults, Phase, Reaction},
    platform::{Count, Membership, Platform},
    wire::{Decoder, Message, Opcode, ReadError},
};

/// The time limit for AUTH, or for each message of a declared opening. *Assumed*; the public clients send AUTH at once.
pub(super) const AUTH_TIMEOUT: Duration = Duration::from_secs(30);

/// The time limit for writing answers or a close frame when the client does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// The close code after a refused or expired token, or after a missing or unexpected message. *Assumed*: policy violation
/// (RFC 6455, 7.4.1).
pub(super) const REFUSED: u16 = 1008;

/// The close code of a connection whose token has a newer connection. *Assumed*.
pub(super) const REPLACED: u16 = 4000;

/// The way in which a session ends.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// The simulator sends a close frame with this code.
    Close(u16),
    /// The simulator closes the TCP connection without a close frame.
    Cut,
    /// The simulator resets the TCP connection.
    Reset,
    /// The simulator keeps the connection open and sends nothing, until the client closes it.
    HalfOpen,
    /// The client has closed the connection.
    Gone,
}

/// A WebSocket connection.
pub(super) struct Session<'a> {
    pub(super) reader: ReadHalf<Socket>,
    pub(super) writer: WriteHalf<Socket>,
    pub(super) decoder: Decoder,
    pub(super) outbox: Outbox,
    /// Answers that are sent between two batches of events.
    pub(super) answers: Outbox,
    /// The number of the connection since the start, from 1.
    pub(super) number: u64,
    pub(super) faults: ConnectionFaults,
    pub(super) platform: &'a Platform,
    pub(super) stop: CancellationToken,
    /// Notified when all connections are to be cut. Subscribed from the beginning, so that no notification is missed
    /// between two phases.
    pub(super) cut: watch::Receiver<()>,
    pub(super) fault_state: FaultState,
    /// The state of a connection of a declared feed.
    pub(super) client: Client,
    /// The delay and the order of this connection.
    pub(super) order: Order,
    /// The token of the authenticated client.
    pub(super) token: String,
    /// The time at which the token expires.
    pub(super) expires: Option<Instant>,
    /// The position in the sequence that is sent next.
    pub(super) next: u64,
    /// The first position of this connection.
    pub(super) first: u64,
    /// The number of events that were appended to the outbox, without copies.
    pub(super) events: u64,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        socket: Socket,
        after_head: Vec<u8>,
        number: u64,
        faults: ConnectionFaults,
        client: Client,
        platform: &'a Platform,
        stop: CancellationToken,
    ) -> Self {
        let (reader, writer) = tokio::io::split(socket);
        Self {
            reader,
            writer,
            decoder: Decoder::new(after_head),
            outbox: Outbox::default(),
            answers: Outbox::default(),
            number,
            faults,
            platform,
            stop,
            cut: platform.cut.subscribe(),
            fault_state: FaultState::default(),
            client,
            order: Order::new(platform, number),
            token: String::new(),
            expires: None,
            next: 1,
            first: 1,
            events: 0,
        }
    }

    /// Runs the connection until it ends; `upgrade` is the response to the upgrade request.
    pub(super) async fn run(mut self, upgrade: Vec<u8>) {
        let platform = self.platform;
        if self.writer.write_all(&upgrade).await.is_err() || self.writer.flush().await.is_err() {
            return;
        }
        let mut membership = None;
        let opened = match &platform.declared {
            Some(service) => self.open(service).await,
            None => self.authenticate().await,
        };
        let end = match opened {
            Err(end) => end,
            Ok(()) => {
                let start = self.start(Instant::now());
                let (joined, first) = Membership::join(platform, self.number, self.token.clone(), start);
                membership = Some(joined);
                (self.next, self.first) = (first, first);
                self.stream().await
            }
        };
        debug!(
            connection = self.number,
            ?end,
            events = self.events,
            "connection closed"
        );
        if let End::Close(code) = end {
            self.send_close(code).await;
        }
        // The membership ends after the close frame, because a partly written event is completed before the close frame
        // and counts as sent.
        drop(membership);
        self.end(end).await;
    }

    async fn authenticate(&mut self) -> Result<(), End> {
        let text = self.next_text(Instant::now() + AUTH_TIMEOUT).await?;
        let token = text.as_deref().and_then(auth_token);
        let result = self.answer_auth(token.as_deref());
        if let Some(delay) = self.fault_state.late_answer.take() {
            self.pause(delay).await?;
        }
        self.send_answers().await?;
        result
    }

    /// Waits for a text message; returns `None` for a binary message. Answers WebSocket pings.
    pub(super) async fn next_text(&mut self, deadline: Instant) -> Result<Option<String>, End> {
        let stop = self.stop.clone();
        loop {
            let message = select! {
                biased;
                () = stop.cancelled() => return Err(End::Close(1001)),
                _ = self.cut.changed() => return Err(End::Cut),
                message = read_message(&mut self.reader, &mut self.decoder) => message,
                () = sleep_until(deadline) => return Err(End::Close(REFUSED)),
            };
            match message {
                Ok(Some(Message::Text(text))) => return Ok(Some(text)),
                Ok(Some(Message::Binary)) => return Ok(None),
                Ok(Some(Message::Ping(payload))) => self.answers.push(Opcode::Pong, &payload),
                Ok(Some(Message::Pong)) => {}
                Ok(Some(Message::Close(code))) => return Err(End::Close(code.unwrap_or(1000))),
                Ok(None) => return Err(End::Gone),
                Err(error) => return Err(End::Close(error.close_code())),
            }
            self.send_answers().await?;
        }
    }

    /// Answers AUTH according to the token or to a fault rule.
    fn answer_auth(&mut self, token: Option<&str>) -> Result<(), End> {
        let ok = json!({ "auth": "ok" });
        let Some(token) = token else {
            self.platform.count(Count::Refused);
            self.answers
                .push_json(&json!({ "error": "authorization required: send AUTH with a token first" }));
            return Err(End::Close(REFUSED));
        };
        let access = self.platform.iam.access(token, Instant::now());
        let fault = self
            .faults
            .early(&self.platform.plan, Phase::Authentication, Instant::now());
        if fault.is_some() {
            self.platform.count(Count::Fault);
        }
        if let Some(Reaction::LateAnswer { delay }) = &fault {
            self.fault_state.late_answer = Some(*delay);
        }
        let refusal = match fault {
            Some(Reaction::NoAuthAnswer) => return Err(End::HalfOpen),
            Some(Reaction::CloseAfterAuth { code }) => {
                self.answers.push_json(&ok);
                return Err(End::Close(code));
            }
            Some(Reaction::RefuseToken { message }) => json!({ "error": message }),
            Some(Reaction::WrongAuth { value }) => json!({ "auth": value }),
            _ => match access {
                None => json!({ "error": "invalid token" }),
                Some(access) => {
                    self.token = token.to_owned();
                    self.expires = access.expires;
                    self.answers.push_json(&ok);
                    return Ok(());
                }
            },
        };
        self.platform.count(Count::Refused);
        self.answers.push_json(&refusal);
        Err(End::Close(REFUSED))
    }

    pub(super) async fn send_answers(&mut self) -> Result<(), End> {
        let written = async {
            self.writer.write_all(self.answers.rest()).await?;
            self.writer.flush().await
        };
        if !matches!(timeout(WRITE_TIMEOUT, written).await, Ok(Ok(()))) {
            return Err(End::Gone);
        }
        self.answers = Outbox::default();
        Ok(())
    }

    /// Completes a partly written frame, then sends a close frame.
    async fn send_close(&mut self, code: u16) {
        self.outbox.close(code, reason(code));
        let written = async {
            while !self.outbox.is_done() {
                let bytes = self.writer.write(self.outbox.rest()).await?;
                self.outbox.advance(bytes, self.number, self.platform);
            }
            self.writer.flush().await
        };
        if !matches!(timeout(WRITE_TIMEOUT, written).await, Ok(Ok(()))) {
            debug!(connection = self.number, "cannot send the close frame");
        }
    }

    async fn end(mut self, end: End) {
        match end {
            End::Reset => return reset(self.reader.unsplit(self.writer)),
            End::HalfOpen => {
                return select! {
                    biased;
                    () = self.stop.cancelled() => {}
                    _ = self.cut.changed() => {}
                    () = discard(&mut self.reader) => {}
                };
            }
            End::Close(_) | End::Cut | End::Gone => {}
        }
        // A failure is harmless: it means that the client has closed the connection already.
        let _ = timeout(WRITE_TIMEOUT, self.writer.shutdown()).await;
        linger(&mut self.reader).await;
    }
}

/// Reads until a message is complete; `None` means that the connection has ended. Cancelling the future loses no input.
pub(super) async fn read_message(
    reader: &mut ReadHalf<Socket>,
    decoder: &mut Decoder,
) -> Result<Option<Message>, ReadError> {
    let mut buffer = [0; 2048];
    loop {
        if let Some(message) = decoder.next()? {
            return Ok(Some(message));
        }
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(length) => decoder.push(&buffer[..length]),
        }
    }
}

/// Returns the token of an AUTH message.
fn auth_token(text: &str) -> Option<String> {
    let message: Value = serde_json::from_str(text).ok()?;
    (message["action"] == "AUTH").then(|| message["data"]["token"].as_str().map(str::to_owned))?
}

fn reason(code: u16) -> &'static str {
    match code {
        1001 => "going away",
        REFUSED => "not authenticated",
        REPLACED => "replaced by a newer connection",
        _ => "",
    }
}
