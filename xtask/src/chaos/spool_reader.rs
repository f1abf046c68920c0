//! Reads the durable events from the files of the spool while the bridge runs. The audit expects each of these events in each
//! broker.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use neurobridge_core::event::{FieldPath, Sequence};
use neurobridge_spool::inspect::{self, Entry};
use neurobridge_tests::fingerprint::Fingerprint;

/// Reads the spool, and collects its events in order.
#[derive(Debug)]
pub(super) struct SpoolReader {
    folder: PathBuf,
    spool: Option<String>,
    /// The events by sequence, from 1. An event is `None` if the spool deleted it on a full disk before it was read
    /// here.
    events: Vec<Option<EventHash>>,
}

/// Hashes of the content and of the person of an event in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventHash {
    pub(super) content: u64,
    pub(super) person: u64,
}

impl SpoolReader {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            spool: None,
            events: Vec::new(),
        }
    }

    /// Reads up to a sequence that the bridge reported as durable. Later records may be incomplete.
    pub(super) fn read_to(&mut self, durable: u64) -> Result<()> {
        self.read(durable)
    }

    /// Reads to the end of a spool that has no writer. The next start of the bridge recovers every complete record.
    pub(super) fn read_all(&mut self) -> Result<()> {
        self.read(u64::MAX)
    }

    /// Returns the number of events read so far.
    pub(super) fn count(&self) -> u64 {
        self.events.len() as u64
    }

    /// Returns the spool's id and all events.
    pub(super) fn into_events(self) -> Result<(String, Vec<Option<EventHash>>)> {
        let spool = self.spool.context("the spool does not exist")?;
        Ok((spool, self.events))
    }

    fn read(&mut self, last: u64) -> Result<()> {
        if self.count() >= last {
            return Ok(());
        }
        if self.spool.is_none() {
            let id = inspect::list(&self.folder)?.id;
            self.spool = Some(id.context("the spool has no id")?.to_string());
        }
        let next = Sequence::FIRST.plus(self.count());
        let pid = FieldPath::parse("pid").context("not a path")?;
        for entry in inspect::from_sequence(&self.folder, next)? {
            let batch = match entry? {
                Entry::Events(batch) => batch,
                // The bridge is still writing this record.
                Entry::Damaged(finding) if finding.from.get() > last => return Ok(()),
                Entry::Damaged(finding) => {
                    anyhow::bail!("the spool is damaged at event {}: {finding:?}", self.count() + 1)
                }
            };
            for event in batch.iter() {
                let event = event.context("decoding a record of the spool")?;
                let sequence = event.sequence.get();
                if sequence > last {
                    return Ok(());
                }
                ensure!(
                    sequence > self.count(),
                    "the spool contains event {sequence} after {}",
                    self.count()
                );
                self.events.resize(index(sequence)?, None);
                let id = event.id().unwrap_or_default();
                let pid = pid.value(&event);
                let found = Fingerprint::of(sequence, &id, event.body(), pid.as_deref());
                self.events.push(Some(EventHash {
                    content: found.content,
                    person: found.person,
                }));
            }
        }
        Ok(())
    }
}

fn index(sequence: u64) -> Result<usize> {
    usize::try_from(sequence - 1).context("more events than memory holds")
}
