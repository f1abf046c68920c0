//! Opens a connection: client, authentication, TLS, the subscription for acknowledgements, the checks of the stream.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{AuthError, Client, ConnectErrorKind, ConnectOptions, ServerAddr, Subscriber};
use neurobridge_core::{
    connect::{ConnectStep, ConnectSteps},
    event::Sequence,
    sink::{FaultKind, SinkFault},
    tls::TlsFiles,
};
use tokio::time::timeout;

use crate::{
    auth::Identity,
    chain::{Chain, Owner, Ownership},
    clients::Clients,
    config::{NatsConfig, Order},
    error,
    events::Events,
    probe,
    receive_limit::ReceiveLimit,
    recovery::Recovery,
    stream::{Api, Stream},
    stream_reader::StreamReader,
    tls,
};

/// The time limit for each step of an attempt: name look-up, connection, INFO line, TLS and authentication.
pub(crate) const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// The time limit for a response of the JetStream API.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The interval of pings. A server counts as dead after three pings without an answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// The capacity of the client's channel for the sink's own commands, in addition to the messages in flight.
const SPARE_CAPACITY: usize = 64;
/// The capacity for the messages that a member of a cluster receives without JetStream: a new leader sends its whole backlog
/// at once.
const SUBJECT_CAPACITY: usize = 1 << 14;

/// A new connection.
pub(crate) struct Dialled {
    pub(crate) client: Client,
    /// The messages to reply subjects: the acknowledgements.
    pub(crate) replies: Subscriber,
    /// The prefix of reply subjects.
    pub(crate) inbox: String,
    pub(crate) events: Arc<Events>,
    pub(crate) receive_limit: ReceiveLimit,
    pub(crate) ownership: Ownership,
    pub(crate) stream: Option<Stream>,
    pub(crate) chain: Option<(Chain, Recovery)>,
    /// For a member of a cluster with JetStream.
    pub(crate) reader: Option<StreamReader>,
    /// The chain header of each message of a replay with strict order.
    pub(crate) replayed_after: Option<String>,
    /// With strict order: the end of the log in an earlier epoch, if the stream has later events of it.
    pub(crate) log_end: Option<Sequence>,
}

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A delivery outside of a cluster.
    Delivery,
    /// A delivery in a cluster, which reads the stream to its end at each takeover.
    Member,
    /// A replay, which does not chain its messages.
    Replay,
    /// A trial, which creates and publishes nothing.
    Trial,
}

/// Opens a connection for the events from `next` on.
///
/// # Errors
/// Returns a fault if no server responds, the authentication fails, the stream is unsuitable, or too many former clients still
/// receive.
pub(crate) async fn dial(
    config: &NatsConfig,
    owner: &Owner<'_>,
    next: Sequence,
    purpose: Purpose,
    clients: &mut Clients,
    steps: &ConnectSteps,
) -> Result<Dialled, SinkFault> {
    clients.check()?;
    let events = Arc::new(Events::default());
    let (client, addresses) = connect(config, owner.sink, &events, steps).await?;
    clients.add(&client.statistics());
    let receive_limit = ReceiveLimit::start(&client, addresses, Arc::clone(&events));
    let inbox = format!("{}.", client.new_inbox());
    let replies = client
        .subscribe(format!("{inbox}*"))
        .await
        .map_err(|_| events.fault().unwrap_or_else(error::broken))?;
    let mut dialled = Dialled {
        client,
        replies,
        inbox,
        events,
        receive_limit,
        ownership: Ownership::of(owner),
        stream: None,
        chain: None,
        reader: None,
        replayed_after: None,
        log_end: None,
    };
    if let Some(stream) = config.jetstream() {
        let api = Api {
            client: &dialled.client,
            events: &dialled.events,
        };
        steps.begin(
            ConnectStep::Stream,
            format_args!("the stream \"{}\"", stream.name),
        );
        let Some(found) = api.stream(config, stream, purpose != Purpose::Trial).await? else {
            return Ok(dialled);
        };
        if purpose == Purpose::Member {
            let capacity = config.max_in_flight as usize;
            let reader = StreamReader::new(&dialled.client, &dialled.events, &stream.name, capacity).await?;
            dialled.reader = Some(reader);
        } else if config.order() == Order::Strict {
            let in_flight = u64::from(config.max_in_flight);
            // A replay had nothing in flight, so it needs only the last own message.
            let is_replay = purpose == Purpose::Replay;
            let next = if is_replay { Sequence::MAX } else { next };
            steps.begin(
                ConnectStep::Cursor,
                format_args!("the last messages of the stream \"{}\"", stream.name),
            );
            let end = api.end(&found, owner, next, in_flight).await?;
            dialled.log_end = end.log_end;
            if is_replay {
                let own = end.own_events.first();
                dialled.replayed_after = own.map(|own| owner.replayed_after(*own));
            } else {
                let recovery = Recovery::new(end.place);
                dialled.chain = Some((Chain::new(owner, end), recovery));
            }
        }
        dialled.stream = Some(found);
    }
    Ok(dialled)
}

/// Returns the TLS configuration if TLS may be needed.
fn tls_config(config: &NatsConfig) -> Option<TlsFiles> {
    let is_named = config
        .servers
        .iter()
        .any(|server| server.to_ascii_lowercase().starts_with("tls://"));
    config.tls.clone().or_else(|| is_named.then(TlsFiles::default))
}

/// Connects to one of the servers, trying each server once, beginning with a random one. Returns the client and the addresses
/// of its server.
pub(crate) async fn connect(
    config: &NatsConfig,
    sink: &str,
    events: &Arc<Events>,
    steps: &ConnectSteps,
) -> Result<(Client, Vec<SocketAddr>), SinkFault> {
    let servers: Result<Vec<ServerAddr>, _> = config.servers.iter().map(|server| server.parse()).collect();
    let mut servers = servers
        .map_err(|error| SinkFault::new(FaultKind::Other, format!("servers: {error}; expected URLs")))?;
    // Read on a blocking thread, since files may hang.
    let (auth, tls) = (config.auth.clone(), tls_config(config));
    let files = tokio::task::spawn_blocking(move || {
        let tls = tls.as_ref().map(tls::client_config).transpose()?;
        Ok::<_, SinkFault>((Identity::read(auth.as_ref())?, tls))
    });
    let (identity, tls) = files
        .await
        .expect("reading files neither panics nor is cancelled")?;
    let attempt = Attempt {
        config,
        sink,
        events,
        steps,
        identity: Arc::new(identity),
        tls,
    };
    let first = RandomState::new().hash_one(()) as usize % servers.len().max(1);
    servers.rotate_left(first);
    let mut faults = Vec::new();
    for server in servers {
        match attempt.connect_to(&server).await {
            Ok(connected) => return Ok(connected),
            Err(fault) => faults.push(fault),
        }
    }
    Err(error::of_servers(faults))
}

/// A flag that is set once the client is connected.
type WasMade = Arc<AtomicBool>;

/// An attempt to connect to one of the servers.
struct Attempt<'a> {
    config: &'a NatsConfig,
    sink: &'a str,
    events: &'a Arc<Events>,
    steps: &'a ConnectSteps,
    identity: Arc<Identity>,
    tls: Option<rustls::ClientConfig>,
}

impl Attempt<'_> {
    fn options(&self, server: &str) -> (ConnectOptions, WasMade) {
        let was_made = WasMade::default();
        let capacity = self.config.max_in_flight as usize + SPARE_CAPACITY;
        let received = match self.config.jetstream() {
            Some(_) => capacity,
            None => capacity.max(SUBJECT_CAPACITY),
        };
        let mut options = ConnectOptions::with_auth_callback({
            let (was_made, identity) = (Arc::clone(&was_made), Arc::clone(&self.identity));
            let (steps, server) = (self.steps.clone(), server.to_owned());
            move |nonce| {
                // A client must not reconnect: see the crate's documentation. The client has no option for this.
                let proof = if was_made.load(Ordering::Acquire) {
                    Err(AuthError::new("a client is used for one connection only"))
                } else {
                    steps.begin(ConnectStep::SignIn, &server);
                    identity.prove(&nonce)
                };
                async move { proof }
            }
        })
        .name(format!("neurobridge/{}", self.sink))
        .connection_timeout(OPEN_LIMIT)
        .request_timeout(Some(ANSWER_LIMIT))
        .ping_interval(PING_INTERVAL)
        // One attempt to connect. After the connection has ended, one refused attempt ends the client.
        .max_reconnects(1)
        .ignore_discovered_servers()
        // Holds the largest number of messages in flight, so that sending never waits.
        .client_capacity(capacity)
        // Holds the acknowledgements of all messages in flight; the client drops those that do not fit.
        .subscription_capacity(received)
        // Rendered subjects contain only valid characters.
        .skip_subject_validation(true)
        .event_callback({
            let events = Arc::clone(self.events);
            move |event| {
                events.record(&event);
                async {}
            }
        });
        if let Some(tls) = &self.tls {
            options = options
                .require_tls(self.config.tls.is_some())
                .tls_client_config(tls.clone());
        }
        (options, was_made)
    }

    /// Connects to one server. Probes its addresses first, because the client reports neither the address nor the step of an
    /// attempt, and has no time limit for a name look-up or for the INFO of a server.
    async fn connect_to(&self, server: &ServerAddr) -> Result<(Client, Vec<SocketAddr>), SinkFault> {
        let steps = self.steps;
        let name = format!("{}:{}", server.host(), server.port());
        let addresses = probe::addresses(server.host(), server.port(), steps).await?;
        let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let info = probe::info(&name, addresses.clone(), steps).await?;
        let step = if self.config.tls.is_some() || server.tls_required() || info.tls_required {
            ConnectStep::Tls
        } else {
            ConnectStep::SignIn
        };
        steps.begin(step, &name);
        // The client tries all addresses, after another name look-up.
        let limit = OPEN_LIMIT.saturating_mul(count.saturating_add(1));
        let (options, was_made) = self.options(&name);
        let client = timeout(limit, options.connect(server.clone()))
            .await
            .map_err(|_| steps.pending().fault)?
            .map_err(|error| match error.kind() {
                ConnectErrorKind::TimedOut => steps.pending().fault,
                _ => error::of_connect(&error, &name),
            })?;
        was_made.store(true, Ordering::Release);
        Ok((client, addresses))
    }
}
