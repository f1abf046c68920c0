//! The identity of the stream into which events were delivered, to detect that the stream was removed and recreated.

use neurobridge_core::{reader::Cursor, recreation::Recreations};
use serde::{Deserialize, Serialize};

use crate::stream::Stream;

/// The stream of a sink, over all of its connections.
#[derive(Debug, Default)]
pub(crate) struct Destination {
    known: Option<Known>,
    recreations: Recreations,
}

/// The known properties of the stream. Stored with the cursor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known<Text = String> {
    stream: Text,
    /// The time of its creation. `None` if it was recreated while the sink was connected.
    created: Option<Text>,
    /// The place of its last message, as far as the sink knows.
    place: u64,
    /// In a cluster: the place from which the stream has to be read after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read: Option<u64>,
}

impl Destination {
    /// Compares the stream of a new connection with the one before, or with that of the cursor after a restart.
    pub(crate) fn connected(&mut self, sink: &str, stream: &Stream, cursor: &Cursor) {
        let name = &stream.config.name;
        let from_note = || serde_json::from_str(cursor.note.as_deref()?).ok();
        let found = Known {
            stream: name.clone(),
            created: Some(stream.created.clone()),
            place: stream.last_place(),
            read: None,
        };
        let before = self.known.replace(found).or_else(from_note);
        // Without a delivered event nothing is lost with a stream.
        let Some(before) = before.filter(|before| before.stream == *name && cursor.counts.delivered > 0)
        else {
            return;
        };
        let place = stream.last_place();
        let found = match &before.created {
            Some(created) if *created != stream.created => {
                format!("created {}, previously {created}", stream.created)
            }
            _ if place < before.place => {
                format!("its last message is number {place}, previously {}", before.place)
            }
            _ => return,
        };
        self.recreations.note(sink, &described(name), &found);
    }

    /// Records the place of the last acknowledged message.
    pub(crate) const fn stored(&mut self, place: u64) {
        if let Some(known) = &mut self.known
            && known.place < place
        {
            known.place = place;
        }
    }

    /// Reports that the stream was recreated while connected: a message was acknowledged at `place`, after another one at the
    /// later place `before`.
    pub(crate) fn restarted(&mut self, sink: &str, before: u64, place: u64) {
        let Some(known) = &mut self.known else {
            return;
        };
        known.created = None;
        known.place = place;
        let found = format!("an event was stored as message {place}, after message {before}");
        self.recreations.note(sink, &described(&known.stream), &found);
    }

    /// Returns the text to store with the cursor. `read`: the place from which a member of a cluster reads after a restart.
    pub(crate) fn note(&self, read: Option<u64>) -> Option<String> {
        let known = self.known.as_ref()?;
        // Borrowed, because a note is made for each movement of the cursor.
        let known = Known {
            stream: known.stream.as_str(),
            created: known.created.as_deref(),
            place: known.place,
            read,
        };
        serde_json::to_string(&known).ok()
    }

    pub(crate) fn recreations(&self) -> Recreations {
        self.recreations.clone()
    }
}

/// Returns the place from which a member of a cluster reads this stream after a restart: the place stored with the cursor. If
/// a bridge outside of a cluster has stored the note, the last known place less `in_flight`, the number of messages that may
/// have been in flight.
pub(crate) fn read_from(note: Option<&str>, stream: &Stream, in_flight: u64) -> Option<u64> {
    let known: Known = serde_json::from_str(note?).ok()?;
    let is_same = known.stream == stream.config.name
        && known
            .created
            .as_ref()
            .is_none_or(|created| *created == stream.created);
    is_same.then(|| {
        known
            .read
            .unwrap_or_else(|| known.place.saturating_sub(in_flight))
    })
}

fn described(stream: &str) -> String {
    format!("the stream \"{stream}\"")
}

/// Detects from the places of acknowledged messages that a stream was recreated while the connection is open.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// The place of the last acknowledged message.
    last: u64,
    /// Messages with a smaller number were sent before the stream was recreated.
    from: u64,
    /// The last place in the old stream, and the place of the first message in the new stream; `None` if none was recreated.
    restarted: Option<(u64, u64)>,
}

impl Places {
    /// Returns the place of the last acknowledged message.
    pub(crate) const fn last(&self) -> u64 {
        self.last
    }

    /// Records the acknowledgement of a message: its number, the last place when it was sent, and its place. Acknowledgements
    /// may overtake each other, so a message is only compared with those that were acknowledged before it was sent.
    pub(crate) fn stored(&mut self, number: u64, after: u64, place: u64, next_number: u64) {
        if number >= self.from && place <= after {
            self.restarted = Some((after, place));
            self.from = next_number;
            self.last = place;
        } else if number >= self.from {
            self.last = self.last.max(place);
        }
    }

    pub(crate) const fn take_restarted(&mut self) -> Option<(u64, u64)> {
        self.restarted.take()
    }
}

#[cfg(test)]
mod tests {
    use neurobridge_core::event::Sequence;

    use super::*;

    fn stream(created: &str, place: u64) -> Stream {
        serde_json::from_value(serde_json::json!({
            "config": { "name": "S" }, "created": created, "state": { "last_seq": place }
        }))
        .unwrap()
    }

    fn cursor(delivered: u64, note: Option<String>) -> Cursor {
        let mut cursor = Cursor::starting_at(Sequence::FIRST);
        cursor.counts.delivered = delivered;
        cursor.note = note;
        cursor
    }

    #[test]
    fn other_creation_time_after_a_restart_is_noticed() {
        let mut before = Destination::default();
        before.connected("nats", &stream("monday", 0), &cursor(0, None));
        before.stored(7);
        let note = before.note(None);
        assert_eq!(before.recreations().count, 0);
        for (created, place, delivered, count) in [
            ("monday", 7, 5, 0),
            ("tuesday", 7, 5, 1),
            // A stream that was restored from an older copy.
            ("monday", 6, 5, 1),
            ("tuesday", 0, 0, 0),
        ] {
            let mut after = Destination::default();
            after.connected("nats", &stream(created, place), &cursor(delivered, note.clone()));
            assert_eq!(after.recreations().count, count, "{created} {place} {delivered}");
        }
        for note in [None, Some("{\"offset\":1}".to_owned())] {
            let mut after = Destination::default();
            after.connected("nats", &stream("tuesday", 0), &cursor(5, note));
            assert_eq!(
                after.recreations().count,
                0,
                "nothing is known of the stream before"
            );
        }
    }

    #[test]
    fn stream_recreated_while_connected_is_counted_once() {
        let mut destination = Destination::default();
        destination.connected("nats", &stream("monday", 9), &cursor(9, None));
        destination.restarted("nats", 9, 1);
        destination.stored(2);
        destination.connected("nats", &stream("tuesday", 2), &cursor(11, None));
        assert_eq!(destination.recreations().count, 1);
        let last = destination.recreations().last.unwrap();
        assert!(last.contains("the stream \"S\" was recreated") && last.contains("replay --sink nats"));
        destination.connected("nats", &stream("wednesday", 2), &cursor(11, None));
        assert_eq!(destination.recreations().count, 2);
    }

    #[test]
    fn acknowledgements_out_of_order_are_no_new_stream() {
        let mut places = Places::default();
        // Both were sent before anything was acknowledged.
        places.stored(0, 0, 2, 2);
        places.stored(1, 0, 1, 2);
        assert_eq!((places.take_restarted(), places.last()), (None, 2));
        places.stored(2, 2, 3, 5);
        // The stream is recreated: three messages were in flight.
        places.stored(3, 3, 1, 6);
        assert_eq!((places.take_restarted(), places.last()), (Some((3, 1)), 1));
        places.stored(4, 3, 2, 6);
        places.stored(5, 3, 3, 6);
        assert_eq!(places.take_restarted(), None);
        places.stored(6, 1, 4, 7);
        assert_eq!((places.take_restarted(), places.last()), (None, 4));
    }
}
