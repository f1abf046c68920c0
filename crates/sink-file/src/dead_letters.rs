//! The file for the dead letters of all sinks without a destination of their own, with a limit on the size per day.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use neurobridge_core::{
    dead_letter::DeadLetters,
    units::{self, ByteSize},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::warn;

use crate::{
    clock::{Clock, SystemClock},
    config::{Limits, SyncMode, check_path, effective_period},
    error::FileError,
    rotation::Place,
    writer::Writer,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A smaller limit would not hold one large event.
const LEAST_PER_DAY: ByteSize = ByteSize::from_mib(1);

/// The file for the dead letters of all sinks without a destination of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// The file, relative to `data_dir`. It is rotated every day, like the file of a file sink.
    pub path: PathBuf,
    /// A rotated file is removed when its last dead letter has this age. 30 days by default: enough time to inspect dead
    /// letters, without storing personal data for ever.
    #[serde(with = "units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub max_age: Duration,
    /// The largest size of the dead letters of a day. Further dead letters are counted by
    /// `neurobridge_dead_letters_not_kept_total` and not stored: a feed that sends only malformed frames, or a sink that
    /// rejects all events, would fill the disk.
    pub max_size_per_day: ByteSize,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("dead-letters.jsonl"),
            max_age: Duration::from_secs(30 * 24 * 60 * 60),
            max_size_per_day: ByteSize::from_mib(64),
        }
    }
}

impl DeadLettersConfig {
    /// Returns the configuration errors: the key and the error text of each.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut errors = Vec::new();
        errors.extend(check_path(&self.path).map(|sentence| ("path".to_owned(), sentence)));
        if self.max_age < Duration::from_secs(60) {
            let found = units::format_duration(self.max_age);
            errors.push((
                "max_age".to_owned(),
                format!("found \"{found}\", expected at least \"1m\""),
            ));
        }
        if self.max_size_per_day < LEAST_PER_DAY {
            errors.push((
                "max_size_per_day".to_owned(),
                format!(
                    "found \"{}\", expected at least \"{LEAST_PER_DAY}\"",
                    self.max_size_per_day
                ),
            ));
        }
        errors
    }
}

/// Stores dead letters in a file of JSON lines. All sinks share one instance in an [`Arc`]; concurrent calls are written
/// one after the other.
///
/// If a `store` future is dropped, its dead letters are stored completely or not at all. After a failed sync those without an
/// outcome are stored in a new file. Dead letters beyond
/// [`max_size_per_day`](DeadLettersConfig::max_size_per_day) are counted and not stored.
pub struct FileDeadLetters {
    writer: Writer,
    /// The lock of the budget serialises the writes: a write that waits on the blocking pool would only block a thread.
    budget: Mutex<Budget>,
    clock: Arc<dyn Clock>,
    discarded: AtomicU64,
}

impl FileDeadLetters {
    /// Opens the file, creates it if it does not exist, and removes files that are too old, now and periodically. Must be
    /// called within a tokio runtime. A relative path is resolved against `data_dir`.
    ///
    /// # Errors
    /// The file cannot be written, or another process writes to it.
    pub async fn open(config: &DeadLettersConfig, data_dir: &Path) -> Result<Self, FileError> {
        Self::with_clock(config, data_dir, Arc::new(SystemClock::new())).await
    }

    /// Returns the files with dead letters at this path, the oldest first: the rotated files, then the active file. A file
    /// may have been removed before the caller reads it.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn files(path: &Path) -> Result<Vec<PathBuf>, FileError> {
        let rotated = Place::new(path)?.list()?;
        let paths = rotated.into_iter().map(|rotated| rotated.path);
        Ok(paths.chain([path.to_owned()]).collect())
    }

    async fn with_clock(
        config: &DeadLettersConfig,
        data_dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, FileError> {
        let max_age = Some(config.max_age);
        let limits = Limits {
            max_size: ByteSize::from_mib(128).bytes(),
            rotate_every: effective_period(None, max_age),
            max_age,
            sync: SyncMode::Always,
        };
        let mut writer = Writer::new(data_dir.join(&config.path), limits, Arc::clone(&clock));
        let used = writer.open(|log| log.size_within(DAY)).await?;
        Ok(Self {
            writer,
            budget: Mutex::new(Budget::new(
                config.max_size_per_day.bytes(),
                used,
                clock.elapsed(),
            )),
            clock,
            discarded: AtomicU64::new(0),
        })
    }

    async fn append(&self, mut lines: String) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if !lines.ends_with('\n') {
            // A line without a line break would be truncated at the next start.
            lines.push('\n');
        }
        let mut budget = self.budget.lock().await;
        budget.refill(self.clock.elapsed());
        let kept = budget.fitting(&lines);
        let discarded = lines[kept..].lines().count() as u64;
        lines.truncate(kept);
        if kept > 0 {
            let written = self.writer.spawn(move |log| log.append(lines.as_bytes()));
            written.await.map_err(io::Error::other)??;
            budget.left -= kept as u64;
        }
        if discarded > 0 {
            self.discarded.fetch_add(discarded, Ordering::Relaxed);
        }
        if discarded > 0 && !std::mem::replace(&mut budget.is_exceeded, true) {
            warn!(
                limit = %ByteSize::from_bytes(budget.per_day),
                "too many dead letters: the limit of dead_letters.max_size_per_day is exceeded; further ones are counted and \
                 not stored, so they cannot be replayed"
            );
        }
        Ok(())
    }
}

/// The number of bytes that may be stored: at most the daily limit at once, and no more than the daily limit on average.
struct Budget {
    per_day: u64,
    left: u64,
    refilled_at: Duration,
    is_exceeded: bool,
}

impl Budget {
    /// Creates a budget of which `used` bytes were used within the last day.
    const fn new(per_day: u64, used: u64, now: Duration) -> Self {
        Self {
            per_day,
            left: per_day.saturating_sub(used),
            refilled_at: now,
            is_exceeded: false,
        }
    }

    /// Adds the bytes that the time since the last call permits.
    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.refilled_at);
        let more = u128::from(self.per_day) * elapsed.as_millis() / DAY.as_millis();
        // The fraction of a byte counts at the next call.
        if more > 0 {
            self.left = self
                .left
                .saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
                .min(self.per_day);
            self.refilled_at = now;
        }
        // A flood of dead letters is logged once: the next warning requires that half of the limit was free in between.
        self.is_exceeded &= self.left < self.per_day / 2;
    }

    /// Returns the length of the whole lines that fit.
    fn fitting(&self, lines: &str) -> usize {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(lines.len());
        lines.as_bytes()[..most]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1)
    }
}

impl DeadLetters for FileDeadLetters {
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        Box::pin(self.append(lines.to_owned()))
    }

    fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{folder::testing, log::tests::HandClock};

    #[tokio::test]
    async fn concurrent_dead_letters_are_stored_completely() {
        let folder = tempfile::tempdir().unwrap();
        let config = DeadLettersConfig::default();
        let dead_letters = Arc::new(FileDeadLetters::open(&config, folder.path()).await.unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..8 {
            let dead_letters: Arc<dyn DeadLetters> = Arc::clone(&dead_letters) as _;
            tasks.spawn(async move {
                for number in 0..20 {
                    dead_letters
                        .store(&format!("{{\"task\":{task},\"number\":{number}}}\n"))
                        .await
                        .unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        dead_letters.store("").await.unwrap();
        let text = fs::read_to_string(folder.path().join("dead-letters.jsonl")).unwrap();
        let mut lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 160);
        lines.retain(|line| line["task"] == 3);
        let numbers: Vec<u64> = lines
            .iter()
            .map(|line| line["number"].as_u64().unwrap())
            .collect();
        assert!(numbers.is_sorted() && numbers.len() == 20);
    }

    #[tokio::test]
    async fn old_dead_letters_are_removed_without_new_ones() {
        let folder = tempfile::tempdir().unwrap();
        let config = DeadLettersConfig::default();
        let dead_letters = FileDeadLetters::open(&config, folder.path()).await.unwrap();
        dead_letters.store("{}\n").await.unwrap();
        drop(dead_letters);
        let names = || {
            let mut names: Vec<String> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| !name.ends_with(".lock"))
                .collect();
            names.sort();
            names
        };
        // The last dead letter of the file has the real time: one month before this clock.
        let clock = HandClock::now();
        clock.advance(Duration::from_secs(31 * 24 * 3600));
        // Right after a step of the clock no file is removed.
        clock.set_trusted(false);
        drop(open_when_free(&config, folder.path(), clock.clock()).await);
        assert_eq!(names().len(), 2);
        clock.set_trusted(true);
        let dead_letters = open_when_free(&config, folder.path(), clock.clock()).await;
        assert_eq!(names(), ["dead-letters.jsonl"]);
        assert_eq!(fs::read(folder.path().join("dead-letters.jsonl")).unwrap(), b"");
        drop(dead_letters);
    }

    /// Opens the file once its lock is free: the pool releases the lock of a dropped instance a moment later.
    async fn open_when_free(
        config: &DeadLettersConfig,
        folder: &Path,
        clock: Arc<dyn Clock>,
    ) -> FileDeadLetters {
        loop {
            match FileDeadLetters::with_clock(config, folder, Arc::clone(&clock)).await {
                Err(FileError::Locked { .. }) => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn failed_sync_blocks_no_later_dead_letter() {
        let folder = tempfile::tempdir().unwrap();
        let config = DeadLettersConfig::default();
        let dead_letters = FileDeadLetters::open(&config, folder.path()).await.unwrap();
        dead_letters.store("{\"n\":1}\n").await.unwrap();
        testing::inject(&folder.path().join("dead-letters.jsonl"), 2, 5);
        for _ in 0..2 {
            let error = dead_letters.store("{\"n\":2}\n").await.unwrap_err().to_string();
            assert!(error.contains("could not be synced"), "{error}");
        }
        dead_letters.store("{\"n\":2}\n").await.unwrap();
        dead_letters.store("{\"n\":3}\n").await.unwrap();
        let active = fs::read_to_string(folder.path().join("dead-letters.jsonl")).unwrap();
        assert_eq!(active, "{\"n\":2}\n{\"n\":3}\n");
        let place = crate::rotation::Place::new(&folder.path().join("dead-letters.jsonl")).unwrap();
        let rotated = place.list().unwrap();
        assert_eq!(rotated.len(), 1);
        assert_eq!(fs::read_to_string(&rotated[0].path).unwrap(), "{\"n\":1}\n");
    }

    #[tokio::test]
    async fn dead_letters_beyond_the_limit_are_only_counted() {
        let folder = tempfile::tempdir().unwrap();
        let config = DeadLettersConfig {
            max_size_per_day: LEAST_PER_DAY,
            ..DeadLettersConfig::default()
        };
        let clock = HandClock::now();
        let dead_letters = FileDeadLetters::with_clock(&config, folder.path(), clock.clock())
            .await
            .unwrap();
        let line = format!("{}\n", "x".repeat(99_999));
        for _ in 0..5 {
            dead_letters.store(&line.repeat(4)).await.unwrap();
        }
        // The sum over all files, as the test may run across midnight.
        let length = || -> u64 {
            let files = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap());
            let stored = files.filter(|file| !file.file_name().to_str().unwrap().ends_with(".lock"));
            stored.map(|file| file.metadata().unwrap().len()).sum()
        };
        assert_eq!((length(), dead_letters.discarded()), (1_000_000, 10));
        clock.advance(Duration::from_secs(6 * 3600));
        dead_letters.store(&line.repeat(4)).await.unwrap();
        assert_eq!((length(), dead_letters.discarded()), (1_300_000, 11));
        drop(dead_letters);
        // A restart does not raise the limit.
        let dead_letters = open_when_free(&config, folder.path(), clock.clock()).await;
        dead_letters.store(&line).await.unwrap();
        assert_eq!((length(), dead_letters.discarded()), (1_300_000, 1));
    }

    #[tokio::test]
    async fn second_writer_of_the_same_file_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let config = DeadLettersConfig::default();
        let _dead_letters = FileDeadLetters::open(&config, folder.path()).await.unwrap();
        let error = FileDeadLetters::open(&config, folder.path()).await.err().unwrap();
        assert!(
            error.to_string().starts_with("another process writes to"),
            "{error}"
        );
    }

    #[test]
    fn all_configuration_errors_are_reported() {
        let config: DeadLettersConfig =
            serde_json::from_str(r#"{"path":"","max_age":"1s","max_size_per_day":"1 KiB"}"#).unwrap();
        let keys: Vec<String> = config.check().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["path", "max_age", "max_size_per_day"]);
        assert!(DeadLettersConfig::default().check().is_empty());
    }
}
