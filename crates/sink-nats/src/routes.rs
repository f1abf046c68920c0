//! The subjects that a stream accepts.

use neurobridge_core::{
    event::Sequence,
    foreign_text,
    sink::{FaultKind, PublishError, Rejection, RejectionReason, SinkFault},
};

use crate::{
    config::{MissingStream, NatsConfig},
    stream::Stream,
    subject,
};

/// The subjects of a stream that does not accept all subjects of the sink's template.
#[derive(Debug)]
pub(crate) struct Routes {
    stream: String,
    subjects: Vec<String>,
    missing: MissingStream,
}

impl Routes {
    /// Creates the check for a stream; `None` if the stream accepts all subjects of the template.
    pub(crate) fn of(config: &NatsConfig, stream: &Stream) -> Option<Self> {
        let pattern = subject::pattern(&config.subject);
        let subjects = &stream.config.subjects;
        let takes_all = subjects.iter().any(|subject| subject::covers(subject, &pattern));
        (!takes_all).then(|| Self {
            stream: stream.config.name.clone(),
            subjects: subjects.clone(),
            missing: config.missing_stream,
        })
    }

    /// Checks the subject of an event.
    ///
    /// # Errors
    /// Returns a rejection or a fault, as configured, if the stream does not accept the subject.
    pub(crate) fn check(&self, sequence: Sequence, subject: &str) -> Result<(), PublishError> {
        if self.subjects.iter().any(|one| subject::covers(one, subject)) {
            return Ok(());
        }
        let found = format!(
            "event {sequence} has the subject \"{subject}\", expected one that the stream \"{}\" accepts ({})",
            self.stream,
            foreign_text::clean(&self.subjects.join(", "))
        );
        Err(match self.missing {
            MissingStream::DeadLetter => PublishError::Rejected(Rejection {
                reason: RejectionReason::Unroutable,
                detail: found,
            }),
            MissingStream::Wait => PublishError::Fault(SinkFault::new(
                FaultKind::Missing,
                format!("{found}; add the subject to the stream, or set missing_stream = \"dead_letter\""),
            )),
        })
    }
}
