//! Tests leaders that release the lease: at a hand-over and at a stop.

use super::*;

#[tokio::test(start_paused = true)]
async fn hand_over_is_faster_than_the_ttl_and_not_reverted() {
    let world = Arc::new(World::default());
    let processes = [
        Process::start(&world, "a", "same", 1),
        Process::start(&world, "b", "same", 2),
    ];
    until(TTL * 2, "a leader", || leaders(&processes).len() == 1).await;
    let (leader, _) = leaders(&processes)[0];
    let follower = 1 - leader;
    until(TTL, "both members are known", || {
        processes[leader].membership.members().borrow().len() == 2
    })
    .await;
    processes[leader].membership.resign().await;
    assert_eq!(processes[leader].leadership(), None);
    let took = until(TTL, "the follower leads", || {
        processes[follower].leadership().is_some()
    })
    .await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    // A reverted hand-over would happen within this time. Costs no real time, because the clock is paused.
    sleep(TTL * 2).await;
    assert!(
        processes[follower].leadership().is_some(),
        "the hand-over was reverted"
    );

    processes[follower].stop.cancel();
    processes[follower].membership.ended().await;
    assert_eq!(processes[follower].leadership(), None);
    let took = until(
        TTL,
        "the first member leads after the stop of the second one",
        || processes[leader].leadership().is_some(),
    )
    .await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn lone_member_leads_again_after_a_hand_over() {
    let world = Arc::new(World::default());
    let alone = Process::start(&world, "a", "same", 1);
    until(TTL * 2, "a leader", || alone.leadership().is_some()).await;
    alone.membership.resign().await;
    assert_eq!(alone.leadership(), None);
    until(TTL, "it leads again", || alone.leadership().is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn restarted_leader_does_not_lead_before_a_follower() {
    let world = Arc::new(World::default());
    let processes = [
        Process::start(&world, "a", "same", 1),
        Process::start(&world, "b", "same", 2),
    ];
    until(TTL * 2, "a leader", || leaders(&processes).len() == 1).await;
    let (leader, _) = leaders(&processes)[0];
    let follower = 1 - leader;
    // The follower notices the release later than the restarted process.
    let pause = Instant::now() + Duration::from_secs(1);
    processes[follower].pause.send_replace(pause);
    processes[leader].stop.cancel();
    processes[leader].membership.ended().await;
    let restarted = Process::start(&world, ["a", "b"][leader], "same", 3);
    until(TTL, "the follower leads", || {
        assert_eq!(restarted.leadership(), None);
        processes[follower].leadership().is_some()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn settled_positions_reach_followers_and_later_members() {
    let world = Arc::new(World::default());
    let first = Process::start(&world, "a", "same", 1);
    until(TTL * 2, "a leader", || first.leadership().is_some()).await;
    let second = Process::start(&world, "b", "same", 2);
    until(TTL, "the member has joined", || {
        *second.membership.join_state().borrow() == JoinState::Joined
    })
    .await;
    let true_time = Instant::now();
    let settled = Settled {
        since: Some(true_time),
        at_ms: 5000,
        event: Some("42".to_owned()),
        resume: None,
    };
    let known = |process: &Process| process.membership.settled().borrow().get("main").cloned();
    let of_main = |settled: Settled| BTreeMap::from([("main".to_owned(), settled)]);
    first.membership.set_settled(of_main(settled.clone()));
    let main = "main".to_owned();
    timeout(TTL, first.membership.settled_stored([&main]))
        .await
        .unwrap();
    let lease = record::lease(&world.value(LEASE).bytes.unwrap()).unwrap();
    assert!(lease.settled.contains_key("main"), "{lease:?}");
    let of_follower = second.membership.settled_stored([&main]);
    assert!(
        timeout(TTL, of_follower).await.is_err(),
        "a follower stores no lease, so it waits"
    );
    until(TTL, "the position is known", || known(&second).is_some()).await;
    let found = known(&second).unwrap();
    assert_eq!((&found.event, found.at_ms), (&settled.event, 5000));
    let since = found.since.unwrap();
    assert!(
        since <= true_time && true_time - since < TTL,
        "{:?}",
        true_time - since
    );

    // The position survives the end of all members.
    first.stop.cancel();
    until(TTL, "the follower leads", || second.leadership().is_some()).await;
    second.stop.cancel();
    second.membership.ended().await;
    // Longer than all time limits of a member. Costs no real time, because the clock is paused.
    sleep(TTL * 10).await;
    let third = Process::start(&world, "c", "same", 3);
    until(TTL, "the last lease is known", || known(&third).is_some()).await;
    let unknown_age = Settled {
        since: None,
        ..settled
    };
    assert_eq!(known(&third), Some(unknown_age));
}
