//! The event that reports a gap to the sinks.

use jiff::Timestamp;
use neurobridge_core::{
    frame_reader::FrameReader,
    path::Path,
    positions::PositionsBuf,
    projection::{EventPaths, Projection},
};
use serde::Serialize;

use crate::gaps::Gap;

/// The CloudEvents type is this prefix and the type in the frame: `neurobridge.gap`.
pub(crate) const TYPE_PREFIX: &str = "neurobridge.";

/// A gap whose events could not be fetched, as an event.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    /// Includes the start of the gap, because the numbers of gaps restart when the history is removed.
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    time: Timestamp,
    data: Data<'a>,
}

/// The body of the event.
#[derive(Debug, Serialize)]
struct Data<'a> {
    source: &'a str,
    gap: u64,
    began: Timestamp,
    ended: Option<Timestamp>,
    seconds: f64,
    reason: &'a str,
    outcome: &'a str,
    /// The number of events that were fetched.
    fetched: u64,
    /// The id of the last event before the gap.
    last_event: Option<&'a str>,
    /// Why the events were not fetched.
    error: Option<&'a str>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(gap: &'a Gap, outcome: &'a str, fetched: u64, error: Option<&'a str>) -> Self {
        let ended = gap.ended.unwrap_or(gap.began);
        Self {
            id: format!("gap-{}-{}", gap.id, gap.began.as_millisecond()),
            kind: "gap",
            time: ended,
            data: Data {
                source: &gap.source,
                gap: gap.id,
                began: gap.began,
                ended: gap.ended,
                seconds: gap.seconds,
                reason: &gap.reason,
                outcome,
                fetched,
                last_event: gap.last_event.as_deref(),
                error,
            },
        }
    }

    /// Returns the frame, and the positions of its fields.
    pub(crate) fn to_frame(&self) -> (String, PositionsBuf) {
        let frame = serde_json::to_string(self).expect("texts and numbers are JSON");
        let path = |key: &str| Path::new([key]);
        let paths = EventPaths {
            id: vec![path("id")],
            time: Some(path("time")),
            kind: Some(path("type")),
            body: path("data"),
            ..EventPaths::default()
        };
        let projection = Projection::new(&paths, []);
        let mut reader = FrameReader::new(projection.paths().iter().map(Option::as_ref));
        let mut positions = PositionsBuf::default();
        projection.write(reader.read(&frame).expect("just written"), &mut positions);
        (frame, positions)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}
