//! Where a tail's events come from.

use std::sync::Arc;

use neurobridge_core::{
    identity::SpoolId,
    reader::{Cursor, Read, Reader},
    record::SealedBatch,
};
use neurobridge_spool::{Spool, SpoolReader};
use tracing::{info, warn};

use crate::{
    config::Config,
    exit::{Exit, Failure, OrExit},
    feed::{Feed, LoggedDeadLetters},
    spool,
    tap::{self, Arrival, Client},
};

/// Where events come from.
pub(super) enum Origin {
    /// The bridge that runs: the platform sees no second connection.
    Bridge(Client),
    /// The feed itself, where no bridge runs.
    Feed(Box<OwnFeed>),
}

/// Sources and an intake as in a bridge, and a spool in memory behind them.
pub(super) struct OwnFeed {
    feed: Feed,
    spool: Spool,
    reader: SpoolReader,
}

impl Origin {
    /// The bridge of the configuration's data folder if one runs there, else the feed.
    ///
    /// # Errors
    /// A bridge runs and can't be asked; or a source can't be listened to.
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        let path = tap::path(&config.data_dir);
        if let Some(client) = Client::connect(&config.data_dir)
            .await
            .or_exit(Exit::Unavailable)?
        {
            info!(socket = %path.display(), "events come from the running bridge");
            if !client.runs_with(config) {
                warn!(
                    "the bridge was started with another configuration than the one that is read here; with --sink, what \
                     is shown is what it would send after a restart"
                );
            }
            return Ok(Self::Bridge(client));
        }
        info!(
            socket = %path.display(),
            "no bridge runs here: events come from the feed itself, by a connection of its own"
        );
        let spool = spool::open_in_memory(config).or_exit(Exit::Config)?;
        let reader = spool.reader("tail");
        let (feed, _) = Feed::start(config, spool.clone(), Arc::new(LoggedDeadLetters)).await?;
        Ok(Self::Feed(Box::new(OwnFeed { feed, spool, reader })))
    }

    /// The spool that its events are in.
    pub(super) fn spool(&self) -> SpoolId {
        match self {
            Self::Bridge(client) => client.spool(),
            Self::Feed(own) => own.spool.id(),
        }
    }

    /// Waits for what comes next. To be called again only when it was not cancelled.
    ///
    /// # Errors
    /// Nothing more can come.
    pub(super) async fn next(&mut self) -> Result<Arrival, Failure> {
        let own = match self {
            Self::Bridge(client) => return client.next().await.or_exit(Exit::Unavailable),
            Self::Feed(own) => own,
        };
        tokio::select! {
            biased;
            failure = own.feed.failed() => Err(failure),
            read = own.reader.next() => Ok(match read.or_exit(Exit::Unavailable)? {
                Read::Events(batch) => Arrival::Events(batch),
                Read::Skipped { events, .. } => Arrival::Missed(events),
                Read::End => Arrival::End,
            }),
        }
    }

    /// Notes that a batch is written; the feed goes on behind it.
    pub(super) fn settle(&mut self, batch: &SealedBatch) {
        if let Self::Feed(own) = self {
            let cursor = Cursor {
                next: batch.end(),
                ..own.reader.cursor().clone()
            };
            own.reader.commit(&cursor);
        }
    }
}
