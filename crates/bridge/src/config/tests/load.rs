//! Tests of the check whether a file can be read.

use std::fs;

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::*;

#[test]
fn unreadable_path_is_detected_without_opening_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let [file, pipe] = ["file", "pipe"].map(|name| dir.path().join(name));
    fs::write(&file, "secret").unwrap();
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    assert!(unreadable(&file).is_none());
    // Opening the pipe would block until a writer opens it.
    assert!(unreadable(&pipe).is_none());
    assert_eq!(
        unreadable(dir.path()).unwrap().kind(),
        io::ErrorKind::IsADirectory
    );
    let missing = unreadable(&dir.path().join("missing")).unwrap();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}
