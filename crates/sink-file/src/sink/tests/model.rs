//! Tests the sink with random sequences of publishes, kills and faults: the files contain each event once and in order.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    /// Begins a write.
    Flush,
    /// Writes and receives the outcomes.
    Outcomes,
    /// Stores the cursor on the disk.
    Commit,
    /// A kill. Before it, the published events are written or not, followed by a part of a line.
    Crash {
        is_written: bool,
        torn: bool,
    },
    /// A fault within the process.
    Reconnect {
        is_written: bool,
    },
    Wait(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u8..6).prop_map(Step::Publish),
        3 => Just(Step::Flush),
        6 => Just(Step::Outcomes),
        3 => Just(Step::Commit),
        2 => any::<(bool, bool)>().prop_map(|(is_written, torn)| Step::Crash { is_written, torn }),
        1 => any::<bool>().prop_map(|is_written| Step::Reconnect { is_written }),
        2 => (1u8..90).prop_map(Step::Wait),
    ]
}

/// Runs the steps and checks that the files hold each event once and in order.
async fn run(steps: Vec<Step>, max_size: u64) {
    let mut setting = Setting::new(FileConfig {
        max_size: neurobridge_core::units::ByteSize::from_bytes(max_size),
        rotate_every: Some(Duration::from_secs(3600)),
        ..raw()
    });
    // The state of a delivery: events below `acknowledged` have an outcome, events below `published` are in the sink.
    let (mut acknowledged, mut published) = (1, 1);
    // Events below this sequence have a line, from this attempt or an earlier one.
    let mut there = 1;
    setting.connect().await;
    setting.commit(1);
    for step in steps {
        match step {
            Step::Publish(count) => {
                for _ in 0..count {
                    match setting.publish(published) {
                        Ok(()) => published += 1,
                        Err(PublishError::Full) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
            Step::Flush => setting.sink.flush().await.unwrap(),
            Step::Outcomes => {
                if acknowledged < published {
                    let acks = setting.outcomes().await;
                    let end = acknowledged + acks.len() as u64;
                    assert!(acknowledged < end && end <= published);
                    assert_eq!(acks, (acknowledged..end).collect::<Vec<_>>());
                    acknowledged = end;
                }
                there = there.max(acknowledged);
                assert_eq!(setting.stored(), (1..there).collect::<Vec<_>>());
            }
            Step::Commit => setting.commit(acknowledged),
            Step::Crash { is_written, torn } => {
                if is_written {
                    setting.sink.flush().await.unwrap();
                }
                setting.restart().await;
                if torn {
                    let mut file = OpenOptions::new().append(true).open(setting.path()).unwrap();
                    file.write_all(b"{\"id\":4").unwrap();
                }
                setting.connect().await;
                acknowledged = setting.cursor.next.get();
                published = acknowledged;
                there = assert_whole(&setting, there);
            }
            Step::Reconnect { is_written } => {
                if is_written {
                    setting.sink.flush().await.unwrap();
                }
                setting.connect().await;
                published = acknowledged;
                there = assert_whole(&setting, there);
            }
            Step::Wait(minutes) => setting
                .clock
                .advance(Duration::from_secs(60 * u64::from(minutes))),
        }
    }
}

/// Checks that the files hold each event once, in order and without losses; returns the first event without a line.
fn assert_whole(setting: &Setting, there: u64) -> u64 {
    let stored = setting.stored();
    let end = stored.len() as u64 + 1;
    assert_eq!(stored, (1..end).collect::<Vec<_>>());
    assert!(end >= there, "{end} {there}");
    end
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn each_event_is_written_once_in_order(
        steps in proptest::collection::vec(any_step(), 1..60), max_size in 50u64..600,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(steps, max_size));
    }
}
