//! A complete sink in one file: sends each event as one line of JSON over TCP.
//!
//! The receiver answers each line that it has stored with `ok`, in the order of the lines. Try it:
//!
//! ```sh
//! cargo run --example ndjson_tcp -- check -c crates/bridge/examples/ndjson_tcp.toml
//! ```
//!
//! A sink consists of three parts: its configuration (`TcpConfig`), the sink itself (`TcpSink`), and one line in a list of sink
//! types (`main`). Everything else (reading the spool, filters, redaction, retries, dead letters, cursors, metrics, `/status`,
//! `check`, `tail` and `replay`) is done by the program.

use std::{collections::VecDeque, path::Path, process::ExitCode, time::Duration};

use bytes::Bytes;
use neurobridge::RegisteredSink;
use neurobridge_core::{
    cloudevents,
    connect::{ConnectStep, ConnectSteps},
    event::{Event, Sequence},
    identity::SpoolId,
    sink::{
        Ack, AfterOutcomes, ConnectContext, Connected, DeadLetterSink, FaultKind, Outcome, PublishError,
        Sink, SinkFault, SinkStatus, Transactions,
    },
    sink_type::{self, BuildContext, DeadLetterFile, DeadLetterPlace, InCluster, SinkConfig, SinkType},
    template::Template,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The sink types of this program in addition to those of `neurobridge`.
const SINK_TYPES: &[RegisteredSink] = &[RegisteredSink::of::<TcpConfig>()];

fn main() -> ExitCode {
    neurobridge::main_with(SINK_TYPES)
}

/// The largest number of sent lines without an answer. This bounds the lines that are sent again after a broken connection, and
/// the answers that wait in the socket while lines are written.
const MAX_IN_FLIGHT: usize = 1000;
/// The time limit of a connection attempt. Without it, a host that does not answer would block the sink for the system's limit
/// of two minutes.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The answer to a line that is stored.
const STORED: &[u8] = b"ok\n";

/// The keys of a sink with `type = "ndjson_tcp"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TcpConfig {
    /// The receiver: `host:port`.
    address: String,
    /// The file for events that can never be delivered; a file in the data folder by default.
    #[serde(default)]
    dead_letter: Option<DeadLetterFile>,
}

impl SinkConfig for TcpConfig {
    fn errors(&self) -> Vec<(String, String)> {
        let port = self.address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if matches!(port, Some(Ok(1..))) {
            return Vec::new();
        }
        let message = format!(
            "found \"{}\", expected a host and a port such as \"127.0.0.1:7000\"",
            self.address
        );
        vec![("address".to_owned(), message)]
    }

    fn warnings(&self, _spool_is_durable: bool) -> Vec<(&'static str, String)> {
        vec![("address", "all events are sent unencrypted".to_owned())]
    }

    fn destination(&self, _data_dir: &Path) -> String {
        self.address.clone()
    }

    fn templates(&self) -> Vec<(&'static str, &Template)> {
        Vec::new()
    }

    fn files(&self) -> Vec<(&'static str, &Path)> {
        Vec::new()
    }

    fn dead_letter_place(&self) -> DeadLetterPlace<'_> {
        DeadLetterFile::place(self.dead_letter.as_ref())
    }

    fn in_cluster(&self) -> InCluster {
        InCluster::Unsupported("another member could not see which events were sent")
    }

    fn is_only_writer(&self) -> bool {
        false
    }

    fn preview(&self, event: &Event<'_>, spool: &SpoolId) -> String {
        let mut line = String::new();
        cloudevents::write_structured(event, spool, &[], &mut String::new(), &mut line);
        line
    }
}

impl SinkType for TcpConfig {
    type Sink = TcpSink;

    const NAME: &'static str = "ndjson_tcp";
    const CLIENT_LOG_TARGETS: &'static [&'static str] = &[];

    fn build(&self, _context: &BuildContext<'_>) -> TcpSink {
        TcpSink {
            address: self.address.clone(),
            spool: SpoolId::from_bytes([0; 16]),
            connection: None,
            lines: String::new(),
            in_flight: VecDeque::new(),
            answers: Vec::new(),
            scratch: String::new(),
        }
    }

    async fn probe(
        &self,
        context: &BuildContext<'_>,
        steps: &ConnectSteps,
    ) -> Result<Vec<String>, SinkFault> {
        sink_type::probe(&mut self.build(context), steps).await?;
        Ok(Vec::new())
    }
}

/// Sends events over one TCP connection.
struct TcpSink {
    address: String,
    spool: SpoolId,
    connection: Option<TcpStream>,
    /// Lines that are not written to the connection yet.
    lines: String,
    /// The events of all lines without an answer, in order.
    in_flight: VecDeque<Sequence>,
    /// Received bytes of answers that are not processed yet.
    answers: Vec<u8>,
    scratch: String,
}

impl TcpSink {
    fn connection(&mut self) -> Result<&mut TcpStream, SinkFault> {
        self.connection
            .as_mut()
            .ok_or_else(|| SinkFault::new(FaultKind::Unreachable, "not connected"))
    }

    fn unreachable(&self, error: impl std::fmt::Display) -> SinkFault {
        let reason = format!("{}: {error}; check the receiver", self.address);
        SinkFault::new(FaultKind::Unreachable, reason)
    }

    /// Moves the events whose lines were answered to `acks`.
    fn take_answers(&mut self, acks: &mut Vec<Ack>) -> Result<(), SinkFault> {
        while self.answers.len() >= STORED.len() {
            let answer: Vec<u8> = self.answers.drain(..STORED.len()).collect();
            let Some(sequence) = self.in_flight.pop_front().filter(|_| answer == STORED) else {
                let reason = "the receiver sent an unexpected answer, expected \"ok\" for each line";
                return Err(SinkFault::new(FaultKind::Other, reason));
            };
            acks.push(Ack {
                sequence,
                outcome: Outcome::Delivered,
            });
        }
        Ok(())
    }
}

impl Sink for TcpSink {
    const REPLACES_CLIENT: bool = true;

    async fn connect(&mut self, context: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.spool = context.spool;
        // The events in flight have no outcome, so the delivery publishes them again.
        self.lines.clear();
        self.in_flight.clear();
        self.answers.clear();
        self.connection = None;
        context.steps.begin(ConnectStep::Dial, &self.address);
        let connected = timeout(CONNECT_LIMIT, TcpStream::connect(&self.address)).await;
        let connection = connected
            .map_err(|_| self.unreachable("no answer within 5 seconds"))?
            .map_err(|error| self.unreachable(error))?;
        self.connection = Some(connection);
        Ok(Connected {
            acks_are_cumulative: false,
            committed_cursor: None,
        })
    }

    fn publish(&mut self, event: &Event<'_>, _buffer: &Bytes) -> Result<(), PublishError> {
        if self.in_flight.len() == MAX_IN_FLIGHT {
            return Err(PublishError::Full);
        }
        cloudevents::write_structured(event, &self.spool, &[], &mut self.scratch, &mut self.lines);
        self.lines.push('\n');
        self.in_flight.push_back(event.sequence);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), SinkFault> {
        let lines = std::mem::take(&mut self.lines);
        let written = self.connection()?.write_all(lines.as_bytes()).await;
        written.map_err(|error| self.unreachable(error))
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        let mut buffer = [0; 4096];
        // Safe to cancel: `read` has read nothing when it is dropped before it returns.
        let read = self.connection()?.read(&mut buffer).await;
        match read {
            Ok(0) => Err(self.unreachable("the receiver closed the connection")),
            Ok(length) => {
                self.answers
                    .extend_from_slice(buffer.get(..length).unwrap_or_default());
                self.take_answers(acks)?;
                Ok(AfterOutcomes::Continue)
            }
            Err(error) => Err(self.unreachable(error)),
        }
    }

    fn cursor_note(&self) -> Option<String> {
        None
    }

    fn status(&self) -> SinkStatus {
        SinkStatus::default()
    }

    fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink> {
        None
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        None
    }

    async fn close(&mut self) {
        self.connection = None;
    }
}
