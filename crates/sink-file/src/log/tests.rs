use std::{
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use super::*;

/// A clock that is set by hand.
#[derive(Clone)]
pub(crate) struct HandClock(Arc<Mutex<Timestamp>>);

impl HandClock {
    /// Starts at the real time: the times of files are real.
    pub(crate) fn now() -> Self {
        Self(Arc::new(Mutex::new(Timestamp::now())))
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }

    pub(crate) fn clock(&self) -> Clock {
        let time = Arc::clone(&self.0);
        Arc::new(move || *time.lock().unwrap())
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

    /// The content of each file, the active one last.
    fn contents(&self) -> Vec<String> {
        let place = Place::new(&self.path()).unwrap();
        let rotated = place.list().unwrap();
        let paths = rotated.iter().map(|file| &file.path).chain([&place.active]);
        paths.map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

#[test]
fn a_file_is_rotated_before_it_becomes_too_large() {
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
fn a_file_has_events_of_one_period_and_is_removed_by_age() {
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
fn a_clock_that_is_set_back_breaks_nothing() {
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
fn a_last_line_without_an_end_is_cut_off() {
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
fn what_came_after_a_position_is_undone_wherever_it_stands() {
    let mut files = Files::new();
    files.limits.max_size = 8;
    let mut log = files.open();
    let start = log.position("");
    log.append(b"one\n").unwrap();
    let after_one = log.position("");
    log.append(b"two\n").unwrap();
    let after_two = log.position("");
    log.append(b"three\n").unwrap();
    log.append(b"four\n").unwrap();
    let after_four = log.position("");
    log.append(b"5\n").unwrap();
    assert_eq!(files.contents(), ["one\ntwo\n", "three\n", "four\n5\n"]);

    assert!(log.truncate_to(&after_four).unwrap());
    assert_eq!(files.contents(), ["one\ntwo\n", "three\n", "four\n"]);
    assert_eq!(log.position(""), after_four);
    assert!(log.truncate_to(&after_two).unwrap());
    assert_eq!(files.contents(), ["one\ntwo\n", ""]);
    log.append(b"three\n").unwrap();
    assert!(log.truncate_to(&after_one).unwrap());
    assert_eq!(files.contents(), ["one\n", ""]);
    assert!(log.truncate_to(&start).unwrap());
    assert_eq!(files.contents(), ["", ""]);
    assert!(!log.truncate_to(&after_two).unwrap());
    assert_eq!(files.contents(), ["", ""]);
}

#[test]
fn a_file_that_is_another_or_shorter_is_left_alone() {
    let files = Files::new();
    let mut log = files.open();
    log.append(b"one\ntwo\n").unwrap();
    let position = log.position("");
    drop(log);
    for other in ["one\n", "one\nTWO\nthree\n", ""] {
        fs::write(files.path(), other).unwrap();
        assert!(!files.open().truncate_to(&position).unwrap());
        assert_eq!(files.contents(), [other]);
    }
    // Put back from a copy, it is known by its content.
    fs::remove_file(files.path()).unwrap();
    fs::write(files.path(), "one\ntwo\nthree\n").unwrap();
    assert!(files.open().truncate_to(&position).unwrap());
    assert_eq!(files.contents(), ["one\ntwo\n"]);
}

#[test]
fn a_file_moved_away_or_emptied_by_others_is_gone_on_from() {
    let files = Files::new();
    let mut log = files.open();
    log.append(b"one\n").unwrap();
    fs::rename(files.path(), files.root.path().join("taken")).unwrap();
    log.append(b"two\n").unwrap();
    assert_eq!(files.contents(), ["two\n"]);
    fs::write(files.path(), "").unwrap();
    log.append(b"three\n").unwrap();
    fs::write(files.path(), "edited\nhal").unwrap();
    log.append(b"four\n").unwrap();
    assert_eq!(files.contents(), ["edited\nfour\n"]);
    assert_eq!(fs::read(files.root.path().join("taken")).unwrap(), b"one\n");
}

#[test]
fn a_second_writer_is_told() {
    let files = Files::new();
    let log = files.open();
    let error = files.try_open().err().unwrap();
    assert!(matches!(&error, FileError::Locked { .. }), "{error}");
    drop(log);
    files.open();
}

#[test]
fn the_lineage_is_kept_with_the_lock() {
    let files = Files::new();
    let mut log = files.open();
    assert_eq!(log.lineage().unwrap(), "");
    log.set_lineage("a long one").unwrap();
    log.set_lineage("short").unwrap();
    assert_eq!(log.lineage().unwrap(), "short");
    drop(log);
    assert_eq!(files.open().lineage().unwrap(), "short");
}

#[test]
fn a_device_that_is_full_is_no_space_and_passes() {
    let files = Files::new();
    drop(files.open());
    fs::remove_file(files.path()).unwrap();
    symlink("/dev/full", files.path()).unwrap();
    let mut log = files.open();
    let error = log.append(b"one\n").unwrap_err();
    assert!(
        matches!(error, FileError::NoSpace { .. }) && !error.is_final(),
        "{error}"
    );
    drop(log);
    fs::remove_file(files.path()).unwrap();
    files.open().append(b"one\n").unwrap();
    assert_eq!(files.contents(), ["one\n"]);
}

#[test]
fn a_sync_that_fails_is_final() {
    let files = Files::new();
    drop(files.open());
    fs::remove_file(files.path()).unwrap();
    // It takes what is written, and cannot be synced.
    symlink("/dev/null", files.path()).unwrap();
    let mut log = files.open();
    let error = log.append(b"one\n").unwrap_err();
    assert!(
        matches!(error, FileError::Sync { .. }) && error.is_final(),
        "{error}"
    );
    let error = log.append(b"two\n").unwrap_err();
    assert!(
        matches!(error, FileError::Failed { .. }) && error.is_final(),
        "{error}"
    );
    drop(log);
    let mut unsynced = files;
    unsynced.limits.sync = SyncMode::Never;
    unsynced.open().append(b"one\n").unwrap();
}

/// A file system of 64 KiB, while it lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where mounting is not permitted.
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
fn on_a_full_disk_no_line_is_torn() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!(
            "not tried: mounting a small file system is not permitted here; /dev/full is tried by another test"
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
    assert!(log.truncate_to(&log.position("")).unwrap());
    log.cut(9000).unwrap();
    log.load().unwrap();
    log.append(b"there is room again\n").unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{}there is room again\n", line.repeat(3))
    );
}
