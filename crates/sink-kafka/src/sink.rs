//! The sink: connects, publishes, and reports the outcome of each event.

use std::{io, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use neurobridge_core::{
    dead_letter::DeadLetter,
    event::Event,
    identity::SpoolId,
    lead::Lead,
    reader::Cursor,
    recreation::FileChanges,
    sink::{
        Ack, AfterOutcomes, ConnectContext, Connected, DeadLetterSink, FaultKind, PublishError, Sink,
        SinkFault, SinkFuture, SinkStatus, TransactionState, Transactions,
    },
};
use tokio::{sync::oneshot, time::timeout};
use tracing::{info, warn};

use crate::{
    config::{Delivery, KafkaConfig, SaslMechanism},
    connection::{Claim, Connection, Open},
    encode::Encoder,
    following::{Membership, TopicToRead},
    health::Health,
    positions::Position,
    reach,
};

/// The time limit for flushing the events in flight when the sink closes. Fits into the usual stop timeout of a container, minus
/// the drain that precedes it.
const CLOSE_FLUSH: Duration = Duration::from_secs(1);
/// The time limit for destroying a producer. Its messages were purged before; only its threads still have to end.
const END_LIMIT: Duration = Duration::from_secs(5);
/// The maximum number of librdkafka clients of a sink at the same time. A client that hangs is replaced
/// before it is destroyed; without this bound, each replacement could leak threads and memory.
const MAX_CLIENTS: usize = 16;
/// The time for which an event waits for its outcome before partition leaders without a connection are reported as the reason.
/// Longer than the election of another leader.
const UNREACHED_AFTER: Duration = Duration::from_secs(4);
/// The time without any acknowledgement after which the sink reports a fault, even if librdkafka reports
/// none.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// Publishes events to Kafka, through one idempotent producer with `acks=all`.
///
/// An event is delivered when all in-sync replicas have it, which does not mean that it is on a disk. A
/// failed event may have been stored nevertheless: if it is sent again, it may be stored twice, because
/// idempotence covers only one producer.
///
/// Dropping the sink purges the messages that are queued or in flight, without blocking;
/// [`close`](Sink::close) waits a second for that.
#[derive(Debug)]
pub struct KafkaSink {
    name: String,
    config: Arc<KafkaConfig>,
    health: Arc<Health>,
    encoder: Encoder,
    spool: SpoolId,
    connection: Option<Connection>,
    /// The topics that events have named so far. With transactions, a new connection inspects them first, because
    /// an unknown topic aborts a transaction, and a topic with other limits replaces the connection: without this
    /// list, the connection would be replaced again and again.
    named: Vec<String>,
    /// The risky settings found at the last connect; each is logged once.
    warnings: Vec<String>,
    warned: bool,
    /// The identity of this process among those that use the same transactional id.
    instance: Arc<str>,
    /// Whether this sink was connected before, and so has claimed its transactional id.
    has_claimed: bool,
    /// Whether this is a trial, which never claims the transactional id.
    is_trial: bool,
    /// The membership in a cluster, if the bridge is part of one.
    membership: Option<Membership>,
    /// The topic that a member of a cluster reads, as the last connect has found it.
    topic_to_read: Option<TopicToRead>,
}

impl KafkaSink {
    /// Creates a sink that is not connected yet. The configuration must have passed its check.
    pub fn new(name: impl Into<String>, config: KafkaConfig) -> Self {
        let name = name.into();
        Self {
            encoder: Encoder::new(&config),
            health: Arc::new(Health::new(&name)),
            config: Arc::new(config),
            name,
            // A placeholder: nothing is published before `connect` sets the spool's id.
            spool: SpoolId::from_bytes([0; 16]),
            connection: None,
            named: Vec::new(),
            warnings: Vec::new(),
            warned: false,
            instance: uuid::Uuid::now_v7().to_string().into(),
            has_claimed: false,
            is_trial: false,
            membership: None,
            topic_to_read: None,
        }
    }

    /// Makes the sink a member of a cluster: it publishes only while it may, and otherwise settles the events that the
    /// leader has published. The topic must not be a template.
    #[must_use]
    pub fn as_member(mut self, lead: Lead) -> Self {
        self.encoder.add_identity();
        self.membership = Some(Membership::new(lead));
        self
    }

    /// Turns this sink into one for a replay: each record is marked with the replay's run. A replay never uses transactions,
    /// because the transactional id and the cursor belong to the running sink.
    #[must_use]
    pub fn replaying(mut self, run: &str) -> Self {
        self.encoder.set_replay(run);
        let config = Arc::make_mut(&mut self.config);
        config.delivery = Delivery::AtLeastOnce;
        config.transaction = None;
        self
    }

    /// Creates a sink that only probes the cluster: it creates no topic, does not take over the transactional id of a running
    /// sink, and reports through [`warnings`](Self::warnings) settings that can lose events and resources that would be
    /// created. It must not publish.
    pub fn trial(name: impl Into<String>, config: KafkaConfig) -> Self {
        Self {
            is_trial: true,
            ..Self::new(name, config)
        }
    }

    /// Returns the legal but risky settings found by the last connect, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn is_exactly_once(&self) -> bool {
        self.config.delivery == Delivery::ExactlyOnce
    }

    /// Returns the fault, with "fenced" replaced by "outdated" in exactly-once delivery: there a new producer can replace a
    /// fenced one, so the fault is not final.
    fn reclassified(&self, fault: SinkFault) -> SinkFault {
        if self.is_exactly_once() && fault.is_final && fault.kind == FaultKind::Fenced {
            return crate::error::outdated("an event was refused");
        }
        fault
    }

    fn reclassified_error(&self, error: PublishError) -> PublishError {
        match error {
            PublishError::Fault(fault) => PublishError::Fault(self.reclassified(fault)),
            other => other,
        }
    }

    fn send(&mut self, event: &Event<'_>) -> Result<(), PublishError> {
        if self.membership.is_some() && !self.must_publish(event)? {
            return Ok(());
        }
        let connection = self.connection.as_mut().ok_or_else(SinkFault::not_connected)?;
        connection.ready()?;
        let marked = self
            .membership
            .as_mut()
            .map(|membership| membership.published(event));
        let event = marked.as_ref().unwrap_or(event);
        self.config.oversize.publish(event, |event, stripped| {
            let record = self.encoder.encode(event, &self.spool, stripped);
            if self.config.topic.constant().is_none()
                && let Some(rejection) = self.config.reserved(record.topic)
            {
                return Err(PublishError::Rejected(rejection));
            }
            connection.send(event.sequence, record)
        })
    }

    fn send_dead_letter(&mut self, dead_letter: &DeadLetter<'_>) -> Result<(), PublishError> {
        if !self.may_send_dead_letter() {
            return Err(PublishError::Full);
        }
        let topic = self.config.dead_letter_topic().ok_or_else(|| {
            SinkFault::new(
                FaultKind::Other,
                "this sink has no topic for dead letters; this is a bug",
            )
        })?;
        let connection = self.connection.as_mut().ok_or_else(SinkFault::not_connected)?;
        connection.ready()?;
        connection.send(
            dead_letter.sequence,
            crate::encode::dead_letter(topic, dead_letter.json),
        )
    }

    fn collect_warnings(&mut self, connection: &Connection) {
        self.warnings = connection.warnings();
        let is_plain = self
            .config
            .sasl
            .as_ref()
            .is_some_and(|sasl| sasl.mechanism == SaslMechanism::Plain);
        if is_plain && self.config.tls.is_none() {
            self.warnings.push(
                "the password is sent unencrypted; set `tls` in addition to `sasl` with the mechanism \"plain\""
                    .into(),
            );
        }
        if !self.is_trial && !std::mem::replace(&mut self.warned, true) {
            for warning in &self.warnings {
                warn!(sink = self.name, "{warning}");
            }
        }
    }

    /// Returns why nothing is acknowledged, if something was published; of a follower, why nothing is received.
    fn unavailable(&self) -> Option<SinkFault> {
        let Some(connection) = &self.connection else {
            return self.follower_unavailable();
        };
        if let Some(fault) = connection.fault() {
            return Some(fault);
        }
        let unreachable = self.health.unreachable();
        let is_waiting = connection
            .oldest_since()
            .is_some_and(|since| since.elapsed() > UNREACHED_AFTER);
        let unreached = (is_waiting || unreachable.is_some())
            .then(|| {
                let servers = reach::addresses(&self.config.bootstrap_servers);
                self.health.unreached_leaders(&servers)
            })
            .flatten();
        if let Some(reason) = unreached.or(unreachable) {
            return Some(SinkFault::new(FaultKind::Unreachable, reason));
        }
        let silence = connection.waiting_since()?.elapsed();
        (silence > STALLED_AFTER).then(|| {
            let reason = format!(
                "no acknowledgement from Kafka for {} seconds; check the brokers, and whether enough replicas are in sync",
                silence.as_secs()
            );
            SinkFault::new(FaultKind::Timeout, reason)
        })
    }
}

impl DeadLetterSink for KafkaSink {
    fn publish_dead_letter(&mut self, dead_letter: &DeadLetter<'_>) -> Result<(), PublishError> {
        self.send_dead_letter(dead_letter)
            .map_err(|error| self.reclassified_error(error))
    }
}

impl Transactions for KafkaSink {
    fn state(&self) -> TransactionState {
        self.connection
            .as_ref()
            .map_or(TransactionState::Closed, |connection| {
                connection.transaction(self.is_stepping_down())
            })
    }

    fn commit<'a>(&'a mut self, cursor: &'a Cursor) -> SinkFuture<'a> {
        Box::pin(async {
            match &mut self.connection {
                Some(connection) => connection.commit(cursor).await?,
                None => return Err(SinkFault::not_connected()),
            }
            self.committed(cursor.next);
            Ok(())
        })
    }

    fn abort(&mut self) -> SinkFuture<'_> {
        Box::pin(async {
            let aborted = match &mut self.connection {
                Some(connection) => connection.abort(None).await,
                None => Err(SinkFault::not_connected()),
            };
            aborted.map_err(|fault| self.reclassified(fault))
        })
    }
}

impl Sink for KafkaSink {
    const REPLACES_CLIENT: bool = true;

    async fn connect(&mut self, context: &ConnectContext<'_>) -> Result<Connected, SinkFault> {
        self.spool = context.spool;
        if let Some(membership) = &mut self.membership {
            membership.restart();
        }
        if let Some(old) = self.connection.take() {
            // Purged before the new producer sends: the old one must not store messages after those of the new one.
            self.named = old.named_topics();
            if timeout(END_LIMIT, old.into_producer().purge_and_close())
                .await
                .is_err()
            {
                info!(
                    sink = self.name,
                    "previous producer is slow to shut down (its queue is empty)"
                );
            }
        }
        let clients = self.health.clients();
        if clients >= MAX_CLIENTS {
            let reason = format!(
                "{clients} Kafka clients of earlier connections have not shut down, expected fewer than {MAX_CLIENTS}: \
                 librdkafka hangs; restart the bridge if this lasts"
            );
            return Err(SinkFault::new(FaultKind::Other, reason));
        }
        self.health.reset();
        if self.has_no_lease() {
            return self.follow(context).await;
        }
        let open = Open {
            sink: self.name.clone(),
            config: Arc::clone(&self.config),
            health: Arc::clone(&self.health),
            claim: (self.is_exactly_once() && !self.is_trial).then(|| Claim {
                spool: context.spool,
                cursor: context.cursor.clone(),
                instance: Arc::clone(&self.instance),
                // A member of a cluster stops publishing when its lease ends, and claims the id again whenever it leads.
                is_repeated: self.has_claimed && self.membership.is_none(),
                epochs: context.epochs.clone(),
            }),
            is_trial: self.is_trial,
            named: self.named.clone(),
            steps: context.steps.clone(),
            position: Position::of_note(context.cursor.note.as_deref()),
        };
        let connection = on_thread(move || open.open()).await?;
        self.has_claimed = true;
        self.collect_warnings(&connection);
        let mut committed_cursor = connection.committed_cursor().cloned();
        if self.membership.is_some() {
            self.take_over(context).await?;
            let note = self.cursor_note();
            committed_cursor = committed_cursor.map(|cursor| Cursor { note, ..cursor });
        }
        self.connection = Some(connection);
        self.lead();
        Ok(Connected {
            acks_are_cumulative: false,
            committed_cursor,
        })
    }

    fn publish(&mut self, event: &Event<'_>, _buffer: &Bytes) -> Result<(), PublishError> {
        self.send(event).map_err(|error| self.reclassified_error(error))
    }

    /// librdkafka sends by itself after `linger`. This method performs the work that must wait: it inspects a
    /// new topic, and from time to time all topics.
    async fn flush(&mut self) -> Result<(), SinkFault> {
        match &mut self.connection {
            Some(connection) => connection.inspect_topics().await,
            None => Ok(()),
        }
    }

    async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        if let Some(next) = self.outcomes_of_member(acks).await? {
            return Ok(next);
        }
        let outcomes = match &mut self.connection {
            Some(connection) => connection.outcomes(acks).await,
            None => Err(SinkFault::not_connected()),
        };
        if !self.is_exactly_once() {
            self.acknowledged();
        }
        outcomes
            .map(|()| AfterOutcomes::Continue)
            .map_err(|fault| self.reclassified(fault))
    }

    fn cursor_note(&self) -> Option<String> {
        match (&self.membership, &self.topic_to_read) {
            (Some(membership), Some(topic_to_read)) => {
                membership.note(self.health.positions().largest_or(None), topic_to_read.partitions)
            }
            _ => self.health.positions().note(),
        }
    }

    fn dead_letters(&mut self) -> Option<&mut dyn DeadLetterSink> {
        self.config.dead_letter_topic().is_some().then_some(self as _)
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        self.is_exactly_once().then_some(self as _)
    }

    fn status(&self) -> SinkStatus {
        let connection = self.connection.as_ref();
        SinkStatus {
            broken: connection.and_then(Connection::broken_transaction),
            unavailable: self.unavailable(),
            notice: self.health.notice(),
            file_changes: FileChanges::default(),
            recreations: self.health.positions().recreations(),
            client: self.health.gauges(),
            is_follower: self.is_follower(),
            copies: self
                .membership
                .as_ref()
                .map(Membership::counts)
                .unwrap_or_default(),
        }
    }

    async fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            // The next start sends uncommitted events again. A transaction left open would block readers until it times out.
            if let Err(fault) = connection.abort(Some(CLOSE_FLUSH)).await {
                info!(
                    sink = self.name,
                    "open transaction not aborted; Kafka aborts it after its timeout: {fault}"
                );
            }
            connection.into_producer().close(CLOSE_FLUSH).await;
        }
    }
}

/// Runs blocking work on a thread of its own, not on one of the runtime's threads: the runtime waits for those when it ends, so a
/// broker that does not answer would delay the end of the program. Dropping the future discards the result and does not cancel
/// the work.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkFault> + Send + 'static,
) -> Result<T, SinkFault> {
    start_on_thread(work)
        .map_err(|error| no_thread(&error))?
        .await
        .unwrap_or_else(|_| {
            Err(SinkFault::new(
                FaultKind::Other,
                "a blocking call to librdkafka has panicked; this is a bug",
            ))
        })
}

/// Starts blocking work on a thread of its own.
pub(crate) fn start_on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkFault> + Send + 'static,
) -> io::Result<oneshot::Receiver<Result<T, SinkFault>>> {
    // Capacity for the one result.
    let (done, result) = oneshot::channel();
    thread::Builder::new().name("kafka-call".into()).spawn(move || {
        // The receiver may have stopped waiting, which is no error.
        let _ = done.send(work());
    })?;
    Ok(result)
}

fn no_thread(error: &io::Error) -> SinkFault {
    SinkFault::new(
        FaultKind::Other,
        format!("cannot start a thread: {error}; raise the limit of threads or memory"),
    )
}

mod member;
#[cfg(test)]
mod tests;
