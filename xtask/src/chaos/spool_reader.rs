//! What the spool has made durable, read from its files beside the bridge: what a broker lacks of it is lost.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use neurobridge_core::envelope::Field;
use neurobridge_core::event::Sequence;
use neurobridge_spool::inspect::{self, Entry};
use neurobridge_tests::fingerprint::Fingerprint;

/// Remembers each event of the spool, in order.
#[derive(Debug)]
pub(super) struct Witness {
    folder: PathBuf,
    spool: Option<String>,
    /// The first is that of sequence 1. Nothing of what a full disk made the spool delete before it was read here.
    seen: Vec<Option<Seen>>,
}

/// An event of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) content: u64,
    pub(super) person: u64,
}

impl Witness {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            spool: None,
            seen: Vec::new(),
        }
    }

    /// Reads on up to a sequence that the bridge calls durable. What is behind it may be written only in part.
    pub(super) fn read_to(&mut self, durable: u64) -> Result<()> {
        self.read(durable)
    }

    /// Reads on to the end: of a spool to which nobody writes, since what is whole in it is found by the next start.
    pub(super) fn read_all(&mut self) -> Result<()> {
        self.read(u64::MAX)
    }

    /// How many events it has seen.
    pub(super) fn count(&self) -> u64 {
        self.seen.len() as u64
    }

    /// The spool's id, and all that was seen of it.
    pub(super) fn into_seen(self) -> Result<(String, Vec<Option<Seen>>)> {
        let spool = self.spool.context("the spool was never there")?;
        Ok((spool, self.seen))
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
        for entry in inspect::from_sequence(&self.folder, next)? {
            let batch = match entry? {
                Entry::Events(batch) => batch,
                // Being written at this moment.
                Entry::Damaged(finding) if finding.from.get() > last => return Ok(()),
                Entry::Damaged(finding) => {
                    anyhow::bail!("the spool is damaged at event {}: {finding:?}", self.count() + 1)
                }
            };
            for event in batch.iter() {
                let event = event.context("a record of the spool")?;
                let sequence = event.sequence.get();
                if sequence > last {
                    return Ok(());
                }
                ensure!(
                    sequence > self.count(),
                    "the spool has event {sequence} after {}",
                    self.count()
                );
                self.seen.resize(place(sequence)?, None);
                let id = event.text(Field::Id).unwrap_or_default();
                let pid = event.text(Field::Pid);
                let found = Fingerprint::of(sequence, &id, event.data(), pid.as_deref());
                self.seen.push(Some(Seen {
                    content: found.content,
                    person: found.person,
                }));
            }
        }
        Ok(())
    }
}

fn place(sequence: u64) -> Result<usize> {
    usize::try_from(sequence - 1).context("more events than memory holds")
}
