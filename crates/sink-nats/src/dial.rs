//! Makes a connection: client, identity, TLS, the subscription for acknowledgements, the look at the stream.

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
};
use tokio::time::timeout;

use crate::{
    auth::Identity,
    chain::{Chain, Owner, Ownership},
    clients::Clients,
    config::{NatsConfig, Order, TlsConfig},
    error,
    events::Events,
    probe,
    receive_limit::ReceiveLimit,
    recovery::Recovery,
    stream::{Api, Stream},
    tls,
};

/// How long a server may take until it has said who it is and accepted who we are.
pub(crate) const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// How long JetStream may take for an answer of its API.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A silent server is taken for dead after three of them.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Commands of the sink's own that may wait in the client's channel beside the messages in flight.
const SPARE_CAPACITY: usize = 64;

/// A connection as it was made.
pub(crate) struct Dialled {
    pub(crate) client: Client,
    pub(crate) replies: Subscriber,
    /// What reply subjects begin with.
    pub(crate) inbox: String,
    pub(crate) events: Arc<Events>,
    pub(crate) receive_limit: ReceiveLimit,
    pub(crate) ownership: Ownership,
    pub(crate) stream: Option<Stream>,
    pub(crate) chain: Option<(Chain, Recovery)>,
    /// What each message of a replay carries with strict order.
    pub(crate) replayed_behind: Option<String>,
    /// With strict order: where the log has ended for an earlier run, of which the stream has more.
    pub(crate) log_end: Option<Sequence>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Delivery,
    /// It chains nothing.
    Replay,
    /// It makes nothing, and publishes nothing.
    Trial,
}

/// Makes a connection, for the events from `next` on.
///
/// # Errors
/// No server answers, the sign-in is refused, the stream is not usable, or too many former clients still receive.
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
        replayed_behind: None,
        log_end: None,
    };
    if let Some(stream) = config.kept_by() {
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
        if config.order() == Order::Strict {
            let in_flight = u64::from(config.max_in_flight);
            // Of a replay nothing was in flight: the last one of ours is all that it has to know.
            let is_replay = purpose == Purpose::Replay;
            let next = if is_replay { Sequence::MAX } else { next };
            steps.begin(
                ConnectStep::Cursor,
                format_args!("the last messages of the stream \"{}\"", stream.name),
            );
            let end = api.end(&found, owner, next, in_flight).await?;
            dialled.log_end = end.log_end;
            if is_replay {
                let ours = end.ours.first();
                dialled.replayed_behind = ours.map(|ours| owner.replayed_behind(*ours));
            } else {
                let recovery = Recovery::new(end.place);
                dialled.chain = Some((Chain::new(owner, end), recovery));
            }
        }
        dialled.stream = Some(found);
    }
    Ok(dialled)
}

/// What to set up TLS with, where it may be needed.
fn tls_config(config: &NatsConfig) -> Option<TlsConfig> {
    let is_named = config
        .servers
        .iter()
        .any(|server| server.to_ascii_lowercase().starts_with("tls://"));
    config.tls.clone().or_else(|| is_named.then(TlsConfig::default))
}

/// Connects to one of the servers, each tried once, from a random one on. Returns the addresses of that server too.
async fn connect(
    config: &NatsConfig,
    sink: &str,
    events: &Arc<Events>,
    steps: &ConnectSteps,
) -> Result<(Client, Vec<SocketAddr>), SinkFault> {
    let servers: Result<Vec<ServerAddr>, _> = config.servers.iter().map(|server| server.parse()).collect();
    let mut servers = servers
        .map_err(|error| SinkFault::new(FaultKind::Other, format!("servers: {error}; expected URLs")))?;
    // Files may hang, and no other task may with them.
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

/// What is set once a client has its connection.
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
        let mut options = ConnectOptions::with_auth_callback({
            let (was_made, identity) = (Arc::clone(&was_made), Arc::clone(&self.identity));
            let (steps, server) = (self.steps.clone(), server.to_owned());
            move |nonce| {
                // One client, one connection: see the crate's documentation. The client has no other option for it.
                let proof = if was_made.load(Ordering::Acquire) {
                    Err(AuthError::new("this client has had its connection"))
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
        // One attempt to come up; after it had its connection the client ends when one was refused.
        .max_reconnects(1)
        .ignore_discovered_servers()
        // Full when as much is in flight as may be: the sink stops before, so that sending never waits.
        .client_capacity(capacity)
        // All acknowledgements of what is in flight fit; the client drops what does not.
        .subscription_capacity(capacity)
        // Subjects are made of what they may contain.
        .skip_subject_validation(true)
        .event_callback({
            let events = Arc::clone(self.events);
            move |event| {
                events.take(&event);
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

    /// Connects to one server: first to its addresses by ourselves, as the client reports neither which of them it tries nor how far
    /// it got, and has no limit for a name look-up or for the first line of a server.
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
        // The client tries all addresses, and looks up the name once more.
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
