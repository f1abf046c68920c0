//! The transactions of a producer.

use std::{sync::Arc, time::Duration};

use neurobridge_core::sink::{FaultKind, SinkFault};
use rdkafka::{
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
    types::RDKafkaErrorCode as Code,
};

use crate::{
    context::Context,
    cursors::CursorRecord,
    error::{self, Blame},
};

/// The time limit for the coordinator to assign a producer id, which includes ending a transaction left open
/// under the transactional id.
const INIT_LIMIT: Duration = Duration::from_secs(30);
/// The time limit for a commit. If it is exceeded, the next producer learns from the committed cursor whether
/// the commit succeeded.
const COMMIT_LIMIT: Duration = Duration::from_secs(20);
/// The time limit for an abort.
const ABORT_LIMIT: Duration = Duration::from_secs(20);

/// The opaque value of a cursor's record, which has no outcome; sequences start at 1.
const NO_SEQUENCE: usize = 0;

/// The transactions of a producer. All methods except [`begin`](Self::begin) and [`broken`](Self::broken) block until a broker
/// has answered, so they need a thread that may block.
pub(crate) struct Transactions {
    producer: Arc<BaseProducer<Context>>,
}

impl Transactions {
    pub(crate) fn new(producer: Arc<BaseProducer<Context>>) -> Self {
        Self { producer }
    }

    /// Takes over the transactional id: an older producer is fenced, and its uncommitted messages are aborted.
    pub(crate) fn take_over(&self) -> Result<(), SinkFault> {
        self.producer
            .init_transactions(INIT_LIMIT)
            .map_err(|error| fault("cannot take over the transactional id", &error))
    }

    /// Begins a transaction. Sends no request.
    pub(crate) fn begin(&self) -> Result<(), SinkFault> {
        self.producer
            .begin_transaction()
            .map_err(|error| fault("cannot open a transaction", &error))
    }

    /// Commits the transaction together with a cursor. All other records of the transaction must have their outcomes.
    pub(crate) fn commit(&self, topic: &str, cursor: &CursorRecord) -> Result<(), SinkFault> {
        let value = cursor.to_json();
        let record = BaseRecord::with_opaque_to(topic, NO_SEQUENCE)
            .partition(crate::cursors::PARTITION)
            .key(cursor.id())
            .payload(&value);
        self.producer
            .send(record)
            .map_err(|(error, _)| error)
            .and_then(|()| self.producer.commit_transaction(COMMIT_LIMIT))
            .map_err(|error| fault("cannot commit the transaction", &error))
    }

    /// Aborts all messages sent since [`begin`](Self::begin). Afterwards no report of them arrives.
    pub(crate) fn abort(&self, limit: Option<Duration>) -> Result<(), SinkFault> {
        self.producer
            .abort_transaction(limit.unwrap_or(ABORT_LIMIT))
            .map_err(|error| fault("cannot abort the transaction", &error))
    }

    /// Returns why the open transaction can only be aborted, if the sink is at fault. librdkafka reports this error only as the
    /// result of the next call, and messages that wait in its queue would wait forever.
    pub(crate) fn broken(&self) -> Option<SinkFault> {
        // Always fails, because a transaction is open: with the error of that transaction if it has one, otherwise with a state
        // error.
        match self.producer.begin_transaction() {
            Err(KafkaError::Transaction(error)) if error.txn_requires_abort() || error.is_fatal() => {
                let error = KafkaError::Transaction(error);
                let is_of_message = matches!(error::blame(code(&error)), Blame::Message(_));
                (!is_of_message).then(|| fault("the transaction has failed", &error))
            }
            _ => None,
        }
    }
}

fn code(error: &KafkaError) -> Code {
    error.rdkafka_error_code().unwrap_or(Code::Fail)
}

fn fault(what: &str, error: &KafkaError) -> SinkFault {
    let code = code(error);
    let detail = match error {
        KafkaError::Transaction(error) => format!("{what}: {}", error.string()),
        _ => what.to_owned(),
    };
    let fault = error::fault(code, None, &detail);
    if fault.kind == FaultKind::Fenced {
        return error::outdated(&detail);
    }
    fault
}
