//! The sink: connects, publishes, and reports the outcome of each event.

use std::time::Duration;

use bytes::Bytes;
use neurobridge_core::{
    dead_letter::DeadLetter,
    event::Event,
    foreign_text,
    identity::SpoolId,
    lead::Lead,
    reader::Cursor,
    recreation::FileChanges,
    sink::{
        Ack, AfterOutcomes, ConnectContext, Connected, DeadLetterSink, FaultKind, PublishError, Sink,
        SinkFault, SinkStatus, Transactions,
    },
};
use tracing::warn;

use crate::{
    chain::Owner,
    clients::Clients,
    config::{Mode, NatsConfig},
    connection::Connection,
    destination::{self, Destination},
    dial::{Dialled, Purpose, dial},
    encode::{self, Encoder},
    following::{Following, Membership, Reading},
    subject,
    subject_reader::SubjectReader,
};

/// The time without any acknowledgement after which the sink counts as unavailable.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// Publishes events to NATS.
///
/// With JetStream an event is delivered when its stream has acknowledged it, which does not imply that the server has synced
/// it to disk. With strict order it is stored once and in order; with relaxed order it may be stored twice. Without
/// JetStream it is delivered when the server has received it, with or without subscribers.
///
/// Dropping the sink closes its connection; messages in flight may or may not be stored.
pub struct NatsSink {
    name: String,
    config: NatsConfig,
    encoder: Encoder,
    spool: SpoolId,
    connection: Option<Connection>,
    was_connected: bool,
    is_replay: bool,
    /// The warnings of the last connection.
    warnings: Vec<String>,
    /// Whether the warnings were logged, which happens once.
    warned: bool,
    is_trial: bool,
    clients: Clients,
    destination: Destination,
    /// The membership of a cluster while no connection owns it; `None` outside of a cluster.
    membership: Option<Membership>,
    is_member: bool,
}

impl NatsSink {
    /// Creates a sink that is not connected. The configuration has to be valid.
    pub fn new(name: impl Into<String>, config: NatsConfig) -> Self {
        Self {
            name: name.into(),
            encoder: Encoder::new(&config),
            config,
            // `connect` sets the real id before the first message.
            spool: SpoolId::from_bytes([0; 16]),
            connection: None,
            was_connected: false,
            is_replay: false,
            warnings: Vec::new(),
            warned: false,
            is_trial: false,
            clients: Clients::default(),
            destination: Destination::default(),
            membership: None,
            is_member: false,
        }
    }

    /// Creates a sink that only probes the server: it creates no stream, and reports in [`warnings`](Self::warnings) settings
    /// that can lose events and resources that would be created. It must not publish.
    pub fn trial(name: impl Into<String>, config: NatsConfig) -> Self {
        Self {
            is_trial: true,
            ..Self::new(name, config)
        }
    }

    /// Returns the warnings of the last connection about legal settings that can lose events.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Marks the sink as a replay: each message is marked, and its id contains the name of the run. With strict order no bridge
    /// may publish to the stream meanwhile.
    #[must_use]
    pub fn replaying(mut self, run: &str) -> Self {
        self.encoder.set_replay(run);
        self.is_replay = true;
        self
    }

    /// Makes the sink a member of a cluster: it publishes only while it holds the lead, and otherwise settles the events that
    /// the leader has published. To see these events without JetStream, it subscribes to their subjects.
    #[must_use]
    pub fn as_member(mut self, lead: Lead) -> Self {
        self.is_member = true;
        self.membership = Some(Membership::new(lead));
        self.encoder.add_ids();
        self
    }

    /// Returns the part of a new connection that makes this sink a member of a cluster.
    fn follow(&mut self, dialled: &mut Dialled, cursor: &Cursor) -> Option<Following> {
        let mut membership = self.membership.take()?;
        let connection = (&dialled.client, &dialled.events);
        let in_flight = u64::from(self.config.max_in_flight);
        let reading = match (dialled.reader.take(), &dialled.stream) {
            (Some(reader), Some(stream)) => {
                let stored = destination::read_from(cursor.note.as_deref(), stream, in_flight);
                membership.begin(stream, stored);
                Reading::Stream {
                    reader,
                    name: stream.config.name.as_str().into(),
                }
            }
            _ => {
                let pattern = subject::pattern(&self.config.subject);
                Reading::Subject(SubjectReader::new(connection.0, connection.1, pattern))
            }
        };
        // A stream with strict order refuses the messages of a former leader.
        let in_flight = if self.config.is_strict() { 0 } else { in_flight };
        Some(Following::new(membership, reading, connection, in_flight))
    }

    /// Collects the warnings about the stream and the configuration, and logs them once.
    fn collect_warnings(&mut self, of_stream: Vec<String>) {
        self.warnings = of_stream
            .iter()
            .map(|warning| foreign_text::escape(warning).into_owned())
            .collect();
        if self.config.mode == Mode::Core {
            self.warnings.push(
                "mode = \"core\": a client that is not subscribed when an event is published never receives it"
                    .into(),
            );
        }
        let is_plain = self.config.tls.is_none()
            && self
                .config
                .servers
                .iter()
                .any(|server| !server.to_ascii_lowercase().starts_with("tls://"));
        let auth = self.config.auth.as_ref();
        if is_plain
            && auth.is_some_and(|auth| {
                auth.nkey.is_none() && auth.nkey_file.is_none() && auth.credentials_file.is_none()
            })
        {
            self.warnings.push(
                "the password or token is sent unencrypted if the server does not require TLS; set `tls` in addition to \
                 `auth`".into(),
            );
        }
        if !self.is_trial && !std::mem::replace(&mut self.warned, true) {
            for warning in &self.warnings {
                warn!(sink = self.name, "{warning}");
            }
        }
    }

    /// Returns the reason for which published events are not acknowledged; `None` while acknowledgements arrive.
    fn unavailable(&self) -> Option<SinkFault> {
        let silence = self.connection.as_ref()?.waiting_for()?;
        (silence > STALLED_AFTER).then(|| {
            let reason = format!(
                "no acknowledgement from NATS for {} seconds; check the servers and the network",
                silence.as_secs()
            );
            SinkFault::new(FaultKind::Timeout, reason)
        })
    }
}

impl DeadLetterSink for NatsSink {
    fn publish_dead_letter(&mut self, dead_letter: &DeadLetter<'_>) -> Result<(), PublishError> {
        let subject = self.config.dead_letter_subject().ok_or_else(|| {
            SinkFault::new(
                FaultKind::Other,
                "this sink has no subject for dead letters; this is a bug",
            )
        })?;
        let connection = self.connection.as_mut().ok_or_else(SinkFault::not_connected)?;
        connection.ready_for_dead_letter()?;
        let message = encode::dead_letter(subject, dead_letter, &self.name, &self.spool, self.config.mode);
        connection.send_dead_letter(dead_letter.sequence, message)
    }
}

impl Sink for NatsSink {
    const REPLACES_CLIENT: bool = true;

    async fn connect(&mut self, context: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.spool = context.spool;
        let refused = self.connection.as_ref().and_then(Connection::refused_subject);
        if let Some(refused) = refused {
            self.encoder.limit_subject(refused.saturating_sub(1));
        }
        // Dropped before the next connection, so that its client sends nothing more.
        let last = self.connection.take();
        self.membership = last
            .and_then(Connection::into_membership)
            .or(self.membership.take());
        let owner = Owner {
            sink: &self.name,
            spool: &self.spool,
            epochs: context.epochs,
        };
        let mut dialled = dial(
            &self.config,
            &owner,
            context.cursor.next,
            match (self.is_trial, self.is_replay) {
                (true, _) => Purpose::Trial,
                (_, true) => Purpose::Replay,
                _ if self.is_member => Purpose::Member,
                _ => Purpose::Delivery,
            },
            &mut self.clients,
            context.steps,
        )
        .await?;
        if let Some(stream) = &dialled.stream
            && !self.is_trial
            && !self.is_replay
        {
            self.destination.connected(&self.name, stream, context.cursor);
        }
        let warnings = match (&dialled.stream, self.config.jetstream()) {
            (Some(stream), _) => stream.warnings(&self.config),
            (None, Some(stream)) => vec![format!(
                "the stream \"{}\" does not exist; the bridge creates the stream when it starts",
                stream.name
            )],
            (None, None) => Vec::new(),
        };
        self.collect_warnings(warnings);
        if !std::mem::replace(&mut self.was_connected, true)
            && let Some(log_end) = dialled.log_end
        {
            warn!(
                sink = self.name,
                log_end = log_end.get(),
                "the end of the spool is lost, for example after a power cut; this sink had delivered the lost events, other sinks may \
                 miss them"
            );
        }
        let following = self.follow(&mut dialled, context.cursor);
        let connection = Connection::new(&self.config, dialled, following);
        let connection = self.connection.insert(connection);
        Ok(Connected {
            acks_are_cumulative: connection.acks_are_cumulative(),
            committed_cursor: None,
        })
    }

    fn publish(&mut self, event: &Event<'_>, buffer: &Bytes) -> Result<(), PublishError> {
        let connection = self.connection.as_mut().ok_or_else(SinkFault::not_connected)?;
        connection.ready()?;
        let marked = connection.with_origin(event);
        let event = marked.as_ref().unwrap_or(event);
        self.config.oversize.publish(event, |event, stripped| {
            let message = self
                .encoder
                .encode(event, &self.spool, stripped)
                .map_err(PublishError::Rejected)?;
            connection.send(event, message, buffer)
        })
    }

    async fn flush(&mut self) -> Result<(), SinkFault> {
        match &mut self.connection {
            Some(connection) => connection.flush(),
            None => Ok(()),
        }
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        let connection = self.connection.as_mut().ok_or_else(SinkFault::not_connected)?;
        let outcomes = connection.outcomes(acks).await;
        let (place, restarted) = connection.take_places();
        if let Some((before, place)) = restarted {
            self.destination.restarted(&self.name, before, place);
        }
        self.destination.stored(place);
        outcomes
    }

    fn cursor_note(&self) -> Option<String> {
        self.destination
            .note(self.connection.as_ref().and_then(Connection::resume))
    }

    fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink> {
        self.config.dead_letter_subject().is_some().then_some(self as _)
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        None
    }

    fn status(&self) -> SinkStatus {
        let connection = self.connection.as_ref();
        let membership = connection
            .and_then(Connection::membership)
            .or(self.membership.as_ref());
        SinkStatus {
            // Only without messages in flight: otherwise acknowledgements received before the fault are processed first.
            broken: connection.and_then(Connection::idle_fault),
            unavailable: self.unavailable(),
            notice: connection.and_then(Connection::notice),
            file_changes: FileChanges::default(),
            recreations: self.destination.recreations(),
            client: connection.map(Connection::gauges).unwrap_or_default(),
            is_follower: connection.is_some_and(Connection::is_follower),
            copies: membership
                .map(|membership| membership.copies.counts())
                .unwrap_or_default(),
        }
    }

    async fn close(&mut self) {
        // All published events are acknowledged, or there is no time left to wait for them.
        self.connection = None;
    }
}
