//! Tests of the requests and answers of declared lists.

use proptest::prelude::*;

use super::*;

const FEED: &str = r#"
    secrets = { key = { value = "a b&c" } }
    events = "data"
    rules = [{ when = { "$.channel" = "trade" }, is = "event" }, { when = { note = { present = true } }, is = "ignore" }]
    event = { id = "n", time = { path = "ts", unit = "ms" }, type = "$.channel" }
"#;

fn list(table: &str) -> EventList {
    let text = format!("{FEED}\n[backfill]\n{table}");
    let declaration: Declaration = toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    EventList::new(&declaration).unwrap().unwrap()
}

fn window(last_id: Option<&str>) -> ListWindow {
    ListWindow {
        from: "2026-01-31T12:00:00.0015Z".parse().unwrap(),
        to: "2026-01-31T13:00:00.0015Z".parse().unwrap(),
        last_id: last_id.map(str::to_owned),
    }
}

fn target(list: &EventList, last_id: Option<&str>, position: &Position) -> String {
    let secrets = Secrets::from([("key".to_owned(), Secret::new("a b&c"))]);
    list.target(&window(last_id), position, Some(50), &secrets)
}

#[test]
fn target_contains_window_secret_and_page() {
    let list = list(
        r#"
        url = "https://rest.example/{from}/orders?until={to}&kind=a%20b"
        query = { key = "{secret.key}", after = "{last_id}", tag = ["x", "y"] }
        headers = { Authorization = "Bearer {secret.key}" }
        unit = "ms"
        pages = { type = "page", first = 0, limit = 50, limit_parameter = "size" }
        "#,
    );
    insta::assert_snapshot!(
        target(&list, Some("a/b&c"), &Position::Page(7)),
        @"/1769860800001/orders?until=1769864400002&kind=a%20b&after=a/b%26c&key=a%20b%26c&tag=x&tag=y&page=7&size=50"
    );
    // Without a known event, the parameter with `{last_id}` is left out.
    assert!(!target(&list, None, &Position::First).contains("after="));
    assert_eq!(list.origin(), "https://rest.example");
    assert!(!list.needs_last_id());
    let secrets = Secrets::from([("key".to_owned(), Secret::new("s"))]);
    assert_eq!(list.headers(&secrets)[0].1.expose(), "Bearer s");
}

#[test]
fn cursor_replaces_the_parameter_of_the_first_request() {
    let list = list(
        r#"
        url = "https://rest.example?after={last_id}"
        pages = { type = "next", path = "next", parameter = "after" }
        "#,
    );
    assert!(list.needs_last_id());
    assert_eq!(
        list.target(&window(Some("7")), &Position::First, None, &Secrets::new()),
        "/?after=7"
    );
    assert_eq!(
        list.target(
            &window(Some("7")),
            &Position::Cursor("c d".into()),
            None,
            &Secrets::new()
        ),
        "/?after=c%20d"
    );
}

#[test]
fn entries_are_frames_of_the_feed() {
    let mut list = list(
        r#"
        url = "https://rest.example?since={from}"
        list = "page.items"
        frame = { channel = "trade", data = ["{entry:json}"] }
        pages = { type = "next", path = "page.next" }
        "#,
    );
    let body = br#"{"page":{"next":"/more","items":[{"n": 1, "ts":1769860800000},{"n":null},7,{"note":1}]}}"#;
    let page = list.read(body).unwrap();
    assert_eq!(page.next.as_deref(), Some("/more"));
    assert_eq!(
        page.entries,
        [
            ListEntry::Event {
                id: "1".into(),
                time: Some("2026-01-31T12:00:00Z".parse().unwrap()),
                frame: r#"{"channel":"trade","data":[{"n": 1, "ts":1769860800000}]}"#.into(),
            },
            ListEntry::WithoutId,
            ListEntry::WithoutId,
            ListEntry::WithoutId,
        ]
    );
    for (next, expected) in [
        ("null", None),
        ("\"\"", None),
        ("false", None),
        ("17", Some("17")),
    ] {
        let body = format!(r#"{{"page":{{"next":{next},"items":[]}}}}"#);
        assert_eq!(list.read(body.as_bytes()).unwrap().next.as_deref(), expected);
    }
}

#[test]
fn default_frame_contains_the_entry_in_the_array_of_events() {
    let declaration = |events: &str, path: &str| -> Declaration {
        toml::from_str(&format!(
            "{events}\nrules = [{{ is = \"event\" }}]\nevent = {{ id = \"{path}\", time = \"ts\" }}\n[backfill]\nurl = \"http://h?a={{last_id}}\""
        ))
        .unwrap()
    };
    for (events, expected) in [
        ("", r#"{"n":1}"#),
        ("events = \"$\"", r#"[{"n":1}]"#),
        ("events = \"a.b\"", r#"{"a":{"b":[{"n":1}]}}"#),
        ("events = \"1.b\"", r#"[null,{"b":[{"n":1}]}]"#),
    ] {
        let mut list = EventList::new(&declaration(events, "n")).unwrap().unwrap();
        let page = list.read(br#"[{"n":1}]"#).unwrap();
        let [ListEntry::Event { id, frame, .. }] = &page.entries[..] else {
            panic!("{events}: {page:?}");
        };
        assert_eq!((id.as_str(), frame.as_str()), ("1", expected), "{events}");
    }
}

#[test]
fn answer_without_a_list_is_explained() {
    let mut list = list("url = \"https://rest.example?since={from}\"\nlist = \"data\"");
    for (body, expected) in [
        ("<html>", "the answer is not JSON"),
        ("{\"data\":[1", "the answer is not JSON"),
        ("{}", "found nothing at \"backfill.list\" (data)"),
        ("{\"data\":{}}", "found a table at \"backfill.list\" (data)"),
        ("[]", "found nothing at \"backfill.list\" (data)"),
        ("{\"data\":7}", "found 7 at \"backfill.list\" (data)"),
    ] {
        assert_eq!(
            list.read(body.as_bytes()).unwrap_err().to_string(),
            expected,
            "{body}"
        );
    }
}

#[test]
fn null_in_place_of_the_entries_is_an_empty_page() {
    let mut list = list("url = \"https://h/?a={from}\"\nlist = \"items\"");
    assert_eq!(list.read(br#"{"items":null}"#).unwrap().entries, []);
    assert!(list.read(b"{}").is_err());
}

#[test]
fn entry_with_several_events_is_no_event() {
    let mut list = list(
        "url = \"https://h/?a={from}\"\nframe = { channel = \"trade\", data = [\"{entry:json}\", \"{entry:json}\"] }",
    );
    let page = list.read(br#"[{"n":1,"ts":1}]"#).unwrap();
    assert_eq!(page.entries, [ListEntry::NoEvent]);
}

#[test]
fn address_in_the_query_of_a_link_is_no_origin() {
    let list = list("url = \"https://h/v1/list?a={from}\"");
    assert_eq!(
        list.follow("/v1/list?a=1", "list?back=https://other.example/")
            .unwrap(),
        "/v1/list?back=https://other.example/"
    );
}

#[test]
fn link_is_followed_to_the_same_origin_only() {
    let list = list("url = \"https://Rest.example/v1/orders?since={from}\"");
    let follow = |link: &str| list.follow("/v1/orders?since=1", link);
    for (link, expected) in [
        ("https://rest.example/x?c=1", "/x?c=1"),
        ("HTTPS://REST.example:443/x#part", "/x"),
        ("https://rest.example?c=1", "/?c=1"),
        ("//rest.example/x", "/x"),
        ("/x?c=1", "/x?c=1"),
        ("?c=1", "/v1/orders?c=1"),
        ("more?c=1", "/v1/more?c=1"),
    ] {
        assert_eq!(follow(link).as_deref(), Ok(expected), "{link}");
    }
    for link in [
        "http://rest.example/x",
        "https://rest.example:8443/x",
        "https://evil.example/x",
        "//evil.example/x",
        "https://rest.example@evil.example/x",
        "https://rest.example.evil.example/x",
        "javascript:x",
        "ftp://rest.example/x",
        "/\\evil.example",
        "/x y",
    ] {
        let error = follow(link).unwrap_err();
        assert!(
            error.to_string().contains("https://Rest.example"),
            "{link}: {error}"
        );
    }
    insta::assert_snapshot!(
        follow("https://evil.example/x?c=1").unwrap_err(),
        @"the next page is at https://evil.example/…, and the list at https://Rest.example; expected the same scheme, host and port, because the secrets are sent nowhere else"
    );
}

proptest! {
    /// No value of a placeholder ends its parameter, or begins another one.
    #[test]
    fn rendered_query_values_are_read_back_unchanged(id in ".{1,20}", secret in "[ -~]{1,20}") {
        let list = list("url = \"https://h/x?after={last_id}\"\nquery = { key = \"{secret.key}\" }");
        let secrets = Secrets::from([("key".to_owned(), Secret::new(secret.clone()))]);
        let target = list.target(&window(Some(&id)), &Position::First, None, &secrets);
        let (path, query) = target.split_once('?').unwrap();
        prop_assert_eq!(path, "/x");
        prop_assert_eq!(
            percent::pairs(query),
            [("after".to_owned(), id), ("key".to_owned(), secret)]
        );
    }

    /// No link leaves the server.
    #[test]
    fn followed_link_never_leaves_the_server(
        link in "(https?:)?/{0,3}(rest\\.example|evil\\.example|[a-z@:/?#.\\\\]{0,12})[a-z@:/?#.\\\\]{0,12}",
    ) {
        let list = list("url = \"https://rest.example/x?since={from}\"");
        if let Ok(target) = list.follow("/x", &link) {
            prop_assert!(target.starts_with('/'), "{}", target);
        }
    }
}
