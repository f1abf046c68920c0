use super::*;

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

/// Creates segments of ten events each, the last one being written, and a reader with a cursor in memory and one on the disk.
fn state(committed: u64, saved: Option<u64>) -> State {
    let mut state = State::new(sequence(41), Sequence::FIRST);
    state.is_writing = true;
    for first in [1, 11, 21, 31] {
        let begins_at = Some(Timestamp::from_second(first as i64).unwrap());
        let segment = Segment::new(PathBuf::from(first.to_string()), sequence(first), 1000, begins_at);
        state.segments.push_back(segment);
    }
    state.note_received(Some(Timestamp::from_second(40).unwrap()));
    state.trusted_now = || Some(Timestamp::MAX);
    let mut cursor = Cursor::starting_at(Sequence::FIRST);
    cursor.next = sequence(committed);
    let file = CursorFile::new(
        PathBuf::new(),
        neurobridge_core::identity::SpoolId::generate(),
        None,
    );
    let reader = ReaderState {
        cursor,
        saved: saved.map(sequence),
        file: Arc::new(Mutex::new(file)),
        is_registered: true,
        damage: None,
        is_opened: true,
        retains: true,
    };
    state.readers.insert("sink".to_owned(), reader);
    state
}

fn settled(state: &mut State, retain: u64) -> u64 {
    let retain = Duration::from_secs(retain);
    std::iter::from_fn(|| state.take_settled(retain, Duration::from_secs(10))).count() as u64
}

#[test]
fn segment_is_deleted_only_after_its_cursor_is_durable() {
    assert_eq!(settled(&mut state(41, None), 0), 0);
    assert_eq!(settled(&mut state(41, Some(20)), 0), 1);
    assert_eq!(settled(&mut state(41, Some(21)), 0), 2);
    // Never the segment that is being written.
    assert_eq!(settled(&mut state(41, Some(41)), 0), 3);
}

#[test]
fn settled_segment_is_retained_unless_space_is_needed() {
    assert_eq!(settled(&mut state(41, Some(41)), 25), 1);
    let mut full = state(41, Some(41));
    full.is_full = true;
    assert_eq!(settled(&mut full, 25), 3);
    assert_eq!(full.dropped_events, 0);
}

#[test]
fn last_segment_is_deleted_on_a_quiet_log() {
    for (quiet, retain, left) in [(5, 0, 1), (11, 0, 0), (11, 25, 2), (21, 20, 0)] {
        let mut state = state(41, Some(41));
        state.is_writing = false;
        let (newest, at) = state.newest.unwrap();
        state.newest = Some((newest, at.checked_sub(Duration::from_secs(quiet)).unwrap()));
        settled(&mut state, retain);
        assert_eq!(
            state.segments.len(),
            left,
            "quiet for {quiet}, retained for {retain}"
        );
    }
}

#[test]
fn clock_step_expires_no_segment() {
    let day = 24 * 60 * 60;
    let mut state = state(41, Some(41));
    state.trusted_now = || None;
    // An event with a time of receipt 31 days later, by the wrong clock.
    state.note_received(Some(Timestamp::from_second(31 * day).unwrap()));
    assert_eq!(settled(&mut state, 60), 0);
    // The clock is trusted and correct again: the time of the log is still ahead.
    state.trusted_now = || Some(Timestamp::from_second(45).unwrap());
    assert_eq!(settled(&mut state, 60), 0);
    // A segment that this process has known for longer than the limit is old, whatever the system's clock shows.
    state.trusted_now = || None;
    let long_ago = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
    state.segments[1].known_since = long_ago;
    assert_eq!(settled(&mut state, 60), 1);
}

#[test]
fn older_time_of_receipt_changes_nothing() {
    let mut state = state(41, None);
    let before = state.newest;
    state.note_received(Some(Timestamp::from_second(39).unwrap()));
    state.note_received(None);
    assert_eq!(state.newest, before);
    assert!(state.now() >= Some(Timestamp::from_second(40).unwrap()));
}

#[test]
fn only_needed_events_count_as_dropped() {
    let mut state = state(16, Some(16));
    while state.take_dropped().is_some() {}
    assert_eq!(
        (state.dropped_events, state.oldest(), state.trimmed),
        (15, sequence(31), sequence(31))
    );
}

#[test]
fn restored_segment_is_counted_once() {
    let mut state = state(16, Some(16));
    for _ in 0..2 {
        let taken: VecDeque<Segment> = std::iter::from_fn(|| state.take_dropped()).collect();
        assert_eq!((taken.len(), state.dropped_events), (3, 15));
        state.put_back(taken);
        assert_eq!((state.oldest(), state.segments.len()), (sequence(1), 4));
    }
}

#[test]
fn pending_bytes_begin_at_the_slowest_cursor() {
    assert_eq!(state(41, None).pending_bytes(), 0);
    assert_eq!(state(31, None).pending_bytes(), 1000);
    assert_eq!(state(25, None).pending_bytes(), 1600);
    assert_eq!(state(1, None).pending_bytes(), 4000);
    let mut released = state(1, None);
    released.readers.get_mut("sink").unwrap().retains = false;
    assert_eq!(released.pending_bytes(), 0);
}
