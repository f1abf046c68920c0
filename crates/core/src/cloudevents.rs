//! CloudEvents 1.0 attributes of an event, and the structured JSON envelope.
//!
//! Implemented here because the CloudEvents SDK requires other versions of both broker clients and does not
//! support NATS headers.

use std::{borrow::Cow, fmt::Write};

use jiff::{Timestamp, civil::DateTime};

use crate::{
    event::Event,
    identity::{self, SpoolId},
    positions::TimeFormat,
};

/// The version of the specification that the attributes follow.
pub const SPEC_VERSION: &str = "1.0";
/// The content type of an event in structured mode.
pub const STRUCTURED_CONTENT_TYPE: &str = "application/cloudevents+json";
/// The content type of the attribute `data`.
pub const DATA_CONTENT_TYPE: &str = "application/json";

/// The extension attribute that names the fields that were left out because of their size.
pub const STRIPPED: &str = "strippedfields";
/// The extension attribute that names the replay to which a message belongs.
pub const REPLAY: &str = "replay";

/// The extension attribute of an event that was read from the list of a platform after a gap, and its value.
pub const ORIGIN: (&str, &str) = ("origin", "backfill");
/// The extension attribute of an event that later events of the feed may precede, and its value.
pub const LATE: (&str, &str) = ("late", "true");

/// Calls `attribute` with the name and value of each context attribute, in a fixed order. `datacontenttype`
/// is not included, because each binding has its own place for it. Overwrites `scratch`; with a reused
/// `scratch` no call allocates.
///
/// There is no `subject`: the specification forbids personal data in attributes, and the id of a person is
/// personal. `time` is omitted if the event has no time, or a text that is not a time.
pub fn attributes(
    event: &Event<'_>,
    spool: &SpoolId,
    scratch: &mut String,
    mut attribute: impl FnMut(&str, &str),
) {
    attribute("specversion", SPEC_VERSION);
    scratch.clear();
    identity::write_id(event, spool, scratch);
    attribute("id", scratch);
    attribute("source", event.source_uri);
    scratch.clear();
    write_type(event, scratch);
    attribute("type", scratch);
    if let Some(text) = event.time()
        && let Some(time) = rfc3339(&text, event.positions.time_format(), scratch)
    {
        attribute("time", time);
    }
    scratch.clear();
    identity::write_sequence(event.sequence, spool, scratch);
    attribute("sequence", scratch);
    if event.origin.is_backfill() {
        attribute(ORIGIN.0, ORIGIN.1);
    }
    if event.origin.is_late() {
        attribute(LATE.0, LATE.1);
    }
}

/// Appends the attribute `type`: the prefix and the type of the event. For an event without a type, `unknown` follows a prefix
/// that is empty or ends with a dot; any other prefix is the constant type of such events.
pub fn write_type(event: &Event<'_>, out: &mut String) {
    out.push_str(event.type_prefix);
    match event.kind() {
        Some(kind) if !kind.is_empty() => out.push_str(&kind),
        _ if event.type_prefix.is_empty() || event.type_prefix.ends_with('.') => out.push_str("unknown"),
        _ => {}
    }
}

/// Appends the event in structured mode: one JSON object on one line, also if the frame contains line breaks. `extensions` are
/// written first, so that they precede all attributes with foreign contents; extensions without a value are omitted.
pub fn write_structured(
    event: &Event<'_>,
    spool: &SpoolId,
    extensions: &[(&str, Option<&str>)],
    scratch: &mut String,
    out: &mut String,
) {
    out.push('{');
    let mut push = |name: &str, value: &str| {
        // Writing to a string cannot fail, and a JSON string can always be formatted.
        let _ = write!(out, "\"{name}\":{},", serde_json::Value::from(value));
    };
    for (name, value) in extensions {
        if let Some(value) = value {
            push(name, value);
        }
    }
    attributes(event, spool, scratch, push);
    let _ = write!(out, "\"datacontenttype\":\"{DATA_CONTENT_TYPE}\",\"data\":");
    push_one_line(event.body(), out);
    out.push('}');
}

/// Appends JSON text without its line breaks. JSON has line breaks only as white space outside of strings.
pub fn push_one_line(json: &str, out: &mut String) {
    if json.contains(['\n', '\r']) {
        out.extend(
            json.chars()
                .map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }),
        );
    } else {
        out.push_str(json);
    }
}

/// Returns a time as RFC 3339, in UTC if it has no offset.
fn rfc3339<'a>(time: &'a str, format: TimeFormat, scratch: &'a mut String) -> Option<&'a str> {
    // Nearly every text is RFC 3339 already; parsing and formatting it would cost ten times this check.
    if format == TimeFormat::Text && is_rfc3339(time) {
        return Some(time);
    }
    let timestamp = timestamp(time, format)?;
    scratch.clear();
    let _ = write!(scratch, "{timestamp}");
    Some(scratch)
}

/// Parses the time of an event. `None` for a text that is not of this format, or a time that does not exist or is out of range.
/// An epoch time may have a fraction and an exponent; digits below a nanosecond are cut off.
pub fn timestamp(time: &str, format: TimeFormat) -> Option<Timestamp> {
    match format.nanoseconds() {
        None => civil_timestamp(time),
        Some(unit) => Timestamp::from_nanosecond(nanoseconds(time, unit)?).ok(),
    }
}

/// Converts a decimal number of time units to nanoseconds. `unit`: the nanoseconds of a unit, a power of ten.
fn nanoseconds(text: &str, unit: u32) -> Option<i128> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let (is_negative, whole) = whole
        .strip_prefix('-')
        .map_or((false, whole), |whole| (true, whole));
    let all = format!("{whole}{fraction}");
    // Longer numbers are beyond the range of times.
    if whole.is_empty() || all.len() > 36 || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let power = exponent
        .checked_sub(i32::try_from(fraction.len()).ok()?)?
        .checked_add(unit.ilog10() as i32)?;
    let number: i128 = all.parse().ok()?;
    let scaled = if power >= 0 {
        number.checked_mul(10_i128.checked_pow(power.unsigned_abs())?)?
    } else {
        10_i128
            .checked_pow(power.unsigned_abs())
            .map_or(0, |divisor| number / divisor)
    };
    Some(if is_negative { -scaled } else { scaled })
}

/// Parses an ISO 8601 time. A time without an offset is in UTC.
fn civil_timestamp(text: &str) -> Option<Timestamp> {
    text.parse()
        .or_else(|_| {
            text.parse::<DateTime>()
                .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
                .map(|zoned| zoned.timestamp())
        })
        .ok()
}

/// Returns the number of days of the month in a text that begins with `YYYY-MM-`. The digits have been
/// checked.
fn days_of_month(text: &[u8]) -> u8 {
    let digit = |at: usize| u16::from(text[at] - b'0');
    let year = digit(0) * 1000 + digit(1) * 100 + digit(2) * 10 + digit(3);
    let leap_year = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match digit(5) * 10 + digit(6) {
        2 if leap_year => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns whether a text is a plain RFC 3339 time. May return false for a valid time (a leap second): then
/// the parser decides.
///
/// A text for which this returns false is formatted again and may change: without trailing zeros, in UTC. So
/// this function must accept every day of the calendar; otherwise the events of some days would be formatted
/// differently.
fn is_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    let two = |at: usize, max: u8| -> bool {
        match bytes.get(at..at + 2) {
            Some([tens @ b'0'..=b'9', ones @ b'0'..=b'9']) => (tens - b'0') * 10 + (ones - b'0') <= max,
            _ => false,
        }
    };
    let at = |position: usize, expected: u8| bytes.get(position) == Some(&expected);
    let date = two(0, 99) && two(2, 99) && at(4, b'-') && two(5, 12) && at(7, b'-') && two(8, 31);
    let time = at(10, b'T') && two(11, 23) && at(13, b':') && two(14, 59) && at(16, b':') && two(17, 59);
    if !(date && time) || two(5, 0) || two(8, 0) || !two(8, days_of_month(bytes)) {
        return false;
    }
    let mut rest = &bytes[19..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    let offset = bytes.len() - rest.len();
    match rest {
        [b'Z'] => true,
        [b'+' | b'-', _, _, b':', _, _] => two(offset + 1, 23) && two(offset + 4, 59),
        _ => false,
    }
}

/// Percent-encodes a header value as the HTTP and NATS bindings of CloudEvents require: space, double quote,
/// percent, and all characters outside of printable ASCII.
pub fn percent_encode(value: &str) -> Cow<'_, str> {
    let plain = |byte: &u8| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'%');
    if value.as_bytes().iter().all(plain) {
        return Cow::Borrowed(value);
    }
    let mut encoded = String::with_capacity(value.len() * 3);
    for byte in value.bytes() {
        if plain(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Sequence;
    use crate::testing;

    fn structured(frame: &str) -> String {
        let event = Event {
            sequence: Sequence::new(42).unwrap(),
            ..testing::event(frame)
        };
        let mut out = String::new();
        write_structured(
            &event,
            &SpoolId::from_bytes([0x11; 16]),
            &[],
            &mut String::new(),
            &mut out,
        );
        out
    }

    #[test]
    fn prefix_without_a_dot_is_a_constant_type() {
        for (type_prefix, frame, expected) in [
            ("com.example.", r#"{"data":{"result":"new"}}"#, "com.example.new"),
            ("com.example.", r#"{"data":{}}"#, "com.example.unknown"),
            ("com.example.trade", r#"{"data":{}}"#, "com.example.trade"),
            ("", r#"{"data":{}}"#, "unknown"),
        ] {
            let event = Event {
                type_prefix,
                ..testing::event(frame)
            };
            let mut written = String::new();
            write_type(&event, &mut written);
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn structured_event_is_one_line_with_all_attributes() {
        insta::assert_snapshot!(
            structured("{\"id\":7,\"data\":{\"created\":\"2026-01-02T03:04:05.6+02:00\",\n \"result\":\"new\",\"pid\":\"p\"}}"),
            @r#"{"specversion":"1.0","id":"7","source":"/neuroio/main","type":"com.neuroio.entry.new","time":"2026-01-02T03:04:05.6+02:00","sequence":"11111111-1111-1111-1111-111111111111:00000000000000000042","datacontenttype":"application/json","data":{"created":"2026-01-02T03:04:05.6+02:00",  "result":"new","pid":"p"}}"#
        );
        insta::assert_snapshot!(
            structured(r#"{"data":{"created":"yesterday","result":null}}"#),
            @r#"{"specversion":"1.0","id":"11111111-1111-1111-1111-111111111111-42","source":"/neuroio/main","type":"com.neuroio.entry.unknown","sequence":"11111111-1111-1111-1111-111111111111:00000000000000000042","datacontenttype":"application/json","data":{"created":"yesterday","result":null}}"#
        );
    }

    #[test]
    fn iso_time_becomes_rfc3339_and_other_text_is_no_time() {
        let time = |created: &str| rfc3339(created, TimeFormat::Text, &mut String::new()).map(str::to_owned);
        assert_eq!(
            time("2026-01-02T03:04:05").as_deref(),
            Some("2026-01-02T03:04:05Z")
        );
        assert_eq!(
            time("2026-01-02 03:04:05.25").as_deref(),
            Some("2026-01-02T03:04:05.25Z")
        );
        assert_eq!(
            time("2026-01-31T03:04:05Z").as_deref(),
            Some("2026-01-31T03:04:05Z")
        );
        assert_eq!(time("2026-02-31T03:04:05Z"), None);
        assert_eq!(time("12"), None);
    }

    /// Checks that an RFC 3339 time is unchanged on each day of a common year, of a leap year, and of both
    /// kinds of century.
    #[test]
    fn valid_time_is_unchanged_on_every_day() {
        for year in [2026, 2028, 1900, 2000] {
            let mut day = jiff::civil::date(year, 1, 1);
            while day.year() == year {
                let text = format!("{day}T03:04:05.60+02:00");
                assert_eq!(
                    rfc3339(&text, TimeFormat::Text, &mut String::new()),
                    Some(text.as_str())
                );
                day = day.tomorrow().unwrap();
            }
        }
    }

    #[test]
    fn epoch_times_become_rfc3339() {
        use TimeFormat::{Microseconds, Milliseconds, Nanoseconds, Seconds, Text};
        for (time, format, expected) in [
            ("1700000000", Seconds, Some("2023-11-14T22:13:20Z")),
            ("1700000000.25", Seconds, Some("2023-11-14T22:13:20.25Z")),
            ("-1.5", Seconds, Some("1969-12-31T23:59:58.5Z")),
            ("-0.5", Seconds, Some("1969-12-31T23:59:59.5Z")),
            ("1700000000123", Milliseconds, Some("2023-11-14T22:13:20.123Z")),
            (
                "1700000000123.4567899",
                Milliseconds,
                Some("2023-11-14T22:13:20.123456789Z"),
            ),
            (
                "1700000000123456",
                Microseconds,
                Some("2023-11-14T22:13:20.123456Z"),
            ),
            (
                "1700000000123456789",
                Nanoseconds,
                Some("2023-11-14T22:13:20.123456789Z"),
            ),
            ("1700000000123456789", Seconds, None),
            (
                "1.7000000001235e12",
                Milliseconds,
                Some("2023-11-14T22:13:20.1235Z"),
            ),
            ("1e-99999", Seconds, Some("1970-01-01T00:00:00Z")),
            ("1e99999", Seconds, None),
            ("1e-2147483648", Seconds, Some("1970-01-01T00:00:00Z")),
            ("99999999999999999999999999999999999999999", Seconds, None),
            ("1.-5", Seconds, None),
            ("soon", Seconds, None),
            ("", Seconds, None),
            ("2023-11-14T22:13:20Z", Seconds, None),
            ("1700000000", Text, None),
        ] {
            let found = rfc3339(time, format, &mut String::new()).map(str::to_owned);
            assert_eq!(found.as_deref(), expected, "{time} {format:?}");
        }
    }

    proptest! {
        #[test]
        fn fast_path_accepts_only_valid_times(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-6][0-9])") {
            if is_rfc3339(&text) {
                prop_assert!(text.parse::<Timestamp>().is_ok() || text.starts_with("0000") || text.starts_with("9999"), "{}", text);
            }
        }

        #[test]
        fn encoded_values_are_printable(value in any::<String>()) {
            prop_assert!(percent_encode(&value).bytes().all(|byte| matches!(byte, 0x21..=0x7e)));
        }
    }
}
