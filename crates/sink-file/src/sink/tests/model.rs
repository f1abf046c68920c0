//! Publishes, kills and faults in any order: the files hold each event once and in order.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    /// Begin to write.
    Flush,
    /// Write, and hear of it.
    Outcomes,
    /// The cursor reaches the disk.
    Commit,
    /// A kill; before it, what was published is written or not, and then a part of a line.
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

/// The files hold each event once and in order, whatever happens in between.
async fn run(steps: Vec<Step>, max_size: u64) {
    let mut setting = Setting::new(FileConfig {
        max_size: neurobridge_core::units::ByteSize::from_bytes(max_size),
        rotate_every: Some(Duration::from_secs(3600)),
        ..raw()
    });
    // What a delivery knows: all below `acknowledged` has its outcome, all below `published` is in the sink.
    let (mut acknowledged, mut published) = (1, 1);
    // All below it has its line, of this attempt or an earlier one.
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

/// The files hold each event once and in order, none that was there is missing; the first that has no line.
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
