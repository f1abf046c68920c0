//! Reads small files (secrets, keys, certificates, configurations) within a time limit, so that a disk that
//! hangs or a pipe without a writer cannot stop the program.
//!
//! A system call that hangs cannot be ended, so each read has its own thread, which is abandoned when the
//! time limit is reached. While it hangs, other readers of the same file wait for the same thread. A late
//! result is passed to the next reader, because a pipe delivers its content only once.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretSlice};

/// The time limit for a file. A local disk needs milliseconds, a recovering network file system needs
/// seconds.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The number of hanging files from which no further file is opened, because each has a thread.
const MAX_HANGING: usize = 64;

/// The time after which an unfinished access to a file counts as hanging.
const HANGING_AFTER: Duration = Duration::from_secs(1);

/// The time for which a late result is kept for the next reader; later it may be outdated.
const LATE_RESULT_LIFETIME: Duration = Duration::from_secs(60);

/// The content of a file, wiped from memory when dropped.
#[derive(Clone)]
pub struct Content(Arc<SecretSlice<u8>>);

impl Content {
    /// Returns all bytes.
    pub fn raw(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// Returns the bytes without a leading byte order mark, which editors add to text.
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.raw();
        bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
    }

    /// Returns the text, without a byte order mark.
    ///
    /// # Errors
    /// The content is not UTF-8.
    pub fn text(&self) -> io::Result<&str> {
        str::from_utf8(self.bytes())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "found bytes that are not UTF-8"))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Reads a file of at most `max_bytes` within [`TIME_LIMIT`]. Blocks for up to that time: must not be called
/// on an async worker.
///
/// # Errors
/// The file cannot be read; [`io::ErrorKind::TimedOut`]: the time limit was reached;
/// [`io::ErrorKind::FileTooLarge`]: the file exceeds `max_bytes`.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Content> {
    read_within(path, max_bytes, TIME_LIMIT)
}

/// As [`read`], with another time limit.
///
/// # Errors
/// As [`read`].
pub fn read_within(path: &Path, max_bytes: u64, limit: Duration) -> io::Result<Content> {
    READS.run(path, limit, move |path| {
        let mut bytes = Vec::new();
        let length = File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
        // `Content` wipes the bytes when it is dropped, also if they exceed the limit.
        let content = Content(Arc::new(bytes.into()));
        if length as u64 > max_bytes {
            let message = format!("found more than {max_bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(content)
    })
}

/// Checks whether a file can be opened within [`TIME_LIMIT`]. A pipe or a device is not opened: opening may
/// wait for ever, or consume its content. Blocks for up to [`TIME_LIMIT`].
///
/// # Errors
/// The file cannot be opened, or is a folder; [`io::ErrorKind::TimedOut`]: the time limit was reached.
pub fn try_open(path: &Path) -> io::Result<()> {
    OPENS.run(path, TIME_LIMIT, |path| {
        let found = fs::metadata(path)?;
        if found.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if found.is_file() {
            File::open(path)?;
        }
        Ok(())
    })
}

static READS: Calls<Content> = Calls::new();
static OPENS: Calls<()> = Calls::new();

/// A result that several waiting callers can receive.
type Shared<T> = Result<T, Arc<io::Error>>;

/// The calls for files that have no result yet, or a result that no caller has received.
struct Calls<T>(Mutex<Option<HashMap<PathBuf, Arc<Call<T>>>>>);

/// An operation on a file in a thread of its own, for all callers that wait for the same file.
struct Call<T> {
    since: Instant,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// The result, and the time at which the thread ended.
    answer: Option<(Shared<T>, Instant)>,
    /// The number of callers that wait.
    waiting: usize,
}

impl<T: Clone + Send + 'static> Calls<T> {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn run(
        &'static self,
        path: &Path,
        limit: Duration,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let call = self.begin(path, work)?;
        let deadline = call.since + limit;
        let mut state = lock(&call.state);
        while state.answer.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waiting -= 1;
                return Err(timed_out(limit));
            }
            state = call
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let answer = state.answer.as_ref().map(|(answer, _)| answer.clone());
        drop(state);
        self.remove(path, &call);
        match answer {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => Err(clone_error(&error)),
            None => Err(timed_out(limit)),
        }
    }

    /// Joins the thread that works on this file, or starts one. Counts the caller as waiting.
    fn begin(
        &'static self,
        path: &Path,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<Arc<Call<T>>> {
        let mut pending = lock(&self.0);
        let pending = pending.get_or_insert_default();
        pending.retain(|_, call| !call.is_outdated());
        if let Some(call) = pending.get(path) {
            lock(&call.state).waiting += 1;
            return Ok(Arc::clone(call));
        }
        // A hundred files may be read at the same time at a start.
        let hanging = pending.values().filter(|call| call.is_hanging());
        if hanging.count() >= MAX_HANGING {
            let message = format!(
                "the file was not opened, because the reads of {MAX_HANGING} other files hang; check the disks of \
                 these files"
            );
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        let call = Arc::new(Call {
            since: Instant::now(),
            state: Mutex::new(State {
                answer: None,
                waiting: 1,
            }),
            changed: Condvar::new(),
        });
        let (owned, ours) = (path.to_owned(), Arc::clone(&call));
        thread::Builder::new().name("file".into()).spawn(move || {
            let answer = work(&owned).map_err(Arc::new);
            let mut state = lock(&ours.state);
            let is_awaited = state.waiting > 0;
            state.answer = Some((answer, Instant::now()));
            ours.changed.notify_all();
            drop(state);
            if is_awaited {
                self.remove(&owned, &ours);
            }
        })?;
        pending.insert(path.to_owned(), Arc::clone(&call));
        Ok(call)
    }

    /// Removes a call, so that the next caller starts a new one.
    fn remove(&self, path: &Path, call: &Arc<Call<T>>) {
        let mut pending = lock(&self.0);
        let pending = pending.get_or_insert_default();
        if pending.get(path).is_some_and(|found| Arc::ptr_eq(found, call)) {
            pending.remove(path);
        }
    }
}

impl<T> Call<T> {
    fn is_hanging(&self) -> bool {
        self.since.elapsed() >= HANGING_AFTER && lock(&self.state).answer.is_none()
    }

    fn is_outdated(&self) -> bool {
        let state = lock(&self.state);
        state
            .answer
            .as_ref()
            .is_some_and(|(_, at)| at.elapsed() > LATE_RESULT_LIFETIME)
    }
}

fn timed_out(limit: Duration) -> io::Error {
    let message = format!(
        "nothing was read within {}: the disk hangs, or the file is a pipe without a writer",
        crate::units::format_duration(limit)
    );
    io::Error::new(io::ErrorKind::TimedOut, message)
}

fn clone_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing within these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    fn pipe() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        (folder, path)
    }

    #[test]
    fn byte_order_mark_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(read(&path, 9).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, b"\xef\xbb\xbfsecret").unwrap();
        assert_eq!(read(&path, 9).unwrap().text().unwrap(), "secret");
        assert_eq!(read(&path, 8).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(format!("{:?}", read(&path, 9).unwrap()), "[redacted]");
        assert!(read(&path, 9).unwrap().text().is_err());
        assert_eq!(
            read(folder.path(), 9).unwrap_err().kind(),
            io::ErrorKind::IsADirectory
        );
        try_open(&path).unwrap();
        assert_eq!(
            try_open(folder.path()).unwrap_err().kind(),
            io::ErrorKind::IsADirectory
        );
    }

    #[test]
    fn pipe_without_a_writer_reaches_the_time_limit() {
        let (_folder, path) = pipe();
        try_open(&path).unwrap();
        for _ in 0..3 {
            let error = read_within(&path, 9, SHORT).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(error.to_string().contains("without a writer"), "{error}");
        }
        // One thread waits for all callers, and its late result is not lost.
        fs::write(&path, "late").unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let content = loop {
            match read_within(&path, 9, SHORT) {
                Ok(content) => break content,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            thread::yield_now();
        };
        assert_eq!(content.text().unwrap(), "late");
        // The next caller starts a new read.
        assert_eq!(
            read_within(&path, 9, SHORT).unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        fs::write(&path, "").unwrap();
    }

    #[test]
    fn many_concurrent_reads_are_allowed_until_they_hang() {
        static CALLS: Calls<()> = Calls::new();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let ended = Arc::new(Mutex::new(ended));
        let begin = |number: usize| {
            let ended = Arc::clone(&ended);
            CALLS.begin(Path::new(&number.to_string()), move |_| {
                let _ = lock(&ended).recv();
                Ok(())
            })
        };
        for number in 0..2 * MAX_HANGING {
            assert!(begin(number).is_ok(), "only {number} files at the same time");
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while !lock(&CALLS.0)
            .iter()
            .flat_map(HashMap::values)
            .all(|call| call.is_hanging())
        {
            assert!(Instant::now() < deadline, "a file does not hang");
            thread::yield_now();
        }
        let error = begin(2 * MAX_HANGING).err().map(|error| error.kind());
        assert_eq!(error, Some(io::ErrorKind::ResourceBusy));
        drop(end);
    }

    #[test]
    fn pipe_with_a_writer_is_read() {
        let (_folder, path) = pipe();
        let writer = thread::spawn({
            let path = path.clone();
            move || fs::write(path, "from a pipe")
        });
        let content = read_within(&path, 99, Duration::from_secs(30)).unwrap();
        assert_eq!(content.text().unwrap(), "from a pipe");
        writer.join().unwrap().unwrap();
    }
}
