//! Opens a connection: inspects its topics, starts its producer, claims its transactional id.

use std::{collections::HashMap, sync::Arc};

use neurobridge_core::{
    connect::{ConnectStep, ConnectSteps},
    epoch::Epochs,
    identity::SpoolId,
    reader::Cursor,
    sink::{FaultKind, SinkFault},
};
use rdkafka::ClientConfig;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Connection, INSPECTION_INTERVAL, InFlight, Unroutable, ended, limits, routes::creation, start,
    transactions::InTransactions,
};
use crate::{
    config::{KafkaConfig, TransactionConfig},
    cursors::{CursorRecord, Cursors},
    health::Health,
    positions::Position,
    properties::{self, QueueBounds},
    reach,
    topic::Topic,
    topics::{Creation, Demand, Inspector},
    transaction::Transactions,
};

/// The parameters for opening a connection.
pub(crate) struct Open {
    pub(crate) sink: String,
    pub(crate) config: Arc<KafkaConfig>,
    pub(crate) health: Arc<Health>,
    /// The claim of the transactional id; only for a sink that uses transactions and publishes.
    pub(crate) claim: Option<Claim>,
    /// Whether this is a trial: it creates no topic and records the missing ones.
    pub(crate) is_trial: bool,
    /// Topics that events have named over earlier connections.
    pub(crate) named: Vec<String>,
    pub(crate) steps: ConnectSteps,
    /// The position of the record with the largest offset, as the cursor contains it.
    pub(crate) position: Option<Position>,
}

/// The parameters for claiming the transactional id.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) spool: SpoolId,
    /// The cursor of this sink.
    pub(crate) cursor: Cursor,
    /// The identity of this process.
    pub(crate) instance: Arc<str>,
    /// Whether this process has claimed the id before: if another instance has claimed it since, this sink stops.
    pub(crate) is_repeated: bool,
    pub(crate) epochs: Epochs,
}

/// The warning of a trial about a topic that is a template.
const TEMPLATED: &str = "the topic is a template: its topics are known only from events. Each topic must exist or be \
                         created (create = true); otherwise missing_topic decides what happens to the events; \
                         `neurobridge check --event FILE --sink NAME` shows the topic of an event";

impl Open {
    /// Opens the connection. Blocks until the topics are known.
    pub(crate) fn open(self) -> Result<Connection, SinkFault> {
        let client = properties::client(&self.config, &self.sink)?;
        let constant = self.config.topic.constant().map(str::to_owned);
        let names: Vec<String> = constant
            .iter()
            .cloned()
            .chain(self.config.dead_letter_topic().map(str::to_owned))
            .collect();
        let mut absent = Vec::new();
        if constant.is_none() && self.is_trial && !self.config.create {
            absent.push(TEMPLATED.to_owned());
        }
        let lookup = reach::look_up(&reach::addresses(&self.config.bootstrap_servers), &self.steps)?;
        let mut inspector = Inspector::new(&client, &self.health, self.steps.clone(), lookup)?;
        let creation = creation(&self.config, !self.is_trial);
        let demand = if self.is_trial { Demand::All } else { Demand::One };
        let mut found = Vec::new();
        let is_all_templated = names.is_empty();
        for name in names {
            let inspected = inspector.inspect_and_reach(std::slice::from_ref(&name), creation, demand);
            found.extend(self.unless_absent(&name, inspected, &mut absent)?);
        }
        if is_all_templated {
            // The required topics are known only from events. Whether a broker answers can be checked now.
            inspector.inspect_and_reach(&[], None, demand)?;
        }
        if self.config.transactions().is_some() && !self.named.is_empty() {
            match inspector.inspect(&self.named, creation) {
                Ok(named) => found.push(named),
                // One of the named topics is missing. It may never be named again, and each topic is inspected when an event
                // names it.
                Err(fault) if fault.kind == FaultKind::Missing => {}
                Err(fault) => return Err(fault),
            }
        }
        let mut topics: HashMap<String, Topic> = found
            .into_iter()
            .flatten()
            .map(|topic| (topic.name.clone(), topic))
            .collect();
        if !self.is_trial {
            self.detect_recreation(&mut inspector, &topics);
        }
        let constant = constant.and_then(|name| topics.remove(&name));
        let limits = limits(topics.values().chain(&constant), &self.config);
        let id = self.config.transactions().map(|transactions| {
            transactions
                .id
                .unwrap_or_else(|| format!("neurobridge-{}", self.sink))
        });
        let (producer, reports) = start(
            &client,
            &self.config,
            limits,
            id.as_deref(),
            &self.health,
            self.steps.clone(),
        )?;
        let mut cursors = None;
        let transactions = match (self.config.transactions(), id) {
            (Some(config), Some(id)) => {
                let may_create = !self.is_trial;
                let inspected = inspect_cursors(&mut inspector, &config, &self.config, may_create, demand);
                cursors = self.unless_absent(&config.cursor_topic, inspected, &mut absent)?;
                let transactions = producer.transactions().ok_or_else(ended)?;
                self.claim
                    .map(|claim| claim.claim_id(&client, config, id, &transactions, &self.steps))
                    .transpose()?
            }
            _ => None,
        };
        let in_flight = InFlight::new(QueueBounds::of(&self.config));
        Ok(Connection {
            config: self.config,
            health: self.health,
            client,
            producer,
            reports,
            limits,
            topics,
            constant,
            cursors,
            absent,
            in_flight,
            waiting: None,
            unroutable: Unroutable::default(),
            inspector: None,
            own: Vec::new(),
            outdated: false,
            inspection: None,
            inspected_at: Instant::now(),
            next_inspection: Instant::now() + INSPECTION_INTERVAL,
            transactions,
        })
    }
}

impl Open {
    /// Checks whether the topic of the largest known offset still contains that offset; otherwise the topic was recreated.
    fn detect_recreation(&self, inspector: &mut Inspector, topics: &HashMap<String, Topic>) {
        let position = self.health.positions().largest_or(self.position.clone());
        let Some((position, topic)) =
            position.and_then(|position| Some((position.clone(), topics.get(&position.topic)?)))
        else {
            return;
        };
        let is_gone = usize::try_from(position.partition).is_ok_and(|index| index >= topic.partitions);
        let end = match inspector.end_of(&position.topic, position.partition) {
            _ if is_gone => None,
            Some(end) => Some(end),
            // The end is unknown; the offsets of the next records will show a recreated topic.
            None => return,
        };
        self.health.positions().ends_at(&self.sink, &position, end);
    }

    /// In a trial, turns the fault of a missing topic that the sink would create into an entry of `absent`.
    fn unless_absent<T>(
        &self,
        name: &str,
        inspected: Result<T, SinkFault>,
        absent: &mut Vec<String>,
    ) -> Result<Option<T>, SinkFault> {
        match inspected {
            Err(fault) if fault.kind == FaultKind::Missing && self.is_trial && self.config.create => {
                absent.push(format!(
                    "the topic \"{name}\" does not exist; the bridge creates the topic when it starts"
                ));
                Ok(None)
            }
            inspected => inspected.map(Some),
        }
    }
}

impl Claim {
    /// Returns a final fault if another instance has written the last cursor since this process claimed the id. If this sink took
    /// the id over in turn, the two instances would fence each other forever.
    fn yield_to_another(&self, last: Option<&CursorRecord>, id: &str) -> Result<(), SinkFault> {
        if last.is_none_or(|record| record.is_of_instance(&self.instance)) {
            return Ok(());
        }
        let reason = format!(
            "another instance of this sink has taken over the transactional id \"{id}\" and fenced this instance; \
             stop one of the two instances, or set a separate transaction.id for each, then restart the bridge"
        );
        Err(SinkFault::fatal(FaultKind::Fenced, reason))
    }

    /// Takes over the transactional id, and records the claim in the cursor topic. Blocks.
    fn claim_id(
        self,
        client: &ClientConfig,
        config: TransactionConfig,
        id: String,
        transactions: &Transactions,
        steps: &ConnectSteps,
    ) -> Result<InTransactions, SinkFault> {
        let cursors = Cursors {
            client,
            topic: &config.cursor_topic,
            steps,
        };
        if self.is_repeated {
            self.yield_to_another(cursors.find(&id)?.as_ref(), &id)?;
        }
        steps.begin(
            ConnectStep::ProducerId,
            format_args!("the transactional id \"{id}\""),
        );
        transactions.take_over()?;
        // Read only after the takeover: by then any open transaction of this id is committed or aborted.
        let found = cursors.find_all(&id, config.timeout)?;
        if self.is_repeated {
            // The claim of the other instance was hidden by its open transaction until now. That instance will claim the id
            // again, since the last visible cursor is its own.
            self.yield_to_another(found.as_ref(), &id)?;
        }
        let committed = found
            .as_ref()
            .and_then(|record| record.of_spool(self.spool, &self.epochs));
        if found.is_some() && committed.is_none() {
            info!(
                id,
                "the cursor in the cursor topic belongs to another spool; using the cursor in this spool"
            );
        }
        if let Some((_, lost @ 1..)) = committed {
            warn!(
                id,
                lost,
                "the end of the spool is lost, for example after a power cut; this sink had delivered the lost events, other sinks may \
                 miss them"
            );
        }
        let committed = committed.map(|(committed, _)| committed);
        let latest = match &committed {
            Some(committed) if committed.next > self.cursor.next => committed,
            _ => &self.cursor,
        };
        let epoch = self.epochs.current();
        let record = CursorRecord::new(&id, &self.instance, self.spool, epoch, latest);
        transactions.begin()?;
        transactions.commit(&config.cursor_topic, &record)?;
        Ok(InTransactions {
            config,
            id,
            spool: self.spool,
            epoch,
            instance: self.instance,
            committed,
            opened: None,
            bytes: 0,
        })
    }
}

fn inspect_cursors(
    inspector: &mut Inspector,
    transactions: &TransactionConfig,
    config: &KafkaConfig,
    may_create: bool,
    demand: Demand,
) -> Result<Topic, SinkFault> {
    let creation = (may_create && config.create).then(|| Creation {
        partitions: 1,
        replicas: config.replicas.map_or(1, i32::from),
        is_compacted: true,
    });
    let name = &transactions.cursor_topic;
    let topic = inspector
        .inspect_and_reach(std::slice::from_ref(name), creation, demand)
        .map_err(|fault| {
            let reason = match fault.kind {
                FaultKind::Missing => format!(
                    "{}; exactly_once stores its cursor in this topic: the topic needs one partition and \
                     cleanup.policy=compact",
                    fault.reason
                ),
                _ => fault.reason.clone(),
            };
            SinkFault { reason, ..fault }
        })?
        .pop()
        .ok_or_else(ended)?;
    let is_compacted = topic
        .cleanup
        .as_ref()
        .is_none_or(|policy| policy.split(',').any(|one| one.trim() == "compact"));
    if !is_compacted {
        warn!(
            topic = name,
            "the cursor topic is not compacted: old records are removed, and with them the cursor of an idle sink; set \
             cleanup.policy=compact"
        );
    }
    Ok(topic)
}
