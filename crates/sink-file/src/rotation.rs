//! The names of rotated files, and the rotation times.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use neurobridge_core::private_folder;

use crate::error::FileError;

const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";
const TIME_LENGTH: usize = "20260102T030405Z".len();

/// The paths of the active file and its rotated files.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The active file.
    pub(crate) active: PathBuf,
    pub(crate) folder: PathBuf,
    /// The name of the active file up to the extension, and the extension with its dot.
    stem: String,
    extension: String,
}

/// A file that is no longer written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rotated {
    pub(crate) path: PathBuf,
    /// The time at which its last event was written.
    pub(crate) time: Timestamp,
    /// The number that orders rotated files: the clock may step, numbers do not.
    pub(crate) number: u64,
}

impl Place {
    pub(crate) fn new(path: &Path) -> Result<Self, FileError> {
        let no_file = || FileError::NoFile {
            path: path.to_owned(),
        };
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(no_file)?;
        let (stem, extension) = match name.rfind('.') {
            Some(dot) if dot > 0 => name.split_at(dot),
            _ => (name, ""),
        };
        Ok(Self {
            active: path.to_owned(),
            folder: private_folder::parent(path).to_owned(),
            stem: stem.to_owned(),
            extension: extension.to_owned(),
        })
    }

    /// Returns the lock file, which the writer locks. It is never removed: otherwise two writers could each hold a lock.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.folder.join(format!("{}{}.lock", self.stem, self.extension))
    }

    /// Returns the rotated file that the active file becomes.
    pub(crate) fn rotated(&self, time: Timestamp, number: u64) -> Rotated {
        let text = time.to_zoned(TimeZone::UTC).strftime(TIME_FORMAT);
        let name = format!("{}-{text}-{number:06}{}", self.stem, self.extension);
        Rotated {
            path: self.folder.join(name),
            time,
            number,
        }
    }

    /// Returns the rotated files, oldest first.
    pub(crate) fn list(&self) -> Result<Vec<Rotated>, FileError> {
        let failed = |error| FileError::io("list", &self.folder)(error);
        let mut rotated = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            rotated.extend(name.to_str().and_then(|name| self.parse(name)));
        }
        rotated.sort_by_key(|file| (file.number, file.time));
        Ok(rotated)
    }

    /// Returns the total size of the rotated files whose last event was written within this time.
    pub(crate) fn size_within(&self, time: Duration, now: Timestamp) -> Result<u64, FileError> {
        let rotated = self.list()?;
        let young = rotated
            .iter()
            .filter(|file| !is_too_old(Some(time), file.time, now));
        let lengths = young.filter_map(|file| file.path.metadata().ok());
        Ok(lengths.map(|metadata| metadata.len()).sum())
    }

    fn parse(&self, name: &str) -> Option<Rotated> {
        let middle = name
            .strip_prefix(&self.stem)?
            .strip_prefix('-')?
            .strip_suffix(&self.extension)?;
        let (time, number) = middle.split_at_checked(TIME_LENGTH)?;
        let number = number.strip_prefix('-')?;
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let time = DateTime::strptime(TIME_FORMAT, time).ok()?;
        Some(Rotated {
            path: self.folder.join(name),
            time: time.to_zoned(TimeZone::UTC).ok()?.timestamp(),
            number: number.parse().ok()?,
        })
    }
}

/// Returns whether `now` is in a later period than `last`. A clock that was set back begins no new period.
pub(crate) fn is_later_period(every: Option<Duration>, last: Timestamp, now: Timestamp) -> bool {
    let Some(every) = every.map(|every| every.as_millis().max(1)) else {
        return false;
    };
    let period = |time: Timestamp| i128::from(time.as_millisecond()).div_euclid(every as i128);
    period(now) > period(last)
}

/// Returns whether a file whose last event was written at `time` has exceeded `max_age`.
pub(crate) fn is_too_old(max_age: Option<Duration>, time: Timestamp, now: Timestamp) -> bool {
    max_age.is_some_and(|age| {
        i128::from(now.as_millisecond()) - i128::from(time.as_millisecond()) > age.as_millis() as i128
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn file_names_contain_time_and_number() {
        let place = Place::new(Path::new("/data/events.jsonl")).unwrap();
        let rotated = place.rotated(time("2026-01-02T03:04:05.9Z"), 7);
        assert_eq!(
            rotated.path,
            Path::new("/data/events-20260102T030405Z-000007.jsonl")
        );
        assert_eq!(place.lock_file(), Path::new("/data/events.jsonl.lock"));
        let plain = Place::new(Path::new("x")).unwrap();
        assert_eq!(
            plain.rotated(time("2026-01-02T03:04:05Z"), 1_000_000).path,
            Path::new("./x-20260102T030405Z-1000000")
        );
    }

    #[test]
    fn names_of_other_files_are_not_rotated_files() {
        let place = Place::new(Path::new("/data/events.jsonl")).unwrap();
        for name in [
            "events.jsonl",
            "events.jsonl.lock",
            "events-old.jsonl",
            "events-20260102T030405Z.jsonl",
            "events-20260102T030405Z-.jsonl",
            "events-20260102T030405Z-+1.jsonl",
            "events-20261302T030405Z-000001.jsonl",
            "events-x-20260102T030405Z-000001.jsonl",
            "events-20260102T030405Z-000001.json",
            "events-20260102T030405é-000001.jsonl",
        ] {
            assert_eq!(place.parse(name), None, "{name}");
        }
    }

    #[test]
    fn periods_start_at_whole_multiples() {
        let later = |last, now| is_later_period(Some(Duration::from_secs(86_400)), time(last), time(now));
        assert!(!later("2026-01-02T00:00:00Z", "2026-01-02T23:59:59.9Z"));
        assert!(later("2026-01-02T23:59:59Z", "2026-01-03T00:00:00Z"));
        assert!(!later("2026-01-03T00:00:00Z", "2026-01-02T00:00:00Z"));
        assert!(!is_later_period(
            None,
            time("2026-01-02T00:00:00Z"),
            time("2027-01-02T00:00:00Z")
        ));
    }

    proptest! {
        #[test]
        fn file_name_parses_to_its_parts(seconds in -30_000_000_000i64..250_000_000_000, number in any::<u64>()) {
            let place = Place::new(Path::new("/data/a.b.jsonl")).unwrap();
            let rotated = place.rotated(Timestamp::from_second(seconds).unwrap(), number);
            let name = rotated.path.file_name().unwrap().to_str().unwrap().to_owned();
            prop_assert_eq!(place.parse(&name), Some(rotated));
        }
    }
}
