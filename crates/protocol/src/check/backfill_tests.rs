//! Tests of the configuration errors of declared lists.

use crate::{Declaration, Interpreter};

/// Returns the errors of a list, one in each line. `feed` has further keys of the declaration.
fn errors(feed: &str, list: &str) -> String {
    let text = format!(
        "{feed}\nsecrets = {{ key = {{ value = \"k\" }} }}\nrules = [{{ is = \"event\" }}]\n[backfill]\n{list}"
    );
    let declaration: Declaration = toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let errors = Interpreter::new(declaration, &[]).err().unwrap_or_default();
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn each_error_of_a_list_is_explained_at_its_key() {
    let id = "event = { id = \"n\", time = \"t\" }";
    let url = "url = \"https://h/x?since={from}\"";
    let pages = |pages: &str| format!("{url}\npages = {{ {pages} }}");
    for (feed, list, expected) in [
        (id, url.to_owned(), ""),
        (
            "",
            url.to_owned(),
            "event.id: missing: a fetched event is recognised as a duplicate by its id",
        ),
        (
            "event = { id = \"n\", time = \"t\" }\nresume = { value = \"n\", query = \"q\" }",
            url.to_owned(),
            "backfill: found together with \"resume\"",
        ),
        (
            "event = { id = \"n\" }",
            url.to_owned() + "\norder = \"oldest_first\"",
            "event.time: missing: the order of the list and the end of the gap are recognised by the time of an event",
        ),
        (
            "event = { id = \"n\" }",
            "url = \"https://h/x?since={from}&until={to}\"\norder = \"oldest_first\"".into(),
            "",
        ),
        (
            id,
            "url = \"https://h/a b?since={from}\"".into(),
            "backfill.url: found ",
        ),
        (
            id,
            "url = \"wss://h/?a={from}\"".into(),
            "backfill.url: found the scheme wss://, expected https://",
        ),
        (
            id,
            "url = \"https://u:hunter2@h/?a={from}\"".into(),
            "backfill.url: found a user or password in the URL",
        ),
        (
            id,
            "url = \"https://{from}.h/\"".into(),
            "backfill.url: found characters in the host that a host name cannot contain",
        ),
        (
            id,
            "url = \"https://h/?a={form}\"".into(),
            "backfill.url: found {form}, an unknown placeholder (did you mean {from}?), expected {from}, {to} or {last_id}",
        ),
        (
            id,
            "url = \"https://h/?a=1\"".into(),
            "backfill.url: found neither {from} nor {last_id} here or in \"backfill.query\", expected one of them",
        ),
        (
            id,
            "url = \"https://h/{last_id}\"".into(),
            "backfill.url: found {last_id} in the path, expected it in a query parameter",
        ),
        (
            "event = { id = [\"a\", \"b\"], time = \"t\" }",
            "url = \"https://h/?a={last_id}\"".into(),
            "backfill.url: found {last_id} with an id of 2 values, expected {from}",
        ),
        (
            id,
            "url = \"https://h/?a={from}&k={secret.key}\"".into(),
            "backfill.url: found a secret in the address, expected it in \"backfill.query\" or \"backfill.headers\"",
        ),
        (
            id,
            format!("{url}\nquery = {{ k = \"{{secret.kye}}\" }}"),
            "backfill.query.k: found {secret.kye}, an unknown secret (did you mean \"key\"?)",
        ),
        (
            id,
            format!("{url}\nheaders = {{ Host = \"h\" }}"),
            "backfill.headers.Host: found \"Host\", expected a header that the client does not set",
        ),
        (
            id,
            format!("{url}\nframe = {{ a = 1 }}"),
            "backfill.frame: found no entry, expected a table with \"{entry:json}\"",
        ),
        (
            id,
            format!("{url}\nframe = {{ a = \"{{entry}}\" }}"),
            "backfill.frame: found {entry}, expected \"{entry:json}\" as the whole text",
        ),
        (
            id,
            format!("{url}\nframe = \"{{entry:json}}\""),
            "backfill.frame: found no entry, expected a table",
        ),
        (
            id,
            pages("type = \"next\""),
            "backfill.pages.path: missing: expected the path of the next link",
        ),
        (
            id,
            pages("type = \"page\", path = \"n\""),
            "backfill.pages.path: found without a next link, expected type = \"next\"",
        ),
        (
            id,
            pages("type = \"offset\", first = 0"),
            "backfill.pages.first: found without numbers of pages, expected type = \"page\"",
        ),
        (
            id,
            pages("type = \"offset\", limit_parameter = \"n\""),
            "backfill.pages.limit_parameter: found without \"limit\"",
        ),
        (
            id,
            pages("type = \"offset\", limit = 0"),
            "backfill.pages.limit: found 0, expected 1 to 10000",
        ),
        (
            id,
            pages("type = \"offset\", parameter = \"since\""),
            "backfill.pages.parameter: found \"since\", which the address or \"backfill.query\" also contains",
        ),
        (
            id,
            pages("type = \"page\", parameter = \"\""),
            "backfill.pages.parameter: found an empty name",
        ),
    ] {
        let found = errors(feed, &list);
        assert!(
            found.starts_with(expected) && found.lines().count() == usize::from(!expected.is_empty()),
            "{list}\n{found}\nexpected {expected}"
        );
        assert!(!found.contains("hunter2"), "{found}");
    }
}
