//! Files that other programs change, lock or create: missing lines are counted, and lines of other programs are not lost.

use super::*;

#[test]
fn missing_lines_of_a_changed_file_are_counted_as_lost() {
    let files = Files::new();
    let mut log = files.open();
    log.append(b"one\ntwo\n").unwrap();
    let position = log.position("").unwrap();
    drop(log);
    for (other, lost) in [
        ("one\n", 1),
        ("one\nTWO\nthree\n", 0),
        ("", 2),
        ("one\n\0\0\0\0", 1),
    ] {
        fs::write(files.path(), other).unwrap();
        let mut log = files.open();
        assert!(!log.resume_at(&position).unwrap());
        assert_eq!(log.take_changes().lost, lost, "{other:?}");
        drop(log);
        assert_eq!(files.contents(), [other.trim_end_matches('\0')]);
    }
    // A restored copy is recognised by its content.
    fs::remove_file(files.path()).unwrap();
    fs::write(files.path(), "one\ntwo\nthree\n").unwrap();
    let mut log = files.open();
    assert!(log.resume_at(&position).unwrap());
    assert_eq!(files.contents(), ["one\ntwo\nthree\n"]);
    drop(log);
    // Removed by age while no event arrived: no loss.
    fs::remove_file(files.path()).unwrap();
    fs::rename(
        files.path().with_extension("jsonl.lock"),
        files.root.path().join("old.lock"),
    )
    .unwrap();
    let mut aged = files;
    aged.limits.max_age = Some(HOUR);
    aged.clock.advance(2 * HOUR);
    fs::write(aged.root.path().join("log/other"), "").unwrap();
    let mut log = aged.open();
    assert!(!log.resume_at(&Position { inode: 0, ..position }).unwrap());
    assert_eq!(log.take_changes().lost, 0);
}

#[test]
fn lines_are_appended_after_a_file_was_moved_or_truncated() {
    let files = Files::new();
    let mut log = files.open();
    log.append(b"one\n").unwrap();
    fs::rename(files.path(), files.root.path().join("taken")).unwrap();
    log.append(b"two\n").unwrap();
    let changes = log.take_changes();
    assert_eq!((files.contents(), changes.lost), (vec!["two\n".to_owned()], 0));
    let text = changes.last.unwrap();
    let end = "was moved by another program; a new file was created; no event is lost";
    assert!(text.ends_with(end), "{text}");
    fs::write(files.path(), "").unwrap();
    log.append(b"three\n").unwrap();
    assert_eq!(log.take_changes().lost, 1);
    fs::write(files.path(), "edited\nhal").unwrap();
    log.append(b"four\n").unwrap();
    assert_eq!(files.contents(), ["edited\nfour\n"]);
    assert_eq!(fs::read(files.root.path().join("taken")).unwrap(), b"one\n");
}

#[test]
fn lines_removed_by_others_are_counted_and_leave_no_gap() {
    let files = Files::new();
    let mut log = files.open();
    log.append(b"one\ntwo\nthree\nfour\n").unwrap();
    // Truncated to half, within a line.
    let file = fs::OpenOptions::new().write(true).open(files.path()).unwrap();
    file.set_len(6).unwrap();
    log.append(b"five\n").unwrap();
    assert_eq!(
        (files.contents(), log.take_changes().lost),
        (vec!["one\nfive\n".to_owned()], 3)
    );
    // Zeros at the end, at the same length.
    file.write_all_at(&[0; 7], 2).unwrap();
    log.append(b"six\n").unwrap();
    assert_eq!(
        (files.contents(), log.take_changes().lost),
        (vec!["six\n".to_owned()], 2)
    );
    // The folder was replaced.
    log.append(b"seven\n").unwrap();
    fs::remove_dir_all(files.path().parent().unwrap()).unwrap();
    log.append(b"eight\n").unwrap();
    assert_eq!(
        (files.contents(), log.take_changes().lost),
        (vec!["eight\n".to_owned()], 2)
    );
    assert!(matches!(files.try_open(), Err(FileError::Locked { .. })));
}

#[test]
fn file_has_one_writer_under_all_its_names() {
    let files = Files::new();
    let mut log = files.open();
    log.append(b"one\n").unwrap();
    for name in ["symbolic.jsonl", "hard.jsonl"] {
        let other = files.root.path().join(name);
        match name {
            "symbolic.jsonl" => symlink(files.path(), &other).unwrap(),
            _ => fs::hard_link(files.path(), &other).unwrap(),
        }
        let error = Log::open(&other, files.limits, files.clock.clock())
            .err()
            .unwrap();
        assert!(matches!(error, FileError::Locked { .. }), "{error}");
    }
}

#[test]
fn device_is_rejected() {
    let files = Files::new();
    drop(files.open());
    for device in ["/dev/null", "/dev/full"] {
        fs::remove_file(files.path()).unwrap();
        symlink(device, files.path()).unwrap();
        let error = files.try_open().err().unwrap();
        assert!(matches!(error, FileError::NotRegular { .. }), "{error}");
    }
}

#[test]
fn second_writer_is_rejected() {
    let files = Files::new();
    let log = files.open();
    let error = files.try_open().err().unwrap();
    assert!(matches!(&error, FileError::Locked { .. }), "{error}");
    drop(log);
    files.open();
}
