use std::{
    sync::{Barrier, mpsc},
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::{
    load::{CALM_PERIODS, Policy, Reading, share},
    *,
};

const SOON: Duration = Duration::from_secs(60);

fn runtime(workers: usize) -> Runtime {
    runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap()
}

/// Waits until a condition holds; fails after [`SOON`].
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

fn wait_for_resting(workers: &Workers, wanted: usize) {
    wait_until("the workers did not rest", || {
        workers.shared.lock().resting.len() == wanted
    });
}

/// Returns the numbers of active workers that a policy chooses in the periods of a load curve, without repetitions.
fn steps(policy: &mut Policy, load: f64, periods: u32) -> Vec<usize> {
    let mut steps: Vec<usize> = (0..periods).map(|_| policy.next(load)).collect();
    steps.dedup();
    steps
}

#[test]
fn active_workers_follow_the_load() {
    let mut policy = Policy::new(6);
    assert_eq!(steps(&mut policy, 0.1, CALM_PERIODS - 1), [6]);
    assert_eq!(steps(&mut policy, 0.1, 3 * CALM_PERIODS), [3, 1]);
    // One worker remains, since its load is less than 60 %.
    assert_eq!(steps(&mut policy, 0.5, 1_000), [1]);
    // Three changes take six periods, because the measurement after a change is ignored.
    assert_eq!(steps(&mut policy, 6.0, 6), [2, 4, 6]);
    assert_eq!(steps(&mut policy, 3.0, 1_000), [6]);
    // Three workers would be busy for more than 40 %.
    assert_eq!(steps(&mut policy, 1.3, 1_000), [6]);
    assert_eq!(steps(&mut policy, 1.1, 1_000), [6, 3]);
}

#[test]
fn short_pause_keeps_all_workers_active() {
    let mut policy = Policy::new(2);
    for _ in 0..100 {
        assert_eq!(steps(&mut policy, 0.0, CALM_PERIODS - 1), [2]);
        assert_eq!(steps(&mut policy, 1.0, 1), [2]);
    }
}

#[test]
fn worker_in_one_long_task_is_busy() {
    let period = Duration::from_millis(100);
    let reading = |busy, parks| Reading {
        busy: Duration::from_millis(busy),
        parks,
    };
    assert_eq!(share(reading(7, 4), reading(7, 4), period), 1.0, "in a task");
    assert_eq!(share(reading(7, 5), reading(7, 5), period), 0.0, "parked");
    assert_eq!(share(reading(7, 5), reading(32, 9), period), 0.25);
    // The time of a task is counted at its end.
    assert_eq!(share(reading(7, 4), reading(900, 5), period), 1.0);
}

#[test]
fn workers_rest_without_load_and_return_under_load() {
    let runtime = runtime(4);
    let workers = Workers::with_period(&runtime, Duration::from_millis(5)).unwrap();
    wait_for_resting(&workers, 3);
    // Passes only when all four workers run a task.
    let barrier = Arc::new(Barrier::new(4));
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            runtime.spawn(async move { barrier.wait() })
        })
        .collect();
    wait_until("four tasks did not run at once", || {
        tasks.iter().all(tokio::task::JoinHandle::is_finished)
    });
    wait_for_resting(&workers, 3);
}

#[test]
fn sockets_and_timers_work_while_workers_change() {
    let runtime = runtime(2);
    // The monitor makes no measurement: the test sets the number of resting workers.
    let workers = Workers::with_period(&runtime, SOON * 60).unwrap();
    let echoes = Arc::new(AtomicUsize::new(0));
    let ticks = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        runtime.spawn(echo(Arc::clone(&echoes)));
    }
    let counted = Arc::clone(&ticks);
    runtime.spawn(async move {
        loop {
            // The timer under test.
            sleep(Duration::from_millis(1)).await;
            counted.fetch_add(1, Relaxed);
        }
    });
    for _ in 0..200 {
        for resting in [1, 0] {
            workers.shared.rest(resting, runtime.handle());
            wait_for_resting(&workers, resting);
            let (echoed, ticked) = (echoes.load(Relaxed), ticks.load(Relaxed));
            wait_until("no socket and timer works", || {
                echoes.load(Relaxed) > echoed + 8 && ticks.load(Relaxed) > ticked + 1
            });
        }
    }
}

#[test]
fn occupied_worker_leaves_its_next_task_to_another() {
    let runtime = runtime(2);
    let workers = Workers::with_period(&runtime, SOON * 60).unwrap();
    workers.shared.lock().wanted = 1;
    let (shared, (ended, end)) = (Arc::clone(&workers.shared), mpsc::channel());
    runtime.spawn(async move {
        // This task is in the slot for the next task of this worker.
        tokio::spawn(async move { ended.send(()).unwrap() });
        shared.occupy();
    });
    end.recv_timeout(SOON).expect("the task does not run");
}

#[test]
fn occupied_worker_leaves_the_timers_to_another() {
    let runtime = runtime(2);
    let workers = Workers::with_period(&runtime, SOON * 60).unwrap();
    workers.shared.lock().wanted = 1;
    let (shared, (ended, end)) = (Arc::clone(&workers.shared), mpsc::channel());
    runtime.spawn(async move {
        tokio::spawn(async move {
            // The timer under test: it fires after this worker is occupied.
            sleep(Duration::from_millis(200)).await;
            ended.send(()).unwrap();
        });
        // Woken by the worker that waits for timers and sockets, while the other one is parked.
        sleep(Duration::from_millis(100)).await;
        shared.occupy();
    });
    end.recv_timeout(SOON).expect("the timer does not fire");
}

/// Sends a byte over a connection and receives it back, again and again until the runtime ends.
async fn echo(echoes: Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    tokio::spawn(async move {
        let (mut reader, mut writer) = server.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    });
    loop {
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        echoes.fetch_add(1, Relaxed);
    }
}

#[test]
fn runtime_shuts_down_while_workers_rest() {
    let runtime = runtime(4);
    let workers = Workers::with_period(&runtime, Duration::from_millis(5)).unwrap();
    wait_for_resting(&workers, 3);
    let (ended, end) = mpsc::channel();
    let shared = Arc::clone(&workers.shared);
    thread::spawn(move || {
        drop(workers);
        // Returns only after all workers have ended.
        drop(runtime);
        ended.send(()).unwrap();
    });
    end.recv_timeout(SOON).expect("the runtime does not shut down");
    assert!(shared.lock().resting.is_empty());
}

#[test]
fn runtime_with_one_worker_is_not_measured() {
    let runtime = runtime(1);
    assert!(Workers::start(&runtime).unwrap().monitor.is_none());
}
