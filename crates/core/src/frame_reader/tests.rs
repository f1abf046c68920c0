//! Compares frames read with a cached layout with fresh scans.

use proptest::prelude::*;

use super::{
    layout::{MAX_BYTES, MAX_VALUES},
    *,
};

const USUAL: &str = r#"{"id":7,"data":{"id":8,"created":"2026-01-02T03:04:05Z","result":"new","pid":null,"source":{"id":3,"name":"Door \"A\""},"sizes":[1,2.5e3],"empty":{}}}"#;

/// The paths that are read: keys, keys below keys, indexes, the whole frame.
fn reader() -> FrameReader {
    let paths = [
        vec![],
        vec!["id"],
        vec!["data"],
        vec!["data", "pid"],
        vec!["data", "source", "id"],
        vec!["data", "sizes", "1"],
        vec!["0"],
    ];
    let paths: Vec<Path> = paths.into_iter().map(Path::new).collect();
    FrameReader::new(paths.iter().map(Some))
}

/// Returns the text of each path, computed by a slow reference over `serde_json`.
fn expected(frame: &str) -> Vec<Option<serde_json::Value>> {
    let value: serde_json::Value = serde_json::from_str(frame).unwrap();
    [
        "",
        "/id",
        "/data",
        "/data/pid",
        "/data/source/id",
        "/data/sizes/1",
        "/0",
    ]
    .map(|pointer| value.pointer(pointer).cloned())
    .to_vec()
}

/// Reads and learns all frames with one reader, and compares each result with that of a fresh one.
fn agree(frames: &[&str]) -> FrameReader {
    let mut cached = reader();
    for frame in frames {
        let mut fresh = reader();
        let result = fresh.read(frame).map(<[Span]>::to_vec);
        assert_eq!(cached.read(frame).map(<[Span]>::to_vec), result, "{frame}");
        if let Ok(spans) = result {
            let found: Vec<_> = spans
                .iter()
                .map(|span| Some(serde_json::from_str(span.of(frame)?).unwrap()))
                .collect();
            assert_eq!(found, expected(frame), "{frame}");
            cached.learn(frame);
        }
    }
    cached
}

#[test]
fn cached_layout_matches_same_shape() {
    let other = USUAL
        .replace(":7,", ":12345,")
        .replace("null", r#""a\u0062c""#)
        .replace("2.5e3", "true")
        .replace(r#""new""#, "null");
    let reader = agree(&[USUAL, &other]);
    assert_eq!((reader.layouts.len(), reader.misses), (1, 0));
    let mut spans = vec![Span::ABSENT; 7];
    assert!(reader.layouts[0].read(&other, &mut spans));
    assert_eq!(spans[3].of(&other), Some(r#""a\u0062c""#));
    assert_eq!(spans[5].of(&other), Some("true"));
    assert!(spans[2].of(&other).unwrap().ends_with(r#""empty":{}}"#));
}

#[test]
fn similar_frame_with_another_layout_is_scanned() {
    let spoilt = [
        USUAL.replace("null", "nul"),
        USUAL.replace("null", "01"),
        USUAL.replace("null", "\"a\nb\""),
        USUAL.replace("null", r#""\x""#),
        USUAL.replace("null", r#""a","pid":"b""#),
        "[{\"id\":1}]".to_owned(),
        "7".to_owned(),
        USUAL.replace("null", r#"{"a":1}"#),
        USUAL.replace("null", " null"),
        USUAL.replace(":7,", ":7,\"error\":1,"),
        USUAL.replace("[1,", "[1,1,"),
        format!("{USUAL} "),
        format!("{USUAL}}}"),
        USUAL[..USUAL.len() - 1].to_owned(),
        String::new(),
    ];
    for frame in &spoilt {
        agree(&[USUAL, frame, USUAL]);
    }
}

#[test]
fn frame_that_differs_in_one_byte_is_scanned_again() {
    let short = r#"{"data":{"a":1},"id":1}"#;
    for frame in [USUAL, short, &USUAL.replace("result", "a_key_longer_than_others")] {
        for (at, byte) in (0..frame.len()).flat_map(|at| "x1\" ,:{}\\".bytes().map(move |byte| (at, byte))) {
            let mut other = frame.as_bytes().to_vec();
            other[at] = byte;
            agree(&[frame, std::str::from_utf8(&other).unwrap()]);
        }
    }
}

#[test]
fn layout_supports_duplicate_and_nested_fields() {
    for frame in [
        r#"{"data":{"pid":"a","pid":{"b":1}},"id":1,"data":{"pid":[1,2],"source":5},"id":2}"#,
        r#" { "id" : 1 , "data" : { } } "#,
        r#"{"data":{},"id":"x"}"#,
    ] {
        assert_eq!(agree(&[frame, frame]).misses, 0, "{frame}");
    }
}

#[test]
fn distinct_layouts_are_bounded_and_learned_rarely() {
    let frames: Vec<String> = (0..1000)
        .map(|number| format!(r#"{{"id":1,"data":{{"key{number}":1}}}}"#))
        .collect();
    let frames_read: Vec<&str> = frames.iter().map(String::as_str).collect();
    let reader = agree(&frames_read);
    assert_eq!((reader.layouts.len(), reader.misses), (LAYOUTS, 1000));
    // Of the last frames, only frame 992 was due to be learned.
    assert!(reader.layouts[0].read(&frames[992], &mut [Span::ABSENT; 7]));

    let many = format!(r#"{{"data":{{"a":[{}1]}}}}"#, "1,".repeat(MAX_VALUES));
    let long = format!(r#"{{"data":{{"{}":1}}}}"#, "a".repeat(MAX_BYTES));
    assert!(agree(&[&many, &long]).layouts.is_empty());
}

proptest! {
    #[test]
    fn cached_layout_matches_a_fresh_scan(
        values in proptest::collection::vec(
            prop_oneof![
                Just("1".to_owned()), Just("-0.5e-7".to_owned()), Just("null".to_owned()), Just("\"\"".to_owned()),
                Just("[]".to_owned()), Just("[2,3]".to_owned()), Just("{\"id\":2}".to_owned()), Just("01".to_owned()),
                Just("\"a".to_owned()), "\"[a-z\\\\\"u0-9]{0,12}\"",
            ],
            12..40,
        ),
        keys in proptest::sample::subsequence(vec!["id", "pid", "result", "sizes", "source", "age"], 1..6),
    ) {
        let frames: Vec<String> = values
            .chunks_exact(6)
            .map(|values| {
                let members: Vec<String> =
                    keys.iter().zip(values).map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!(r#"{{"id":{},"data":{{{}}}}}"#, values[5], members.join(","))
            })
            .collect();
        let (mut cached, mut fresh) = (reader(), reader());
        for frame in &frames {
            let result = fresh.scan(frame).map(|()| fresh.spans.clone());
            prop_assert_eq!(&cached.read(frame).map(<[Span]>::to_vec), &result, "{}", frame);
            if result.is_ok() {
                cached.learn(frame);
            }
        }
    }
}
