//! Events for tests.

use jiff::Timestamp;

use crate::{
    event::{Event, FieldPath, Origin, Sequence},
    frame_reader::FrameReader,
    neuroio::{self, Frames},
    positions::{Positions, PositionsBuf},
    projection::{EventPaths, Projection},
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
        origin: Origin::Feed,
        positions: positions(frame),
        frame,
    }
}

/// Returns an event with the attributes of [`event`], any frame, and the positions of the values at `paths` and of the
/// configured `fields` in the frame. Values may be missing.
///
/// # Panics
/// Panics if the frame is not JSON.
pub fn event_at_paths<'a>(frame: &'a str, paths: &EventPaths, fields: &[FieldPath]) -> Event<'a> {
    let projection = Projection::new(paths, fields);
    let mut reader = FrameReader::new(projection.paths().iter().map(Option::as_ref));
    let mut positions = PositionsBuf::default();
    projection.write(reader.read(frame).expect("JSON"), &mut positions);
    Event {
        positions: leaked(positions),
        frame,
        ..event(r#"{"data":{}}"#)
    }
}

/// Returns the positions in an event frame of NeuroIO. They are leaked, so that their lifetime is `'static`.
///
/// # Panics
/// Panics if the frame is not an event.
pub fn positions(frame: &str) -> Positions<'static> {
    let mut frames = Frames::default();
    let Some(positions) = frames.event(frame) else {
        panic!("not an event of NeuroIO: {frame}");
    };
    leaked(positions.into())
}

fn leaked(positions: PositionsBuf) -> Positions<'static> {
    Box::leak(Box::new(positions)).positions()
}
