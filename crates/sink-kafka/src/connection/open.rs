//! How a connection comes to be: its topics looked at, its producer started, its transactional id claimed.

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
    Connection, LOOK_INTERVAL, Queue, Unroutable, ended, limits, routes::creation, start,
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

/// What a connection is opened with.
pub(crate) struct Open {
    pub(crate) sink: String,
    pub(crate) config: Arc<KafkaConfig>,
    pub(crate) health: Arc<Health>,
    /// Only with transactions, and there only where the sink is to publish.
    pub(crate) claim: Option<Claim>,
    /// Nothing is made, and what is not there is noted.
    pub(crate) is_trial: bool,
    /// Topics that events have named before.
    pub(crate) named: Vec<String>,
    pub(crate) steps: ConnectSteps,
    /// The largest offset of the cursor.
    pub(crate) position: Option<Position>,
}

/// What a sink claims the transactional id with.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) spool: SpoolId,
    /// Ours.
    pub(crate) cursor: Cursor,
    /// This process.
    pub(crate) instance: Arc<str>,
    /// It has claimed the id before: then another one's claim since is the end.
    pub(crate) is_repeated: bool,
    pub(crate) epochs: Epochs,
}

/// What a trial says of a topic that is a template.
const TEMPLATED: &str = "the topic is a template, and which topics it names only events tell: each must be there, or the sink \
                         stands still before the first event for one that is not (create = true makes it); `neurobridge \
                         check --event FILE --sink NAME` shows what an event gives";

impl Open {
    /// Opens it. Blocks until the topics are known.
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
            let looked = inspector.inspect_and_reach(std::slice::from_ref(&name), creation, demand);
            found.extend(self.unless_absent(&name, looked, &mut absent)?);
        }
        if is_all_templated {
            // Which topics there have to be only events tell: that a broker answers can be known now.
            inspector.inspect_and_reach(&[], None, demand)?;
        }
        if self.config.transactions().is_some() && !self.named.is_empty() {
            match inspector.inspect(&self.named, creation) {
                Ok(named) => found.push(named),
                // One of them, which may never be named again. Those that are named are looked at then.
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
            self.look_for_the_end(&mut inspector, &topics);
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
                let looked = look_at_cursors(&mut inspector, &config, &self.config, may_create, demand);
                cursors = self.unless_absent(&config.cursor_topic, looked, &mut absent)?;
                let transactions = producer.transactions().ok_or_else(ended)?;
                self.claim
                    .map(|claim| claim.stake(&client, config, id, &transactions, &self.steps))
                    .transpose()?
            }
            _ => None,
        };
        let queue = Queue::new(QueueBounds::of(&self.config));
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
            queue,
            waiting: None,
            unroutable: Unroutable::default(),
            inspector: None,
            own: Vec::new(),
            outdated: false,
            look: None,
            looked: Instant::now(),
            next_look: Instant::now() + LOOK_INTERVAL,
            transactions,
        })
    }
}

impl Open {
    /// Looks whether the topic of the largest known offset still has it.
    fn look_for_the_end(&self, inspector: &mut Inspector, topics: &HashMap<String, Topic>) {
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
            // The next records tell.
            None => return,
        };
        self.health.positions().ends_at(&self.sink, &position, end);
    }

    /// Of a trial: notes of a topic that is not there, and that a sink would make, that it is so.
    fn unless_absent<T>(
        &self,
        name: &str,
        looked: Result<T, SinkFault>,
        absent: &mut Vec<String>,
    ) -> Result<Option<T>, SinkFault> {
        match looked {
            Err(fault) if fault.kind == FaultKind::Missing && self.is_trial && self.config.create => {
                absent.push(format!(
                    "the topic \"{name}\" is not there; the bridge makes it when it starts"
                ));
                Ok(None)
            }
            looked => looked.map(Some),
        }
    }
}

impl Claim {
    /// Ends this sink when another instance has written the last cursor since ours: taking over in turn, it would be taken
    /// from us again, and so on for ever.
    fn yield_to_another(&self, last: Option<&CursorRecord>, id: &str) -> Result<(), SinkFault> {
        if last.is_none_or(|record| record.is_of_instance(&self.instance)) {
            return Ok(());
        }
        let reason = format!(
            "another instance of this sink has taken over the transactional id \"{id}\" and fenced this one; stop one of \
             the two, or give each its own transaction.id, then restart"
        );
        Err(SinkFault::fatal(FaultKind::Fenced, reason))
    }

    /// Takes the transactional id over, and writes so into the topic of cursors. Blocks.
    fn stake(
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
        // Only now: what was open under this id is committed or aborted.
        let found = cursors.find_all(&id, config.timeout)?;
        if self.is_repeated {
            // Its claim was not to be seen before. It claims the id again, as its own is the last word.
            self.yield_to_another(found.as_ref(), &id)?;
        }
        let kept = found
            .as_ref()
            .and_then(|record| record.of_spool(self.spool, &self.epochs));
        if found.is_some() && kept.is_none() {
            info!(
                id,
                "the cursor in the topic is of another spool: going on with our own"
            );
        }
        if let Some((_, lost @ 1..)) = kept {
            warn!(
                id,
                lost,
                "the log ends before what was delivered of it; its last events are lost there, and delivered"
            );
        }
        let kept = kept.map(|(kept, _)| kept);
        let newest = match &kept {
            Some(kept) if kept.next > self.cursor.next => kept,
            _ => &self.cursor,
        };
        let epoch = self.epochs.current();
        let record = CursorRecord::new(&id, &self.instance, self.spool, epoch, newest);
        transactions.begin()?;
        transactions.commit(&config.cursor_topic, &record)?;
        Ok(InTransactions {
            config,
            id,
            spool: self.spool,
            epoch,
            instance: self.instance,
            kept,
            opened: None,
            bytes: 0,
        })
    }
}

fn look_at_cursors(
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
                    "{}; exactly_once keeps its cursor there: it needs one partition and cleanup.policy=compact",
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
            "the topic of cursors is not compacted: what is in it is removed by age, and with it the cursor of a sink that was \
             idle for so long; expected cleanup.policy=compact"
        );
    }
    Ok(topic)
}
