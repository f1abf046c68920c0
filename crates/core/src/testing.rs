//! Events for tests.

use jiff::Timestamp;

use crate::{
    event::{Event, Sequence},
    neuroio::{self, Frames},
    positions::Positions,
};

/// Returns the first event of the source `main`, received at the start of 1970, with this frame of NeuroIO.
///
/// # Panics
/// Panics if the frame is not an event.
pub fn event(frame: &str) -> Event<'_> {
    Event {
        sequence: Sequence::FIRST,
        received_at: Timestamp::UNIX_EPOCH,
        source: "main",
        source_uri: "/neuroio/main",
        type_prefix: neuroio::TYPE_PREFIX,
        conflict: None,
        positions: positions(frame),
        frame,
    }
}

/// Returns the positions in an event frame of NeuroIO. They are leaked, so that their lifetime is `'static`.
///
/// # Panics
/// Panics if the frame is not an event.
pub fn positions(frame: &str) -> Positions<'static> {
    let mut frames = Frames::default();
    assert!(frames.event(frame).is_some(), "not an event of NeuroIO: {frame}");
    Box::leak(Box::new(frames.into_positions())).positions()
}
