//! Durations and sizes as people write them in a configuration: `"5s"`, `"10 GiB"`.

use std::{fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not a duration or size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found \"{found}\", expected {expected}")]
#[non_exhaustive]
pub struct UnitError {
    /// The text.
    pub found: String,
    /// A description of the expected text.
    pub expected: &'static str,
}

const DURATION: &str = "a duration such as \"250ms\", \"5s\", \"1h 30m\" or \"7d\"";
const SIZE: &str = "a size such as \"512 KiB\", \"64 MiB\" or \"10 GiB\"";

/// The JSON Schema of a duration. Its title is the expected value in errors about values of another type.
#[derive(Debug)]
pub struct DurationText;

impl JsonSchema for DurationText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": DURATION })
    }
}

/// Parses a duration: numbers with the units `ms`, `s`, `m`, `h`, `d`, which are added.
///
/// # Errors
/// The text is not a duration, or exceeds 2⁶⁴ milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let error = || UnitError {
        found: text.to_owned(),
        expected: DURATION,
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(error());
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest);
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        let part = number.checked_mul(milliseconds).ok_or_else(error)?;
        sum = sum.checked_add(Duration::from_millis(part)).ok_or_else(error)?;
        rest = after.trim_start();
    }
    Ok(sum)
}

/// Formats a duration so that [`parse_duration`] returns it, with a resolution of a millisecond.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut parts = Vec::new();
    for (unit, milliseconds) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ] {
        if rest >= milliseconds {
            parts.push(format!("{}{unit}", rest / milliseconds));
            rest %= milliseconds;
        }
    }
    if parts.is_empty() {
        "0s".to_owned()
    } else {
        parts.join(" ")
    }
}

/// Returns the leading digits, the letters after them, and the rest.
fn number_and_unit(text: &str) -> (&str, &str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let letters = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, after) = rest.split_at(letters);
    (number, unit, after)
}

/// For `#[serde(with = "neurobridge_core::units::duration")]` on a [`Duration`].
pub mod duration {
    use super::*;

    /// Deserialises a duration from text.
    ///
    /// # Errors
    /// The value is not text, or not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }

    /// Serialises a duration as text.
    ///
    /// # Errors
    /// The serializer failed.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*duration))
    }
}

/// For `#[serde(with = "neurobridge_core::units::optional_duration")]` on an `Option<Duration>`.
pub mod optional_duration {
    use super::*;

    /// Deserialises a duration from text.
    ///
    /// # Errors
    /// The value is not text, or not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }

    /// Serialises a duration as text.
    ///
    /// # Errors
    /// The serializer failed.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }
}

/// A number of bytes, written with a binary unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String", extend("title" = SIZE))]
pub struct ByteSize(u64);

impl ByteSize {
    /// Creates a size in bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Creates a size in KiB of 1,024 bytes.
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib * 1024)
    }

    /// Creates a size in MiB of 1,024 KiB.
    pub const fn from_mib(mib: u64) -> Self {
        Self::from_kib(mib * 1024)
    }

    /// Returns the number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            found: text.to_owned(),
            expected: SIZE,
        };
        let (number, unit, after) = number_and_unit(text.trim());
        let factor: u64 = match unit {
            "B" | "bytes" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        if !after.is_empty() {
            return Err(error());
        }
        number.checked_mul(factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_with_units_are_parsed() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration(" 1h 30 m "), Ok(Duration::from_secs(5400)));
        for bad in [
            "",
            "5",
            "s",
            "5 fortnights",
            "-1s",
            "1.5s",
            "99999999999999999999s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_with_units_are_parsed() {
        assert_eq!("10 GiB".parse(), Ok(ByteSize(10 << 30)));
        assert_eq!("64MiB".parse(), Ok(ByteSize::from_mib(64)));
        for bad in ["", "64", "64 MB", "1 MiB 2 KiB", "99999999999 TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn written_value_is_read_back(milliseconds in any::<u64>(), bytes in any::<u64>()) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }
}
