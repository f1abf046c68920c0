//! A WebSocket connection: authorise, then send events, each a function with its own ways to end.

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
    outbox::Outbox,
    socket::{Socket, discard, linger, reset},
    stream::Mood,
};
use crate::{
    faults::{ConnectionFaults, Phase, Reaction},
    platform::{Count, Membership, Platform},
    wire::{Decoder, Message, Opcode, ReadError},
};

/// A client that has not authorised itself by then is closed. *Assumed*; the public clients send AUTH at once.
const AUTH_TIMEOUT: Duration = Duration::from_secs(30);

/// How long answers, and a close frame, may take into a socket whose client does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// The close code after a refused token. *Assumed*: policy violation (RFC 6455, 7.4.1).
const REFUSED: u16 = 1008;

/// How a session ends.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// By a close frame from here.
    Close(u16),
    /// By an end of the TCP connection in order.
    Cut,
    Reset,
    /// Not at all, but for the client.
    HalfOpen,
    /// The client is gone.
    Gone,
}

/// A WebSocket connection.
pub(super) struct Session<'a> {
    pub(super) reader: ReadHalf<Socket>,
    pub(super) writer: WriteHalf<Socket>,
    pub(super) decoder: Decoder,
    pub(super) outbox: Outbox,
    /// Answers for the next gap between two batches.
    pub(super) answers: Outbox,
    pub(super) number: u64,
    pub(super) faults: ConnectionFaults,
    pub(super) platform: &'a Platform,
    pub(super) stop: CancellationToken,
    /// Told when all connections are to be cut; from the beginning, so that none is missed between two phases.
    pub(super) cut: watch::Receiver<()>,
    pub(super) mood: Mood,
    /// The next id of the sequence.
    pub(super) next: u64,
    /// The first id that this connection got.
    pub(super) first: u64,
    /// How many entries of the sequence were put on their way.
    pub(super) events: u64,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        socket: Socket,
        behind: Vec<u8>,
        number: u64,
        faults: ConnectionFaults,
        platform: &'a Platform,
        stop: CancellationToken,
    ) -> Self {
        let (reader, writer) = tokio::io::split(socket);
        Self {
            reader,
            writer,
            decoder: Decoder::new(behind),
            outbox: Outbox::default(),
            answers: Outbox::default(),
            number,
            faults,
            platform,
            stop,
            cut: platform.cut.subscribe(),
            mood: Mood::default(),
            next: 1,
            first: 1,
            events: 0,
        }
    }

    /// Runs the connection to its end; `upgrade` is the answer to its request.
    pub(super) async fn run(mut self, upgrade: Vec<u8>) {
        let platform = self.platform;
        if self.writer.write_all(&upgrade).await.is_err() || self.writer.flush().await.is_err() {
            return;
        }
        let mut membership = None;
        let end = match self.authorise().await {
            Err(end) => end,
            Ok(()) => {
                let (joined, first) = Membership::join(platform, self.number);
                membership = Some(joined);
                (self.next, self.first) = (first, first);
                self.stream().await
            }
        };
        debug!(
            connection = self.number,
            ?end,
            events = self.events,
            "connection ends"
        );
        if let End::Close(code) = end {
            self.send_close(code).await;
        }
        // After the close frame, since an event that was half-way out is completed before it and still counts.
        drop(membership);
        self.end(end).await;
    }

    async fn authorise(&mut self) -> Result<(), End> {
        let deadline = Instant::now() + AUTH_TIMEOUT;
        let stop = self.stop.clone();
        let token = loop {
            let message = select! {
                biased;
                () = stop.cancelled() => return Err(End::Close(1001)),
                _ = self.cut.changed() => return Err(End::Cut),
                message = read_message(&mut self.reader, &mut self.decoder) => message,
                () = sleep_until(deadline) => return Err(End::Close(REFUSED)),
            };
            match message {
                Ok(Some(Message::Text(text))) => break auth_token(&text),
                Ok(Some(Message::Binary)) => break None,
                Ok(Some(Message::Ping(payload))) => self.answers.push(Opcode::Pong, &payload),
                Ok(Some(Message::Pong)) => {}
                Ok(Some(Message::Close(code))) => return Err(End::Close(code.unwrap_or(1000))),
                Ok(None) => return Err(End::Gone),
                Err(error) => return Err(End::Close(error.close_code())),
            }
            self.send_answers().await?;
        };
        let result = self.judge(token.as_deref());
        self.send_answers().await?;
        result
    }

    /// Answers AUTH, by the token or by a fault rule.
    fn judge(&mut self, token: Option<&str>) -> Result<(), End> {
        let ok = json!({ "auth": "ok" });
        let Some(token) = token else {
            self.platform.count(Count::Refused);
            self.answers
                .push_json(&json!({ "error": "authorization required: AUTH with a token comes first" }));
            return Err(End::Close(REFUSED));
        };
        let fault = self
            .faults
            .early(&self.platform.plan, Phase::Authorisation, Instant::now());
        if fault.is_some() {
            self.platform.count(Count::Fault);
        }
        let refusal = match fault {
            Some(Reaction::NoAuthAnswer) => return Err(End::HalfOpen),
            Some(Reaction::CloseAfterAuth { code }) => {
                self.answers.push_json(&ok);
                return Err(End::Close(code));
            }
            Some(Reaction::RefuseToken { message }) => json!({ "error": message }),
            Some(Reaction::WrongAuth { value }) => json!({ "auth": value }),
            _ if !self.platform.accepts(token) => json!({ "error": "invalid token" }),
            _ => {
                self.answers.push_json(&ok);
                return Ok(());
            }
        };
        self.platform.count(Count::Refused);
        self.answers.push_json(&refusal);
        Err(End::Close(REFUSED))
    }

    async fn send_answers(&mut self) -> Result<(), End> {
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

    /// Writes the frame that is half-way out, then a close frame.
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
            debug!(connection = self.number, "the close frame was not taken");
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
        // A client that is gone already makes this fail, and nothing is lost by it.
        let _ = timeout(WRITE_TIMEOUT, self.writer.shutdown()).await;
        linger(&mut self.reader).await;
    }
}

/// Reads until there is a whole message; `None`: the connection has ended. Nothing is lost when it is dropped.
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

/// Gives the token of an AUTH message.
fn auth_token(text: &str) -> Option<String> {
    let message: Value = serde_json::from_str(text).ok()?;
    (message["action"] == "AUTH").then(|| message["data"]["token"].as_str().map(str::to_owned))?
}

fn reason(code: u16) -> &'static str {
    match code {
        1001 => "going away",
        REFUSED => "not authorised",
        _ => "",
    }
}
