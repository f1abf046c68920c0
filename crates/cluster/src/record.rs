//! The values of the lease and of the members' states in the engine: JSON with a version, written by any member.

use std::time::Duration;

use neurobridge_core::foreign_text;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[cfg(feature = "nats")]
use crate::role::MemberReport;
use crate::settled::SettledRecords;

/// The version of the format.
const VERSION: u64 = 1;
/// The largest value that is read, in bytes. The state of a member has some 300 bytes and some 50 for each source, the lease
/// some 300 and at most 32 KiB of settled positions.
pub(crate) const MAX_BYTES: usize = 64 << 10;
/// The longest name of a member, and the longest hash.
pub(crate) const MAX_NAME: usize = 128;
/// The longest time of a lease.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(300);

/// The lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    #[serde(rename = "neurobridge_lease")]
    version: u64,
    /// The number of the leadership.
    pub(crate) term: u64,
    /// The name of the leader.
    pub(crate) member: String,
    /// The random id of the leader's process.
    pub(crate) instance: String,
    /// The hash of the leader's configuration.
    pub(crate) config: String,
    /// The ttl in milliseconds: for how long the lease is held after a renewal.
    ttl_ms: u64,
    /// Counts the renewals, so that no two values are equal.
    pub(crate) renewal: u64,
    /// Whether the leader has released the lease.
    pub(crate) released: bool,
    /// The settled position of each source. Empty unless `standby` is `cold`.
    #[serde(default, skip_serializing_if = "SettledRecords::is_empty")]
    pub(crate) settled: SettledRecords,
}

/// The state of a member.
#[cfg(feature = "nats")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    #[serde(rename = "neurobridge_member")]
    version: u64,
    pub(crate) name: String,
    /// The random id of the process.
    pub(crate) instance: String,
    /// The hash of the member's configuration.
    pub(crate) config: String,
    /// The term of the member's leadership; `None` for a follower.
    pub(crate) term: Option<u64>,
    /// The last report of the member; `None` before the first one.
    pub(crate) report: Option<MemberReport>,
    /// Counts the writes, so that no two values are equal.
    pub(crate) beat: u64,
}

/// The identity of this process in the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) member: String,
    pub(crate) instance: String,
    pub(crate) config: String,
}

impl LeaseRecord {
    pub(crate) fn new(me: &Identity, term: u64, ttl: Duration, renewal: u64) -> Self {
        Self {
            version: VERSION,
            term,
            member: me.member.clone(),
            instance: me.instance.clone(),
            config: me.config.clone(),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            renewal,
            released: false,
            settled: SettledRecords::new(),
        }
    }

    /// Returns the time after a renewal in which the leader may still lead.
    #[cfg(feature = "nats")]
    pub(crate) const fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    fn is_plausible(&self) -> bool {
        let is_text = |text: &str| (1..=MAX_NAME).contains(&text.len());
        (1..=MAX_TTL.as_millis()).contains(&u128::from(self.ttl_ms))
            && self.term < u64::MAX
            && [&self.member, &self.instance, &self.config]
                .iter()
                .all(|text| is_text(text))
    }
}

#[cfg(feature = "nats")]
impl MemberRecord {
    pub(crate) fn new(me: &Identity, term: Option<u64>, report: Option<MemberReport>, beat: u64) -> Self {
        Self {
            version: VERSION,
            name: me.member.clone(),
            instance: me.instance.clone(),
            config: me.config.clone(),
            term,
            report,
            beat,
        }
    }
}

/// Encodes a record.
pub(crate) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record of texts and numbers has a JSON form")
}

/// Reads the lease.
///
/// # Errors
/// Returns a description of the value that was found instead, for the middle of an error text.
pub(crate) fn lease(value: &[u8]) -> Result<LeaseRecord, String> {
    let record: LeaseRecord = decode(value)?;
    check_version(record.version)?;
    if record.is_plausible() {
        Ok(record)
    } else {
        Err("a lease with impossible values".to_owned())
    }
}

/// Reads the state of a member; `None` for any other value, which is ignored.
#[cfg(feature = "nats")]
pub(crate) fn member(value: &[u8]) -> Option<MemberRecord> {
    let record: MemberRecord = decode(value).ok()?;
    let is_ours = check_version(record.version).is_ok();
    let texts = [&record.name, &record.instance, &record.config];
    (is_ours && texts.iter().all(|text| text.len() <= MAX_NAME)).then_some(record)
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    if value.len() > MAX_BYTES {
        return Err(format!("a value of {} bytes", value.len()));
    }
    serde_json::from_slice(value).map_err(|_| {
        let text = String::from_utf8_lossy(value);
        format!("\"{}\"", foreign_text::clean_to(&text, 40))
    })
}

fn check_version(found: u64) -> Result<(), String> {
    if found == VERSION {
        Ok(())
    } else {
        Err(format!("a value of format version {found} instead of {VERSION}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Identity {
        Identity {
            member: "a".into(),
            instance: "0192".into(),
            config: "c0ffee".into(),
        }
    }

    #[test]
    fn lease_is_read_as_written() {
        let record = LeaseRecord::new(&me(), 7, Duration::from_secs(10), 3);
        let text = encode(&record);
        insta::assert_snapshot!(String::from_utf8_lossy(&text), @r#"{"neurobridge_lease":1,"term":7,"member":"a","instance":"0192","config":"c0ffee","ttl_ms":10000,"renewal":3,"released":false}"#);
        assert_eq!(lease(&text), Ok(record));
    }

    #[test]
    fn foreign_value_under_the_lease_key_is_described() {
        let shown = |value: &[u8]| lease(value).unwrap_err();
        assert_eq!(shown(b"hello\x1b[2J"), r#""hello\u{1b}[2J""#);
        assert_eq!(shown(&vec![b'a'; MAX_BYTES + 1]), "a value of 65537 bytes");
        let mut record = LeaseRecord::new(&me(), 7, Duration::from_secs(10), 3);
        record.version = 2;
        assert_eq!(
            shown(&encode(&record)),
            "a value of format version 2 instead of 1"
        );
        let endless = LeaseRecord::new(&me(), 7, MAX_TTL * 2, 3);
        assert_eq!(shown(&encode(&endless)), "a lease with impossible values");
        let last = LeaseRecord::new(&me(), u64::MAX, MAX_TTL, 3);
        assert_eq!(shown(&encode(&last)), "a lease with impossible values");
    }
}
