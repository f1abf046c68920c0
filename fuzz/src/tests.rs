//! Runs every target with its seeds, with mutations of the seeds, and with random bytes and text.

use std::{fs, path::Path};

use proptest::{prelude::*, sample::Index};

use super::*;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 7] = [
    ("declaration", declaration),
    ("frame", frame),
    ("record", record),
    ("template", template),
    ("redaction", redaction),
    ("fault_rule", fault_rule),
    ("spool_format", spool_format),
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn every_target_accepts_its_seeds() {
    for (name, target) in TARGETS {
        seeds(name).iter().for_each(|seed| target(seed));
    }
}

/// A mutation of the kinds that fuzzers use.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index, u8),
    Repeat(Index, u8),
    Splice(Index, Index),
}

fn any_mutation() -> impl Strategy<Value = Mutation> {
    // Bytes with a meaning in one of the formats are more frequent than others.
    let byte = prop_oneof![
        any::<u8>(),
        proptest::sample::select(b"{}[]\",:\\.*!=0nu\n ".to_vec()),
    ];
    prop_oneof![
        (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (any::<Index>(), byte).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        (any::<Index>(), 1u8..20).prop_map(|(at, length)| Mutation::Remove(at, length)),
        (any::<Index>(), 1u8..20).prop_map(|(at, length)| Mutation::Repeat(at, length)),
        any::<(Index, Index)>().prop_map(|(at, from)| Mutation::Splice(at, from)),
    ]
}

fn apply(mutation: &Mutation, bytes: &mut Vec<u8>, other: &[u8]) {
    let place = |index: &Index| index.index(bytes.len() + 1);
    let end = |at: usize, length: u8| (at + usize::from(length)).min(bytes.len());
    match mutation {
        Mutation::Replace(at, byte) => {
            let at = place(at);
            if at < bytes.len() {
                bytes[at] = *byte;
            }
        }
        Mutation::Insert(at, byte) => bytes.insert(place(at), *byte),
        Mutation::Remove(at, length) => {
            let at = place(at);
            bytes.drain(at..end(at, *length));
        }
        Mutation::Repeat(at, length) => {
            let at = place(at);
            let piece = bytes[at..end(at, *length)].to_vec();
            bytes.splice(at..at, piece);
        }
        Mutation::Splice(at, from) => {
            let at = place(at);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from.index(other.len() + 1)..]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_target_accepts_mutated_seeds(
        seed in any::<Index>(), other in any::<Index>(), mutations in proptest::collection::vec(any_mutation(), 1..8),
    ) {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            let (mut bytes, other): (Vec<u8>, &Vec<u8>) = (seed.get(&seeds).clone(), other.get(&seeds));
            for mutation in &mutations {
                apply(mutation, &mut bytes, other);
            }
            target(&bytes);
        }
    }

    #[test]
    fn every_target_accepts_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        TARGETS.iter().for_each(|(_, target)| target(&bytes));
    }

    #[test]
    fn every_target_accepts_any_text(text in any::<String>()) {
        TARGETS.iter().for_each(|(_, target)| target(text.as_bytes()));
    }
}
