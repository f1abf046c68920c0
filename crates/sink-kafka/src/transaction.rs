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

/// No sequence has this number: the record of a cursor has no outcome of its own.
const NO_SEQUENCE: usize = 0;

/// The transactions of a producer. All but [`begin`](Self::begin) and [`broken`](Self::broken) block until a broker has
/// answered: for a thread that may.
pub(crate) struct Transactions {
    producer: Arc<BaseProducer<Context>>,
}

impl Transactions {
    pub(crate) fn new(producer: Arc<BaseProducer<Context>>) -> Self {
        Self { producer }
    }

    /// Takes over the transactional id: an older producer is fenced, and what it has not committed is aborted.
    pub(crate) fn take_over(&self) -> Result<(), SinkFault> {
        self.producer
            .init_transactions(INIT_LIMIT)
            .map_err(|error| fault("the transactional id can't be taken", &error))
    }

    /// Opens a transaction. Asks no broker.
    pub(crate) fn begin(&self) -> Result<(), SinkFault> {
        self.producer
            .begin_transaction()
            .map_err(|error| fault("no transaction can be opened", &error))
    }

    /// Commits, with a cursor. All else that was sent has its outcome.
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
            .map_err(|error| fault("the transaction can't be committed", &error))
    }

    /// Takes back all that was sent since [`begin`](Self::begin). When this is done, no report of it comes any more.
    pub(crate) fn abort(&self, limit: Option<Duration>) -> Result<(), SinkFault> {
        self.producer
            .abort_transaction(limit.unwrap_or(ABORT_LIMIT))
            .map_err(|error| fault("the transaction can't be aborted", &error))
    }

    /// Why the open transaction can only be aborted, where that is the sink's fault. librdkafka tells it to whoever asks
    /// for something next, and to nobody else; and messages that wait then wait for ever.
    pub(crate) fn broken(&self) -> Option<SinkFault> {
        // Refused in any case, as one is open: with that reason, or with its own.
        match self.producer.begin_transaction() {
            Err(KafkaError::Transaction(error)) if error.txn_requires_abort() || error.is_fatal() => {
                let error = KafkaError::Transaction(error);
                let is_a_messages = matches!(error::blame(code(&error)), Blame::Message(_));
                (!is_a_messages).then(|| fault("the transaction has failed", &error))
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
