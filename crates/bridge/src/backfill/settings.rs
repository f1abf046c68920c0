//! The settings of a filler, which fetches the events of the gaps of one source.

use std::time::Duration;

use anyhow::anyhow;
use neurobridge_listener::{BackfillConfig, SourceConfig};
use neurobridge_platform::{BackfillReader, Client};
use neurobridge_protocol::{EventList, Protocol};
use tokio::task::spawn_blocking;

use super::part::ID_OVERLAP;
use crate::{config::Config, task::joined};

/// The smallest deduplication window that recognises the events of the overlap.
const MIN_WINDOW: usize = 10 * ID_OVERLAP as usize;
/// The largest number of events that the second reading of the list repeats.
const MAX_SETTLING_IDS: u64 = 16_384;

/// The settings of a filler.
pub(crate) struct FillerSettings {
    /// `None` if the events cannot be fetched, so that each gap is only reported.
    pub(super) reader: Option<BackfillReader>,
    pub(super) config: BackfillConfig,
    /// Whether gaps that are not filled are reported to the sinks as events.
    pub(super) reports: bool,
    /// The protocol of the feed, which also reads the fetched frames.
    pub(super) protocol: Protocol,
    /// Whether the ids of events are numbers in the order of the list.
    pub(super) counts_ids: bool,
    /// The number of ids by which the list overlaps what was received; 0 if the deduplication window is too small.
    pub(super) id_overlap: u64,
    /// The number of events that the second reading of the list repeats: those of three seconds at some thousand events a
    /// second, but not more than the deduplication window recognises.
    pub(super) settling_ids: u64,
}

impl FillerSettings {
    /// Creates the settings for a source; `None` if the gaps of the source are neither filled nor reported. Reads the TLS files.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub(crate) async fn new(source: &SourceConfig, config: &Config) -> anyhow::Result<Option<Self>> {
        if !config.handles_gaps(source) {
            return Ok(None);
        }
        Ok(Some(Self {
            reader: missed_events_reader(source).await?,
            config: source.backfill.clone(),
            reports: source.reports_gaps(),
            protocol: protocol(source, config)?,
            counts_ids: source.feed.is_none(),
            id_overlap: if config.deduplicate.max_events >= MIN_WINDOW {
                ID_OVERLAP
            } else {
                0
            },
            settling_ids: (config.deduplicate.max_events as u64 / 4).min(MAX_SETTLING_IDS),
        }))
    }

    /// Returns whether missed events can be fetched.
    pub(crate) const fn can_fetch(&self) -> bool {
        self.reader.is_some()
    }

    /// Returns the longest time for which the events of the feed wait.
    pub(crate) fn hold(&self) -> Duration {
        self.reader.as_ref().map_or(Duration::ZERO, |_| self.config.hold)
    }
}

/// Returns the reader of the list of a platform; `None` if the configuration of the source has none. Reads the
/// TLS files without blocking the runtime.
///
/// # Errors
/// Returns the key and the error of its configuration.
pub(crate) async fn missed_events_reader(source: &SourceConfig) -> anyhow::Result<Option<BackfillReader>> {
    let Some(url) = source.backfill_address().map(str::to_owned) else {
        return Ok(None);
    };
    let list = match source.feed.as_deref() {
        Some(feed) => EventList::new(feed).map_err(|problems| {
            anyhow!(
                "feed.{}",
                problems
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; ")
            )
        })?,
        None => None,
    };
    let source = source.clone();
    let made = spawn_blocking(move || match list {
        Some(list) => {
            Client::new(&source, list.origin()).map(|client| BackfillReader::declared(client, &source, list))
        }
        None => Client::new(&source, &url).map(|client| BackfillReader::new(client, &source)),
    });
    joined(made.await)
        .map(Some)
        .map_err(|(key, error)| anyhow!("{key}: {error}"))
}

/// Returns the protocol that reads the frames of fetched events, which need no connection.
///
/// # Errors
/// Returns the first error of the declaration.
pub(crate) fn protocol(source: &SourceConfig, config: &Config) -> anyhow::Result<Protocol> {
    let mut protocol = source
        .protocol(&config.named_fields())
        .map_err(|problem| anyhow!("feed.{problem}"))?;
    protocol.skip_opening();
    Ok(protocol)
}
