//! Three servers on one machine that replicate their streams.

use anyhow::{Context, Result};

use super::Nats;
use super::config::{Member, NatsOptions};
use crate::paths::Scratch;
use crate::ports::free_ports;

/// A cluster of three servers, named `n0`, `n1` and `n2`.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<Nats>,
}

impl NatsCluster {
    /// Starts three servers with the same options and waits until each is healthy, which includes an elected leader.
    ///
    /// # Errors
    /// Returns an error in the same cases as [`Nats::start`].
    pub fn start(options: &NatsOptions) -> Result<Self> {
        let routes = free_ports::<3>()?;
        let mut servers = Vec::new();
        for (number, port) in routes.into_iter().enumerate() {
            let member = Member {
                name: format!("n{number}"),
                port,
                routes: routes.to_vec(),
            };
            let options = NatsOptions {
                member: Some(member),
                ..options.clone()
            };
            servers.push(Nats::prepare(Scratch::new(&format!("nats_n{number}"))?, options)?);
        }
        // All servers start before the wait, because none becomes healthy without another one.
        for server in &mut servers {
            server.launch()?;
        }
        for server in &mut servers {
            server.await_health()?;
        }
        Ok(Self { servers })
    }

    /// Returns the URLs of all servers.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Nats::url).collect()
    }

    /// Returns the servers, which tests may stop, kill and freeze.
    pub fn servers(&mut self) -> &mut [Nats] {
        &mut self.servers
    }

    /// Returns the server with this name, as in JetStream's leader information.
    ///
    /// # Errors
    /// Returns an error if no server has this name.
    pub fn server(&mut self, name: &str) -> Result<&mut Nats> {
        let number: Option<usize> = name.strip_prefix('n').and_then(|number| number.parse().ok());
        let server = number.and_then(|number| self.servers.get_mut(number));
        server.with_context(|| format!("no server {name} in the cluster; expected n0, n1 or n2"))
    }
}
