//! A connection: one producer, the known properties of its topics, and the messages in flight.

mod in_flight;
mod limits;
mod open;
mod routes;
mod transactions;

use std::{collections::HashMap, fmt, future::pending, sync::Arc, time::Duration};

use neurobridge_core::{
    connect::ConnectSteps,
    event::Sequence,
    reader::Cursor,
    sink::{Ack, FaultKind, Outcome, PublishError, Rejection, RejectionReason, SinkFault, TransactionState},
    sink_config::OversizeAction,
};
use rdkafka::{ClientConfig, types::RDKafkaErrorCode as Code};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tracing::{debug, info};

use self::{
    in_flight::InFlight,
    limits::{limits, most_bytes},
    routes::{Unroutable, keyless, rejection},
    transactions::InTransactions,
};
pub(crate) use self::{
    open::{Claim, Open},
    routes::creation,
};
use crate::{
    config::KafkaConfig,
    context::Reports,
    encode::Record,
    error::{self, Blame},
    health::Health,
    producer::{KafkaProducer, StartError, reporting},
    properties::{self, Limits},
    sink::start_on_thread,
    topic::Topic,
    topics::{self, Inspector},
};

/// The interval for reading the topics' limits again. Until then, a lowered limit costs only the order of events, never an event.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(300);
/// The delay before reading the limits again after a message exceeded the known limit.
const INSPECTION_AFTER_REJECTION: Duration = Duration::from_secs(10);
/// The delay before inspecting the topics when nothing is acknowledged in a transaction: librdkafka then waits silently for a
/// missing topic, while otherwise it fails the messages for it. Longer than a leader election.
const INSPECTION_IN_SILENCE: Duration = Duration::from_secs(5);
/// The maximum number of known topics. If it is exceeded, all are removed, and each is inspected again when an event names it.
const MAX_TOPICS: usize = 1_000;

/// A connection to the brokers: one producer, its topics, and the messages in flight.
pub(crate) struct Connection {
    config: Arc<KafkaConfig>,
    health: Arc<Health>,
    /// The properties of the clients, with the secrets as they were when the connection was opened.
    client: ClientConfig,
    producer: KafkaProducer,
    reports: Arc<Reports>,
    limits: Limits,
    /// The known topics by name, except `constant`: a topic that is no template, which is compared for each event.
    topics: HashMap<String, Topic>,
    constant: Option<Topic>,
    /// The cursor topic, for a sink with transactions.
    cursors: Option<Topic>,
    /// The topics that a connect outside of a trial would create, one sentence each; only filled by a trial.
    absent: Vec<String>,
    /// The messages in flight.
    in_flight: InFlight,
    /// The event that waits for the inspection of a new topic; it is published again afterwards.
    waiting: Option<(String, Sequence)>,
    /// The topics that accept no events.
    unroutable: Unroutable,
    /// The clients that inspected the last new topic; dropped before the next inspection of all topics.
    inspector: Option<Inspector>,
    /// Outcomes that do not come from librdkafka: at most one, the outcome of `waiting`.
    own: Vec<Ack>,
    /// Set when the topics' limits have changed: librdkafka needs a new producer for new limits.
    outdated: bool,
    inspection: Option<oneshot::Receiver<Result<Vec<Topic>, SinkFault>>>,
    /// The start of the last inspection.
    inspected_at: Instant,
    next_inspection: Instant,
    transactions: Option<InTransactions>,
}

impl Connection {
    /// Returns whether a transaction is open.
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.transactions.as_ref().is_some_and(InTransactions::is_open)
    }

    /// Returns whether no record is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Returns the known topics.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values().chain(&self.constant)
    }

    /// Returns the names of the known topics that events have named.
    pub(crate) fn named_topics(&self) -> Vec<String> {
        let dead_letters = self.config.dead_letter_topic();
        let names = self.topics.keys();
        names
            .filter(|name| Some(name.as_str()) != dead_letters)
            .cloned()
            .collect()
    }

    /// Returns the settings of all topics that can lose events.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let of_topics = self.topics().flat_map(Topic::warnings);
        // The cursor topic has to be compacted, so only its replication is checked.
        let of_cursors = self.cursors.iter().flat_map(Topic::replication_warnings);
        self.absent
            .iter()
            .cloned()
            .chain(of_topics)
            .chain(of_cursors)
            .collect()
    }

    /// Checks whether another record may be sent now.
    pub(crate) fn ready(&mut self) -> Result<(), PublishError> {
        if let Some(fault) = self.reports.fault() {
            // The reports that arrived before the fault still count: `outcomes` returns them together with the fault.
            return Err(if self.in_flight.is_empty() {
                PublishError::Fault(fault)
            } else {
                PublishError::Full
            });
        }
        if self.waiting.is_some() || self.in_flight.is_full() {
            return Err(PublishError::Full);
        }
        if self.outdated {
            // The old producer first has to report the outcomes of its messages in flight.
            if !self.in_flight.is_empty() {
                return Err(PublishError::Full);
            }
            if self.transactions.is_some() {
                // A new producer has to claim the transactional id first, which only a new connection does.
                let reason = "the topics' limits have changed: continuing with a new producer";
                return Err(PublishError::Fault(SinkFault::new(FaultKind::Other, reason)));
            }
            self.replace_producer().map_err(PublishError::Fault)?;
        }
        Ok(())
    }

    /// Passes a record to librdkafka, or records that its topic has to be inspected first.
    pub(crate) fn send(&mut self, sequence: Sequence, record: Record<'_>) -> Result<(), PublishError> {
        let topic = match &self.constant {
            Some(topic) if topic.name == record.topic => topic,
            _ => match self.topics.get(record.topic) {
                Some(topic) => topic,
                None => {
                    if let Some(reason) = self.unroutable.reason(record.topic) {
                        return Err(PublishError::Rejected(rejection(reason.to_owned())));
                    }
                    self.waiting = Some((record.topic.to_owned(), sequence));
                    // The event is not in librdkafka but counts as in flight: its outcome is reported like any other.
                    self.in_flight.add(sequence, 0);
                    return Ok(());
                }
            },
        };
        if record.key.is_none() && topic.is_compacted() {
            return Err(PublishError::Rejected(keyless(&topic.name)));
        }
        let most = most_bytes(topic, &self.config);
        if record.size > most {
            return Err(PublishError::Rejected(self.too_large(
                record.topic,
                record.size,
                most,
            )));
        }
        if !self.in_flight.fits(record.value.len()) {
            return Err(PublishError::Full);
        }
        if let Some(transactions) = &mut self.transactions {
            transactions.open(&self.producer).map_err(PublishError::Fault)?;
        }
        let Record {
            topic,
            key,
            headers,
            value,
            size,
        } = record;
        // The opaque pointer holds the sequence; the callback for reports converts it back and checks it.
        match self
            .producer
            .send(topic, key, value, headers, sequence.get() as usize)
        {
            Ok(()) => {
                self.in_flight.add(sequence, value.len());
                if let Some(transactions) = &mut self.transactions {
                    transactions.bytes += size as u64;
                }
                Ok(())
            }
            Err(code) => Err(self.refused(code, topic, size)),
        }
    }

    /// Waits for reports and appends their outcomes. Cancel-safe: no report is removed before there is something to return.
    pub(crate) async fn outcomes(&mut self, acks: &mut Vec<Ack>) -> Result<(), SinkFault> {
        loop {
            let before = acks.len();
            // Read before the reports: a fault is the last report, so all reports that precede it are read too.
            let fault = self.reports.take_fault();
            let bytes = self.reports.take(acks);
            acks.append(&mut self.own);
            let new = &acks[before..];
            if !new.is_empty() {
                self.in_flight.settle(new, bytes);
                let too_large = |ack: &Ack| matches!(&ack.outcome, Outcome::RetryAlone(rejection) if rejection.reason == RejectionReason::TooLarge);
                if new.iter().any(too_large) {
                    self.next_inspection = self
                        .next_inspection
                        .min(Instant::now() + INSPECTION_AFTER_REJECTION);
                }
            }
            if let Some(fault) = fault {
                return Err(fault);
            }
            if acks.len() > before {
                return Ok(());
            }
            self.inspect_if_due();
            // The delivery commits a transaction that is already due; only reports end this wait then.
            let due = self.due_at().filter(|due| *due > Instant::now());
            let inspection_due = self.inspection_due();
            tokio::select! {
                biased;
                () = self.reports.changed() => {}
                () = at(due) => return Ok(()),
                () = at(inspection_due) => {}
                found = inspected(&mut self.inspection) => self.apply_inspection(found)?,
            }
        }
    }

    /// Returns the state of the open transaction. `is_last`: no further record may be added.
    pub(crate) fn transaction(&self, is_last: bool) -> TransactionState {
        match &self.transactions {
            Some(transactions) => transactions.state(self.outdated || is_last),
            None => TransactionState::Closed,
        }
    }

    /// Returns the committed cursor that was read when the connection was opened.
    pub(crate) fn committed_cursor(&self) -> Option<&Cursor> {
        self.transactions.as_ref()?.committed.as_ref()
    }

    /// Commits the open transaction together with a cursor.
    pub(crate) async fn commit(&mut self, cursor: &Cursor) -> Result<(), SinkFault> {
        match &mut self.transactions {
            Some(transactions) => transactions.commit(&self.producer, cursor).await,
            None => Ok(()),
        }
    }

    /// Aborts the open transaction; afterwards no report of its messages arrives.
    pub(crate) async fn abort(&mut self, limit: Option<Duration>) -> Result<(), SinkFault> {
        if let Some(transactions) = &mut self.transactions {
            transactions.abort(&self.producer, limit).await?;
        }
        self.reports.take(&mut Vec::new());
        self.own.clear();
        self.waiting = None;
        self.in_flight.clear();
        match self.reports.take_fault() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    /// Returns why the open transaction cannot be committed any more, if no report contains the reason.
    pub(crate) fn broken_transaction(&self) -> Option<SinkFault> {
        self.transactions.as_ref()?.opened?;
        self.producer.transactions()?.broken()
    }

    fn due_at(&self) -> Option<Instant> {
        self.transactions.as_ref()?.due_at()
    }

    /// Inspects a new topic and waits for the result; from time to time starts an inspection of all topics without waiting.
    pub(crate) async fn inspect_topics(&mut self) -> Result<(), SinkFault> {
        self.inspect_waiting().await?;
        if let Some(inspection) = &mut self.inspection {
            match inspection.try_recv() {
                Ok(found) => self.apply_inspection(Some(found))?,
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => self.apply_inspection(None)?,
            }
        }
        self.inspect_if_due();
        Ok(())
    }

    /// Returns the time of the next inspection, `None` while one is running.
    fn inspection_due(&self) -> Option<Instant> {
        let in_silence = self
            .waiting_since()
            .filter(|_| self.transactions.is_some())
            .map(|since| since.max(self.inspected_at) + INSPECTION_IN_SILENCE);
        let next = in_silence.map_or(self.next_inspection, |due| due.min(self.next_inspection));
        self.inspection.is_none().then_some(next)
    }

    fn inspect_if_due(&mut self) {
        let now = Instant::now();
        if self.inspection_due().is_some_and(|due| due <= now) {
            self.inspected_at = now;
            self.next_inspection = now + INSPECTION_INTERVAL;
            self.inspector = None;
            let names = self.topics().map(|topic| topic.name.clone()).collect();
            self.inspection = start_on_thread(self.inspecting(names)).ok();
        }
    }

    /// Applies the result of an inspection; does nothing if its thread has panicked.
    fn apply_inspection(&mut self, found: Option<Result<Vec<Topic>, SinkFault>>) -> Result<(), SinkFault> {
        self.inspection = None;
        match found {
            Some(Ok(topics)) => self.update_topics(topics),
            // The messages queued for a missing topic must not be stored unnoticed when the topic exists again. In a transaction
            // they are purged.
            Some(Err(fault)) if fault.kind == FaultKind::Missing && self.transactions.is_some() => {
                return Err(fault);
            }
            // Any other error of an inspection occurs again with the next record, and is reported there.
            Some(Err(fault)) => debug!("cannot inspect the topics now; retrying: {fault}"),
            None => {}
        }
        Ok(())
    }

    /// Returns a fault that was not returned by `outcomes` yet.
    pub(crate) fn fault(&self) -> Option<SinkFault> {
        self.reports.fault()
    }

    /// Returns the time since which the messages in flight have been waiting for an acknowledgement.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.in_flight.waiting_since()
    }

    /// Returns a time at which the oldest event in flight had been sent already.
    pub(crate) fn oldest_since(&self) -> Option<Instant> {
        self.in_flight.oldest_since()
    }

    pub(crate) fn into_producer(self) -> KafkaProducer {
        self.producer
    }

    fn refused(&self, code: Code, topic: &str, size: usize) -> PublishError {
        match error::blame(code) {
            Blame::Full => PublishError::Full,
            Blame::Message(RejectionReason::TooLarge) => {
                PublishError::Rejected(self.too_large(topic, size, self.limits.message))
            }
            Blame::Message(reason) => {
                let detail = format!("librdkafka rejects a message for the topic \"{topic}\" ({code})");
                PublishError::Rejected(Rejection { reason, detail })
            }
            Blame::Sink(_) | Blame::Fenced => {
                let (code, detail) = self.producer.fatal_error().unwrap_or((code, String::new()));
                PublishError::Fault(error::fault(code, Some(topic), &detail))
            }
        }
    }

    fn too_large(&self, topic: &str, found: usize, most: usize) -> Rejection {
        let advice = match self.config.oversize {
            OversizeAction::DeadLetter => "raise max.message.bytes of the topic, or set oversize = \"strip\"",
            OversizeAction::Strip => "raise max.message.bytes of the topic",
        };
        let detail = format!(
            "found a message of {found} bytes, expected at most {most} for the topic \"{topic}\"; {advice}"
        );
        Rejection {
            reason: RejectionReason::TooLarge,
            detail,
        }
    }

    fn update_topics(&mut self, found: Vec<Topic>) {
        for topic in found {
            match &mut self.constant {
                Some(constant) if constant.name == topic.name => *constant = topic,
                _ => drop(self.topics.insert(topic.name.clone(), topic)),
            }
        }
        let limits = limits(self.topics(), &self.config);
        self.outdated = limits != self.limits;
    }

    fn replace_producer(&mut self) -> Result<(), SinkFault> {
        let limits = limits(self.topics(), &self.config);
        info!(
            sink = self.health.sink(),
            ?limits,
            "the topics' limits have changed: continuing with a new producer"
        );
        let (producer, reports) = start(
            &self.client,
            &self.config,
            limits,
            None,
            &self.health,
            ConnectSteps::default(),
        )?;
        // The old producer has no messages left; dropped, it shuts down on its own thread.
        self.producer = producer;
        self.reports = reports;
        self.limits = limits;
        self.outdated = false;
        Ok(())
    }

    /// Returns the blocking work of inspecting these topics.
    fn inspecting(
        &self,
        names: Vec<String>,
    ) -> impl FnOnce() -> Result<Vec<Topic>, SinkFault> + Send + use<> {
        let client = self.client.clone();
        let health = Arc::clone(&self.health);
        let config = Arc::clone(&self.config);
        move || topics::inspect(&client, &health, &names, creation(&config, true))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client properties are left out: they contain secrets.
        f.debug_struct("Connection")
            .field("limits", &self.limits)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

/// Waits until a point in time; forever without one.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

/// Waits for the result of the running inspection; forever if none is running.
async fn inspected(
    inspection: &mut Option<oneshot::Receiver<Result<Vec<Topic>, SinkFault>>>,
) -> Option<Result<Vec<Topic>, SinkFault>> {
    match inspection {
        Some(inspection) => inspection.await.ok(),
        None => pending().await,
    }
}

fn ended() -> SinkFault {
    SinkFault::new(FaultKind::Other, "the producer ended; a new producer is created")
}

fn start(
    client: &ClientConfig,
    config: &KafkaConfig,
    limits: Limits,
    transactional_id: Option<&str>,
    health: &Arc<Health>,
    steps: ConnectSteps,
) -> Result<(KafkaProducer, Arc<Reports>), SinkFault> {
    let (context, reports) = reporting(health, steps);
    let properties = properties::producer(client, config, limits, transactional_id);
    match KafkaProducer::start(&properties, context) {
        Ok(producer) => Ok((producer, reports)),
        Err(StartError::Client(error)) => Err(topics::client_creation_fault(&error)),
        Err(StartError::Thread(error)) => Err(SinkFault::new(
            FaultKind::Other,
            format!("cannot start a thread for the producer: {error}; raise the limit of threads or memory"),
        )),
    }
}
