//! Events as hashes, so that millions of them can be compared.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;

use anyhow::{Context, Result};

/// The fingerprint of an event's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// The position in the spool.
    pub sequence: u64,
    /// A hash of the id and the body.
    pub content: u64,
    /// A hash of the person, or 0 if there is none.
    pub person: u64,
}

impl Fingerprint {
    /// Returns the fingerprint of an event with this entry.
    pub fn of(sequence: u64, id: &str, entry: &str, pid: Option<&str>) -> Self {
        Self {
            sequence,
            content: content(id, entry),
            person: pid.map_or(0, hash),
        }
    }
}

/// Returns a hash of an event's id and body.
pub fn content(id: &str, entry: &str) -> u64 {
    hash((id, entry))
}

/// The hash is stable across all programs built with one toolchain, because hashes of different programs are compared.
fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:x} {:x}", self.sequence, self.content, self.person)
    }
}

impl FromStr for Fingerprint {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let parse = || {
            let mut words = line.split_ascii_whitespace();
            let found = Self {
                sequence: words.next()?.parse().ok()?,
                content: u64::from_str_radix(words.next()?, 16).ok()?,
                person: u64::from_str_radix(words.next()?, 16).ok()?,
            };
            words.next().is_none().then_some(found)
        };
        parse().with_context(|| format!("invalid fingerprint: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_parses_as_it_is_written() {
        let one = Fingerprint::of(7, "1", "{}", Some("p"));
        assert_eq!(one.to_string().parse::<Fingerprint>().unwrap(), one);
        assert!("7 x 1".parse::<Fingerprint>().is_err());
        assert!("7 1 1 1".parse::<Fingerprint>().is_err());
        assert_ne!(content("1", "2"), content("12", ""));
        assert_eq!(Fingerprint::of(7, "1", "{}", None).person, 0);
    }
}
