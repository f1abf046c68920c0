//! Applies faults to a cluster of NATS, and records the times of all faults of brokers.

use anyhow::{Context, Result, bail};
use neurobridge_tests::nats::{Nats, NatsCluster};

use super::super::schedule::{Kind, Link};
use super::super::server::Server;
use super::faults::Journal;
use super::takeovers::Target;

/// A cluster of NATS, of which one server is killed at a time, or a majority is frozen.
pub(super) struct Replicas {
    cluster: NatsCluster,
    /// The server that is killed next.
    next: usize,
}

impl Replicas {
    pub(super) const fn new(cluster: NatsCluster) -> Self {
        Self { cluster, next: 0 }
    }

    /// Returns the URLs of all servers, separated by commas.
    pub(super) fn urls(&self) -> String {
        self.cluster.urls().join(",")
    }

    fn majority(&mut self) -> impl Iterator<Item = &mut Nats> {
        let servers = self.cluster.servers();
        let majority = servers.len() / 2 + 1;
        servers.iter_mut().take(majority)
    }
}

impl Server for Replicas {
    fn kill(&mut self) -> Result<()> {
        let servers = self.cluster.servers();
        self.next = (self.next + 1) % servers.len();
        servers[self.next].kill()
    }

    fn start_again(&mut self) -> Result<()> {
        self.cluster.servers()[self.next].start_again()
    }

    fn freeze(&mut self) -> Result<()> {
        self.majority().try_for_each(Nats::freeze)
    }

    fn thaw(&mut self) -> Result<()> {
        self.majority().try_for_each(Nats::thaw)
    }

    fn fence(&mut self) -> Result<()> {
        bail!("NATS cannot be fenced: it has no controller")
    }

    fn unfence(&mut self) -> Result<()> {
        bail!("NATS cannot be fenced: it has no controller")
    }
}

/// A broker whose faults are entered in the journal.
pub(super) struct Recorded<'a, S> {
    server: &'a mut S,
    broker: Link,
    journal: &'a Journal,
    began: Option<(Kind, i64)>,
}

impl<'a, S: Server> Recorded<'a, S> {
    pub(super) const fn new(server: &'a mut S, broker: Link, journal: &'a Journal) -> Self {
        Self {
            server,
            broker,
            journal,
            began: None,
        }
    }

    fn begin(&mut self, kind: Kind) {
        self.began = Some((kind, Journal::now()));
    }

    fn end(&mut self) -> Result<()> {
        let (kind, began) = self.began.take().context("no fault has begun")?;
        self.journal.add(Target::Broker(self.broker), kind, began);
        Ok(())
    }
}

impl<S: Server> Server for Recorded<'_, S> {
    fn kill(&mut self) -> Result<()> {
        self.begin(Kind::Kill);
        self.server.kill()
    }

    fn start_again(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.end()
    }

    fn freeze(&mut self) -> Result<()> {
        self.begin(Kind::Freeze);
        self.server.freeze()
    }

    fn thaw(&mut self) -> Result<()> {
        self.server.thaw()?;
        self.end()
    }

    fn fence(&mut self) -> Result<()> {
        self.begin(Kind::Fence);
        self.server.fence()
    }

    fn unfence(&mut self) -> Result<()> {
        self.server.unfence()?;
        self.end()
    }
}
