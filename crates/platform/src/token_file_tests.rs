use std::os::unix::fs::PermissionsExt;

use super::*;

fn stored() -> StoredToken {
    let received_at: Timestamp = "2026-01-31T12:00:00.5Z".parse().unwrap();
    let token = |id, lifetime| CreatedToken {
        id,
        key: Secret::new(format!("key-{id}-hunter2")),
        lifetime,
    };
    StoredToken {
        token: token(2, Some(Duration::from_millis(86_400_500))),
        received_at,
        old: Some((token(1, None), received_at)),
    }
}

#[test]
fn stored_token_is_read_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = TokenFile::new(folder.path().join("token.json"), "account");
    assert_eq!(file.read().unwrap(), None);
    // A file that a crash left.
    fs::write(folder.path().join("token.json.new"), "x").unwrap();
    for stored in [
        stored(),
        StoredToken {
            old: None,
            ..stored()
        },
    ] {
        file.write(&stored).unwrap();
        assert_eq!(file.read().unwrap(), Some(stored));
    }
    let mode = fs::metadata(&file.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn unusable_file_is_described_without_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token.json");
    let file = TokenFile::new(&path, "account");
    file.write(&stored()).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let newer = good.replace("\"version\":1", "\"version\":2,\"more\":[]");
    let negative = good.replace("86400.5", "-1");
    for (text, expected) in [
        ("", "is damaged"),
        (&good[..good.len() / 2], "is damaged"),
        ("{\"version\":1}", "is damaged"),
        (&negative, "is damaged"),
        (&newer, "has version 2"),
        (
            &good.replace("account", "space 7"),
            "was created for a different account",
        ),
        (&good.replace("key-2-hunter2", ""), "is damaged"),
        (&"x".repeat(100_000), "cannot be read"),
    ] {
        fs::write(&path, text).unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("a new token is created"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
    fs::write(&path, &good).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = file.read().unwrap_err().to_string();
    assert!(error.contains("(mode 640), expected mode 600"), "{error}");
    file.write(&stored()).unwrap();
    assert!(file.read().unwrap().is_some());
}

#[test]
fn file_in_a_missing_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = TokenFile::new(folder.path().join("missing/token.json"), "account");
    let error = crate::sentence(&file.write(&stored()).unwrap_err());
    assert!(
        error.contains("cannot be stored") && error.contains("No such file"),
        "{error}"
    );
}
