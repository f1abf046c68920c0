//! Fuzzes the decoding of the spool's records.

use jiff::Timestamp;
use neurobridge_core::{
    cloudevents,
    event::{Event, FieldPath, Sequence},
    identity::{self, SpoolId},
    record::{self, Batch},
};

/// Checks that any bytes are decoded as a record or rejected, without and with a correct length and checksum before them.
/// Checks that a decoded event can be rendered, and that encoding and decoding the event again returns the same event.
pub fn record(bytes: &[u8]) {
    let verified = record::verify(bytes);
    if let Ok((event, length)) = record::decode(bytes, Sequence::FIRST) {
        assert!(length <= bytes.len());
        render(&event);
        if let Ok(verified) = verified {
            assert_eq!(verified, length);
        }
    }
    let mut sealed = (bytes.len() as u32).to_le_bytes().to_vec();
    sealed.extend_from_slice(&[0; 4]);
    sealed.extend_from_slice(bytes);
    let checksum = match record::verify(&sealed) {
        Err(record::RecordError::Checksum { expected, .. }) => expected,
        // The record is too short, or its correct checksum is 0.
        _ => return,
    };
    sealed[4..8].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(record::verify(&sealed), Ok(sealed.len()));
    let Ok((event, length)) = record::decode(&sealed, Sequence::FIRST) else {
        return;
    };
    assert_eq!(length, sealed.len());
    render(&event);
    check_round_trip(&event);
}

fn render(event: &Event<'_>) {
    let spool = SpoolId::from_bytes([7; 16]);
    let (mut scratch, mut out) = (String::new(), String::new());
    cloudevents::write_structured(event, &spool, &[], &mut scratch, &mut out);
    assert!(!out.contains(['\n', '\r']));
    identity::write_identity(event, &spool, &mut out);
    let _ = (event.time(), event.kind(), event.id());
    for path in ["pid", "space.name", "$.id"] {
        let _ = FieldPath::parse(path).and_then(|path| path.value(event).map(|_| ()));
    }
}

fn check_round_trip(event: &Event<'_>) {
    let mut batch = Batch::default();
    batch.push(event);
    let sealed = batch.seal(event.sequence);
    let again = sealed
        .iter()
        .next()
        .expect("the batch has one event")
        .expect("the event was just encoded");
    assert_eq!(record::verify(sealed.bytes()), Ok(sealed.bytes().len()));
    assert_eq!(
        (again.sequence, again.source, again.conflict, again.frame),
        (event.sequence, event.source, event.conflict, event.frame)
    );
    assert_eq!(again.positions, event.positions);
    assert_eq!(
        (again.source_uri, again.type_prefix),
        (event.source_uri, event.type_prefix)
    );
    assert_eq!(microseconds(again.received_at), microseconds(event.received_at));
}

fn microseconds(time: Timestamp) -> i64 {
    time.as_microsecond()
}
