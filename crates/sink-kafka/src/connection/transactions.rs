//! The transactions of a connection: whether one is open, when it is due, and how it ends.

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

/// The transaction state of a connection. The connection itself sends the records.
pub(super) struct InTransactions {
    pub(super) config: TransactionConfig,
    pub(super) id: String,
    pub(super) spool: SpoolId,
    pub(super) epoch: Epoch,
    pub(super) instance: Arc<str>,
    /// The committed cursor that was read from the cursor topic.
    pub(super) committed: Option<Cursor>,
    /// The time at which the open transaction began; `None` if none is open.
    pub(super) opened: Option<Instant>,
    /// The number of bytes sent in the open transaction.
    pub(super) bytes: u64,
}

impl InTransactions {
    pub(super) const fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// Begins a transaction, unless one is open.
    pub(super) fn open(&mut self, producer: &KafkaProducer) -> Result<(), SinkFault> {
        if !self.is_open() {
            producer.transactions().ok_or_else(ended)?.begin()?;
            self.opened = Some(Instant::now());
        }
        Ok(())
    }

    /// Returns the time at which the open transaction is due for its commit.
    pub(super) fn due_at(&self) -> Option<Instant> {
        Some(self.opened? + self.config.interval)
    }

    /// Returns the state of the transaction; `is_last`: no further record may be added, so an open transaction is due.
    pub(super) fn state(&self, is_last: bool) -> TransactionState {
        match self.due_at() {
            None => TransactionState::Closed,
            Some(due) if is_last || self.bytes >= self.config.max_size.bytes() || due <= Instant::now() => {
                TransactionState::Due
            }
            Some(_) => TransactionState::Open,
        }
    }

    /// Commits the open transaction together with a cursor.
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
            "transaction committed"
        );
        self.close();
        Ok(())
    }

    /// Aborts the open transaction, if there is one.
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
