//! Reads missed events from NeuroIO's list of a simulated platform.

mod support;

use std::{num::NonZeroU64, time::Duration};

use jiff::{SignedDuration, Timestamp};
use neurobridge_core::{identity::body_hash, neuroio::Frames, units::ByteSize};
use neurobridge_platform::{BackfillReader, Client, Outcome, PagingError, RequestError, StopReason, Window};
use neurobridge_simulator::{EntryOptions, Options, RestOptions, RestOrder, RestShape};
use proptest::prelude::*;
use tokio::sync::mpsc;

use self::support::{Platform, config, entries, ids, read, window, within};

fn oldest_first() -> Options {
    Options {
        rest: RestOptions {
            order: RestOrder::OldestFirst,
            ..RestOptions::default()
        },
        ..Options::default()
    }
}

#[tokio::test]
async fn missed_events_are_the_frames_of_the_feed() {
    for shape in [RestShape::Results, RestShape::List] {
        for order in [RestOrder::NewestFirst, RestOrder::OldestFirst] {
            let rest = RestOptions {
                shape,
                order,
                ..RestOptions::default()
            };
            let options = Options {
                rest,
                ..Options::default()
            };
            let (platform, frames) = Platform::recognised(250, options).await;
            let (missed, report) = read(platform.entries(), window(Some(30))).await;
            assert!(matches!(report.outcome, Outcome::Complete), "{}", report.outcome);
            assert_eq!((report.entries, report.known), (220, 1));
            assert_eq!(report.requests, report.pages);
            let found: Vec<_> = missed.iter().map(|missed| missed.frame.as_str()).collect();
            assert_eq!(found, &frames[30..]);
            let mut reader = Frames::default();
            let mut key = |frame: &str| {
                let positions = reader.event(frame).unwrap();
                let body = positions.body().of(frame).unwrap();
                body_hash(body)
            };
            assert_eq!(key(&missed[0].frame), key(&frames[30]));
        }
    }
}

#[tokio::test]
async fn window_without_an_id_is_read_by_time() {
    let (platform, _) = Platform::recognised(100, Options::default()).await;
    let start: Timestamp = support::START.parse().unwrap();
    let between = |from, to, overlap| Window {
        after: None,
        skips_known: false,
        from: start + SignedDuration::from_secs(from),
        to: Some(start + SignedDuration::from_secs(to)),
        overlap: Duration::from_secs(overlap),
    };
    let (missed, _) = read(platform.entries(), between(10, 19, 0)).await;
    assert_eq!(ids(&missed), (11..=20).collect::<Vec<_>>());
    let (missed, _) = read(platform.entries(), between(10, 19, 5)).await;
    assert_eq!(ids(&missed), (6..=25).collect::<Vec<_>>());
    let (missed, report) = read(platform.entries(), between(200, 300, 0)).await;
    assert!(missed.is_empty() && matches!(report.outcome, Outcome::Complete));
}

#[tokio::test]
async fn late_entries_after_the_known_id_are_read() {
    let options = Options {
        entries: EntryOptions {
            late: NonZeroU64::new(7),
            late_by: Duration::from_secs(3_600),
            clock_offset: SignedDuration::from_secs(-600),
            ..EntryOptions::default()
        },
        ..Options::default()
    };
    let (platform, _) = Platform::recognised(100, options).await;
    let (missed, _) = read(platform.entries(), window(Some(40))).await;
    assert_eq!(ids(&missed), (41..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn temporary_errors_are_retried() {
    for rule in [
        "rest-http=503,times=2",
        "rest-http=429,times=2",
        "rest-http=429,retry-after=0,times=1",
        "rest-http=500,request=2",
        "rest-cut,times=2",
        "rest-http=400,times=1",
    ] {
        let (platform, _) = Platform::recognised(150, oldest_first()).await;
        platform.fault(rule);
        let (missed, report) = read(platform.entries(), window(Some(10))).await;
        assert!(
            matches!(report.outcome, Outcome::Complete),
            "{rule}: {}",
            report.outcome
        );
        assert_eq!(ids(&missed), (11..=150).collect::<Vec<_>>(), "{rule}");
        assert!(report.requests > report.pages, "{rule}");
    }
}

#[tokio::test]
async fn requested_delay_is_respected() {
    let (platform, _) = Platform::recognised(10, Options::default()).await;
    platform.fault("rest-http=429,retry-after=1,times=1");
    let start = tokio::time::Instant::now();
    let (missed, _) = read(platform.entries(), window(Some(5))).await;
    assert_eq!(missed.len(), 5);
    assert!(start.elapsed() >= Duration::from_secs(1));
    platform.fault("rest-http=429,retry-after=3600");
    let (_, report) = read(platform.entries(), window(Some(5))).await;
    assert_eq!(
        report.outcome.to_string(),
        "failed: the platform requests a delay of 1h, which is more than 2m; fill the gap later"
    );
}

/// Returns the outcome with a fault, without the port, and the number of events.
async fn outcome_with(
    rule: &str,
    options: Options,
    change: impl FnOnce(BackfillReader) -> BackfillReader,
) -> (String, usize) {
    let (platform, _) = Platform::recognised(250, options).await;
    platform.fault(rule);
    let (missed, report) = read(change(platform.entries()), window(Some(10))).await;
    let host = platform.handle.local_addr().to_string();
    (report.outcome.to_string().replace(&host, "HOST"), missed.len())
}

#[tokio::test]
async fn each_fault_of_a_list_has_its_reason() {
    let mut lines = Vec::new();
    for (rule, options) in [
        ("rest-no-json", Options::default()),
        ("rest-other-shape", Options::default()),
        ("rest-same-page", Options::default()),
        ("rest-same-page", oldest_first()),
        ("rest-backwards", Options::default()),
        ("rest-endless", oldest_first()),
        ("rest-no-id", Options::default()),
        ("rest-no-id", oldest_first()),
        ("rest-http=401", Options::default()),
        ("rest-http=403", Options::default()),
        ("rest-http=404", Options::default()),
        ("rest-http=302", Options::default()),
        ("rest-http=503", Options::default()),
        ("rest-http=429", Options::default()),
        ("rest-http=503,request=3,times=1", Options::default()),
        ("rest-no-json,request=3", oldest_first()),
    ] {
        let (outcome, events) = outcome_with(rule, options, |entries| entries).await;
        lines.push(format!("{rule}: {events} events, {outcome}"));
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test]
async fn refused_token_is_a_distinct_outcome() {
    let options = Options {
        tokens: vec!["token-of-the-test".into()],
        ..Options::default()
    };
    let (platform, _) = Platform::recognised(10, options).await;
    let mut config = platform.config();
    config.token = Some("another-token-hunter2".into());
    let (_, report) = read(entries(&config), window(Some(5))).await;
    assert!(report.outcome.is_token_refused(), "{}", report.outcome);
    assert_eq!(report.requests, 1);
    assert!(!format!("{report:?}").contains("hunter2"));
    // A file is read again for each gap.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    (config.token, config.token_file) = (None, Some(file.clone()));
    let (_, report) = read(entries(&config), window(Some(5))).await;
    assert!(report.outcome.to_string().contains("the token cannot be used"));
    std::fs::write(&file, "token-of-the-test\n").unwrap();
    let (missed, _) = read(entries(&config), window(Some(5))).await;
    assert_eq!(missed.len(), 5);
    std::fs::write(&file, "token\u{1}of-the-test\n").unwrap();
    let (_, report) = read(entries(&config), window(Some(5))).await;
    assert!(report.outcome.to_string().contains("a control character"));
}

#[tokio::test]
async fn slow_answer_ends_at_the_time_limit() {
    for rule in ["rest-slow=1h", "rest-drip=16"] {
        let (platform, _) = Platform::recognised(10, Options::default()).await;
        platform.fault(rule);
        let mut config = platform.config();
        config.backfill.timeout = Duration::from_millis(50);
        let (_, report) = read(entries(&config), window(Some(5))).await;
        let text = report.outcome.to_string();
        assert!(text.contains("did not answer completely within 50ms"), "{text}");
        assert_eq!(report.requests, 5);
    }
}

#[tokio::test]
async fn unreachable_host_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (_, report) = read(entries(&config(&format!("http://{address}"))), window(None)).await;
    let text = report.outcome.to_string();
    assert!(
        text.contains(&format!("could not connect to {address}")),
        "{text}"
    );
}

#[tokio::test]
async fn large_answers_are_read_in_smaller_pages() {
    let options = Options {
        size: Some(8 * 1024),
        ..oldest_first()
    };
    let (platform, frames) = Platform::recognised(60, options).await;
    let config = platform.config();
    let client = |limit| {
        Client::new(&config, &platform.url())
            .unwrap()
            .with_max_answer(ByteSize::from_kib(limit))
    };
    let (missed, report) = read(BackfillReader::new(client(64), &config), window(None)).await;
    assert!(matches!(report.outcome, Outcome::Complete), "{}", report.outcome);
    let found: Vec<_> = missed.into_iter().map(|missed| missed.frame).collect();
    assert_eq!(found, frames);
    // A limit that allows one entry on each page, and then a limit below one entry.
    let (missed, report) = read(BackfillReader::new(client(9), &config), window(None)).await;
    assert_eq!((missed.len(), report.outcome.label()), (60, "complete"));
    let (missed, report) = read(BackfillReader::new(client(4), &config), window(None)).await;
    assert!(missed.is_empty());
    assert!(matches!(
        report.outcome,
        Outcome::Failed(StopReason::Request(RequestError::TooLarge { .. }))
    ));
}

#[tokio::test]
async fn pages_beyond_the_limit_are_not_requested() {
    for (order, expected) in [
        (RestOrder::OldestFirst, 1..=199),
        (RestOrder::NewestFirst, 302..=500),
    ] {
        let options = Options {
            rest: RestOptions {
                order,
                ..RestOptions::default()
            },
            ..Options::default()
        };
        let (platform, _) = Platform::recognised(500, options).await;
        let mut config = platform.config();
        config.backfill.max_pages = 2;
        let (missed, report) = read(entries(&config), window(None)).await;
        assert_eq!(ids(&missed), expected.collect::<Vec<_>>());
        assert!(matches!(
            report.outcome,
            Outcome::Partly(StopReason::Paging(PagingError::TooManyPages { pages: 2 }))
        ));
    }
}

#[tokio::test]
async fn configured_rate_limits_the_requests() {
    let (platform, _) = Platform::recognised(250, Options::default()).await;
    let mut config = platform.config();
    config.backfill.rate = 10;
    let start = tokio::time::Instant::now();
    let (_, report) = read(entries(&config), window(None)).await;
    assert!(report.requests >= 4);
    assert!(start.elapsed() >= Duration::from_millis(100) * (report.requests - 1));
}

#[tokio::test]
async fn dropped_receiver_stops_the_reading() {
    let (platform, _) = Platform::recognised(250, oldest_first()).await;
    let (events, received) = mpsc::channel(1);
    drop(received);
    let report = within(platform.entries().fetch(&window(None), &events)).await;
    assert!(matches!(report.outcome, Outcome::Failed(StopReason::Stopped)));
    assert_eq!(report.requests, 1);
}

#[derive(Clone, Debug)]
struct Case {
    count: u64,
    after: Option<u64>,
    /// The end of the window, in seconds after the first entry.
    end: u64,
    options: Options,
    faults: Vec<&'static str>,
}

fn cases() -> impl Strategy<Value = Case> {
    let every = || prop::option::of(2_u64..20).prop_map(|every| every.and_then(NonZeroU64::new));
    let rest = (any::<bool>(), any::<bool>(), 1_u64..140, 1_u64..300);
    let faults = prop::sample::subsequence(
        vec![
            "rest-http=503,request=2",
            "rest-cut,request=3",
            "rest-http=429,request=5",
            "rest-http=400,request=1",
        ],
        0..=4,
    );
    let entries = (every(), every(), every());
    (
        (1_u64..200, prop::option::of(0_u64..200), 0_u64..250),
        rest,
        entries,
        faults,
    )
        .prop_map(|((count, after, end), rest, entries, faults)| {
            let (is_list, is_oldest, most, keep) = rest;
            let (holes, deleted, late) = entries;
            let options = Options {
                rest: RestOptions {
                    shape: if is_list {
                        RestShape::List
                    } else {
                        RestShape::Results
                    },
                    order: if is_oldest {
                        RestOrder::OldestFirst
                    } else {
                        RestOrder::NewestFirst
                    },
                    max_page: NonZeroU64::new(most).unwrap_or(NonZeroU64::MIN),
                    keep,
                    keep_for: None,
                },
                entries: EntryOptions {
                    holes,
                    deleted,
                    late,
                    late_by: Duration::from_secs(40),
                    ..EntryOptions::default()
                },
                ..Options::default()
            };
            Case {
                count,
                after,
                end,
                options,
                faults,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn all_retained_entries_are_fetched_once_in_order(case in cases()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (platform, frames) = Platform::recognised(case.count, case.options.clone()).await;
            for rule in &case.faults {
                platform.fault(rule);
            }
            let start: Timestamp = support::START.parse().unwrap();
            let window = Window {
                after: case.after.map(|id| id.to_string()),
                skips_known: false,
                from: start,
                to: Some(start + Duration::from_secs(case.end)),
                overlap: Duration::ZERO,
            };
            let is_multiple = |of: Option<NonZeroU64>, position: u64| of.is_some_and(|of| position % of == 0);
            let expected: Vec<_> = (1..=case.count)
                .zip(&frames)
                .filter(|(position, frame)| {
                    let late = if is_multiple(case.options.entries.late, *position) { 40 } else { 0 };
                    // Seconds after the first entry.
                    let created = i64::try_from(position - 1).unwrap() - late;
                    let id: u64 = frame[6..frame.find(',').unwrap()].parse().unwrap();
                    *position > case.count.saturating_sub(case.options.rest.keep)
                        && !is_multiple(case.options.entries.deleted, *position)
                        && created <= i64::try_from(case.end).unwrap()
                        && case.after.map_or(created >= 0, |after| id > after)
                })
                .map(|(_, frame)| frame.clone())
                .collect();
            let (missed, report) = read(platform.entries(), window).await;
            let found: Vec<_> = missed.into_iter().map(|missed| missed.frame).collect();
            assert!(matches!(report.outcome, Outcome::Complete), "{}", report.outcome);
            assert_eq!(report.entries, found.len() as u64);
            assert_eq!(found, expected);
        });
    }
}

#[tokio::test]
async fn failed_request_is_not_repeated_without_a_receiver() {
    let (platform, _) = Platform::recognised(3, Options::default()).await;
    platform.fault("rest-http=503");
    let (events, received) = mpsc::channel(1);
    drop(received);
    let report = platform.entries().fetch(&window(None), &events).await;
    assert_eq!(report.requests, 1, "{report:?}");
    assert!(matches!(report.outcome, Outcome::Failed(StopReason::Stopped)));
}
