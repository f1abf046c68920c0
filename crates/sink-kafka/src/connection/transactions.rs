//! The transactions of a connection: when one is open, how far it is, and how it ends.

use std::{sync::Arc, time::Duration};

use neurobridge_core::{
    epoch::Epoch,
    identity::SpoolId,
    reader::Cursor,
    sink::{SinkFault, TransactionState},
};
use tokio::time::Instant;
use tracing::debug;

use super::ended;
use crate::{config::TransactionConfig, cursors::CursorRecord, producer::KafkaProducer, sink::on_thread};

/// What goes into them is the connection's business.
pub(super) struct InTransactions {
    pub(super) config: TransactionConfig,
    pub(super) id: String,
    pub(super) spool: SpoolId,
    pub(super) epoch: Epoch,
    pub(super) instance: Arc<str>,
    /// What was found in the topic of cursors.
    pub(super) kept: Option<Cursor>,
    /// Since when one is open.
    pub(super) opened: Option<Instant>,
    /// Bytes in the open one.
    pub(super) bytes: u64,
}

impl InTransactions {
    pub(super) const fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// Opens one, unless one is open.
    pub(super) fn open(&mut self, producer: &KafkaProducer) -> Result<(), SinkFault> {
        if !self.is_open() {
            producer.transactions().ok_or_else(ended)?.begin()?;
            self.opened = Some(Instant::now());
        }
        Ok(())
    }

    /// When the open one is to be committed.
    pub(super) fn due_at(&self) -> Option<Instant> {
        Some(self.opened? + self.config.interval)
    }

    /// How far it is; `is_last`: nothing more may go into it.
    pub(super) fn state(&self, is_last: bool) -> TransactionState {
        match self.due_at() {
            None => TransactionState::Closed,
            Some(due) if is_last || self.bytes >= self.config.max_size.bytes() || due <= Instant::now() => {
                TransactionState::Due
            }
            Some(_) => TransactionState::Open,
        }
    }

    /// Commits the open one together with a cursor.
    pub(super) async fn commit(
        &mut self,
        producer: &KafkaProducer,
        cursor: &Cursor,
    ) -> Result<(), SinkFault> {
        let record = CursorRecord::new(&self.id, &self.instance, self.spool, self.epoch, cursor);
        let topic = self.config.cursor_topic.clone();
        let transactions = producer.transactions().ok_or_else(ended)?;
        let begin = Instant::now();
        on_thread(move || transactions.commit(&topic, &record)).await?;
        debug!(
            next = cursor.next.get(),
            bytes = self.bytes,
            took = ?begin.elapsed(),
            "committed"
        );
        self.close();
        Ok(())
    }

    /// Takes back what is in the open one, if there is one.
    pub(super) async fn abort(
        &mut self,
        producer: &KafkaProducer,
        limit: Option<Duration>,
    ) -> Result<(), SinkFault> {
        if self.is_open() {
            let transactions = producer.transactions().ok_or_else(ended)?;
            on_thread(move || transactions.abort(limit)).await?;
            self.close();
        }
        Ok(())
    }

    fn close(&mut self) {
        self.opened = None;
        self.bytes = 0;
    }
}
