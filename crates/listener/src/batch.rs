//! Batches: the frames of one wake-up of a socket, in the form in which they are sent through the channel.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{event::Message, received::Received};

/// Converts the frames of one wake-up of a source's socket into a batch for the channel.
///
/// Runs in the task that reads the socket, on text that is in the processor's cache: do all work here
/// that needs no other frame. The batcher [`Messages`] collects the frames as [`Message`]s.
pub trait Batcher: Sized + Send + 'static {
    /// The batch that is sent through the channel.
    type Batch: Send + 'static;

    /// Returns an empty batcher with the same settings, for a further connection of the source.
    #[must_use]
    fn for_connection(&self) -> Self;

    /// Records the start of a connection, by its number in the source: 1 for the first. The batch of the previous
    /// connection is taken before this call.
    fn begin(&mut self, connection: u64);

    /// Adds an event or a malformed frame. The next frame is read after this call returns, so it must not wait.
    ///
    /// A batch ends after 1,024 frames, or with the frame that exceeds 128 KiB of text, if the socket
    /// provides that many. A frame may contain several events.
    fn push(&mut self, received: Received<'_>);

    /// Returns the batch of all events and malformed frames that were added since the last call, at least one. The returned batch
    /// is always sent.
    ///
    /// `received_at` is the time of reading by the guarded clock, which decreases only if the system clock
    /// was set back.
    fn take(&mut self, received_at: Timestamp) -> Self::Batch;
}

/// The events and malformed frames of one wake-up of a source's socket.
#[derive(Clone, Debug)]
pub struct MessageBatch {
    /// The name of the source.
    pub source: Arc<str>,
    /// The time of reading by the guarded clock, which decreases only if the system clock was set back.
    pub received_at: Timestamp,
    /// At least one [`Message::Event`] or [`Message::Malformed`], in the order of the feed.
    pub messages: Vec<Message>,
}

/// Collects events and malformed frames in [`MessageBatch`]es.
#[derive(Debug)]
pub struct Messages {
    source: Arc<str>,
    messages: Vec<Message>,
}

impl Messages {
    /// Creates a batcher for the source with this name.
    pub fn new(source: impl Into<Arc<str>>) -> Self {
        Self {
            source: source.into(),
            messages: Vec::new(),
        }
    }
}

impl Batcher for Messages {
    type Batch = MessageBatch;

    fn for_connection(&self) -> Self {
        Self::new(Arc::clone(&self.source))
    }

    fn begin(&mut self, _: u64) {}

    fn push(&mut self, received: Received<'_>) {
        self.messages.push(Message::new(received));
    }

    fn take(&mut self, received_at: Timestamp) -> MessageBatch {
        // The next batch usually has a similar size.
        let next = Vec::with_capacity(self.messages.len());
        MessageBatch {
            source: Arc::clone(&self.source),
            received_at,
            messages: std::mem::replace(&mut self.messages, next),
        }
    }
}
