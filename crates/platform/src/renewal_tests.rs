use neurobridge_core::secret::Secret;
use proptest::prelude::*;

use super::*;

const LIFE: Duration = Duration::from_secs(1_000);

fn token(id: u64, lifetime: Option<Duration>) -> CreatedToken {
    CreatedToken {
        id,
        key: Secret::new(format!("key-{id}")),
        lifetime,
    }
}

fn start() -> Now {
    Now {
        monotonic: Instant::now(),
        wall: "2026-01-31T12:00:00Z".parse().unwrap(),
    }
}

fn later(now: Now, seconds: u64) -> Now {
    Now {
        monotonic: now.monotonic + Duration::from_secs(seconds),
        wall: now.wall + jiff::SignedDuration::from_secs(seconds.try_into().unwrap()),
    }
}

fn created(now: Now) -> Renewal {
    let mut renewal = Renewal::new(None, now);
    assert_eq!(renewal.step(now), Step::Create);
    renewal.created(token(1, Some(LIFE)), now);
    renewal.used();
    renewal
}

#[test]
fn token_is_renewed_at_four_fifths_of_its_life() {
    let now = start();
    let mut renewal = created(now);
    assert_eq!(renewal.step(now), Step::Wait(Duration::from_secs(800)));
    assert_eq!(renewal.step(later(now, 799)), Step::Wait(Duration::from_secs(1)));
    assert_eq!(renewal.step(later(now, 800)), Step::Create);
    assert_eq!(
        renewal.expires_in(later(now, 800)),
        Some(Duration::from_secs(200))
    );
    assert_eq!(renewal.token(later(now, 999)).unwrap().id, 1);
    assert_eq!(renewal.token(later(now, 1_000)), None);
}

#[test]
fn next_renewal_follows_the_delay_after_a_failure() {
    let now = start();
    let mut renewal = created(now);
    assert_eq!(renewal.renews_in(later(now, 300)), Some(Duration::from_secs(500)));
    let now = later(now, 800);
    assert_eq!(renewal.renews_in(now), Some(Duration::ZERO));
    renewal.failed(now, Some(Duration::from_secs(70)));
    let Step::Wait(delay) = renewal.step(now) else {
        panic!("the request is not repeated at once");
    };
    assert_eq!(renewal.renews_in(now), Some(delay));
    renewal.created(token(2, None), now);
    assert_eq!(renewal.renews_in(now), None, "a permanent token");
}

#[test]
fn old_token_is_deleted_once_the_new_one_is_used() {
    let now = start();
    let mut renewal = created(now);
    let now = later(now, 800);
    renewal.created(token(2, Some(LIFE)), now);
    assert_eq!(
        (renewal.valid_tokens(now), renewal.token(now).unwrap().id),
        (2, 2)
    );
    // The old one expires before the new one is due.
    assert_eq!(renewal.step(now), Step::Wait(Duration::from_secs(200)));
    renewal.used();
    assert_eq!(renewal.step(now), Step::Delete(1));
    renewal.failed(now, Some(Duration::from_secs(150)));
    assert_eq!(renewal.step(now), Step::Wait(Duration::from_secs(150)));
    renewal.deleted(1);
    assert_eq!(renewal.valid_tokens(now), 1);
    assert_eq!(renewal.step(now), Step::Wait(Duration::from_secs(800)));
}

#[test]
fn refused_token_is_replaced_and_deleted() {
    let now = start();
    let mut renewal = created(now);
    let worked = later(now, 700);
    renewal.refused(worked);
    assert_eq!(renewal.step(worked), Step::Create);
    renewal.created(token(2, Some(LIFE)), worked);
    renewal.refused(worked);
    // A third token is never created.
    assert_eq!(renewal.step(worked), Step::Delete(1));
    renewal.deleted(1);
    // A new token that is refused is replaced after a delay.
    let Step::Wait(left) = renewal.step(worked) else {
        panic!("a refused token is replaced at once");
    };
    assert!((REFUSED.0..=REFUSED.0 * 2).contains(&left), "{left:?}");
    assert_eq!(renewal.step(later(worked, 2)), Step::Create);
}

#[test]
fn refused_new_token_leaves_the_old_one_in_use() {
    let now = start();
    let mut renewal = created(now);
    let due = later(now, 800);
    renewal.created(token(2, Some(LIFE)), due);
    renewal.refused(due);
    assert_eq!(renewal.step(due), Step::Delete(2));
    renewal.deleted(2);
    assert_eq!(
        (renewal.valid_tokens(due), renewal.token(due).unwrap().id),
        (1, 1)
    );
    renewal.used();
    assert!(matches!(renewal.step(due), Step::Wait(left) if left <= REFUSED.0 * 2));
    assert_eq!(renewal.step(later(due, 2)), Step::Create);
}

#[test]
fn token_without_life_makes_no_hot_loop() {
    let now = start();
    let mut renewal = Renewal::new(None, now);
    renewal.created(token(1, Some(Duration::ZERO)), now);
    assert_eq!(renewal.step(now), Step::Wait(MIN_INTERVAL));
}

#[test]
fn failed_request_is_repeated_after_a_delay() {
    let now = start();
    let mut renewal = Renewal::new(None, now);
    renewal.failed(now, Some(Duration::from_secs(86_400)));
    assert_eq!(renewal.step(now), Step::Wait(RETRY.1));
    let mut renewal = Renewal::new(None, now);
    renewal.failed(now, None);
    let Step::Wait(left) = renewal.step(now) else {
        panic!("the request is repeated at once");
    };
    assert!((RETRY.0..=RETRY.0 * 2).contains(&left), "{left:?}");
    assert_eq!(renewal.step(later(now, 10)), Step::Create);
}

#[test]
fn delay_after_failures_ends_soon_after_the_expiry() {
    let now = start();
    let longest = |renewal: &mut Renewal, now: Now| {
        let delays = (0..50).map(|_| {
            renewal.failed(now, None);
            match renewal.step(now) {
                Step::Wait(delay) => delay,
                step => panic!("{step:?}"),
            }
        });
        delays.max().unwrap()
    };
    assert!(longest(&mut Renewal::new(None, now), now) <= WITHOUT_TOKEN);
    let mut renewal = created(now);
    assert!(longest(&mut renewal, later(now, 800)) > WITHOUT_TOKEN);
    assert!(longest(&mut renewal, later(now, 970)) <= Duration::from_secs(30));
    assert!(longest(&mut renewal, later(now, 2_000)) <= WITHOUT_TOKEN);
}

#[test]
fn permanent_token_is_never_renewed() {
    let now = start();
    let mut renewal = Renewal::new(None, now);
    renewal.created(token(1, None), now);
    assert!(matches!(renewal.step(later(now, 10_000_000)), Step::Wait(_)));
    assert_eq!(renewal.expires_in(now), None);
}

#[test]
fn stored_token_continues_at_its_age() {
    let now = start();
    let mut renewal = created(now);
    renewal.created(token(2, Some(LIFE)), later(now, 10));
    let stored = renewal.to_stored();
    let now = later(now, 110);
    let mut renewal = Renewal::new(stored.clone(), now);
    assert_eq!(renewal.token(now).unwrap().id, 2);
    assert_eq!(renewal.expires_in(now), Some(Duration::from_secs(900)));
    renewal.used();
    assert_eq!(renewal.step(now), Step::Delete(1));
    // The clock was set back before the restart: the age is unknown.
    let mut renewal = Renewal::new(
        stored,
        Now {
            wall: Timestamp::UNIX_EPOCH,
            ..now
        },
    );
    assert_eq!(
        renewal.step(Now {
            wall: Timestamp::UNIX_EPOCH,
            ..now
        }),
        Step::Create
    );
}

#[test]
fn age_of_a_token_includes_the_time_of_a_suspension() {
    let now = start();
    let mut renewal = created(now);
    let resumed = Now {
        monotonic: now.monotonic + MIN_INTERVAL,
        ..later(now, 900)
    };
    assert_eq!(renewal.step(resumed), Step::Create);
    // A clock that is set back makes no token younger.
    let set_back = Now {
        wall: Timestamp::UNIX_EPOCH,
        ..later(now, 900)
    };
    assert_eq!(renewal.step(set_back), Step::Create);
}

proptest! {
    #[test]
    fn at_most_two_tokens_are_alive(
        events in prop::collection::vec((0_u64..400, any::<bool>(), 0_u8..4), 0..200),
    ) {
        let mut now = start();
        let mut renewal = Renewal::new(None, now);
        let (mut next, mut alive) = (1, Vec::new());
        for (seconds, succeeds, event) in events {
            now = later(now, seconds);
            alive.retain(|(_, expires)| *expires > now.monotonic);
            match event {
                0 => renewal.refused(now),
                1 => renewal.used(),
                2 => renewal = Renewal::new(renewal.to_stored(), now),
                _ => {}
            }
            match renewal.step(now) {
                Step::Create if succeeds => {
                    renewal.created(token(next, Some(LIFE)), now);
                    alive.push((next, now.monotonic + LIFE));
                    next += 1;
                }
                Step::Delete(id) if succeeds => {
                    renewal.deleted(id);
                    alive.retain(|(alive, _)| *alive != id);
                }
                Step::Wait(left) => prop_assert!(!left.is_zero()),
                _ => renewal.failed(now, None),
            }
            prop_assert!(alive.len() <= 2, "{alive:?}");
            prop_assert!(renewal.valid_tokens(now) >= alive.len().min(1));
        }
    }
}
