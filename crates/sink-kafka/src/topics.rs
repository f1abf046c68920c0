//! Inspects topics before anything is sent to them: whether a topic exists, its size limit and its risky settings.

mod leaders;
mod limits;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use neurobridge_core::{
    connect::{ConnectStep, ConnectSteps},
    sink::{FaultKind, SinkFault},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::KafkaError,
    metadata::MetadataTopic,
    producer::{BaseProducer, Producer},
    types::RDKafkaErrorCode as Code,
};
use tokio::runtime::{self, Runtime};
use tracing::info;

use crate::{
    background::Background,
    context::Context,
    error::{self, Blame},
    health::Health,
    producer::reporting,
    reach,
    topic::{Topic, has_a_leader, topic_of_metadata},
};

pub(crate) use self::{leaders::Demand, limits::DEFAULT_MAX_MESSAGE};

/// The time limit for the answer of a broker. After that the fault is reported, and the connect is retried with
/// a growing delay. Short, because a person who runs `check --connect` waits for it; longer than a leader election.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The time limit for the controller to create a topic.
const CREATION_LIMIT: Duration = Duration::from_secs(10);
/// The interval at which the inspecting client reports the state of its connections.
const STATISTICS_INTERVAL_MS: &str = "500";
/// A number of events that exceeds what the client reports between two calls.
const MAX_EVENTS: usize = 64;
/// The interval for checking the reports of connections during a request, so that a refusal ends it before
/// the time limit.
const SLICE: Duration = Duration::from_millis(500);
/// The interval for repeating a request whose answer a broker does not know yet: a leader, a topic that was
/// just created.
const PAUSE: Duration = Duration::from_millis(50);

/// The properties of a topic to create.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Creation {
    pub(crate) partitions: i32,
    pub(crate) replicas: i32,
    /// Whether the topic retains the last record of each key forever.
    pub(crate) is_compacted: bool,
}

/// Inspects topics, and creates missing ones if their properties are given; without topics, checks whether a
/// broker answers. Blocks: must be called on a thread for blocking calls.
///
/// # Errors
/// No broker answers, authorisation failed, or a topic is missing.
pub(crate) fn inspect(
    client: &ClientConfig,
    health: &Arc<Health>,
    names: &[String],
    creation: Option<Creation>,
) -> Result<Vec<Topic>, SinkFault> {
    Inspector::new(client, health, ConnectSteps::default(), Duration::ZERO)?.inspect(names, creation)
}

/// The clients that inspect topics. They can be reused, so that many topics are inspected over the same
/// connections.
pub(crate) struct Inspector(Background<Inspection>);

struct Inspection {
    steps: ConnectSteps,
    /// The addresses of `bootstrap_servers`.
    servers: Vec<String>,
    answer_limit: Duration,
    producer: BaseProducer<Context>,
    admin: AdminClient<DefaultClientContext>,
    /// Runs the requests of `admin` on the current thread.
    runtime: Runtime,
    health: Arc<Health>,
    deadline: Instant,
}

/// The result of looking up a topic by name.
#[derive(Debug)]
pub(crate) enum Found {
    Topic(Topic),
    /// The topic does not exist, and must not be created.
    Missing,
    /// The topic cannot exist, for this reason.
    Impossible(String),
}

impl Inspector {
    /// Creates the clients, which connect when they are used. `lookup`: the time that resolving the brokers' names took; a client
    /// needs the same time before its first answer.
    ///
    /// # Errors
    /// librdkafka rejects the configuration.
    pub(crate) fn new(
        client: &ClientConfig,
        health: &Arc<Health>,
        steps: ConnectSteps,
        lookup: Duration,
    ) -> Result<Self, SinkFault> {
        // An admin client does not report its errors, a producer does. This producer sends no messages.
        let (context, _) = reporting(health, steps.clone());
        let producer: BaseProducer<Context> = client
            .clone()
            .set("statistics.interval.ms", STATISTICS_INTERVAL_MS)
            .create_with_context(context)
            .map_err(|error| client_creation_fault(&error))?;
        let inspection = Inspection {
            steps,
            servers: reach::addresses(client.get("bootstrap.servers").unwrap_or_default()),
            answer_limit: ANSWER_LIMIT + lookup,
            producer,
            admin: admin(client)?,
            runtime: runtime::Builder::new_current_thread().build().map_err(|error| {
                SinkFault::new(
                    FaultKind::Other,
                    format!("cannot start a runtime: {error}; raise the limit of open files"),
                )
            })?,
            health: Arc::clone(health),
            deadline: Instant::now(),
        };
        Ok(Self(Background::new(inspection)))
    }

    /// Calls [`inspect`] with these clients.
    ///
    /// # Errors
    /// As for [`inspect`]. The clients must not be used again then.
    pub(crate) fn inspect(
        &mut self,
        names: &[String],
        creation: Option<Creation>,
    ) -> Result<Vec<Topic>, SinkFault> {
        self.begin().inspect(names, creation, None)
    }

    /// Inspects as [`inspect`](Self::inspect) does, and checks that the brokers can be reached at their advertised addresses.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect), and if too few leaders can be reached.
    pub(crate) fn inspect_and_reach(
        &mut self,
        names: &[String],
        creation: Option<Creation>,
        demand: Demand,
    ) -> Result<Vec<Topic>, SinkFault> {
        self.begin().inspect(names, creation, Some(demand))
    }

    /// Inspects the topic that an event has named, and creates it if its properties are given. `is_patient`
    /// repeats the request for some seconds before the topic counts as missing, because a broker that has
    /// just started may not know all topics.
    ///
    /// # Errors
    /// No broker answers, or authorisation failed. The clients must not be used again then.
    pub(crate) fn find_or_create(
        &mut self,
        name: &str,
        creation: Option<Creation>,
        is_patient: bool,
    ) -> Result<Found, SinkFault> {
        self.begin().find_or_create(name, creation, is_patient)
    }

    /// Returns the offset after the last record of a partition; `None` if no broker answers in time.
    pub(crate) fn end_of(&mut self, topic: &str, partition: i32) -> Option<i64> {
        let client = self.begin().producer.client();
        let (_, end) = client.fetch_watermarks(topic, partition, ANSWER_LIMIT).ok()?;
        Some(end)
    }

    /// Starts the time limit of a call.
    fn begin(&mut self) -> &Inspection {
        self.0.deadline = Instant::now() + self.0.answer_limit;
        &self.0
    }
}

/// Creates the fault of a client that librdkafka cannot create.
pub(crate) fn client_creation_fault(error: &KafkaError) -> SinkFault {
    let reason = match error {
        KafkaError::ClientCreation(reason) => reason.clone(),
        // The value is left out: it may be a secret.
        KafkaError::ClientConfig(_, _, name, _) => format!("the property {name} is refused"),
        other => other.to_string(),
    };
    // Mostly caused by certificate and key files, which may be corrected meanwhile.
    SinkFault::new(
        FaultKind::Other,
        format!(
            "librdkafka rejects this sink's configuration: {reason}; check the certificate and key files of the sink"
        ),
    )
}

impl Inspection {
    fn inspect(
        &self,
        names: &[String],
        creation: Option<Creation>,
        demand: Option<Demand>,
    ) -> Result<Vec<Topic>, SinkFault> {
        if names.is_empty() || demand.is_some() {
            self.reach()?;
        }
        let mut topics = Vec::with_capacity(names.len());
        let mut missing = Vec::new();
        for name in names {
            match (self.find(name)?, creation) {
                (Some(topic), _) => topics.push(topic),
                (None, Some(creation)) => {
                    if let Some(demand) = demand {
                        self.reach_leaders(&[], demand)?;
                    }
                    topics.push(self.create(name, creation)?);
                }
                (None, None) => missing.push(name.as_str()),
            }
        }
        if !missing.is_empty() {
            return Err(error::missing(&missing));
        }
        for topic in &topics {
            self.health.partitions(&topic.name, topic.partitions);
        }
        if let Some(demand) = demand {
            self.reach_leaders(names, demand)?;
        }
        self.read_limits(&mut topics);
        Ok(topics)
    }

    fn find_or_create(
        &self,
        name: &str,
        creation: Option<Creation>,
        is_patient: bool,
    ) -> Result<Found, SinkFault> {
        let topic = loop {
            match self.find(name)? {
                Some(topic) => break Some(topic),
                None if is_patient && creation.is_none() && Instant::now() < self.deadline => {
                    std::thread::sleep(PAUSE);
                }
                None => break None,
            }
        };
        let mut topic = match (topic, creation) {
            (Some(topic), _) => topic,
            (None, creation) => {
                if let Some(reason) = self.collision(name) {
                    return Ok(Found::Impossible(reason));
                }
                let Some(creation) = creation else {
                    return Ok(Found::Missing);
                };
                self.create(name, creation)?
            }
        };
        self.health.partitions(&topic.name, topic.partitions);
        self.read_limits(std::slice::from_mut(&mut topic));
        Ok(Found::Topic(topic))
    }

    /// Returns why a missing topic cannot exist, if another topic has almost the same name: Kafka names metrics after topics, and
    /// treats "." and "_" as the same in them.
    fn collision(&self, name: &str) -> Option<String> {
        if !name.contains(['.', '_']) {
            return None;
        }
        let folded = |name: &str| name.replace('.', "_");
        let metadata = self.producer.client().fetch_metadata(None, SLICE).ok()?;
        let other = metadata
            .topics()
            .iter()
            .map(MetadataTopic::name)
            .find(|other| *other != name && folded(other) == folded(name))?;
        Some(format!(
            "the topic \"{name}\" cannot exist beside \"{other}\": Kafka treats \".\" and \"_\" in names as equal; \
             rename one of the two topics"
        ))
    }

    /// Waits until a broker answers.
    fn reach(&self) -> Result<(), SinkFault> {
        let servers = self.servers.join(", ");
        self.steps.begin(
            ConnectStep::Metadata,
            format_args!("{servers} (bootstrap_servers)"),
        );
        while self.producer.client().fetch_cluster_id(SLICE).is_none() {
            self.handle_events();
            if let Some(fault) = self.refusal("", Code::OperationTimedOut) {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Returns the topic; `None` if it does not exist.
    fn find(&self, name: &str) -> Result<Option<Topic>, SinkFault> {
        self.steps.begin(ConnectStep::Topic, format_args!("\"{name}\""));
        loop {
            let code = match self.producer.client().fetch_metadata(Some(name), SLICE) {
                Ok(metadata) => {
                    let brokers = metadata.brokers().len();
                    let topic = metadata.topics().iter().find(|topic| topic.name() == name);
                    match topic.map(|topic| (topic, topic.error().map(Code::from))) {
                        Some((topic, None | Some(Code::NoError))) if has_a_leader(topic) => {
                            return Ok(Some(topic_of_metadata(topic, brokers)));
                        }
                        None | Some((_, Some(Code::UnknownTopicOrPartition | Code::UnknownTopic))) => {
                            return Ok(None);
                        }
                        Some((_, None | Some(Code::NoError))) => Code::LeaderNotAvailable,
                        Some((_, Some(code))) => code,
                    }
                }
                Err(error) => error.rdkafka_error_code().unwrap_or(Code::Fail),
            };
            self.handle_events();
            if let Some(fault) = self.refusal(name, code) {
                return Err(fault);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Handles the events of the client's connections. One poll handles one event, and statistics count as one.
    fn handle_events(&self) {
        for _ in 0..MAX_EVENTS {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Returns the fault if the request must not be repeated. `code`: the error of the last attempt.
    fn refusal(&self, name: &str, code: Code) -> Option<SinkFault> {
        // The context receives refused connections with a more detailed text than the code.
        if let Some(fault) = self.producer.context().take_fault() {
            return Some(fault);
        }
        let is_temporary = matches!(
            error::blame(code),
            Blame::Sink(FaultKind::Unreachable | FaultKind::Unavailable | FaultKind::Timeout)
        );
        if is_temporary && Instant::now() < self.deadline {
            return None;
        }
        let unavailable = matches!(error::blame(code), Blame::Sink(FaultKind::Unavailable));
        if !is_temporary || unavailable {
            return Some(error::fault(code, Some(name), ""));
        }
        if let Some(fault) = self.advertised_silence() {
            return Some(fault);
        }
        Some(match self.health.last_error() {
            Some(detail) => error::fault(Code::BrokerTransportFailure, None, &detail),
            None => {
                let reason = format!(
                    "no Kafka broker answers within {} seconds ({}); check bootstrap_servers, the brokers and the network",
                    self.answer_limit.as_secs(),
                    reach::dialled(&self.servers)
                );
                SinkFault::new(FaultKind::Timeout, reason)
            }
        })
    }

    fn create(&self, name: &str, creation: Creation) -> Result<Topic, SinkFault> {
        let Creation {
            partitions,
            replicas,
            is_compacted,
        } = creation;
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        if is_compacted {
            topic = topic.set("cleanup.policy", "compact");
        }
        self.steps.begin(
            ConnectStep::Topic,
            format_args!("\"{name}\", which the cluster's controller creates"),
        );
        let results = self
            .runtime
            .block_on(self.admin.create_topics([&topic], &options(CREATION_LIMIT)));
        let code = match results {
            Ok(results) => match results.into_iter().next() {
                Some(Err((_, code))) => code,
                Some(Ok(_)) | None => Code::NoError,
            },
            Err(error) => error.rdkafka_error_code().unwrap_or(Code::OperationTimedOut),
        };
        match code {
            Code::NoError => info!(
                sink = self.health.sink(),
                topic = name,
                partitions,
                replicas,
                "the topic is created"
            ),
            // Another client has created the topic first.
            Code::TopicAlreadyExists => {}
            code => {
                let fault = error::fault(code, Some(name), "");
                let is_silent = matches!(fault.kind, FaultKind::Timeout | FaultKind::Unreachable);
                let advertised = is_silent.then(|| self.advertised_fault()).flatten();
                let reason = format!(
                    "the topic \"{name}\" does not exist and cannot be created with {partitions} partitions and {replicas} \
                     replicas: {}",
                    advertised.as_ref().unwrap_or(&fault.reason)
                );
                return Err(SinkFault { reason, ..fault });
            }
        }
        // The other brokers receive the new topic with a short delay.
        let deadline = Instant::now() + CREATION_LIMIT;
        loop {
            if let Some(topic) = self.find(name)? {
                return Ok(Topic {
                    is_new: true,
                    ..topic
                });
            }
            if Instant::now() >= deadline {
                return Err(error::fault(
                    Code::LeaderNotAvailable,
                    Some(name),
                    "the topic was created just now",
                ));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn admin(client: &ClientConfig) -> Result<AdminClient<DefaultClientContext>, SinkFault> {
    client.create().map_err(|error| client_creation_fault(&error))
}

fn options(limit: Duration) -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(limit))
        .operation_timeout(Some(limit))
}
