//! Realistic entries, generated from a seed.
//!
//! An entry depends only on the options and on its position in the sequence, from 1: the same seed, start and step yield
//! the same bytes in any order and on any machine, and the REST interface regenerates past entries on request.
//!
//! The entries of a simulator follow an assumed history of earlier entries. A *history position* counts from the first
//! entry of this history. The number of a person is the history position of the entry that introduced the person.

mod options;
mod tables;
mod text;

use std::{sync::OnceLock, time::Duration};

use jiff::Timestamp;

pub use self::{options::EntryOptions, tables::EntryResult};
use self::{
    tables::{LIVENESS, MOODS, NEW_OF_100, OTHER_RESULTS, SOURCES, SPACES, Source},
    text::{push_hundredths, push_number, push_time},
};
use crate::random::{Draws, mix};

/// The smallest configurable frame size in bytes, which leaves enough space for the fields other than the inline
/// picture.
pub const MIN_FRAME_BYTES: usize = 768;

/// The number of entries in the assumed history, so that most persons are known from the start.
const HISTORY: u64 = 20_000;

/// The time between two entries of the assumed history, which spans two weeks.
const HISTORY_STEP: Duration = Duration::from_secs(60);

/// Most returning persons were first seen within this number of preceding entries.
const RECENT: u64 = 5_000;

/// The size of the data from which inline pictures are cut, in base64 characters: far larger than the windows of fast
/// compressors, so that generated pictures compress as badly as real pictures.
const PICTURES: usize = 256 * 1024;

/// The first bytes of every JPEG file, in base64.
const JPEG: &[u8] = b"/9j/4AAQSkZJRgAB";

// The lanes of the random numbers of an entry (see `random`).
const LANE_KIND: u64 = 1;
const LANE_PERSON: u64 = 2;
const LANE_APPEARANCE: u64 = 3;
const LANE_PID: u64 = 4;
const LANE_PICTURE: u64 = 6;

/// The sequence of all entries of a simulated platform.
#[derive(Debug)]
pub struct Entries {
    seed: u64,
    start: OnceLock<Timestamp>,
    step: Duration,
    size: Option<usize>,
    pictures: Box<[u8]>,
    options: EntryOptions,
}

impl Entries {
    /// Creates the sequence. Entry 1 is created at `start` (`None`: when the sequence [begins](Self::begin)), each
    /// later one `step` after its predecessor. If `size` is set, an inline picture fills each frame up to that many
    /// bytes.
    #[must_use]
    pub fn new(seed: u64, start: Option<Timestamp>, step: Duration, size: Option<usize>) -> Self {
        Self {
            seed,
            start: start.map_or_else(OnceLock::new, OnceLock::from),
            step,
            size,
            pictures: pictures(seed),
            options: EntryOptions::default(),
        }
    }

    /// Sets irregularities of the entries.
    #[must_use]
    pub fn with_options(mut self, options: EntryOptions) -> Self {
        self.options = options;
        self
    }

    pub(crate) fn options(&self) -> &EntryOptions {
        &self.options
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Fixes the start of the sequence to the current time if it is not set. The first access to an entry has the same
    /// effect.
    pub fn begin(&self) {
        self.start.get_or_init(Timestamp::now);
    }

    /// Returns the fields of one entry; `position` counts from 1, and is the entry's id unless ids have holes.
    #[must_use]
    pub fn describe(&self, position: u64) -> Entry {
        self.describe_variant(position, 0)
    }

    /// Appends the frame `{"id":…,"data":…}` of the entry at a position.
    pub fn write_frame(&self, position: u64, out: &mut Vec<u8>) {
        self.write_frame_as(&self.describe(position), self.size, out);
    }

    /// Appends the entry as the REST interface returns it, which is the value of `data` in the frame.
    pub fn write_entry(&self, entry: &Entry, out: &mut Vec<u8>) {
        self.write_entry_of_size(entry, self.size, out);
    }

    /// Appends the entry as the REST interface returns it; an inline picture fills its frame up to `size` bytes.
    pub(crate) fn write_entry_of_size(&self, entry: &Entry, size: Option<usize>, out: &mut Vec<u8>) {
        let mut frame = Vec::with_capacity(size.unwrap_or_else(|| self.frame_bytes_hint()));
        self.write_frame_as(entry, size, &mut frame);
        let data = frame
            .iter()
            .position(|byte| *byte == b',')
            .map_or(0, |comma| comma + br#","data":"#.len());
        out.extend_from_slice(&frame[data..frame.len() - 1]);
    }

    /// Appends a frame with the id, result and person of [`Entries::write_frame`], and other values in the remaining
    /// fields.
    pub(crate) fn write_variant(&self, position: u64, variant: u64, out: &mut Vec<u8>) {
        self.write_frame_as(&self.describe_variant(position, variant), self.size, out);
    }

    /// Appends the frame of one entry, filled up to `bytes`.
    pub(crate) fn write_frame_of_size(&self, position: u64, bytes: usize, out: &mut Vec<u8>) {
        self.write_frame_as(&self.describe(position), Some(bytes), out);
    }

    /// Returns the approximate size of a frame in bytes.
    pub(crate) fn frame_bytes_hint(&self) -> usize {
        self.size.unwrap_or(640)
    }

    fn describe_variant(&self, position: u64, variant: u64) -> Entry {
        let mut kind = Draws::new(self.seed, position, LANE_KIND);
        let history_position = position + HISTORY;
        let result = if self.introduces_person(history_position) {
            EntryResult::New
        } else {
            kind.weighted(&OTHER_RESULTS)
        };
        let source = kind.below(100);
        let source_index = weighted_index(source);
        let person = match result {
            EntryResult::New => Some(history_position),
            EntryResult::NoMatch | EntryResult::Detected => None,
            _ => Some(self.person_of(history_position)),
        };
        let mut appearance = Draws::new(self.seed, position, LANE_APPEARANCE + variant.wrapping_mul(16));
        let confidence = match result {
            EntryResult::Exact | EntryResult::Reinit => Some(appearance.between(7_930, 9_990)),
            EntryResult::HighAccuracy => Some(appearance.between(7_550, 7_929)),
            EntryResult::Junk => Some(appearance.between(6_884, 7_549)),
            EntryResult::New | EntryResult::NoMatch => Some(appearance.between(1_200, 6_883)),
            EntryResult::Detected => None,
        };
        let mood = match result {
            EntryResult::Detected => "det",
            EntryResult::NoMatch => "nm",
            _ => appearance.weighted(&MOODS),
        };
        let (age, sex) = person.map_or((None, None), |person| {
            let mut traits = Draws::new(self.seed, person, LANE_PERSON);
            (Some(traits.between(18, 79) as u8), Some(traits.below(2) as u8))
        });
        Entry {
            id: self.options.id_at(position),
            result,
            created: self.created(position),
            person,
            source: source_index,
            age,
            sex,
            mood,
            liveness: appearance.weighted(&LIVENESS),
            confidence,
            face_size: appearance.between(4_000, 90_000),
            exposure: appearance.between(-99, 99),
            pan: appearance.between(-3_500, 3_500),
            tilt: appearance.between(-2_500, 2_500),
        }
    }

    fn write_frame_as(&self, entry: &Entry, size: Option<usize>, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(size.unwrap_or(896).max(MIN_FRAME_BYTES));
        out.extend_from_slice(br#"{"id":"#);
        push_number(out, entry.id);
        out.extend_from_slice(br#","data":{"id":"#);
        push_number(out, entry.id);
        out.extend_from_slice(br#","created":""#);
        push_time(out, entry.created);
        out.extend_from_slice(br#"","result":""#);
        out.extend_from_slice(entry.result.as_str().as_bytes());
        match entry.person {
            Some(person) => {
                out.extend_from_slice(br#"","pid":""#);
                self.push_pid(person, out);
                out.extend_from_slice(br#"","pid_created":""#);
                push_time(out, self.first_seen(person));
                out.extend_from_slice(br#"","#);
            }
            None => out.extend_from_slice(br#"","pid":null,"pid_created":null,"#),
        }
        out.extend_from_slice(entry.source().json.as_bytes());
        push_optional(out, br#","age":"#, entry.age);
        push_optional(out, br#","sex":"#, entry.sex);
        out.extend_from_slice(br#","mood":""#);
        out.extend_from_slice(entry.mood.as_bytes());
        out.extend_from_slice(br#"","liveness":""#);
        out.extend_from_slice(entry.liveness.as_bytes());
        out.extend_from_slice(br#"","confidence":"#);
        match entry.confidence {
            Some(confidence) => push_hundredths(out, confidence),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(br#","facesize":"#);
        push_hundredths(out, entry.face_size);
        out.extend_from_slice(br#","exposure":"#);
        push_hundredths(out, entry.exposure);
        out.extend_from_slice(br#","pan":"#);
        push_hundredths(out, entry.pan);
        out.extend_from_slice(br#","tilt":"#);
        push_hundredths(out, entry.tilt);
        match size {
            None => push_picture_urls(entry, out),
            Some(size) => self.push_inline_picture(entry.id, start + size, out),
        }
    }

    /// Fills the frame up to `end` bytes of `out`. A base64 text has a multiple of four characters; the URL after it
    /// fills the remaining one to four bytes.
    fn push_inline_picture(&self, id: u64, end: usize, out: &mut Vec<u8>) {
        const FULL: &[u8] = br#"","full_image":"https://media.neuroio.example/"#;
        const END: &[u8] = br#""}}"#;
        out.extend_from_slice(br#","face_image":""#);
        let room = end.saturating_sub(out.len() + FULL.len() + END.len() + 1);
        let mut left = room - room % 4;
        let offset = (mix(self.seed, id, LANE_PICTURE) as usize % PICTURES) & !3;
        let jpeg = left.min(JPEG.len());
        out.extend_from_slice(&JPEG[..jpeg]);
        left -= jpeg;
        let mut at = offset;
        while left > 0 {
            let piece = left.min(PICTURES - at);
            out.extend_from_slice(&self.pictures[at..at + piece]);
            left -= piece;
            at = 0;
        }
        out.extend_from_slice(FULL);
        out.extend_from_slice(&b"0000"[..1 + room % 4]);
        out.extend_from_slice(END);
    }

    fn push_pid(&self, person: u64, out: &mut Vec<u8>) {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        out.extend_from_slice(self.pid(person).hyphenated().encode_lower(&mut text).as_bytes());
    }

    /// Returns the id (`pid`) of a person.
    pub(crate) fn pid(&self, person: u64) -> uuid::Uuid {
        let high = mix(self.seed, person, LANE_PID);
        let low = mix(self.seed, person, LANE_PID + 1);
        uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
            .into_uuid()
    }

    /// Selects the person of an entry that introduces no new person: mostly a person first seen recently, sometimes a
    /// person first seen long ago.
    fn person_of(&self, history_position: u64) -> u64 {
        let mut draws = Draws::new(self.seed, history_position, LANE_PERSON);
        let before = history_position - 1;
        let reach = if draws.below(100) < 85 {
            before.min(RECENT)
        } else {
            before
        };
        let mut candidate = before - draws.below(reach);
        while !self.introduces_person(candidate) {
            candidate -= 1;
        }
        candidate
    }

    /// Returns whether an entry introduces a new person. The first entry of the history does, so that an earlier person
    /// exists for every later entry.
    fn introduces_person(&self, history_position: u64) -> bool {
        history_position <= 1 || mix(self.seed, history_position, 0) % 100 < NEW_OF_100
    }

    /// Returns the time at which a person was first seen, in microseconds since 1970.
    fn first_seen(&self, person: u64) -> i64 {
        match person.checked_sub(HISTORY) {
            Some(position @ 1..) => self.created(position),
            _ => {
                let before = HISTORY_STEP.as_micros() as i64 * (HISTORY + 1 - person) as i64;
                self.created(1).saturating_sub(before)
            }
        }
    }

    /// Returns the time of creation in microseconds since 1970, by the platform's clock.
    pub(crate) fn created(&self, position: u64) -> i64 {
        self.regularly_created(position)
            .saturating_add(self.options.clock_offset_micros())
            .saturating_sub(self.options.earlier_by(position))
    }

    /// Returns the regular time of creation in microseconds since 1970, by a clock without deviation. A late entry has an
    /// earlier time of creation.
    pub(crate) fn regularly_created(&self, position: u64) -> i64 {
        let start = self.start.get_or_init(Timestamp::now).as_microsecond();
        let after = u128::from(position.saturating_sub(1)) * self.step.as_nanos() / 1_000;
        start.saturating_add(i64::try_from(after).unwrap_or(i64::MAX))
    }
}

/// The fields of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The entry's id, from 1.
    pub id: u64,
    /// The platform's recognition result.
    pub result: EntryResult,
    /// The creation time in microseconds since 1970.
    pub created: i64,
    /// The number of the person; the `pid` of the person depends only on this number and the seed.
    pub person: Option<u64>,
    /// The age in years.
    pub age: Option<u8>,
    /// The sex: 0 male, 1 female.
    pub sex: Option<u8>,
    /// The platform's word for the mood.
    pub mood: &'static str,
    /// The platform's word for the liveness.
    pub liveness: &'static str,
    source: usize,
    confidence: Option<i64>,
    face_size: i64,
    exposure: i64,
    pan: i64,
    tilt: i64,
}

impl Entry {
    /// Returns the id of the camera or upload.
    #[must_use]
    pub fn source_id(&self) -> u64 {
        self.source().id
    }

    /// Returns the id of the space.
    #[must_use]
    pub fn space_id(&self) -> u64 {
        self.source().space_id
    }

    fn source(&self) -> &'static Source {
        const TABLE: &[(Source, u64)] = &SOURCES;
        &TABLE[self.source].0
    }
}

/// Returns the name of a space.
pub(crate) fn space_name(id: u64) -> Option<&'static str> {
    SPACES
        .into_iter()
        .find(|(space, _)| *space == id)
        .map(|(_, name)| name)
}

fn weighted_index(mut drawn: u64) -> usize {
    for (index, (_, weight)) in SOURCES.iter().enumerate() {
        if drawn < *weight {
            return index;
        }
        drawn -= weight;
    }
    SOURCES.len() - 1
}

fn push_optional(out: &mut Vec<u8>, key: &[u8], value: Option<u8>) {
    out.extend_from_slice(key);
    match value {
        Some(value) => push_number(out, u64::from(value)),
        None => out.extend_from_slice(b"null"),
    }
}

fn push_picture_urls(entry: &Entry, out: &mut Vec<u8>) {
    const MEDIA: &[u8] = b"https://m.neuroio.example/";
    let first = entry.person.filter(|_| entry.result != EntryResult::New);
    for (key, id, file) in [
        (&br#","face_image":"#[..], Some(entry.id), &b"/f.jpg\""[..]),
        (br#","full_image":"#, Some(entry.id), b"/s.jpg\""),
        (br#","initial_face_image":"#, first, b"/f.jpg\""),
        (br#","initial_full_image":"#, first, b"/s.jpg\""),
    ] {
        out.extend_from_slice(key);
        let Some(id) = id else {
            out.extend_from_slice(b"null");
            continue;
        };
        out.push(b'"');
        out.extend_from_slice(MEDIA);
        push_number(out, id);
        out.extend_from_slice(file);
    }
    out.extend_from_slice(b"}}");
}

fn pictures(seed: u64) -> Box<[u8]> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut draws = Draws::new(seed, 0, LANE_PICTURE);
    let mut text = Vec::with_capacity(PICTURES);
    while text.len() < PICTURES {
        let bits = draws.next();
        text.extend((0..8).map(|character| ALPHABET[(bits >> (character * 6)) as usize & 63]));
    }
    text.into_boxed_slice()
}

#[cfg(test)]
mod tests;
