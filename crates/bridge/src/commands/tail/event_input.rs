//! The input of a tail: events of the running bridge or of the feed.

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
    control::{self, Client, TailMessage},
    exit::{Exit, Failure, OrExit},
    feed::Feed,
    intake::LoggedDeadLetters,
    spool,
};

/// The input of a tail.
pub(super) enum EventInput {
    /// The running bridge, so that the platform sees no second connection.
    Bridge(Client),
    /// The feed itself, if no bridge runs.
    Feed(Box<OwnFeed>),
}

/// The sources and the intake of a bridge, with a spool in memory.
pub(super) struct OwnFeed {
    feed: Feed,
    spool: Spool,
    reader: SpoolReader,
}

impl EventInput {
    /// Connects to the bridge of the configuration's data folder if one runs there, otherwise to the feed.
    ///
    /// # Errors
    /// Fails when a bridge runs and is unreachable, or a source cannot be opened.
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        let path = control::path(&config.data_dir);
        if let Some(client) = Client::connect(&config.data_dir)
            .await
            .or_exit(Exit::Unavailable)?
        {
            info!(socket = %path.display(), "reading events from the running bridge");
            if !client.runs_with(config) {
                warn!(
                    "the running bridge has another configuration; --sink shows the messages that the bridge would send \
                     after a reload or a restart with the configuration of this command"
                );
            }
            return Ok(Self::Bridge(client));
        }
        info!(
            socket = %path.display(),
            "no bridge is running: reading events from the feed with a separate connection"
        );
        let spool = spool::open_in_memory(config).or_exit(Exit::Config)?;
        let reader = spool.reader("tail");
        let feed = Feed::start(
            config,
            spool.clone(),
            Arc::new(LoggedDeadLetters),
            Arc::default(),
            None,
        )
        .await?;
        Ok(Self::Feed(Box::new(OwnFeed { feed, spool, reader })))
    }

    /// Returns the id of the spool that contains the events.
    pub(super) fn spool(&self) -> SpoolId {
        match self {
            Self::Bridge(client) => client.spool(),
            Self::Feed(own) => own.spool.id(),
        }
    }

    /// Waits for the next message. Not cancel-safe: must not be called again after a cancellation.
    ///
    /// # Errors
    /// Fails when no more events can arrive.
    pub(super) async fn next(&mut self) -> Result<TailMessage, Failure> {
        let own = match self {
            Self::Bridge(client) => return client.next().await.or_exit(Exit::Unavailable),
            Self::Feed(own) => own,
        };
        tokio::select! {
            biased;
            failure = own.feed.failed() => Err(failure),
            read = own.reader.next() => Ok(match read.or_exit(Exit::Unavailable)? {
                Read::Events(batch) => TailMessage::Events(batch),
                Read::Skipped { events, .. } => TailMessage::Missed(events),
                Read::End => TailMessage::End,
            }),
        }
    }

    /// Marks a batch as written, so that the feed continues after it.
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
