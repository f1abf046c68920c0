//! A file for dead letters.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use neurobridge_core::{
    dead_letter::DeadLetters,
    units::{self, ByteSize},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    config::{Limits, SyncMode, check_path, effective_period},
    error::FileError,
    log::Clock,
    writer::Writer,
};

/// Where dead letters go that no sink keeps itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// The file, relative to `data_dir`. Rotated as that of a file sink, every day.
    pub path: PathBuf,
    /// Rotated files are removed when their last letter is older. 30 days: time enough for a person to look at them, and
    /// no personal data is kept for ever.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub max_age: Duration,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("dead-letters.jsonl"),
            max_age: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

impl DeadLettersConfig {
    /// What is wrong: each key with a sentence.
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
        errors
    }
}

/// Keeps dead letters in a file of JSON lines. One for all sinks, in an [`Arc`]: what several store at a time is written
/// one after the other.
///
/// What is being stored when a future is dropped may be stored or not, whole in any case. After a failed sync nothing more
/// is stored until restart.
pub struct FileDeadLetters {
    writer: Writer,
    /// One at a time: others would only hold threads of the blocking pool while they wait.
    turn: Mutex<()>,
}

impl FileDeadLetters {
    /// Opens the file, makes it unless it is there, and removes what is too old, now and from time to time. To be called
    /// within a tokio runtime. A relative path begins at `data_dir`.
    ///
    /// # Errors
    /// The file can't be written to, or another process does.
    pub async fn open(config: &DeadLettersConfig, data_dir: &Path) -> Result<Self, FileError> {
        Self::with_clock(config, data_dir, Arc::new(Timestamp::now)).await
    }

    async fn with_clock(
        config: &DeadLettersConfig,
        data_dir: &Path,
        clock: Clock,
    ) -> Result<Self, FileError> {
        let max_age = Some(config.max_age);
        let limits = Limits {
            max_size: ByteSize::from_mib(128).bytes(),
            rotate_every: effective_period(None, max_age),
            max_age,
            sync: SyncMode::Always,
        };
        let mut writer = Writer::new(data_dir.join(&config.path), limits, clock);
        writer.open(|_| Ok(())).await?;
        Ok(Self {
            writer,
            turn: Mutex::new(()),
        })
    }

    async fn append(&self, mut lines: String) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if !lines.ends_with('\n') {
            // A line without an end would be cut off at the next start.
            lines.push('\n');
        }
        let _turn = self.turn.lock().await;
        let written = self.writer.spawn(move |log| log.append(lines.as_bytes()));
        Ok(written.await.map_err(io::Error::other)??)
    }
}

impl DeadLetters for FileDeadLetters {
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        Box::pin(self.append(lines.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn at(text: &str) -> Clock {
        let time: Timestamp = text.parse().unwrap();
        Arc::new(move || time)
    }

    #[tokio::test]
    async fn letters_of_many_are_stored_whole() {
        let folder = tempfile::tempdir().unwrap();
        let config = DeadLettersConfig::default();
        let letters = Arc::new(FileDeadLetters::open(&config, folder.path()).await.unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..8 {
            let letters: Arc<dyn DeadLetters> = Arc::clone(&letters) as _;
            tasks.spawn(async move {
                for number in 0..20 {
                    letters
                        .store(&format!("{{\"task\":{task},\"number\":{number}}}\n"))
                        .await
                        .unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        letters.store("").await.unwrap();
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
    async fn old_letters_are_removed_though_no_new_one_comes() {
        let folder = tempfile::tempdir().unwrap();
        let config = DeadLettersConfig::default();
        let letters = FileDeadLetters::open(&config, folder.path()).await.unwrap();
        letters.store("{}\n").await.unwrap();
        drop(letters);
        let names = || {
            let mut names: Vec<String> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| !name.ends_with(".lock"))
                .collect();
            names.sort();
            names
        };
        // The file's last letter is of the real now: years before this clock.
        let letters = open_when_free(&config, folder.path(), at("2100-01-01T00:00:00Z")).await;
        assert_eq!(names(), ["dead-letters.jsonl"]);
        assert_eq!(fs::read(folder.path().join("dead-letters.jsonl")).unwrap(), b"");
        drop(letters);
    }

    /// The lock of one that was dropped is released by the pool, a moment later.
    async fn open_when_free(config: &DeadLettersConfig, folder: &Path, clock: Clock) -> FileDeadLetters {
        loop {
            match FileDeadLetters::with_clock(config, folder, Arc::clone(&clock)).await {
                Err(FileError::Locked { .. }) => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn a_second_process_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let config = DeadLettersConfig::default();
        let _letters = FileDeadLetters::open(&config, folder.path()).await.unwrap();
        let error = FileDeadLetters::open(&config, folder.path()).await.err().unwrap();
        assert!(
            error.to_string().starts_with("another process writes to"),
            "{error}"
        );
    }

    #[test]
    fn every_mistake_is_named() {
        let config: DeadLettersConfig = serde_json::from_str(r#"{"path":"","max_age":"1s"}"#).unwrap();
        let keys: Vec<String> = config.check().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["path", "max_age"]);
        assert!(DeadLettersConfig::default().check().is_empty());
    }
}
