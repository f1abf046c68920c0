//! The configuration of a file sink.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use neurobridge_core::{
    sink_type::DeadLetterFile,
    units::{self, ByteSize},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// With a smaller limit nearly every event would have a separate file.
const LEAST_SIZE: ByteSize = ByteSize::from_kib(64);
/// Names of rotated files have a resolution of one second; more than one file per minute is not useful.
const LEAST_PERIOD: Duration = Duration::from_secs(60);

/// A file of JSON lines, with rotated files beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FileConfig {
    /// The file, relative to `data_dir`. Rotated to `<name>-<time of its last event>-<number>.<extension>` beside it.
    pub path: PathBuf,
    /// The content of a line.
    pub format: FileFormat,
    /// The largest size of a file; it is rotated before it becomes larger.
    pub max_size: ByteSize,
    /// The rotation period: a file contains the events of one period. Periods are counted from 1970 in UTC, so that `1d`
    /// rotates at midnight UTC. By default, files are rotated by size alone; with `max_age` also every day (every `max_age`, if
    /// that is shorter), because only whole files are removed.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<neurobridge_core::units::DurationText>")]
    pub rotate_every: Option<Duration>,
    /// A rotated file is removed when its last event has this age. No file is removed by default.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<neurobridge_core::units::DurationText>")]
    pub max_age: Option<Duration>,
    /// When an event counts as delivered.
    pub sync: SyncMode,
    /// The file for events that cannot be written; a file in the data folder by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetterFile>,
}

/// The content of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// A CloudEvent in structured mode, which names the source of the event.
    #[default]
    CloudeventsJson,
    /// The frame of the feed, with its line breaks replaced by spaces.
    Raw,
}

/// When an event counts as delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// When it is on the disk: it survives a power cut. One sync covers a whole batch.
    #[default]
    Always,
    /// After the write to the operating system: it survives the end of the program, but not a power cut.
    Never,
}

impl Default for FileConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("events.jsonl"),
            format: FileFormat::default(),
            max_size: ByteSize::from_mib(128),
            rotate_every: None,
            max_age: None,
            sync: SyncMode::default(),
            dead_letter: None,
        }
    }
}

impl FileConfig {
    /// Returns the configuration errors: the key and the error text of each.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut errors = Vec::new();
        let mut error = |key: &str, sentence: String| errors.push((key.to_owned(), sentence));
        if let Some(sentence) = check_path(&self.path) {
            error("path", sentence);
        }
        if self.max_size < LEAST_SIZE {
            error(
                "max_size",
                format!("found \"{}\", expected at least \"{LEAST_SIZE}\"", self.max_size),
            );
        }
        for (key, duration) in [("rotate_every", self.rotate_every), ("max_age", self.max_age)] {
            if let Some(duration) = duration
                && duration < LEAST_PERIOD
            {
                let found = units::format_duration(duration);
                let least = units::format_duration(LEAST_PERIOD);
                error(key, format!("found \"{found}\", expected at least \"{least}\""));
            }
        }
        errors
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_size: self.max_size.bytes(),
            rotate_every: effective_period(self.rotate_every, self.max_age),
            max_age: self.max_age,
            sync: self.sync,
        }
    }
}

/// The limits that the writer of a file applies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_size: u64,
    pub(crate) rotate_every: Option<Duration>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) sync: SyncMode,
}

/// Returns the rotation period. Only whole files are removed, so `max_age` limits the period.
pub(crate) fn effective_period(
    rotate_every: Option<Duration>,
    max_age: Option<Duration>,
) -> Option<Duration> {
    rotate_every.or(max_age.map(|age| age.min(DAY)))
}

/// Returns the error text for a path that cannot be the path of a file to write.
pub(crate) fn check_path(path: &Path) -> Option<String> {
    let text = path.to_string_lossy();
    let is_file = path.file_name().is_some_and(|name| name.to_str().is_some()) && !text.ends_with('/');
    (!is_file || text == "-")
        .then(|| format!("found \"{text}\", expected the name of a file such as \"events.jsonl\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> FileConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn defaults_are_valid_and_all_keys_are_parsed() {
        assert_eq!(parse("{}"), FileConfig::default());
        assert!(FileConfig::default().check().is_empty());
        let config = parse(
            r#"{"path":"/a/b","format":"raw","max_size":"1 GiB","rotate_every":"1h","max_age":"30d","sync":"never"}"#,
        );
        assert_eq!(config.rotate_every, Some(Duration::from_secs(3600)));
        assert_eq!((config.format, config.sync), (FileFormat::Raw, SyncMode::Never));
        assert_eq!(parse(&serde_json::to_string(&config).unwrap()), config);
        assert!(config.check().is_empty());
        assert!(serde_json::from_str::<FileConfig>(r#"{"compression":"zstd"}"#).is_err());
    }

    #[test]
    fn all_errors_are_reported() {
        let config = parse(r#"{"path":"-","max_size":"1 KiB","rotate_every":"5s","max_age":"0s"}"#);
        insta::assert_snapshot!(
            config.check().iter().map(|(key, sentence)| format!("{key}: {sentence}\n")).collect::<String>(),
            @r#"
        path: found "-", expected the name of a file such as "events.jsonl"
        max_size: found "1 KiB", expected at least "64 KiB"
        rotate_every: found "5s", expected at least "1m"
        max_age: found "0s", expected at least "1m"
        "#
        );
        for path in ["", "/", "a/", ".."] {
            assert!(check_path(Path::new(path)).is_some(), "{path}");
        }
    }

    #[test]
    fn max_age_alone_sets_a_rotation_period_of_at_most_a_day() {
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        assert_eq!(effective_period(None, None), None);
        assert_eq!(effective_period(None, hours(240)), hours(24));
        assert_eq!(effective_period(None, hours(2)), hours(2));
        assert_eq!(effective_period(hours(48), hours(240)), hours(48));
    }
}
