//! Encoder and intake together, compared with a model that stores all events.

use std::collections::HashMap;

use neurobridge_core::{
    event::{Event, FieldPath, Origin, Sequence},
    filter::Filter,
    redact::Redaction,
    testing,
};
use neurobridge_listener::{Batcher, EventAttributes, FeedEvent, MalformedReason, Received, SourceConfig};
use proptest::prelude::*;

use super::*;

/// A frame of the feed.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Event { id: Option<u8>, body: u8, secret: u8 },
    Malformed,
}

fn sent() -> impl Strategy<Value = Sent> {
    let event = (proptest::option::weighted(0.9, 0..5_u8), 0..3_u8, 0..2_u8);
    prop_oneof![
        8 => event.prop_map(|(id, body, secret)| Sent::Event { id, body, secret }),
        1 => Just(Sent::Malformed),
    ]
}

/// The filter rejects events with this body.
const UNWANTED: u8 = 2;

/// Returns a frame whose text is leaked, so that its lifetime is `'static`.
fn received(sent: Sent) -> Received<'static> {
    let Sent::Event { id, body, secret } = sent else {
        return Received::Malformed {
            text: "[]",
            reason: MalformedReason::UnknownKind,
        };
    };
    let result = if body == UNWANTED { "junk" } else { "new" };
    let data = format!(r#""data":{{"pid":"{body}","result":"{result}","secret":"hidden {secret}"}}"#);
    let text = match id {
        Some(id) => format!(r#"{{"id":{id},{data}}}"#),
        None => format!("{{{data}}}"),
    };
    let text: &'static str = text.leak();
    Received::Event(FeedEvent::of_frame(text, testing::positions(text)))
}

#[test]
fn event_after_a_later_one_of_another_connection_is_marked() {
    let rules = Rules {
        filter: Filter::new([("result", ["new"])]).unwrap(),
        redaction: Redaction::default(),
        keep_malformed: false,
    };
    let source = Arc::new(IntakeSource::new("main"));
    let first = Encoder::new(source, attributes("main"), Arc::new(rules));
    let mut second = first.for_connection();
    let mut first = first.for_connection();
    first.begin(1);
    second.begin(2);
    let mut intake = Intake::new(DeduplicationWindow::new(100), None, Arc::new(LoggedDeadLetters));
    let mut origins = |encoder: &mut Encoder, body: u8, ids: &[u8]| -> Vec<Origin> {
        for id in ids {
            encoder.push(received(Sent::Event {
                id: Some(*id),
                body,
                secret: 0,
            }));
        }
        let records = intake
            .admit(encoder.take(Timestamp::UNIX_EPOCH))
            .seal(Sequence::FIRST);
        records.iter().map(|event| event.unwrap().origin).collect()
    };
    assert_eq!(
        origins(&mut first, 0, &[1, 2, 4, 3]),
        [Origin::Feed; 4],
        "the order of the feed"
    );
    assert_eq!(origins(&mut second, 0, &[7, 8]), [Origin::Feed; 2]);
    assert_eq!(
        origins(&mut first, 0, &[5, 6, 7, 9]),
        [Origin::LateFeed, Origin::LateFeed, Origin::Feed]
    );
    assert_eq!(origins(&mut first, UNWANTED, &[20]), []);
    assert_eq!(
        origins(&mut second, 0, &[15]),
        [Origin::Feed],
        "no later event is stored"
    );
    assert_eq!(
        origins(&mut first, 1, &[8, 16]),
        [Origin::LateFeed, Origin::Feed],
        "a known id with another body"
    );
}

fn attributes(name: &str) -> EventAttributes {
    SourceConfig::default().attributes(name)
}

/// The size of a step of the clock, in microseconds.
const STEP: i64 = 20_000_000;

/// Returns a time in microseconds, before or after steps of the clock.
fn any_time() -> impl Strategy<Value = i64> {
    (0..3_i64, 0..1000_i64).prop_map(|(steps, time)| steps * STEP + time)
}

/// The properties that identify a stored event.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    source: String,
    id: Option<u8>,
    body: u8,
    secret: Option<u8>,
    is_conflict: bool,
    received_at: i64,
}

impl Stored {
    fn of(event: &Event<'_>) -> Self {
        let pid = FieldPath::parse("pid").unwrap().value(event);
        let secret = event.frame.split_once("hidden ");
        Self {
            source: event.source.to_owned(),
            id: event.id().map(|id| id.parse().unwrap()),
            body: pid.unwrap().parse().unwrap(),
            secret: secret.map(|(_, rest)| rest[..1].parse().unwrap()),
            is_conflict: event.conflict.is_some(),
            received_at: event.received_at.as_microsecond(),
        }
    }
}

proptest! {
    #[test]
    fn each_frame_has_the_outcome_of_the_model(
        batches in proptest::collection::vec(
            (0..2_usize, proptest::collection::vec(sent(), 1..12), any_time()),
            1..10,
        ),
        redacts in any::<bool>(),
    ) {
        let sources = ["one", "two"].map(|name| Arc::new(IntakeSource::new(name)));
        let redact: &[_] = if redacts { &["secret".parse().unwrap()] } else { &[] };
        let rules = Arc::new(Rules {
            filter: Filter::new([("result", ["new"])]).unwrap(),
            redaction: Redaction::new(redact, None).unwrap(),
            keep_malformed: !redacts,
        });
        let mut encoders: Vec<_> = sources
            .iter()
            .map(|source| Encoder::new(source.clone(), attributes(&source.name), rules.clone()))
            .collect();
        let mut intake = Intake::new(DeduplicationWindow::new(1000), None, Arc::new(LoggedDeadLetters));
        // The bodies received with each identity.
        let mut known = HashMap::<(usize, u8), Vec<_>>::new();
        let (mut expected, mut tallies, mut newest) = (Vec::new(), [Tally::default(); 2], i64::MIN);
        let mut stored = Batch::default();
        for (index, batch, time) in batches {
            // A step of the clock moves the time back; disorder between sources does not.
            newest = if newest > time + STEP / 2 { time } else { newest.max(time) };
            let tally = &mut tallies[index];
            for sent in batch {
                encoders[index].push(received(sent));
                let Sent::Event { id, body, secret } = sent else {
                    tally.dead_lettered += 1;
                    continue;
                };
                let secret = (!redacts).then_some(secret);
                let mut is_conflict = false;
                if let Some(id) = id {
                    let bodies = known.entry((index, id)).or_default();
                    if bodies.contains(&(body, secret)) {
                        tally.duplicate += 1;
                        continue;
                    }
                    is_conflict = !bodies.is_empty();
                    bodies.push((body, secret));
                }
                if body == UNWANTED {
                    tally.filtered += 1;
                } else {
                    tally.stored += 1;
                    let (source, received_at) = (sources[index].name.to_string(), newest);
                    expected.push(Stored { source, id, body, secret, is_conflict, received_at });
                }
            }
            let received_at = Timestamp::from_microsecond(time).unwrap();
            stored.append(intake.admit(encoders[index].take(received_at)));
        }
        let sealed = stored.seal_in_memory(Sequence::FIRST);
        let found: Vec<_> = sealed.iter().map(|event| Stored::of(&event.unwrap())).collect();
        prop_assert_eq!(found, expected);
        for (source, tally) in sources.iter().zip(&tallies) {
            prop_assert_eq!(intake.tallies.of(source), tally);
        }
        let dead_lettered: u64 = tallies.iter().map(|tally| tally.dead_lettered).sum();
        prop_assert_eq!(intake.dead_letter_lines.lines().count() as u64, dead_lettered);
        prop_assert_eq!(intake.dead_letter_lines.contains("[]"), dead_lettered > 0 && !redacts);
    }
}
