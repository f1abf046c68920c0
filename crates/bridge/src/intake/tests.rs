//! Encoder and intake together, against a model that keeps everything.

use neurobridge_core::{
    envelope::{self, Field, Kind},
    event::Sequence,
    filter::Filter,
    redact::Redaction,
};
use neurobridge_listener::{Batcher, Content, Frame, MalformedReason};
use proptest::prelude::*;

use super::*;
use crate::feed::LoggedDeadLetters;

/// A frame that the feed may send.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Event { id: Option<u8>, body: u8 },
    Malformed,
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        8 => (proptest::option::weighted(0.9, 0..5_u8), 0..3_u8).prop_map(|(id, body)| Sent::Event { id, body }),
        1 => Just(Sent::Malformed),
    ]
}

/// Bodies of this number are not let through.
const UNWANTED: u8 = 2;

fn frame(sent: Sent) -> Frame {
    let Sent::Event { id, body } = sent else {
        let content = Content::Malformed(MalformedReason::UnknownKind);
        return Frame {
            text: "[]".into(),
            content,
        };
    };
    let result = if body == UNWANTED { "junk" } else { "new" };
    let data = format!(r#""data":{{"pid":"{body}","result":"{result}"}}"#);
    let text = match id {
        Some(id) => format!(r#"{{"id":{id},{data}}}"#),
        None => format!("{{{data}}}"),
    };
    let Ok(Kind::Event(envelope)) = envelope::read(&text) else {
        panic!("{text} is no event");
    };
    Frame {
        text: text.into(),
        content: Content::Event(envelope),
    }
}

proptest! {
    #[test]
    fn each_frame_becomes_what_the_model_says(
        batches in proptest::collection::vec(proptest::collection::vec(sent(), 1..12), 1..8),
        times in proptest::collection::vec(0..1000_i64, 8),
    ) {
        let source = IntakeSource {
            name: "main".into(),
            ledger: Arc::default(),
            stats: Arc::default(),
        };
        let rules = Rules {
            filter: Filter::new([("result", ["new"])]).unwrap(),
            redaction: Redaction::new(&[], None).unwrap(),
            keep_malformed: true,
        };
        let mut encoder = Encoder::new(source.name.clone(), 0, source.stats.clone(), rules.into());
        let dead_letters = Arc::new(LoggedDeadLetters);
        let mut intake = Intake::new(vec![source], Seen::new(1000), None, dead_letters);
        // What was seen: the bodies of each id, in order.
        let mut known = std::collections::HashMap::<u8, Vec<u8>>::new();
        let (mut expected, mut tally, mut newest) = (Vec::new(), Tally::default(), i64::MIN);
        let mut stored = Batch::default();
        for (batch, time) in batches.into_iter().zip(times) {
            newest = newest.max(time);
            for sent in batch {
                encoder.push(frame(sent));
                let Sent::Event { id, body } = sent else {
                    tally.dead_lettered += 1;
                    continue;
                };
                let bodies = id.map(|id| known.entry(id).or_default());
                let is_conflict = match bodies {
                    Some(bodies) if bodies.contains(&body) => {
                        tally.duplicate += 1;
                        continue;
                    }
                    Some(bodies) => {
                        bodies.push(body);
                        bodies.len() > 1
                    }
                    None => false,
                };
                if body == UNWANTED {
                    tally.filtered += 1;
                } else {
                    tally.stored += 1;
                    expected.push((id, body, is_conflict, newest));
                }
            }
            let received_at = Timestamp::from_microsecond(time).unwrap();
            stored.append(intake.admit(encoder.take(received_at)));
        }
        let found: Vec<_> = stored
            .seal_in_memory(Sequence::FIRST)
            .iter()
            .map(|event| {
                let event = event.unwrap();
                let number = |field| event.text(field).map(|text| text.parse::<u8>().unwrap());
                let body = number(Field::Pid).unwrap();
                (number(Field::Id), body, event.conflict.is_some(), event.received_at.as_microsecond())
            })
            .collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(intake.tallies[0], tally);
        prop_assert_eq!(intake.letters.lines().count() as u64, tally.dead_lettered);
    }
}
