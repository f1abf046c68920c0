//! Copies of events in brokers, with a hash in place of the body, so that millions of copies can be compared.

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

/// Returns a hash that is the same in all programs built with one toolchain, because hashes of different programs are compared.
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

/// A copy of an event, as stored by a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The broker's timestamp in milliseconds since 1970.
    pub stored: i64,
    /// The id of the spool from which the event was published.
    pub spool: String,
    /// The sequence and the hashes of the event.
    pub fingerprint: Fingerprint,
    /// How the bridge has received the event.
    pub origin: Origin,
    /// The CloudEvents source.
    pub source: String,
    /// The CloudEvents id.
    pub id: String,
}

/// How the bridge has received an event, according to the CloudEvents attributes `origin` and `late`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From the feed.
    Live,
    /// From the feed, after later events that came over another connection.
    LiveLate,
    /// Fetched after a gap, in the order of the feed.
    Backfilled,
    /// Fetched after a gap, after later events of the feed.
    Late,
}

impl Origin {
    const ALL: [(Self, &str); 4] = [
        (Self::Live, "live"),
        (Self::LiveLate, "live-late"),
        (Self::Backfilled, "backfilled"),
        (Self::Late, "late"),
    ];

    /// Returns the origin that the values of the two attributes state.
    pub fn of(origin: Option<&str>, late: Option<&str>) -> Self {
        match (origin, late) {
            (Some("backfill"), Some("true")) => Self::Late,
            (Some("backfill"), _) => Self::Backfilled,
            (_, Some("true")) => Self::LiveLate,
            _ => Self::Live,
        }
    }
}

impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = Origin::ALL.iter().find(|(origin, _)| *origin == self.origin);
        let origin = origin.map_or("", |(_, name)| name);
        let Self {
            stored,
            spool,
            fingerprint,
            source,
            id,
            ..
        } = self;
        write!(f, "{stored} {spool} {fingerprint} {origin} {source} {id}")
    }
}

impl FromStr for Copy {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let parse = || {
            let mut words = line.rsplitn(4, ' ');
            let (id, source, name) = (words.next()?, words.next()?, words.next()?);
            let mut first = words.next()?.splitn(3, ' ');
            Some(Self {
                stored: first.next()?.parse().ok()?,
                spool: first.next()?.to_owned(),
                fingerprint: first.next()?.parse().ok()?,
                origin: Origin::ALL.iter().find(|(_, known)| *known == name)?.0,
                source: source.to_owned(),
                id: id.to_owned(),
            })
        };
        parse().with_context(|| format!("invalid copy of an event: {line}"))
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

    #[test]
    fn copy_parses_as_it_is_written() {
        let fingerprint = Fingerprint::of(7, "1", "{}", None);
        for (origin, late, expected) in [
            (None, None, Origin::Live),
            (Some("backfill"), None, Origin::Backfilled),
            (Some("backfill"), Some("true"), Origin::Late),
            (None, Some("true"), Origin::LiveLate),
        ] {
            let copy = Copy {
                stored: 1_700_000_000_000,
                spool: "0a".to_owned(),
                fingerprint,
                origin: Origin::of(origin, late),
                source: "/neuroio/main".to_owned(),
                id: "gap-1-5".to_owned(),
            };
            assert_eq!(copy.origin, expected);
            assert_eq!(copy.to_string().parse::<Copy>().unwrap(), copy);
        }
        assert!("5 0a 7 1 1 lively s 1".parse::<Copy>().is_err());
        assert!("7 1 1 live s 1".parse::<Copy>().is_err());
    }
}
