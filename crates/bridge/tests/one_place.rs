//! Checks that only one file of the program names the sink types: the list of sink types.

use std::{fs, io, path::Path};

/// The texts by which code names a sink type.
const NAMES: [&str; 4] = [
    "neurobridge_sink_kafka::",
    "neurobridge_sink_nats::",
    "feature = \"kafka\"",
    "feature = \"nats\"",
];

/// Adds the names of the files below a folder whose code, without tests, names a sink type.
fn add_naming(folder: &Path, found: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                add_naming(&path, found)?;
            }
            continue;
        }
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Tests contain examples of each sink type.
        if !name.ends_with(".rs") || name.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let code = text
            .split("\n#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        if NAMES.iter().any(|name| code.contains(name)) {
            found.push(name);
        }
    }
    Ok(())
}

#[test]
fn sink_types_are_named_in_one_file() {
    let mut found = Vec::new();
    add_naming(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found).unwrap();
    assert_eq!(found, ["sinks.rs"]);
}
