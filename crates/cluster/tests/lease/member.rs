//! [`Member`]: a member of the cluster "faces" with a runtime of its own, so that a test can end it like a process.

use std::time::{Duration, Instant};

use neurobridge_cluster::{ClusterConfig, JoinState, Leadership, Membership};
use neurobridge_tests::poll::{wait_for, wait_until};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Much longer than any step takes, so that a slow machine fails no test.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A member with a runtime of its own.
pub(crate) struct Member {
    pub(crate) membership: Membership,
    stop: CancellationToken,
    pub(crate) runtime: Runtime,
}

impl Member {
    pub(crate) fn join(lease: &Value, name: &str, config_hash: &str) -> Self {
        let config: ClusterConfig =
            serde_json::from_value(json!({ "name": "faces", "lease": lease })).unwrap();
        assert_eq!(config.check(), []);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let membership = {
            let _context = runtime.enter();
            Membership::join(&config, name, config_hash, stop.clone())
        };
        Self {
            membership,
            stop,
            runtime,
        }
    }

    pub(crate) fn leadership(&self) -> Option<Leadership> {
        self.membership.role().borrow().leadership()
    }

    pub(crate) fn leads(&self) -> bool {
        self.leadership().is_some()
    }

    pub(crate) fn term(&self) -> u64 {
        self.leadership().unwrap().term
    }

    pub(crate) fn join_state(&self) -> JoinState {
        self.membership.join_state().borrow().clone()
    }

    pub(crate) fn sees(&self, count: usize) -> bool {
        self.membership.members().borrow().len() == count
    }

    /// Ends all tasks and connections without releasing the lease, as a kill of the process does.
    pub(crate) fn crash(self) {
        self.runtime.shutdown_background();
    }

    /// Gives the leadership up.
    pub(crate) fn resign(&self) {
        self.runtime.block_on(self.membership.resign());
    }

    /// Waits until the member is refused, also for its configuration, and returns the reason.
    pub(crate) fn refusal(&self) -> String {
        let refused = wait_for("a refusal", LIMIT, || {
            Ok(match self.join_state() {
                JoinState::Refused(reason) | JoinState::OtherConfiguration(reason) => Some(reason),
                _ => None,
            })
        });
        refused.unwrap_or_else(|error| panic!("{error:#}: {:?}", self.join_state()))
    }

    /// Stops the member, which releases the lease.
    pub(crate) fn end(self) {
        self.stop.cancel();
        self.runtime.block_on(self.membership.ended());
        self.runtime.shutdown_background();
    }
}

/// Waits until a member leads, and asserts that the others do not. Returns the time.
pub(crate) fn takeover(by: &Member, others: &[&Member]) -> Duration {
    let began = Instant::now();
    wait_until("a takeover", LIMIT, || {
        // The leadership of the others is read last: it has ended when that of the successor begins.
        let leads = by.leads();
        assert!(!leads || others.iter().all(|other| !other.leads()), "two leaders");
        leads
    })
    .unwrap();
    began.elapsed()
}

/// Checks that one of three attempts takes at most `limit`, because other programs on the machine can delay an attempt.
pub(crate) fn assert_within(limit: Duration, mut attempt: impl FnMut(u32) -> Duration) {
    let mut took = Vec::new();
    for number in 1..=3 {
        took.push(attempt(number));
        if took.last() <= Some(&limit) {
            return;
        }
    }
    panic!("the attempts took {took:?}, expected one of at most {limit:?}");
}
