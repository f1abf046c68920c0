//! Tests members with real tasks and a simulated engine under a paused clock: requests and answers are lost or delayed, the
//! engine is unreachable, and processes are stopped for longer than the ttl.

mod hand_overs;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use neurobridge_core::sink::{FaultKind, SinkFault};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, Sleep, advance, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    JoinState, Leadership, Membership, Role, Settled,
    record::{self, Identity},
    store::{Engine, LEASE, Store, Value, Written},
};

const TTL: Duration = Duration::from_secs(10);

/// The engine that all members share.
#[derive(Debug, Default)]
struct World {
    keys: Mutex<BTreeMap<String, Value>>,
    revision: Mutex<u64>,
    changed: watch::Sender<()>,
    /// No request arrives before this instant.
    away_until: Mutex<Option<Instant>>,
    faults: Mutex<Faults>,
    /// The time between the notice of a write to the lease and the write itself; `None` for a notice after the write.
    early_notice: Mutex<Option<Duration>>,
}

/// The probabilities of faults.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    lost_request: f64,
    lost_answer: f64,
    slow: f64,
    longest: Duration,
}

impl World {
    fn value(&self, key: &str) -> Value {
        self.keys.lock().unwrap().get(key).cloned().unwrap_or_default()
    }

    fn put(&self, key: &str, bytes: Option<Vec<u8>>) -> u64 {
        let mut revision = self.revision.lock().unwrap();
        *revision += 1;
        let value = Value {
            revision: *revision,
            bytes,
        };
        self.keys.lock().unwrap().insert(key.to_owned(), value);
        if self.early_notice.lock().unwrap().is_none() {
            self.changed.send_replace(());
        }
        *revision
    }

    fn write(&self, key: &str, expected: u64, bytes: Option<Vec<u8>>) -> Written {
        if self.value(key).revision != expected {
            return Written::Conflict;
        }
        Written::Stored(self.put(key, bytes))
    }

    fn is_away(&self) -> bool {
        self.away_until
            .lock()
            .unwrap()
            .is_some_and(|until| Instant::now() < until)
    }
}

/// A connection to the engine; also the [`Engine`] that opens connections.
#[derive(Clone, Debug)]
struct Line {
    world: Arc<World>,
    changes: watch::Receiver<()>,
    random: fastrand::Rng,
}

impl Line {
    fn fault() -> SinkFault {
        SinkFault::new(FaultKind::Unreachable, "the connection broke")
    }

    async fn delay(&mut self, faults: Faults) {
        let longest = if self.random.f64() < faults.slow {
            faults.longest
        } else {
            Duration::from_millis(5)
        };
        // The delay of a request or of its answer.
        sleep(longest.mul_f64(self.random.f64())).await;
    }

    /// Performs a request at the engine. The request or its answer may be lost or delayed.
    async fn request<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&World) -> T + Send + 'static,
    ) -> Result<T, SinkFault> {
        let faults = *self.world.faults.lock().unwrap();
        if self.world.is_away() || self.random.f64() < faults.lost_request {
            std::future::pending::<()>().await;
        }
        let mut line = self.clone();
        line.random = self.random.fork();
        // A request that was sent arrives even if the caller no longer waits.
        let arrived = tokio::spawn(async move {
            line.delay(faults).await;
            if line.world.is_away() {
                std::future::pending::<()>().await;
            }
            act(&line.world)
        });
        let answer = arrived.await.map_err(|_| Self::fault())?;
        self.delay(faults).await;
        if self.random.f64() < faults.lost_answer {
            std::future::pending::<()>().await;
        }
        Ok(answer)
    }
}

impl Engine for Line {
    type Store = Self;

    async fn connect(&mut self, _ttl: Duration) -> Result<Self, SinkFault> {
        // The delay of a connection.
        sleep(Duration::from_millis(self.random.u64(1..20))).await;
        if self.world.is_away() {
            return Err(Self::fault());
        }
        let mut line = self.clone();
        line.random = self.random.fork();
        line.changes.mark_unchanged();
        Ok(line)
    }
}

impl Store for Line {
    async fn read(&mut self, key: &str) -> Result<Value, SinkFault> {
        let key = key.to_owned();
        self.request(move |world| world.value(&key)).await
    }

    async fn write(
        &mut self,
        key: &str,
        expected: u64,
        bytes: Option<Vec<u8>>,
    ) -> Result<Written, SinkFault> {
        let key = key.to_owned();
        let early_notice = *self.world.early_notice.lock().unwrap();
        if let Some(early) = early_notice.filter(|_| key == LEASE) {
            self.world.changed.send_replace(());
            sleep(early).await;
        }
        self.request(move |world| world.write(&key, expected, bytes))
            .await
    }

    async fn members(&mut self) -> Result<Vec<Value>, SinkFault> {
        self.request(|world| {
            let keys = world.keys.lock().unwrap();
            let members = keys.iter().filter(|(key, _)| *key != LEASE);
            members.map(|(_, value)| value.clone()).collect()
        })
        .await
    }

    async fn changed(&mut self) -> Result<(), SinkFault> {
        self.changes.changed().await.map_err(|_| Self::fault())
    }
}

/// A future that is not polled while its process is stopped.
struct Stoppable<F> {
    inner: Pin<Box<F>>,
    stopped_until: watch::Receiver<Instant>,
    waking: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Stoppable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let until = *self.stopped_until.borrow();
        if Instant::now() < until {
            let mut waking = Box::pin(sleep_until(until));
            if waking.as_mut().poll(context).is_pending() {
                self.waking = Some(waking);
                return Poll::Pending;
            }
        }
        self.inner.as_mut().poll(context)
    }
}

/// A member and the means to stop its process.
struct Process {
    membership: Membership,
    stop: CancellationToken,
    pause: watch::Sender<Instant>,
    task: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Process {
    fn start(world: &Arc<World>, name: &str, config: &str, seed: u64) -> Self {
        let engine = Line {
            world: Arc::clone(world),
            changes: world.changed.subscribe(),
            random: fastrand::Rng::with_seed(seed),
        };
        let me = Identity {
            member: name.to_owned(),
            instance: format!("{name}-{seed}"),
            config: config.to_owned(),
        };
        let stop = CancellationToken::new();
        let pause = watch::Sender::new(Instant::now());
        let (membership, task) = Membership::start(engine, me, "test", TTL, stop.clone());
        let task = tokio::spawn(Stoppable {
            inner: Box::pin(task),
            stopped_until: pause.subscribe(),
            waking: None,
        });
        Self {
            membership,
            stop,
            pause,
            task,
        }
    }

    fn leadership(&self) -> Option<Leadership> {
        self.membership.role().borrow().leadership()
    }

    fn join_state(&self) -> JoinState {
        self.membership.join_state().borrow().clone()
    }
}

/// Waits until a condition holds, and returns the time that this took. Panics after `limit` of virtual time.
async fn until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        advance(Duration::from_millis(10)).await;
        tokio::task::yield_now().await;
    }
    began.elapsed()
}

fn leaders(processes: &[Process]) -> Vec<(usize, u64)> {
    let all = processes.iter().enumerate();
    all.filter_map(|(index, process)| Some((index, process.leadership()?.term)))
        .collect()
}

/// Runs one schedule of faults, and checks at each moment that at most one member leads.
async fn run_schedule(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = Arc::new(World::default());
    let count = random.u64(2..=3);
    let processes: Vec<Process> = (0..count)
        .map(|index| Process::start(&world, &format!("m{index}"), "same", seed * 10 + index))
        .collect();
    let mut terms: BTreeMap<u64, usize> = BTreeMap::new();
    let end = Instant::now() + Duration::from_secs(200);
    let mut next_fault = Instant::now();
    let mut resigning = Vec::new();
    while Instant::now() < end {
        let leaders = leaders(&processes);
        assert!(leaders.len() <= 1, "seed {seed}: two leaders: {leaders:?}");
        for (index, term) in leaders {
            let first = *terms.entry(term).or_insert(index);
            assert_eq!(first, index, "seed {seed}: two members had the term {term}");
            assert_eq!(
                terms.keys().next_back(),
                Some(&term),
                "seed {seed}: an earlier term"
            );
        }
        if Instant::now() >= next_fault {
            next_fault = Instant::now() + Duration::from_millis(random.u64(100..8_000));
            let now = Instant::now();
            let some = Duration::from_millis(random.u64(0..25_000));
            let one = &processes[random.usize(0..processes.len())];
            match random.u8(0..6) {
                0 => {
                    one.pause.send_replace(now + some);
                }
                1 => *world.away_until.lock().unwrap() = Some(now + some),
                2 => {
                    *world.faults.lock().unwrap() = Faults {
                        lost_request: random.f64() * 0.3,
                        lost_answer: random.f64() * 0.3,
                        slow: random.f64(),
                        longest: Duration::from_millis(random.u64(0..4_000)),
                    };
                }
                3 => *world.faults.lock().unwrap() = Faults::default(),
                4 => {
                    let membership = one.membership.clone();
                    resigning.push(tokio::spawn(async move { membership.resign().await }));
                }
                // An operator deletes the lease, or its server loses it.
                _ => {
                    if random.u8(0..4) == 0 {
                        world.put(LEASE, None);
                    }
                }
            }
        }
        advance(Duration::from_millis(random.u64(1..50))).await;
        tokio::task::yield_now().await;
    }
    assert!(!terms.is_empty(), "seed {seed}: no member has led");
    *world.faults.lock().unwrap() = Faults::default();
    *world.away_until.lock().unwrap() = None;
    for process in &processes {
        process.pause.send_replace(Instant::now());
    }
    until(TTL * 4, "one leader after all faults", || {
        leaders(&processes).len() == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn two_members_never_lead_at_the_same_time() {
    let seeds = std::env::var("NEUROBRIDGE_CLUSTER_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(200) {
        run_schedule(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn follower_leads_after_the_ttl_of_a_stopped_leader() {
    let world = Arc::new(World::default());
    let processes = [
        Process::start(&world, "a", "same", 1),
        Process::start(&world, "b", "same", 2),
    ];
    until(TTL * 2, "a leader", || leaders(&processes).len() == 1).await;
    let (leader, term) = leaders(&processes)[0];
    // Longer than any time after which another member could take the lease.
    sleep(TTL * 3).await;
    assert_eq!(
        leaders(&processes),
        [(leader, term)],
        "an undisturbed leader stays"
    );
    processes[leader].pause.send_replace(Instant::now() + TTL * 5);
    let follower = 1 - leader;
    let took = until(TTL * 2, "the follower leads", || {
        processes[follower].leadership().is_some()
    })
    .await;
    assert!(took <= TTL + Duration::from_secs(1), "{took:?}");
    assert!(processes[follower].leadership().unwrap().term > term);
}

#[tokio::test(start_paused = true)]
async fn released_lease_is_taken_soon_despite_an_early_notice() {
    let world = Arc::new(World::default());
    let first = Process::start(&world, "a", "same", 1);
    until(TTL * 2, "a leader", || first.leadership().is_some()).await;
    let second = Process::start(&world, "b", "same", 2);
    until(TTL, "a follower", || second.join_state() == JoinState::Joined).await;
    *world.early_notice.lock().unwrap() = Some(Duration::from_millis(30));
    // Longer than the reads after the start take.
    sleep(TTL).await;
    first.stop.cancel();
    let took = until(TTL, "the other leader", || second.leadership().is_some()).await;
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn second_process_with_the_same_name_is_refused() {
    let world = Arc::new(World::default());
    let first = Process::start(&world, "a", "same", 1);
    until(TTL * 2, "a leader", || first.leadership().is_some()).await;
    let second = Process::start(&world, "a", "same", 2);
    until(TTL * 2, "a refusal", || {
        matches!(second.join_state(), JoinState::Refused(_))
    })
    .await;
    let JoinState::Refused(reason) = second.join_state() else {
        unreachable!()
    };
    insta::assert_snapshot!(reason, @r#"found another process with the member name "a" in the cluster "test", expected a different name for each member; set another cluster.member"#);
    assert!(first.leadership().is_some());
    first.stop.cancel();
    until(TTL * 2, "the second leads after the first has ended", || {
        second.leadership().is_some()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn other_configuration_is_refused_until_a_hand_over() {
    let world = Arc::new(World::default());
    let first = Process::start(&world, "a", "old", 1);
    until(TTL * 2, "a leader", || first.leadership().is_some()).await;
    let second = Process::start(&world, "b", "new", 2);
    until(TTL, "a refusal", || {
        matches!(second.join_state(), JoinState::OtherConfiguration(_))
    })
    .await;
    let JoinState::OtherConfiguration(reason) = second.join_state() else {
        unreachable!()
    };
    insta::assert_snapshot!(reason, @r#"the leader "a" of the cluster "test" has another configuration, expected the same sources, sinks and redaction; apply the same configuration to all members: this member leads after the leader hands over"#);
    first.stop.cancel();
    let took = until(TTL, "the new configuration leads", || {
        second.leadership().is_some()
    })
    .await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(second.join_state(), JoinState::Joined);
}

#[tokio::test(start_paused = true)]
async fn foreign_value_under_the_lease_key_is_never_overwritten() {
    let world = Arc::new(World::default());
    let revision = world.put(LEASE, Some(b"not a lease".to_vec()));
    let member = Process::start(&world, "a", "same", 1);
    until(TTL, "a refusal", || {
        matches!(member.join_state(), JoinState::Refused(_))
    })
    .await;
    let JoinState::Refused(reason) = member.join_state() else {
        unreachable!()
    };
    insta::assert_snapshot!(reason, @r#"found "not a lease" as the lease of the cluster "test", expected a lease of neurobridge; delete the key "test.lease" from the bucket, or use another cluster.name or bucket"#);
    // Longer than any time after which a member could replace the foreign value.
    sleep(TTL * 4).await;
    assert_eq!(world.value(LEASE).revision, revision);
    world.put(LEASE, None);
    until(TTL * 2, "it leads after the key was deleted", || {
        member.leadership().is_some()
    })
    .await;
    assert!(record::lease(&world.value(LEASE).bytes.unwrap()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn member_without_engine_follows_and_reports_why() {
    let world = Arc::new(World::default());
    let member = Process::start(&world, "a", "same", 1);
    until(TTL * 2, "a leader", || member.leadership().is_some()).await;
    *world.away_until.lock().unwrap() = Some(Instant::now() + TTL * 3);
    let took = until(TTL, "a follower", || {
        matches!(*member.membership.role().borrow(), Role::Follower)
    })
    .await;
    assert!(took <= TTL - TTL / 5, "{took:?}");
    until(TTL, "the reason", || {
        matches!(member.join_state(), JoinState::Unreachable(_))
    })
    .await;
    until(TTL * 5, "it leads again", || member.leadership().is_some()).await;
}
