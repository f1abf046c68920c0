use proptest::prelude::*;

use super::*;

/// A list on a server, in the order of ids.
#[derive(Clone, Debug)]
struct List {
    ids: Vec<u64>,
    newest_first: bool,
    max_page: u64,
}

impl List {
    fn page(&self, part: Part) -> Vec<u64> {
        let mut ids = self.ids.clone();
        if self.newest_first {
            ids.reverse();
        }
        let limit = usize::try_from(part.limit.min(self.max_page)).unwrap();
        ids.into_iter()
            .skip(usize::try_from(part.offset).unwrap())
            .take(limit)
            .collect()
    }
}

fn body(ids: &[u64]) -> String {
    let entries: Vec<_> = ids.iter().map(|id| format!(r#"{{"id":{id}}}"#)).collect();
    format!("[{}]", entries.join(","))
}

fn accept(pager: &mut Pager, ids: &[u64]) -> Result<Progress, PagingError> {
    let part = pager.next()?;
    let body = body(ids);
    pager.accept(&crate::page::parse(body.as_bytes(), part.offset).unwrap())
}

/// Reads a list, which `change` changes before each request.
fn read(list: &mut List, after: Option<u64>, mut change: impl FnMut(&mut List, u32)) -> Vec<u64> {
    let mut pager = Pager::new(after, after.is_some(), 100_000);
    let mut read = Vec::new();
    loop {
        change(list, pager.pages());
        let ids = list.page(pager.next().unwrap());
        let progress = accept(&mut pager, &ids).unwrap();
        read.extend(pager.take_ready());
        if progress == Progress::Done {
            read.extend(pager.finish());
            return read.iter().filter_map(MissedEvent::number).collect();
        }
        assert_eq!(progress, Progress::Continue);
    }
}

#[test]
fn missed_event_has_the_frame_of_the_feed() {
    let missed = MissedEvent::new(7, r#"{"id":7,"pid":null}"#);
    assert_eq!(missed.frame, r#"{"id":7,"data":{"id":7,"pid":null}}"#);
}

#[test]
fn third_identical_page_is_an_error() {
    for (page, offset) in [(&[1, 2][..], 2), (&[3, 2, 1], 4)] {
        let mut pager = Pager::new(None, false, 10);
        for _ in 0..2 {
            assert_eq!(accept(&mut pager, page), Ok(Progress::Continue));
        }
        assert_eq!(accept(&mut pager, page), Err(PagingError::SamePage { offset }));
        assert_eq!(pager.finish().len(), page.len());
    }
}

#[test]
fn list_shifted_by_one_page_is_read_completely() {
    let mut pager = Pager::new(None, false, 10);
    for page in [&[9, 8][..], &[9, 8], &[8, 7], &[7]] {
        assert_eq!(accept(&mut pager, page), Ok(Progress::Continue));
    }
    assert_eq!(accept(&mut pager, &[]), Ok(Progress::Done));
    assert_eq!(pager.finish().len(), 3);
}

#[test]
fn ids_in_two_orders_are_an_error() {
    let mut pager = Pager::new(None, false, 10);
    assert_eq!(
        accept(&mut pager, &[1, 2, 5, 4]),
        Err(PagingError::MixedOrder { before: 5, found: 4 })
    );
    // The pages of a list with the newest first, each reversed; and a list in no order.
    for (pages, before, found) in [([[8, 9], [7, 8]], 9, 7), ([[9, 5], [7, 5]], 5, 7)] {
        let mut pager = Pager::new(None, false, 10);
        assert_eq!(accept(&mut pager, &pages[0]), Ok(Progress::Continue));
        assert_eq!(
            accept(&mut pager, &pages[1]),
            Err(PagingError::MixedOrder { before, found })
        );
    }
}

#[test]
fn entries_added_during_paging_are_read() {
    let mut pager = Pager::new(None, false, 10);
    assert_eq!(accept(&mut pager, &[2, 1]), Ok(Progress::Continue));
    assert_eq!(accept(&mut pager, &[4, 3, 2, 1]), Ok(Progress::Continue));
    assert_eq!(accept(&mut pager, &[1]), Ok(Progress::Continue));
    assert_eq!(accept(&mut pager, &[]), Ok(Progress::Done));
    assert_eq!(pager.finish().len(), 4);
}

#[test]
fn list_that_grows_at_each_request_is_read() {
    for count in [1, 2, 3, 30, 100, 101, 250] {
        let mut list = List {
            ids: (1..=count).collect(),
            newest_first: true,
            max_page: 100,
        };
        let read = read(&mut list, None, |list, page| {
            if page > 0 && page < 50 {
                list.ids.push(1_000 + u64::from(page));
            }
        });
        assert_eq!(read[..count as usize], (1..=count).collect::<Vec<_>>());
    }
}

#[test]
fn exceeded_page_limit_is_an_error() {
    let mut pager = Pager::new(None, false, 2);
    accept(&mut pager, &[1, 2]).unwrap();
    accept(&mut pager, &[2, 3]).unwrap();
    assert_eq!(pager.next(), Err(PagingError::TooManyPages { pages: 2 }));
    assert_eq!(pager.finish().len(), 3);
}

#[test]
fn ignored_id_from_is_detected() {
    let mut pager = Pager::new(Some(5), true, 10);
    assert_eq!(accept(&mut pager, &[1, 2]), Ok(Progress::IgnoresId));
    // With the newest first, the older entries follow the missed ones.
    let mut pager = Pager::new(Some(5), true, 10);
    assert_eq!(accept(&mut pager, &[7, 6, 5, 4, 3]), Ok(Progress::Done));
    let ids: Vec<_> = pager.finish().iter().filter_map(MissedEvent::number).collect();
    assert_eq!(ids, [6, 7]);
    assert_eq!(pager.known(), 1);
}

#[test]
fn shrunken_page_of_one_entry_continues_after_the_last() {
    let mut pager = Pager::new(None, false, 100);
    accept(&mut pager, &[1, 2]).unwrap();
    while pager.shrink() {}
    assert_eq!(pager.next(), Ok(Part { offset: 2, limit: 1 }));
    assert_eq!(accept(&mut pager, &[3]), Ok(Progress::Continue));
    assert_eq!(pager.next(), Ok(Part { offset: 3, limit: 1 }));
}

#[test]
fn entries_without_an_id_are_counted_once() {
    let mut pager = Pager::new(None, false, 10);
    for (body, progress) in [
        (r#"[{"id":9},{},{"id":7}]"#, Progress::Continue),
        // The first entry was on the page before, with its id.
        (r#"[{},{"id":6},{"x":1}]"#, Progress::Continue),
        ("[]", Progress::Done),
    ] {
        let page = crate::page::parse(body.as_bytes(), 0).unwrap();
        assert_eq!(pager.accept(&page), Ok(progress), "{body}");
    }
    assert_eq!((pager.without_id(), pager.finish().len()), (2, 3));
}

fn lists() -> impl Strategy<Value = List> {
    (
        prop::collection::btree_set(1_u64..400, 0..200),
        any::<bool>(),
        1_u64..130,
    )
        .prop_map(|(ids, newest_first, max_page)| List {
            ids: ids.into_iter().collect(),
            newest_first,
            max_page,
        })
}

proptest! {
    #[test]
    fn entries_after_an_id_are_read_in_order(list in lists(), after in prop::option::of(0_u64..400)) {
        let mut expected = list.ids.clone();
        expected.retain(|id| after.is_none_or(|after| *id > after));
        let mut list = List {
            ids: list.ids.into_iter().filter(|id| after.is_none_or(|after| *id >= after)).collect(),
            ..list
        };
        prop_assert_eq!(read(&mut list, after, |_, _| ()), expected);
    }

    #[test]
    fn remaining_entries_are_read_despite_additions_and_deletions(
        list in lists(),
        deletions in prop::collection::vec((any::<prop::sample::Index>(), 1_u32..20, 1_usize..30), 0..4),
        additions in prop::collection::vec((0_u32..7, 1_u64..10), 0..7),
    ) {
        // With smaller pages, the changes may shift the list by exactly one page several times.
        let mut list = List { max_page: list.max_page + 11, ..list };
        let original = list.ids.clone();
        let mut staying = original.clone();
        let mut next = 1_000;
        let read = read(&mut list, None, |list, page| {
            for (place, at, count) in &deletions {
                if *at == page && !list.ids.is_empty() {
                    let start = place.index(list.ids.len());
                    let end = (start + count).min(list.ids.len());
                    list.ids.drain(start..end);
                }
            }
            // Not at each request: a page that is shifted by its own size again and again counts as the same one.
            for (_, count) in additions.iter().filter(|(at, _)| at * 3 == page) {
                list.ids.extend(next..next + count);
                next += count;
            }
            let left: Vec<_> = staying.iter().filter(|id| list.ids.contains(id)).copied().collect();
            staying = left;
        });
        prop_assert!(read.is_sorted());
        for id in &staying {
            prop_assert!(read.contains(id), "{} is missing in {:?}", id, read);
        }
        prop_assert!(read.iter().all(|id| original.contains(id) || *id >= 1_000));
    }
}
