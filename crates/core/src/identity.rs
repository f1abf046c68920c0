//! The identity of an event: its source and the id that the feed assigned.
//!
//! Two sources may assign the same id, and a broker that removes duplicates by the id alone would discard the
//! second event and report success. So the identity is `<source>/<id>`.

use std::fmt::{self, Write};

use uuid::Uuid;
use xxhash_rust::xxh3;

use crate::event::{Event, Sequence};

/// The id of the spool that assigned an event's sequence: a UUIDv7, so that later spools sort later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpoolId(Uuid);

impl SpoolId {
    /// Creates a new id that sorts after all earlier ones.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Returns the id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Returns the bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for SpoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Appends the id of an event: the feed's id, or `<spool id>-<sequence>` for an event without an id. If an earlier
/// event had the same id and another body, `~` and eight hexadecimal digits follow.
pub fn write_id(event: &Event<'_>, spool: &SpoolId, out: &mut String) {
    match event.id() {
        Some(id) => out.push_str(&id),
        // Writing to a string cannot fail.
        None => {
            let _ = write!(out, "{spool}-{}", event.sequence);
        }
    }
    if let Some(conflict) = event.conflict {
        let _ = write!(out, "~{conflict:08x}");
    }
}

/// Appends `<source>/<id>`, by which a broker may remove duplicates.
pub fn write_identity(event: &Event<'_>, spool: &SpoolId, out: &mut String) {
    out.push_str(event.source);
    out.push('/');
    write_id(event, spool, out);
}

/// Appends `<spool id>:<sequence in 20 digits>`, which sorts as text in the order of the log.
pub fn write_sequence(sequence: Sequence, spool: &SpoolId, out: &mut String) {
    let _ = write!(out, "{spool}:{:020}", sequence.get());
}

/// Returns a hash of an identity for the deduplication window. It has 128 bits, because a collision would
/// lose an event.
///
/// Consecutive numeric ids mostly have consecutive lowest bits. A hash table selects slots by these bits, so that the
/// ids of a feed with a counter are stored close together and touch little memory. The hash is not stored and may
/// change between versions.
pub fn identity_hash(source: &str, id: &str) -> u128 {
    /// The bits that select a slot. All other bits distinguish identities. A table compares the next seven bits first,
    /// which excludes most other identities near the same slot.
    const SLOT: u128 = (1 << 57) - 1;
    let seed = xxh3::xxh3_64(source.as_bytes());
    let hash = xxh3::xxh3_128_with_seed(id.as_bytes(), seed);
    match id.parse() {
        Ok(number) => hash & !SLOT | u128::from(slot(number, seed)) & SLOT,
        Err(_) => hash,
    }
}

/// Returns a hash of a number, for the selection of a slot: consecutive within a group of 16 consecutive numbers,
/// and random from group to group. In larger groups, ids that increase in steps would all select the same slots.
fn slot(number: u64, seed: u64) -> u64 {
    /// The size of a group: the number of slots that a table examines in one operation.
    const GROUP: u64 = 16;
    let product = u128::from((number / GROUP) ^ seed) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
    let hash = (product >> 64) as u64 ^ product as u64;
    hash.wrapping_add(number % GROUP)
}

/// Returns a hash of a body, which distinguishes two bodies of one identity.
pub fn body_hash(body: &str) -> u128 {
    xxh3::xxh3_128(body.as_bytes())
}

/// Returns the part of a body's hash that is added to the id of a conflicting event. It never changes between
/// versions, because consumers store such ids.
pub const fn conflict_suffix(body_hash: u128) -> u32 {
    (body_hash >> 96) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn consecutive_ids_have_neighbouring_hashes() {
        let places = |ids: &mut dyn Iterator<Item = u64>| {
            let hashes = ids.map(|id| identity_hash("main", &id.to_string()));
            hashes.map(|hash| hash as u64 & 0xffff).collect::<Vec<_>>()
        };
        let counted = places(&mut (1000..2000));
        let next = counted
            .windows(2)
            .filter(|pair| (pair[0] + 1) & 0xffff == pair[1]);
        assert!(next.count() > 900);
        for step in [16, 1000, 1 << 20, 1 << 40] {
            let mut apart = places(&mut (0..1000).map(|id| id * step));
            apart.sort_unstable();
            apart.dedup();
            assert!(apart.len() > 950, "{step}: {}", apart.len());
        }
    }

    #[test]
    fn identities_have_distinct_hashes() {
        let ids = ["7", "07", "+7", "7.0", "23", "a", "", "18446744073709551616"];
        let mut hashes: Vec<u128> = ["main", "side"]
            .iter()
            .flat_map(|source| ids.iter().map(|id| identity_hash(source, id)))
            .chain((1000..20_000).map(|id| identity_hash("main", &id.to_string())))
            .collect();
        let all = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all);
    }

    fn event(frame: &str) -> Event<'_> {
        Event {
            sequence: Sequence::new(42).unwrap(),
            ..testing::event(frame)
        }
    }

    #[test]
    fn identity_contains_source_and_id() {
        let spool = SpoolId::from_bytes([1; 16]);
        let identity = |event: &Event<'_>| {
            let mut out = String::new();
            write_identity(event, &spool, &mut out);
            out
        };
        assert_eq!(identity(&event(r#"{"id":7,"data":{}}"#)), "main/7");
        assert_eq!(identity(&event(r#"{"id":"a/b","data":{}}"#)), "main/a/b");
        assert_eq!(identity(&event(r#"{"data":{}}"#)), format!("main/{spool}-42"));
        let conflict = Event {
            conflict: Some(0xab),
            ..event(r#"{"id":7,"data":{}}"#)
        };
        assert_eq!(identity(&conflict), "main/7~000000ab");
    }

    #[test]
    fn sequences_sort_as_text() {
        let spool = SpoolId::generate();
        let text = |number| {
            let mut out = String::new();
            write_sequence(Sequence::new(number).unwrap(), &spool, &mut out);
            out
        };
        assert!(text(9) < text(10) && text(10) < text(u64::MAX));
        assert!(spool.to_string() < SpoolId::generate().to_string());
    }

    #[test]
    fn conflict_suffixes_are_stable() {
        assert_eq!(conflict_suffix(body_hash(r#"{"id":1}"#)), 0xb740_eaf9);
    }
}
