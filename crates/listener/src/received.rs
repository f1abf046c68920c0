//! The items that a connection receives: events and malformed frames, borrowed from its buffer.

use neurobridge_protocol::{FeedEvent, MalformedReason};

/// An event or a malformed frame, borrowed from the connection until the next frame is read.
#[derive(Clone, Copy, Debug)]
pub enum Received<'a> {
    /// An event. A frame may contain several.
    Event(FeedEvent<'a>),
    /// A text that is not valid in the protocol of the feed.
    Malformed {
        /// The text.
        text: &'a str,
        /// Why the text is malformed.
        reason: MalformedReason,
    },
}
