//! Tests of the report of configuration errors.

use super::*;

fn problem(key: &str, line: Option<usize>) -> Problem {
    Problem {
        origin: line.map_or(Origin::Unknown, |line| Origin::File {
            path: "n.toml".into(),
            position: Some((line, 1)),
        }),
        key: key.to_owned(),
        message: "found nothing, expected something".to_owned(),
        hint: None,
        excerpt: None,
    }
}

#[test]
fn problems_below_a_reported_key_are_left_out() {
    let mut report = Report::default();
    for key in ["sinks.a", "sinks.a", "sinks.a.topic", "sinks.ab", "sinks"] {
        report.push(problem(key, None));
    }
    let keys: Vec<&str> = report
        .problems()
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    assert_eq!(keys, ["sinks.a", "sinks.ab", "sinks"]);
}

#[test]
fn problems_come_in_the_order_of_the_file() {
    let mut report = Report::default();
    for (key, line) in [("c", None), ("b", Some(9)), ("a", Some(2))] {
        report.push(problem(key, line));
    }
    insta::assert_snapshot!(report.finish().unwrap_err(), @"
    error: a: found nothing
    --> n.toml:2:1
     = expected: something

    error: b: found nothing
    --> n.toml:9:1
     = expected: something

    error: c: found nothing
     |
     = expected: something

    error: 3 configuration errors; fix them and run `neurobridge check` again
    ");
}
