//! What one wake-up of a socket gave, in the form in which it travels.

use std::sync::Arc;

use jiff::Timestamp;

use crate::frame::Frame;

/// Makes of the frames that one wake-up of a source's socket gave what travels through the channel.
///
/// It works in the task that reads the socket, on text that the processor has just read: the place for what can be done
/// with a frame alone. [`Frames`] keeps them as they are.
pub trait Batcher: Send + 'static {
    /// What travels.
    type Batch: Send + 'static;

    /// Takes a frame: an event, or text that is none. The next one is read when it returns, so it must not wait.
    ///
    /// A batch ends after 1,024 frames or 128 KiB of text and one frame more, if the socket gives that many.
    fn push(&mut self, frame: Frame);

    /// Hands out what was pushed since the last time: one frame at least. What it returns is sent, without fail.
    ///
    /// `received_at` is when it was read, by the guarded clock: it runs back only when the system's clock was set back.
    fn take(&mut self, received_at: Timestamp) -> Self::Batch;
}

/// What one wake-up of a source's socket gave: event frames, and text that is none.
#[derive(Clone, Debug)]
pub struct FrameBatch {
    /// The name of the source.
    pub source: Arc<str>,
    /// When it was read, by the guarded clock: it runs back only when the system's clock was set back.
    pub received_at: Timestamp,
    /// At least one frame, in the order of the feed.
    pub frames: Vec<Frame>,
}

/// Gathers unchanged frames into [`FrameBatch`]es.
#[derive(Debug)]
pub struct Frames {
    source: Arc<str>,
    frames: Vec<Frame>,
}

impl Frames {
    /// For a source of this name.
    pub fn new(source: impl Into<Arc<str>>) -> Self {
        Self {
            source: source.into(),
            frames: Vec::new(),
        }
    }
}

impl Batcher for Frames {
    type Batch = FrameBatch;

    fn push(&mut self, frame: Frame) {
        self.frames.push(frame);
    }

    fn take(&mut self, received_at: Timestamp) -> FrameBatch {
        // The next one will be of about that size.
        let next = Vec::with_capacity(self.frames.len());
        FrameBatch {
            source: Arc::clone(&self.source),
            received_at,
            frames: std::mem::replace(&mut self.frames, next),
        }
    }
}
