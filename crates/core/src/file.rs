//! Reads small files (secrets, keys, certificates, configurations) within a time limit: a disk that hangs, or a pipe that
//! nobody writes to, must not stop the program.
//!
//! A system call that hangs cannot be ended, so each read has a thread of its own, which is left behind when its time is
//! up. While it hangs, others who ask for the same file wait for the same thread; what it reads in the end is handed to the
//! next one who asks, since a pipe has its content only once.

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

/// How long a file may take. A local disk needs milliseconds, a network file system that recovers seconds.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// How many files may hang at a time: each has a thread.
const MAX_HANGING: usize = 64;

/// How long a late result waits for somebody who asks again; later it might be outdated.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The content of a file, wiped from memory when dropped.
#[derive(Clone)]
pub struct Content(Arc<SecretSlice<u8>>);

impl Content {
    /// All bytes.
    pub fn raw(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// All bytes, without a byte order mark at their beginning, which editors add to text.
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.raw();
        bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
    }

    /// The text, without a byte order mark.
    ///
    /// # Errors
    /// It is no UTF-8.
    pub fn text(&self) -> io::Result<&str> {
        str::from_utf8(self.bytes())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "found bytes that are no UTF-8 text"))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Reads a file of at most `max_bytes` within [`TIME_LIMIT`]. Blocks up to that time: not to be called on an async worker.
///
/// # Errors
/// It cannot be read; [`io::ErrorKind::TimedOut`]: not in time; [`io::ErrorKind::FileTooLarge`]: there is more in it.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Content> {
    read_within(path, max_bytes, TIME_LIMIT)
}

/// As [`read`], with another time limit.
///
/// # Errors
/// As [`read`].
pub fn read_within(path: &Path, max_bytes: u64, limit: Duration) -> io::Result<Content> {
    READS.ask(path, limit, move |path| {
        let mut bytes = Vec::new();
        let length = File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
        // Wiped when dropped, also when it is too much.
        let content = Content(Arc::new(bytes.into()));
        if length as u64 > max_bytes {
            let message = format!("found more than {max_bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(content)
    })
}

/// Finds out whether a file can be opened, within [`TIME_LIMIT`]. A pipe or a device is not opened: that may wait for ever,
/// or take what it holds. Blocks up to that time.
///
/// # Errors
/// It cannot be opened, or is a folder; [`io::ErrorKind::TimedOut`]: not in time.
pub fn try_open(path: &Path) -> io::Result<()> {
    OPENS.ask(path, TIME_LIMIT, |path| {
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

static READS: Pending<Content> = Pending::new();
static OPENS: Pending<()> = Pending::new();

/// An error in a form that several can be given.
type Shared<T> = Result<T, Arc<io::Error>>;

/// What was asked of files and has no answer yet, or one that nobody was there for.
struct Pending<T>(Mutex<Option<HashMap<PathBuf, Arc<Asked<T>>>>>);

struct Asked<T> {
    since: Instant,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    answer: Option<(Shared<T>, Instant)>,
    waiting: usize,
}

impl<T: Clone + Send + 'static> Pending<T> {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn ask(
        &'static self,
        path: &Path,
        limit: Duration,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let asked = self.begin(path, work)?;
        let deadline = asked.since + limit;
        let mut state = lock(&asked.state);
        while state.answer.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waiting -= 1;
                return Err(timed_out(limit));
            }
            state = asked
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let answer = state.answer.as_ref().map(|(answer, _)| answer.clone());
        drop(state);
        self.forget(path, &asked);
        match answer {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => Err(copy_of(&error)),
            None => Err(timed_out(limit)),
        }
    }

    /// Joins the thread that works on this file, or starts one. The caller counts as waiting.
    fn begin(
        &'static self,
        path: &Path,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<Arc<Asked<T>>> {
        let mut pending = lock(&self.0);
        let pending = pending.get_or_insert_default();
        pending.retain(|_, asked| !asked.is_outdated());
        if let Some(asked) = pending.get(path) {
            lock(&asked.state).waiting += 1;
            return Ok(Arc::clone(asked));
        }
        if pending.len() >= MAX_HANGING {
            let message = format!("{MAX_HANGING} other files hang already");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        let asked = Arc::new(Asked {
            since: Instant::now(),
            state: Mutex::new(State {
                answer: None,
                waiting: 1,
            }),
            changed: Condvar::new(),
        });
        let (owned, ours) = (path.to_owned(), Arc::clone(&asked));
        thread::Builder::new().name("file".into()).spawn(move || {
            let answer = work(&owned).map_err(Arc::new);
            let mut state = lock(&ours.state);
            let is_awaited = state.waiting > 0;
            state.answer = Some((answer, Instant::now()));
            ours.changed.notify_all();
            drop(state);
            if is_awaited {
                self.forget(&owned, &ours);
            }
        })?;
        pending.insert(path.to_owned(), Arc::clone(&asked));
        Ok(asked)
    }

    /// The next one who asks gets an answer of its own.
    fn forget(&self, path: &Path, asked: &Arc<Asked<T>>) {
        let mut pending = lock(&self.0);
        let pending = pending.get_or_insert_default();
        if pending.get(path).is_some_and(|found| Arc::ptr_eq(found, asked)) {
            pending.remove(path);
        }
    }
}

impl<T> Asked<T> {
    fn is_outdated(&self) -> bool {
        let state = lock(&self.state);
        state
            .answer
            .as_ref()
            .is_some_and(|(_, at)| at.elapsed() > KEPT_FOR)
    }
}

fn timed_out(limit: Duration) -> io::Error {
    let message = format!(
        "nothing came within {}: its disk hangs, or it is a pipe that nobody writes to",
        crate::units::format_duration(limit)
    );
    io::Error::new(io::ErrorKind::TimedOut, message)
}

fn copy_of(error: &io::Error) -> io::Error {
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
            assert!(error.to_string().contains("nobody writes to"), "{error}");
        }
        // One thread waits for all of them, and what it reads in the end is not lost.
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
        // The next one waits anew.
        assert_eq!(
            read_within(&path, 9, SHORT).unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        fs::write(&path, "").unwrap();
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
