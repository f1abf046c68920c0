use std::time::Duration;

use neurobridge_protocol::Declaration;
use proptest::prelude::*;

use super::*;

/// A simulated server with a list of events, whose ids are texts without an order.
#[derive(Clone, Debug)]
struct Server {
    /// The numbers of the events, the oldest first.
    events: Vec<u64>,
    newest_first: bool,
    max_page: usize,
    /// Whether the next page is named by a cursor instead of a link.
    has_cursor: bool,
}

fn id(number: u64) -> String {
    // Not in the order of the numbers.
    format!("e{:x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn entry(number: u64) -> String {
    format!(r#"{{"id":"{}","ts":{}}}"#, id(number), 1_769_860_800 + number)
}

impl Server {
    fn answer(&self, target: &str) -> String {
        let parameter = |name: &str| {
            let query = target.split_once('?').unwrap().1;
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.parse::<u64>().unwrap())
        };
        let first = parameter("since").unwrap().saturating_sub(1_769_860_800);
        let mut events: Vec<u64> = self
            .events
            .iter()
            .copied()
            .filter(|number| *number >= first)
            .collect();
        if self.newest_first {
            events.reverse();
        }
        let limit = (parameter("limit").unwrap_or(u64::MAX) as usize).min(self.max_page);
        let offset = match (parameter("offset"), parameter("page"), parameter("cursor")) {
            (Some(offset), _, _) | (_, _, Some(offset)) => offset as usize,
            (_, Some(page), _) => (page as usize - 1) * limit,
            _ => 0,
        };
        let page: Vec<String> = events
            .iter()
            .skip(offset)
            .take(limit)
            .map(|number| entry(*number))
            .collect();
        let end = offset + page.len();
        let next = match end < events.len() {
            true if self.has_cursor => format!("\"{end}\""),
            true => format!(
                "\"https://rest.example/list?since={}&cursor={end}\"",
                first + 1_769_860_800
            ),
            false => "null".to_owned(),
        };
        format!(r#"{{"items":[{}],"next":{next}}}"#, page.join(","))
    }
}

fn list(pages: &str) -> EventList {
    let text = format!(
        r#"
        rules = [{{ when = {{ id = {{ present = true }} }}, is = "event" }}]
        event = {{ id = "id", time = {{ path = "ts", unit = "s" }} }}
        [backfill]
        url = "https://rest.example/list?since={{from}}"
        unit = "s"
        list = "items"
        {pages}
        "#
    );
    let declaration: Declaration = toml::from_str(&text).unwrap();
    EventList::new(&declaration).unwrap().unwrap()
}

/// The time of event 0.
const START: Timestamp = Timestamp::constant(1_769_860_800, 0);

const KINDS: [&str; 4] = [
    "pages = { type = \"offset\", limit = 7 }",
    "pages = { type = \"page\", limit = 7 }",
    "pages = { type = \"next\", path = \"next\" }",
    "pages = { type = \"next\", path = \"next\", parameter = \"cursor\" }",
];

fn window(after: Option<u64>) -> Window {
    Window {
        after: after.map(id),
        skips_known: after.is_some(),
        from: Timestamp::from_second(1_769_860_800).unwrap() + Duration::from_secs(after.unwrap_or(0)),
        to: None,
        overlap: Duration::from_secs(20),
    }
}

/// Reads a list; `change` changes it after each page. Returns the numbers of the events in the order in which they were
/// returned.
fn read(
    pages: &str,
    window: &Window,
    mut server: Server,
    change: &mut dyn FnMut(&mut Server),
) -> Result<Vec<String>, String> {
    let mut list = list(pages);
    let secrets = Secrets::new();
    let mut listing = DeclaredListing::new(&mut list, window, 200, &secrets, Timestamp::MAX);
    let mut events = Vec::new();
    loop {
        let target = listing.next().map_err(|error| error.to_string())?;
        let is_end = match listing.accept(server.answer(&target).as_bytes()) {
            Ok(is_end) => is_end,
            Err(Unreadable::Paging(error)) => return Err(error.to_string()),
            Err(error) => panic!("{error:?}"),
        };
        events.extend(listing.take_ready());
        if is_end {
            break;
        }
        change(&mut server);
    }
    events.extend(listing.finish());
    Ok(events.into_iter().map(|missed| missed.id).collect())
}

fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(id).collect()
}

proptest! {
    /// Each kind of pages returns each event of the list once, the oldest first, whatever the order and the page size.
    #[test]
    fn each_event_is_returned_once_in_order(
        count in 0_u64..60, max_page in 1_usize..20, newest_first: bool, kind in 0_usize..4, known in proptest::option::of(0_u64..60),
    ) {
        let server = Server { events: (0..count).collect(), newest_first, max_page, has_cursor: kind == 3 };
        let found = read(KINDS[kind], &window(known), server, &mut |_| {}).unwrap();
        // If the known event is not in the list, all events of the window are new.
        let first = match known {
            Some(known) if known < count => known + 1,
            Some(known) => known.saturating_sub(20),
            None => 0,
        };
        prop_assert_eq!(found, ids(first..count.max(first)));
    }

    /// Additions to a list with the newest first, while it is read, cause no missed and no repeated event.
    #[test]
    fn growing_list_by_offset_is_complete(count in 1_u64..60, max_page in 4_usize..20, growth in 0_u64..2) {
        let server = Server { events: (0..count).collect(), newest_first: true, max_page, has_cursor: false };
        let found = read(KINDS[0], &window(None), server, &mut |server| {
            let next = server.events.len() as u64;
            server.events.extend(next..next + growth);
        }).unwrap();
        prop_assert!(found.len() as u64 >= count);
        let old: Vec<_> = found.into_iter().filter(|found| ids(0..count).contains(found)).collect();
        prop_assert_eq!(old, ids(0..count));
    }

    /// Deletions from a list while it is read cause no other event to be missed.
    #[test]
    fn shrinking_list_by_offset_is_complete(
        count in 2_u64..60, max_page in 2_usize..20, newest_first: bool, deleted in proptest::collection::vec(0_u64..60, 1..4),
    ) {
        let server = Server { events: (0..count).collect(), newest_first, max_page, has_cursor: false };
        let mut left = deleted.clone();
        let found = read(KINDS[0], &window(None), server, &mut |server| {
            if let Some(number) = left.pop() {
                server.events.retain(|known| *known != number);
            }
        }).unwrap();
        for number in (0..count).filter(|number| !deleted.contains(number)) {
            prop_assert!(found.contains(&id(number)), "{} is missing in {:?}", number, found);
        }
    }
}

#[test]
fn server_that_ignores_the_position_is_detected() {
    for (kind, expected) in [
        (
            KINDS[0],
            "the answer for offset 4 is the same as an earlier answer",
        ),
        (KINDS[1], "the answer for page 3 is the same as an earlier answer"),
        (
            KINDS[2],
            "the answer for the next page is the same as an earlier answer",
        ),
        (
            KINDS[3],
            "the answer for the next page is the same as an earlier answer",
        ),
    ] {
        let mut list = list(kind);
        let secrets = Secrets::new();
        let window = window(None);
        let mut listing = DeclaredListing::new(&mut list, &window, 200, &secrets, Timestamp::MAX);
        let body = format!(
            r#"{{"items":[{},{},{}],"next":"?cursor=1&since=0"}}"#,
            entry(1),
            entry(2),
            entry(3)
        );
        let error = loop {
            match listing.accept(body.as_bytes()) {
                Ok(false) => {}
                Ok(true) => panic!("{kind}: the end"),
                Err(Unreadable::Paging(error)) => break error.to_string(),
                Err(error) => panic!("{error:?}"),
            }
        };
        assert!(error.starts_with(expected), "{kind}: {error}");
        // All events were read.
        let found = listing.take_ready().into_iter().chain(listing.finish());
        assert_eq!(found.count(), 3, "{kind}");
    }
}

#[test]
fn endless_list_ends_at_the_limit_of_pages() {
    let mut list = list(KINDS[1]);
    let secrets = Secrets::new();
    let window = window(None);
    let mut listing = DeclaredListing::new(&mut list, &window, 3, &secrets, Timestamp::MAX);
    for number in 0..3 {
        listing.next().unwrap();
        let body = format!(r#"{{"items":[{}]}}"#, entry(number));
        assert!(!listing.accept(body.as_bytes()).unwrap());
    }
    assert_eq!(listing.next(), Err(PagingError::TooManyPages { pages: 3 }));
}

#[test]
fn entries_that_are_no_events_are_counted() {
    let mut list = list("");
    let secrets = Secrets::new();
    let window = window(None);
    let mut listing = DeclaredListing::new(&mut list, &window, 3, &secrets, Timestamp::MAX);
    let body = format!(r#"{{"items":[7,{{}},{},{{"id":""}}]}}"#, entry(1));
    assert!(listing.accept(body.as_bytes()).unwrap());
    assert_eq!((listing.tally().without_id, listing.finish().len()), (3, 1));
}

#[test]
fn link_to_another_server_ends_the_reading() {
    let mut list = list(KINDS[2]);
    let secrets = Secrets::new();
    let window = window(None);
    let mut listing = DeclaredListing::new(&mut list, &window, 3, &secrets, Timestamp::MAX);
    let body = format!(
        r#"{{"items":[{}],"next":"https://other.example/?since=1"}}"#,
        entry(1)
    );
    let error = listing.accept(body.as_bytes());
    let Err(Unreadable::Paging(PagingError::OtherOrigin(error))) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.found, "https://other.example/…");
    assert_eq!(listing.finish().len(), 1);
}

/// Reads bodies one after another. Returns the ids of the events, and whether the list was read to its end.
fn read_bodies(
    list: &mut EventList,
    window: &Window,
    bodies: &[String],
) -> (Vec<String>, Result<bool, String>) {
    let secrets = Secrets::new();
    let mut listing = DeclaredListing::new(list, window, 200, &secrets, Timestamp::MAX);
    let mut result = Ok(false);
    for body in bodies {
        result = match listing.accept(body.as_bytes()) {
            Ok(is_end) => Ok(is_end),
            Err(Unreadable::Paging(error)) => Err(error.to_string()),
            Err(error) => panic!("{error:?}"),
        };
    }
    let mut events = listing.take_ready();
    events.extend(listing.finish());
    (events.into_iter().map(|missed| missed.id).collect(), result)
}

fn body(numbers: &[u64], rest: &str) -> String {
    let entries: Vec<String> = numbers.iter().map(|number| entry(*number)).collect();
    format!(r#"{{"items":[{}]{rest}}}"#, entries.join(","))
}

#[test]
fn order_is_recognised_from_the_ends_of_a_page() {
    // The first two events of a list with the oldest first are out of order.
    let known = Window {
        from: START + Duration::from_secs(10),
        ..window(Some(10))
    };
    let bodies = [body(&[9, 8, 10, 11, 12], ""), body(&[12, 13], "")];
    let (found, result) = read_bodies(&mut list(KINDS[0]), &known, &bodies);
    assert_eq!((found, result), (ids([11, 12, 13]), Ok(false)));
}

#[test]
fn page_in_opposite_order_ends_reading_with_an_error() {
    for (order, bodies) in [
        ("oldest", [body(&[500, 501], ""), body(&[501, 100], "")]),
        ("newest", [body(&[501, 500], ""), body(&[500, 900], "")]),
    ] {
        let (found, result) = read_bodies(&mut list(KINDS[0]), &window(None), &bodies);
        let error = result.unwrap_err();
        assert!(error.contains(&format!("expected the {order} first")), "{error}");
        assert_eq!(found.len(), 3, "{order}");
    }
}

#[test]
fn event_after_the_start_of_a_gap_is_not_dropped_as_known() {
    for order in ["oldest_first", "newest_first"] {
        let mut list = list(&format!("order = \"{order}\""));
        // Event 900 is on the side of the known events, but later than the start of the gap.
        let numbers = match order {
            "oldest_first" => [900, 10, 901],
            _ => [901, 10, 900],
        };
        let (found, _) = read_bodies(&mut list, &window(Some(10)), &[body(&numbers, "")]);
        assert_eq!(found, ids([900, 901]), "{order}");
    }
}

#[test]
fn events_after_the_window_are_left_out() {
    let window = Window {
        to: Some(START + Duration::from_secs(100)),
        ..window(None)
    };
    let (found, _) = read_bodies(&mut list(""), &window, &[body(&[1, 120, 121], "")]);
    assert_eq!(found, ids([1, 120]));
}

#[test]
fn deletion_of_more_than_a_page_skips_no_other_event() {
    let server = Server {
        events: (0..40).collect(),
        newest_first: false,
        max_page: 5,
        has_cursor: false,
    };
    let mut pages = 0;
    let found = read(KINDS[0], &window(None), server, &mut |server| {
        pages += 1;
        if pages == 4 {
            server.events.drain(..12);
        }
    });
    let found = found.unwrap();
    assert!((12..40).all(|number| found.contains(&id(number))), "{found:?}");
}

#[test]
fn repeated_page_is_recognised_by_its_ids() {
    let bodies: Vec<String> = (0..3)
        .map(|now| {
            body(
                &[1, 2, 3],
                &format!(r#","server_time":{now},"next":"?since=0&cursor={now}""#),
            )
        })
        .collect();
    let (_, result) = read_bodies(&mut list(KINDS[3]), &window(None), &bodies);
    assert!(result.unwrap_err().contains("is the same as an earlier answer"));
}

#[test]
fn repeated_cursor_of_an_empty_page_is_the_end() {
    let next = r#","next":"7""#;
    let bodies = [body(&[1, 2], next), body(&[], next)];
    let (found, result) = read_bodies(&mut list(KINDS[3]), &window(None), &bodies);
    assert_eq!((found, result), (ids([1, 2]), Ok(true)));
}
