//! Adjusts the number of active worker threads to the load: one at a low rate of events, all at saturation.
//!
//! The scheduler wakes an idle worker for nearly each event, although the busy one would take the work some microseconds
//! later. At 1,000 events a second these wake-ups and the work that moves between threads cost a quarter of the processor
//! time. So each worker that is not needed runs a task that blocks its thread until the load rises: the worker rests.

mod load;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::runtime::{self, Handle, Runtime};

use self::load::{Meter, Policy};

/// The time between two measurements of the load. Resting workers become active one or two measurements after the load rises.
const PERIOD: Duration = Duration::from_millis(100);

/// The active workers of the process, for the metrics.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

/// Returns the number of active worker threads.
pub(crate) fn active() -> usize {
    ACTIVE.load(Relaxed)
}

/// Adjusts the active workers of a runtime. When dropped, all workers are active again, so that the runtime can shut down:
/// drop it before the runtime.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    /// The thread that measures the load; `None` for a runtime with one worker.
    monitor: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when workers may continue, and at the end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The number of workers that should rest; at least one stays active.
    wanted: usize,
    /// The workers that rest, by index.
    resting: BTreeSet<usize>,
    has_ended: bool,
}

impl Workers {
    /// Starts to measure the load. At the start all workers are active.
    ///
    /// # Errors
    /// Returns an error if the system cannot start a thread.
    pub(crate) fn start(runtime: &Runtime) -> io::Result<Self> {
        Self::with_period(runtime, PERIOD)
    }

    fn with_period(runtime: &Runtime, period: Duration) -> io::Result<Self> {
        let workers = runtime.metrics().num_workers();
        ACTIVE.store(workers, Relaxed);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let monitor = if workers > 1 {
            let (shared, handle) = (Arc::clone(&shared), runtime.handle().clone());
            let name = "workers".to_owned();
            Some(
                thread::Builder::new()
                    .name(name)
                    .spawn(move || monitor(&shared, &handle, period))?,
            )
        } else {
            None
        };
        Ok(Self { shared, monitor })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_all();
        if let Some(monitor) = self.monitor.take() {
            // A panic of the monitor has already been reported. It only stopped the adjustment.
            let _ = monitor.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the number of workers that should rest.
    fn rest(self: &Arc<Self>, wanted: usize, handle: &Handle) {
        let before = std::mem::replace(&mut self.lock().wanted, wanted);
        self.changed.notify_all();
        for _ in before..wanted {
            let shared = Arc::clone(self);
            handle.spawn(async move { shared.occupy() });
        }
    }

    /// Blocks the calling worker until fewer workers should rest.
    fn occupy(&self) {
        let Some(index) = runtime::worker_index() else {
            return;
        };
        let mut state = self.lock();
        // This task started late: by now enough workers rest, or fewer should rest.
        if state.resting.len() >= state.wanted || state.has_ended {
            return;
        }
        state.resting.insert(index);
        drop(state);
        leave_nothing_to_this_worker();
        let mut state = self.lock();
        while state.resting.len() <= state.wanted && !state.has_ended {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.resting.remove(&index);
    }
}

/// Prepares the calling worker for blocking, with two tasks that do nothing.
///
/// Only one parked worker polls the sockets and timers, and it may have been this worker. A resting worker does not park, so
/// another worker has to wake up: when that worker parks again, it takes over the polling.
///
/// Each worker also has a slot for its next task, from which other workers cannot steal. The first of the two tasks takes this
/// slot, and pushes a task that is there to the queue, from which other workers can steal. The second task pushes the first to
/// the queue, too, which wakes another worker, unless a worker is already looking for work or all are running.
fn leave_nothing_to_this_worker() {
    for _ in 0..2 {
        tokio::spawn(async {});
    }
}

/// Measures the load in each period and sets the number of active workers, until the end.
fn monitor(shared: &Arc<Shared>, handle: &Handle, period: Duration) {
    let metrics = handle.metrics();
    let workers = metrics.num_workers();
    let mut policy = Policy::new(workers);
    let mut meter = Meter::new(metrics);
    loop {
        let state = shared.lock();
        let (state, _) = shared
            .changed
            .wait_timeout_while(state, period, |state| !state.has_ended)
            .unwrap_or_else(PoisonError::into_inner);
        if state.has_ended {
            return;
        }
        let load = meter.read(&state.resting);
        drop(state);
        let (before, active) = (policy.active(), policy.next(load));
        if active != before {
            ACTIVE.store(active, Relaxed);
            shared.rest(workers - active, handle);
        }
    }
}
