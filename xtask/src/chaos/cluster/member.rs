//! A member of the cluster: its process, its connections, and its latest status.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use neurobridge_spool::inspect;
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::http::get;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::poll::{Patience, wait_for};
use neurobridge_tests::relay::Relay;

use super::super::history::StatusHistory;
use super::super::recognised::WORKS;
use super::super::schedule::Link;
use super::super::spool_reader::{EventHash, SpoolReader};
use super::status::{Answer, Membership};

/// The longest time without a response. A member may be slow on a machine that also runs four brokers.
const RESPONSE_LIMIT: Duration = Duration::from_secs(60);
/// The time limit for a stop: the time for draining, for leaving the cluster, and for closing the connections.
const STOP: Duration = Duration::from_secs(60);

/// The interval at which the spool is read from outside, much shorter than the retention.
const SPOOL_INTERVAL: Duration = Duration::from_secs(1);

/// The relays of one member.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) feed: Relay,
    pub(super) kafka: Relay,
    /// One relay for each server of NATS.
    pub(super) nats: Vec<Relay>,
}

impl Links {
    fn of(&self, link: Link) -> &[Relay] {
        match link {
            Link::Feed => std::slice::from_ref(&self.feed),
            Link::Kafka => std::slice::from_ref(&self.kafka),
            Link::Nats => &self.nats,
        }
    }

    /// Closes the connections to a server, and refuses new ones.
    pub(super) fn cut(&self, link: Link) {
        self.of(link).iter().for_each(Relay::cut);
    }

    pub(super) fn restore(&self, link: Link) {
        self.of(link).iter().for_each(Relay::restore);
    }
}

/// A member of the cluster.
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) links: Links,
    /// `host:port` of the HTTP server.
    address: String,
    bridge: Mutex<Bridge>,
    seen: Mutex<Seen>,
    _dir: Scratch,
}

/// The latest values that a member has reported.
#[derive(Debug, Clone)]
pub(super) struct Latest {
    pub(super) membership: Membership,
    pub(super) pending: u64,
    /// The age of the oldest event without an outcome.
    pub(super) lag: Duration,
    pub(super) durable: u64,
    /// The number of events received since the start; `None` while the source does not read.
    pub(super) received: Option<u64>,
    /// The state of each sink that is not up.
    pub(super) down_sinks: Vec<String>,
}

impl Latest {
    fn of(answer: &Answer) -> Self {
        let sinks = answer.status.sinks.iter();
        let down_sinks = sinks.filter_map(|(name, sink)| {
            let reason = sink.reason.as_deref()?;
            Some(format!("{name} {:?}: {reason}", sink.state))
        });
        Self {
            membership: answer.membership.clone(),
            pending: answer.pending(),
            lag: Duration::from_secs_f64(answer.lag().max(0.0)),
            durable: answer.status.spool.durable_sequence,
            received: None,
            down_sinks: down_sinks.collect(),
        }
    }
}

/// The observations of a member.
struct Seen {
    history: StatusHistory,
    spool: SpoolReader,
    /// The time at which the spool was read.
    read: Instant,
    /// `None` during a fault of the process, and until the next response after it.
    latest: Option<Latest>,
    /// The number of faults of the process, and of their ends. A response from before a change is ignored.
    changes: u64,
    is_disturbed: bool,
    silence: Patience,
}

impl Seen {
    fn change(&mut self, is_disturbed: bool) {
        self.is_disturbed = is_disturbed;
        self.changes += 1;
        self.latest = None;
        self.silence = patience();
    }
}

fn patience() -> Patience {
    Patience::new("a response of the member", RESPONSE_LIMIT)
}

/// The result of one request for the status.
pub(super) struct Observation {
    /// Whether the member receives events.
    pub(super) is_connected: bool,
    /// The membership, if it differs from that of the previous response.
    pub(super) change: Option<Membership>,
}

impl Member {
    /// Starts a member in the folder `dir`, which is removed together with the folder above it.
    pub(super) fn start(name: &'static str, mut dir: Scratch, links: Links, config: &str) -> Result<Self> {
        dir.keep();
        let bridge = Bridge::start(&dir, config).with_context(|| format!("starting the member {name}"))?;
        let spool = bridge.data_dir().join("spool");
        Ok(Self {
            name,
            links,
            address: bridge.address().to_owned(),
            bridge: Mutex::new(bridge),
            seen: Mutex::new(Seen {
                history: StatusHistory::default(),
                spool: SpoolReader::new(spool),
                read: Instant::now(),
                latest: None,
                changes: 0,
                is_disturbed: false,
                silence: patience(),
            }),
            _dir: dir,
        })
    }

    /// Requests the status. Returns `None` during a fault of the process.
    pub(super) fn observe(&self) -> Result<Option<Observation>> {
        let before = lock(&self.seen).changes;
        let response = get(&self.address, "/status");
        let mut seen = lock(&self.seen);
        if seen.is_disturbed || seen.changes != before {
            return Ok(None);
        }
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                let silence = seen.silence.check();
                drop(seen);
                self.check_process()?;
                silence.context(error).with_context(|| self.log_tail())?;
                return Ok(None);
            }
        };
        seen.silence = patience();
        let answer = Answer::read(&response).with_context(|| format!("the member {}", self.name))?;
        let is_connected = answer.is_authenticated() && self.links.feed.working(WORKS) > 0;
        let mut latest = Latest::of(&answer);
        let entered = seen.history.enter(answer.status);
        entered.with_context(|| format!("the member {}", self.name))?;
        if seen.read.elapsed() >= SPOOL_INTERVAL {
            let durable = seen.history.durable();
            let read = seen.spool.read_to(durable);
            read.with_context(|| format!("the member {}", self.name))?;
            seen.read = Instant::now();
        }
        latest.received = seen.history.received();
        let is_known = |known: &Latest| known.membership == latest.membership;
        let change = (!seen.latest.as_ref().is_some_and(is_known)).then(|| latest.membership.clone());
        seen.latest = Some(latest);
        Ok(Some(Observation { is_connected, change }))
    }

    /// Waits until the member receives events.
    pub(super) fn await_connection(&self) -> Result<()> {
        let what = format!("the first connection of the member {}", self.name);
        wait_for(&what, RESPONSE_LIMIT, || {
            let observation = self.observe()?;
            Ok(observation
                .filter(|observation| observation.is_connected)
                .map(drop))
        })
    }

    /// Returns the latest values, or `None` during a fault of the process and until the next response after it.
    pub(super) fn latest(&self) -> Option<Latest> {
        lock(&self.seen).latest.clone()
    }

    pub(super) fn answers(&self) -> u64 {
        lock(&self.seen).history.answers()
    }

    /// Performs a fault of the process, during which its status is not requested.
    pub(super) fn disturb(&self, fault: impl FnOnce(&mut Bridge) -> Result<()>) -> Result<()> {
        self.check_process()?;
        lock(&self.seen).change(true);
        let ended = fault(&mut lock(&self.bridge));
        ended.with_context(|| format!("the member {}; {}", self.name, self.log_tail()))?;
        lock(&self.seen).change(false);
        Ok(())
    }

    /// Stops the process as for an upgrade.
    pub(super) fn terminate(bridge: &mut Bridge) -> Result<()> {
        let status = bridge.process().terminate(STOP)?;
        ensure!(status.success(), "the process exited with {status} after SIGTERM");
        Ok(())
    }

    /// Stops the process for good.
    pub(super) fn end(&self) -> Result<()> {
        let ended = Self::terminate(&mut lock(&self.bridge));
        ended.with_context(|| format!("the member {}; {}", self.name, self.log_tail()))?;
        let report = inspect::verify(&lock(&self.bridge).data_dir().join("spool"))?;
        ensure!(
            report.findings.is_empty(),
            "the spool of {} is damaged: {:?}",
            self.name,
            report.findings
        );
        Ok(())
    }

    /// Reads the spool to its end, after the process has stopped. Returns the id of the spool and the events.
    pub(super) fn into_events(self) -> Result<(String, Vec<Option<EventHash>>)> {
        let Seen { mut spool, .. } = self.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        spool.read_all()?;
        spool.into_events()
    }

    pub(super) fn log_tail(&self) -> String {
        lock(&self.bridge).process().log_tail()
    }

    /// Returns an error if the process has exited although it was not stopped.
    fn check_process(&self) -> Result<()> {
        let status = lock(&self.bridge).process().exit_status()?;
        if let Some(status) = status {
            bail!(
                "the member {} exited unexpectedly with {status}; {}",
                self.name,
                self.log_tail()
            );
        }
        Ok(())
    }
}

/// Locks a mutex. Accepts a poisoned mutex, because no code panics in the middle of a change of the value.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
