//! Tests the log: rotation, removal by age, resuming, and faults of the disk.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use neurobridge_core::event::Sequence;

use super::*;
use crate::{folder::testing, lineage::Start};

mod foreign;

/// A clock that the test sets.
#[derive(Clone)]
pub(crate) struct HandClock(Arc<Mutex<Hands>>);

struct Hands {
    now: Timestamp,
    elapsed: Duration,
    is_trusted: bool,
}

impl HandClock {
    /// Starts at the real time, because files have real times.
    pub(crate) fn now() -> Self {
        Self(Arc::new(Mutex::new(Hands {
            now: Timestamp::now(),
            elapsed: Duration::ZERO,
            is_trusted: true,
        })))
    }

    pub(crate) fn advance(&self, by: Duration) {
        let mut hands = self.0.lock().unwrap();
        hands.now += by;
        hands.elapsed += by;
    }

    /// Changes only the time of day.
    fn step(&self, by: Duration) {
        self.0.lock().unwrap().now += by;
    }

    pub(crate) fn set_trusted(&self, is_trusted: bool) {
        self.0.lock().unwrap().is_trusted = is_trusted;
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap().now
    }

    fn trusted(&self) -> Option<Timestamp> {
        let hands = self.0.lock().unwrap();
        hands.is_trusted.then_some(hands.now)
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap().elapsed
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    Limits {
        max_size: 1000,
        rotate_every: None,
        max_age: None,
        sync: SyncMode::Always,
    }
}

/// A folder for the files of a log, and the settings with which the log is opened.
struct Files {
    root: tempfile::TempDir,
    clock: HandClock,
    limits: Limits,
}

impl Files {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            clock: HandClock::now(),
            limits: limits(),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.root.path().join("log/events.jsonl")
    }

    fn open(&self) -> Log {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Log, FileError> {
        Log::open(&self.path(), self.limits, self.clock.clock())
    }

    /// Returns the content of each file, the active file last.
    fn contents(&self) -> Vec<String> {
        let place = Place::new(&self.path()).unwrap();
        let rotated = place.list().unwrap();
        let paths = rotated.iter().map(|file| &file.path).chain([&place.active]);
        paths.map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

#[test]
fn file_is_rotated_before_the_size_limit() {
    let mut files = Files::new();
    files.limits.max_size = 10;
    let mut log = files.open();
    for lines in ["one\n", "two\n", "3\n", "four\n", "five is long\n", "six\n"] {
        log.append(lines.as_bytes()).unwrap();
    }
    assert_eq!(
        files.contents(),
        ["one\ntwo\n3\n", "four\n", "five is long\n", "six\n"]
    );
    for file in log.place.list().unwrap() {
        assert_eq!(file.path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(
        log.place.folder.metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn file_covers_one_period_and_is_removed_by_age() {
    let mut files = Files::new();
    files.limits.rotate_every = Some(HOUR);
    files.limits.max_age = Some(5 * HOUR);
    let mut log = files.open();
    log.append(b"one\n").unwrap();
    files.clock.advance(HOUR);
    log.append(b"two\n").unwrap();
    log.append(b"three\n").unwrap();
    assert_eq!(files.contents(), ["one\n", "two\nthree\n"]);
    files.clock.advance(HOUR);
    log.tidy().unwrap();
    assert_eq!(files.contents(), ["one\n", "two\nthree\n", ""]);
    files.clock.advance(4 * HOUR - MINUTE);
    log.tidy().unwrap();
    assert_eq!(files.contents(), ["two\nthree\n", ""]);
    drop(log);
    files.clock.advance(2 * MINUTE);
    files.open();
    assert_eq!(files.contents(), [""]);
}

#[test]
fn clock_set_back_loses_no_line() {
    let mut files = Files::new();
    files.limits.max_size = 4;
    files.limits.rotate_every = Some(HOUR);
    files.limits.max_age = Some(HOUR);
    let mut log = files.open();
    files.clock.advance(2 * HOUR);
    log.append(b"one\n").unwrap();
    files.clock = HandClock::now();
    log.clock = files.clock.clock();
    log.append(b"two\n").unwrap();
    log.append(b"3\n").unwrap();
    log.tidy().unwrap();
    assert_eq!(files.contents(), ["one\n", "two\n", "3\n"]);
}

#[test]
fn incomplete_last_line_is_truncated() {
    let files = Files::new();
    drop(files.open());
    let long = "x".repeat(200_000);
    for (before, after) in [
        ("", ""),
        ("one\n", "one\n"),
        ("one\ntw", "one\n"),
        ("tw", ""),
        (&*format!("one\n{long}"), "one\n"),
        (&*long, ""),
        (&*format!("{long}\n{{"), &*format!("{long}\n")),
    ] {
        fs::write(files.path(), before).unwrap();
        let mut log = files.open();
        assert_eq!(files.contents(), [after]);
        log.limits.max_size = u64::MAX;
        log.append(b"new\n").unwrap();
        assert_eq!(files.contents(), [format!("{after}new\n")]);
    }
}

#[test]
fn young_files_are_kept_after_a_clock_step() {
    let mut files = Files::new();
    files.limits.rotate_every = Some(HOUR);
    files.limits.max_age = Some(5 * HOUR);
    let mut log = files.open();
    for lines in ["one\n", "two\n", "three\n"] {
        log.append(lines.as_bytes()).unwrap();
        files.clock.advance(HOUR);
    }
    files.clock.step(31 * 24 * HOUR);
    files.clock.set_trusted(false);
    log.tidy().unwrap();
    assert_eq!(files.contents(), ["one\n", "two\n", "three\n", ""]);
    // The same when the step is trusted: by the monotonic clock the files are young.
    files.clock.set_trusted(true);
    log.tidy().unwrap();
    assert_eq!(files.contents(), ["one\n", "two\n", "three\n", ""]);
    files.clock.advance(3 * HOUR + MINUTE);
    log.tidy().unwrap();
    assert_eq!(files.contents(), ["three\n", ""]);
}

#[test]
fn existing_lines_are_not_written_again() {
    let mut files = Files::new();
    files.limits.max_size = 8;
    let all = ["one\n", "two\n", "three\n", "four\n", "5\n"];
    // From each position, with each number of lines per call.
    for after in 0..=all.len() {
        for at_once in 1..=all.len() {
            let root = tempfile::tempdir().unwrap();
            files.root = root;
            let mut log = files.open();
            let mut positions = vec![log.position("").unwrap()];
            for lines in all {
                log.append(lines.as_bytes()).unwrap();
                positions.push(log.position("").unwrap());
            }
            let before = files.contents();
            assert_eq!(before, ["one\ntwo\n", "three\n", "four\n5\n"]);
            drop(log);
            let mut log = files.open();
            assert!(log.resume_at(&positions[after]).unwrap());
            for lines in all[after..].chunks(at_once) {
                let lines = lines.concat();
                log.append_missing(lines.as_bytes(), lines.len()).unwrap();
            }
            assert_eq!(files.contents(), before);
            let mut end = log.position("").unwrap();
            end.written_at = positions[all.len()].written_at;
            assert_eq!(end, positions[all.len()]);
            log.append_missing(b"six\n", 0).unwrap();
            assert_eq!(files.contents().concat(), format!("{}six\n", all.concat()));
        }
    }
}

#[test]
fn lines_not_sent_again_are_kept() {
    let mut files = Files::new();
    files.limits.max_size = 8;
    let mut log = files.open();
    log.append(b"one\n").unwrap();
    let after_one = log.position("").unwrap();
    for lines in ["two\n", "three\n", "four\n", "5\n"] {
        log.append(lines.as_bytes()).unwrap();
    }
    let before = files.contents().concat();
    // The spool has the second event and different later events: an older copy was restored.
    assert!(log.resume_at(&after_one).unwrap());
    log.append_missing(b"two\nTHREE\n", 10).unwrap();
    log.append_missing(b"three\n", 6).unwrap();
    assert_eq!(files.contents().concat(), format!("{before}THREE\nthree\n"));
    // New events never match existing lines, even equal ones.
    assert!(log.resume_at(&after_one).unwrap());
    log.append_missing(b"two\n", 0).unwrap();
    assert_eq!(files.contents().concat(), format!("{before}THREE\nthree\ntwo\n"));
    assert_eq!(log.take_changes().lost, 0);
}

#[test]
fn lineage_is_stored_in_the_lock_file() {
    let files = Files::new();
    let mut log = files.open();
    assert_eq!(log.lineage().unwrap(), Lineage::default());
    let start = Start {
        next: Sequence::FIRST,
        position: log.position("x").unwrap(),
    };
    for (name, start) in [("a long one", Some(start)), ("short", None)] {
        let lineage = Lineage {
            name: name.to_owned(),
            start,
        };
        log.set_lineage(&lineage).unwrap();
        assert_eq!(log.lineage().unwrap(), lineage);
        drop(log);
        log = files.open();
        assert_eq!(log.lineage().unwrap(), lineage);
    }
}

#[test]
fn lines_are_appended_after_a_full_disk() {
    let files = Files::new();
    let mut log = files.open();
    testing::inject(&files.path().with_extension("write"), 1, 28);
    let error = log.append(b"one\n").unwrap_err();
    assert!(matches!(error, FileError::NoSpace { .. }), "{error}");
    log.append(b"one\n").unwrap();
    assert_eq!(files.contents(), ["one\n"]);
}

#[test]
fn failed_sync_continues_in_a_new_file() {
    let files = Files::new();
    let mut log = files.open();
    log.append(b"one\n").unwrap();
    let position = log.position("").unwrap();
    testing::inject(&files.path(), 1, 5);
    let error = log.append(b"two\n").unwrap_err();
    assert!(matches!(error, FileError::Sync { .. }), "{error}");
    log.append(b"two\n").unwrap();
    assert_eq!(files.contents(), ["one\n", "two\n"]);
    // Lines before the position are not compared.
    assert!(log.resume_at(&position).unwrap());
    log.append_missing(b"two\nthree\n", 10).unwrap();
    assert_eq!(files.contents(), ["one\n", "two\nthree\n"]);
}

#[test]
fn lines_with_failed_sync_do_not_count_as_written() {
    let files = Files::new();
    let mut log = files.open();
    log.append(b"one\n").unwrap();
    let position = log.position("").unwrap();
    log.append(b"two\n").unwrap();
    assert!(log.resume_at(&position).unwrap());
    testing::inject(&files.path(), 1, 5);
    log.append_missing(b"two\n", 4).unwrap();
    assert_eq!(files.contents(), ["one\ntwo\n", "two\n"]);
}

#[test]
fn folder_whose_sync_failed_is_synced_again() {
    let files = Files::new();
    drop(files.open());
    fs::remove_file(files.path()).unwrap();
    let folder = files.path().parent().unwrap().to_owned();
    testing::inject(&folder, 1, 5);
    assert!(matches!(files.try_open(), Err(FileError::Sync { .. })));
    assert!(!files.path().exists());
    // A file system that cannot sync folders is used nevertheless.
    testing::inject(&folder, 1, 22);
    files.open().append(b"one\n").unwrap();
    assert_eq!(files.contents(), ["one\n"]);
}

/// A mounted file system of 64 KiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Returns `None` if mounting is not permitted.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "neurobridge-test"])
            .arg(folder.path())
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn full_disk_leaves_no_partial_line() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!(
            "not tested: mounting a small file system is not permitted here; another test injects the error of a full disk"
        );
        return;
    };
    let path = disk.0.path().join("events.jsonl");
    let limits = Limits {
        max_size: 1 << 20,
        ..limits()
    };
    let mut log = Log::open(&path, limits, HandClock::now().clock()).unwrap();
    let line = format!("{}\n", "x".repeat(2999));
    let mut whole = 0;
    let error = loop {
        match log.append(line.repeat(3).as_bytes()) {
            Ok(()) => whole += 9000,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, FileError::NoSpace { .. }), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().len(), whole);
    assert!(matches!(
        log.append(line.repeat(3).as_bytes()),
        Err(FileError::NoSpace { .. })
    ));
    log.truncate(9000).unwrap();
    log.load().unwrap();
    log.append(b"there is room again\n").unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{}there is room again\n", line.repeat(3))
    );
}
