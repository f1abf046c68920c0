//! Speeds up reading by caching the layouts of frames: frames of one feed have the same keys in the same
//! order, with different values.
//!
//! Most of the time for reading a frame is spent on its keys. If the text between the values of a frame
//! equals, byte for byte, that of an earlier frame, its keys are known, and only the values have to be read.
//! Because the text between the values is that of a valid frame and every value is a valid scalar, the frame
//! is valid as well and its fields have the same places.

use crate::{
    envelope::{Control, Envelope, FIELDS, Kind, control_index, read_with_control},
    json::{JsonError, Scanner, Span, scalar},
};

/// The number of cached layouts. A feed has one for each set of keys that it sends. If it has more, the least
/// recently used layouts are evicted, and their frames are read without the cache.
const LAYOUTS: usize = 4;
/// The maximum number of values of a layout. The feed's frames have 25; frames with many more rarely have the
/// same layout twice.
const MAX_VALUES: usize = 64;
/// The maximum number of bytes that a layout stores. The feed's frames have 400 bytes between their values.
const MAX_BYTES: usize = 4096;
/// The number of bytes of a separator that are compared in one operation.
const HEAD: usize = 16;
/// The number of frames from one layout that is learned to the next, after the first layouts matched nothing:
/// if no two frames have the same layout, learning from each one would cost more than reading it.
const LEARN_EVERY: u32 = 16;

/// Reads frames, and reads frames with a cached layout faster.
///
/// The result is the same as that of [`read`](crate::envelope::read).
#[derive(Clone, Debug, Default)]
pub struct FrameReader {
    /// The cached layouts, the most recently used one first.
    layouts: Vec<Layout>,
    /// The number of consecutive frames that matched no layout.
    misses: u32,
}

impl FrameReader {
    /// Reads a frame, as [`read`](crate::envelope::read) does.
    ///
    /// # Errors
    /// The frame is not JSON.
    pub fn read(&mut self, frame: &str) -> Result<Kind, JsonError> {
        self.read_with_control(frame).map(|(kind, _)| kind)
    }

    /// Reads a frame, as [`read_with_control`](crate::envelope::read_with_control) does.
    ///
    /// # Errors
    /// The frame is not JSON.
    pub fn read_with_control(&mut self, frame: &str) -> Result<(Kind, Option<Control>), JsonError> {
        for index in 0..self.layouts.len() {
            if let Some(envelope) = self.layouts[index].read(frame) {
                self.layouts[..=index].rotate_right(1);
                self.misses = 0;
                return Ok((Kind::Event(envelope), None));
            }
        }
        let read = read_with_control(frame)?;
        if let (Kind::Event(envelope), None) = &read {
            self.learn(frame, envelope);
        }
        Ok(read)
    }

    fn learn(&mut self, frame: &str, envelope: &Envelope) {
        let is_due = self.misses < LAYOUTS as u32 || self.misses.is_multiple_of(LEARN_EVERY);
        self.misses = self.misses.wrapping_add(1);
        if is_due && let Some(layout) = Layout::of(frame, envelope) {
            self.layouts.truncate(LAYOUTS - 1);
            self.layouts.insert(0, layout);
        }
    }
}

/// The text between the values of a frame, and the places in this text at which fields begin and end.
#[derive(Clone, Debug)]
struct Layout {
    /// The separator before each value.
    before: Vec<Separator>,
    /// The text after the last value.
    after: Vec<u8>,
    fields: [Option<(Place, Place)>; FIELDS],
}

/// The text between two values.
#[derive(Clone, Debug)]
struct Separator {
    /// The first bytes, padded with zeros.
    head: u128,
    /// A mask with ones for the used bytes of `head`.
    mask: u128,
    text: Vec<u8>,
}

impl Separator {
    fn of(text: &[u8]) -> Self {
        let (mut head, mut mask) = ([0; HEAD], [0; HEAD]);
        for ((head, mask), byte) in head.iter_mut().zip(&mut mask).zip(text) {
            (*head, *mask) = (*byte, u8::MAX);
        }
        Self {
            head: u128::from_ne_bytes(head),
            mask: u128::from_ne_bytes(mask),
            text: text.to_vec(),
        }
    }

    /// Returns the position after this separator, if the text at `position` equals it.
    ///
    /// A separator usually has some fifteen bytes: up to [`HEAD`] are compared in one operation, the rest
    /// afterwards.
    #[inline]
    fn end(&self, bytes: &[u8], position: usize) -> Option<usize> {
        let end = position + self.text.len();
        let rest = bytes.get(position..)?;
        let is_same = match rest.split_first_chunk::<HEAD>() {
            Some((head, rest)) => {
                (u128::from_ne_bytes(*head) ^ self.head) & self.mask == 0
                    && (self.text.len() <= HEAD || rest.starts_with(&self.text[HEAD..]))
            }
            None => rest.starts_with(&self.text),
        };
        is_same.then_some(end)
    }
}

/// A place in the text between two values.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The index of the value that follows this text; the number of values for the text after the last one.
    text: usize,
    offset: u32,
}

impl Layout {
    /// Creates the layout of an event frame with this envelope.
    fn of(frame: &str, envelope: &Envelope) -> Option<Self> {
        let mut values = Vec::new();
        Scanner::new(frame)
            .ok()?
            .object(|scanner, key| match control_index(&key.name()) {
                // The value of a control key decides whether the frame is an event, so another value is
                // another layout.
                Some(_) => scanner.value().map(drop),
                None => gather_values(scanner, &mut values),
            })
            .ok()?;
        if values.len() > MAX_VALUES {
            return None;
        }
        let (mut before, mut starts) = (Vec::with_capacity(values.len()), vec![0]);
        for value in &values {
            let text = frame.get(*starts.last()? as usize..value.start as usize)?;
            before.push(Separator::of(text.as_bytes()));
            starts.push(value.end);
        }
        let after = frame.get(*starts.last()? as usize..)?.as_bytes().to_vec();
        let bytes: usize = before.iter().map(|between| between.text.len()).sum();
        if bytes + after.len() > MAX_BYTES {
            return None;
        }
        // A field begins and ends where a value does, or between two values.
        let place = |offset: u32| {
            let text = starts.partition_point(|start| *start <= offset).checked_sub(1)?;
            Some(Place {
                text,
                offset: offset - starts[text],
            })
        };
        let mut fields = [None; FIELDS];
        for (field, span) in fields.iter_mut().zip(envelope.spans()) {
            if !span.is_absent() {
                *field = Some((place(span.start)?, place(span.end)?));
            }
        }
        Some(Self {
            before,
            after,
            fields,
        })
    }

    /// Returns the envelope of a frame with this layout, `None` for another layout.
    fn read(&self, frame: &str) -> Option<Envelope> {
        // Offsets have 32 bits.
        u32::try_from(frame.len()).ok()?;
        let bytes = frame.as_bytes();
        let mut starts = [0; MAX_VALUES + 1];
        let mut position = 0;
        for (start, between) in starts.iter_mut().zip(&self.before) {
            *start = position as u32;
            let value = between.end(bytes, position)?;
            position = match scalar::fast_end(bytes, value) {
                Some(end) => end,
                None => scalar::end(bytes, value).ok()?,
            };
        }
        starts[self.before.len()] = position as u32;
        if bytes.get(position..)? != self.after {
            return None;
        }
        let place = |place: Place| starts[place.text] + place.offset;
        let mut spans = [Span::ABSENT; FIELDS];
        for (span, field) in spans.iter_mut().zip(&self.fields) {
            if let Some((start, end)) = field {
                *span = Span {
                    start: place(*start),
                    end: place(*end),
                };
            }
        }
        Some(Envelope::from_spans(spans))
    }
}

/// Collects the positions of all scalar values.
fn gather_values(scanner: &mut Scanner<'_>, values: &mut Vec<Span>) -> Result<(), JsonError> {
    if scanner.at_object() {
        scanner.object(|scanner, _| gather_values(scanner, values))?;
    } else if scanner.at_array() {
        scanner.array(|scanner| gather_values(scanner, values))?;
    } else {
        values.push(scanner.value()?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::{Field, read};

    const USUAL: &str = r#"{"id":7,"data":{"id":8,"created":"2026-01-02T03:04:05Z","result":"new","pid":null,"source":{"id":3,"name":"Door \"A\""},"sizes":[1,2.5e3],"empty":{}}}"#;

    /// Reads all frames with one reader, and compares each result with that of an uncached read.
    fn agree(frames: &[&str]) -> FrameReader {
        let mut reader = FrameReader::default();
        for frame in frames {
            assert_eq!(
                reader.read_with_control(frame),
                read_with_control(frame),
                "{frame}"
            );
        }
        reader
    }

    #[test]
    fn control_keys_are_part_of_the_layout() {
        for key in ["PING", "auth", "error", "\\u0065rror"] {
            let frame = |value: &str| format!(r#"{{"id":1,"data":{{"pid":"a"}},"{key}":{value}}}"#);
            let null = frame("null");
            assert_eq!(agree(&[&null, &null]).misses, 0, "{null}");
            for value in ["\"x\"", "{\"code\":1}", "\"\"", "1", "[1]"] {
                agree(&[&null, &frame(value), &null, &frame(value)]);
            }
        }
    }

    #[test]
    fn empty_id_does_not_hide_a_later_id() {
        let other = USUAL.replace(":7,", ":\"\",");
        for frames in [[&other, USUAL], [USUAL, &other]] {
            let mut reader = agree(&frames);
            for frame in frames {
                let Ok(Kind::Event(envelope)) = reader.read(frame) else {
                    panic!("{frame}")
                };
                let id = envelope.text(Field::Id, frame);
                assert_eq!(id.as_deref(), (frame == USUAL).then_some("7"));
            }
        }
    }

    #[test]
    fn cached_layout_matches_same_shape() {
        let other = USUAL
            .replace(":7,", ":12345,")
            .replace("null", r#""a\u0062c""#)
            .replace("2.5e3", "true")
            .replace(r#""new""#, "null");
        let reader = agree(&[USUAL, &other]);
        assert_eq!((reader.layouts.len(), reader.misses), (1, 0));
        let envelope = reader.layouts[0].read(&other).unwrap();
        assert_eq!(envelope.text(Field::Pid, &other).as_deref(), Some("abc"));
        assert_eq!(envelope.raw(Field::SourceId, &other), Some("3"));
        assert!(
            envelope
                .raw(Field::Data, &other)
                .unwrap()
                .ends_with(r#""empty":{}}"#)
        );
    }

    #[test]
    fn similar_frame_with_another_layout_is_scanned() {
        let spoilt = [
            USUAL.replace("null", "nul"),
            USUAL.replace("null", "01"),
            USUAL.replace("null", "\"a\nb\""),
            USUAL.replace("null", r#""\x""#),
            USUAL.replace("null", r#""a","pid":"b""#),
            USUAL.replace("null", r#"{"a":1}"#),
            USUAL.replace("null", " null"),
            USUAL.replace(":7,", ":7,\"error\":1,"),
            USUAL.replace("[1,", "[1,1,"),
            format!("{USUAL} "),
            format!("{USUAL}}}"),
            USUAL[..USUAL.len() - 1].to_owned(),
            String::new(),
        ];
        for frame in &spoilt {
            agree(&[USUAL, frame, USUAL]);
        }
    }

    #[test]
    fn frame_that_differs_in_one_byte_is_scanned_again() {
        let short = r#"{"data":{"a":1},"id":1}"#;
        for frame in [USUAL, short, &USUAL.replace("result", "a_key_longer_than_others")] {
            for (at, byte) in
                (0..frame.len()).flat_map(|at| "x1\" ,:{}\\".bytes().map(move |byte| (at, byte)))
            {
                let mut other = frame.as_bytes().to_vec();
                other[at] = byte;
                agree(&[frame, std::str::from_utf8(&other).unwrap()]);
            }
        }
    }

    #[test]
    fn layout_supports_duplicate_and_nested_fields() {
        for frame in [
            r#"{"data":{"pid":"a","pid":{"b":1}},"id":1,"data":{"pid":[1,2],"source":5},"id":2}"#,
            r#" { "id" : 1 , "data" : { } } "#,
            r#"{"data":{},"id":"x"}"#,
        ] {
            assert_eq!(agree(&[frame, frame]).misses, 0, "{frame}");
        }
    }

    #[test]
    fn layouts_are_bounded_and_learned_rarely() {
        let frames: Vec<String> = (0..1000)
            .map(|number| format!(r#"{{"id":1,"data":{{"key{number}":1}}}}"#))
            .collect();
        let mut reader = FrameReader::default();
        for frame in &frames {
            assert_eq!(reader.read(frame), read(frame));
        }
        assert_eq!((reader.layouts.len(), reader.misses), (LAYOUTS, 1000));
        // The last frame that was learned from, and no later one.
        assert!(reader.layouts[0].read(&frames[992]).is_some());

        let many = format!(r#"{{"data":{{"a":[{}1]}}}}"#, "1,".repeat(MAX_VALUES));
        let long = format!(r#"{{"data":{{"{}":1}}}}"#, "a".repeat(MAX_BYTES));
        assert!(agree(&[&many, &long]).layouts.is_empty());
    }

    proptest! {
        #[test]
        fn cached_layout_matches_a_fresh_scan(
            values in proptest::collection::vec(
                prop_oneof![
                    Just("1".to_owned()), Just("-0.5e-7".to_owned()), Just("null".to_owned()), Just("\"\"".to_owned()),
                    Just("[]".to_owned()), Just("{\"id\":2}".to_owned()), Just("01".to_owned()), Just("\"a".to_owned()),
                    "\"[a-z\\\\\"u0-9]{0,12}\"",
                ],
                12..40,
            ),
            keys in proptest::sample::subsequence(vec!["id", "pid", "result", "created", "source", "age"], 1..6),
            control in proptest::option::of(proptest::sample::select(vec!["PING", "auth", "error"])),
        ) {
            let mut reader = FrameReader::default();
            for values in values.chunks_exact(6) {
                let members: Vec<String> = keys.iter().zip(values).map(|(key, value)| format!("\"{key}\":{value}")).collect();
                let control = control.map_or(String::new(), |key| format!("\"{key}\":{},", values[4]));
                let frame = format!(r#"{{{control}"id":{},"data":{{{}}}}}"#, values[5], members.join(","));
                prop_assert_eq!(reader.read_with_control(&frame), read_with_control(&frame), "{}", frame);
            }
        }
    }
}
