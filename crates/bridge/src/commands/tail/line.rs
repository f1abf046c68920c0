//! Formats an event as a line for people.

use std::borrow::Cow;

use neurobridge_core::{
    event::{Event, FieldPath},
    foreign_text::escape,
    neuroio,
};

use crate::terminal::{Line, Paint, Style, pad};

/// The length of the platform's longest result.
const RESULT_COLUMNS: usize = 6;
/// The length of the person id's prefix that distinguishes persons by eye.
const PERSON_COLUMNS: usize = 8;
const PLACE_COLUMNS: usize = 28;
/// The usual lengths of the type and of the key of declared events.
const KIND_COLUMNS: usize = 8;
const KEY_COLUMNS: usize = 12;

/// Returns time of receipt, result, person, place, and as many details as fit. Missing fields are left out, and control
/// characters are escaped.
pub(super) fn of(event: &Event<'_>, shows_source: bool, width: usize, paint: Paint) -> String {
    if event.type_prefix != neuroio::TYPE_PREFIX {
        return of_declared(event, shows_source, width, paint);
    }
    let time = time(event);
    let value = |path: &str| FieldPath::parse(path)?.value(event);
    let result = event.kind().unwrap_or_default();
    let person = match value("pid") {
        Some(pid) => pid.chars().take(PERSON_COLUMNS).collect(),
        None => "-".to_owned(),
    };
    let place = [value("space.name"), value("source.name")]
        .into_iter()
        .flatten()
        .filter(|name| !name.is_empty())
        .collect::<Vec<_>>()
        .join(" / ");

    let mut line = Line::default()
        .styled(Style::Dim, time)
        .text("  ")
        .styled(style_of(&result), pad(&escape(&result), RESULT_COLUMNS))
        .text("  ");
    if shows_source {
        line = line.styled(Style::Dim, event.source).text("  ");
    }
    let place = escape(&place);
    line = line
        .text(pad(&escape(&person), PERSON_COLUMNS))
        .text("  ")
        .text(match width {
            0..80 => place.into_owned(),
            _ => pad(&place, PLACE_COLUMNS),
        })
        .text("  ")
        .styled(Style::Dim, escape(&details(event)));
    line.render(width, paint) + "\n"
}

fn time(event: &Event<'_>) -> String {
    event.received_at.strftime("%H:%M:%S%.3f").to_string()
}

/// Returns time of receipt, type, key, id, and as much of the body as fits.
fn of_declared(event: &Event<'_>, shows_source: bool, width: usize, paint: Paint) -> String {
    let kind = event.kind().unwrap_or_default();
    let (key, id) = (
        event.key().unwrap_or("-".into()),
        event.id().unwrap_or("-".into()),
    );
    let mut line = Line::default()
        .styled(Style::Dim, time(event))
        .text("  ")
        .styled(Style::Cyan, pad(&escape(&kind), KIND_COLUMNS))
        .text("  ");
    if shows_source {
        line = line.styled(Style::Dim, event.source).text("  ");
    }
    line = line
        .text(pad(&escape(&key), KEY_COLUMNS))
        .text("  ")
        .text(escape(&id))
        .text("  ")
        .styled(Style::Dim, escape(event.body()));
    line.render(width, paint) + "\n"
}

fn details(event: &Event<'_>) -> String {
    let value = |path: &str| FieldPath::parse(path).and_then(|path| path.value(event));
    let sex = match value("sex").as_deref() {
        Some("0") => "male ",
        Some("1") => "female ",
        _ => "",
    };
    let mut details = Vec::new();
    if let Some(confidence) = value("confidence") {
        details.push(format!("{confidence}%"));
    }
    if let Some(age) = value("age") {
        details.push(format!("{sex}{age}"));
    }
    details.extend(value("mood").map(Cow::into_owned));
    if let Some(liveness) = value("liveness").filter(|liveness| liveness != "passed") {
        details.push(format!("liveness {liveness}"));
    }
    details.extend(event.id().map(|id| format!("#{id}")));
    details.join("  ")
}

/// Returns the style of a result, by the certainty of the recognition.
fn style_of(result: &str) -> Option<Style> {
    match result {
        "new" => Some(Style::Green),
        "exact" => Some(Style::Cyan),
        "ha" => Some(Style::Blue),
        "reinit" => Some(Style::Magenta),
        "junk" | "nm" => Some(Style::Yellow),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use neurobridge_core::{path::Path, projection::EventPaths, testing};

    use super::*;
    use crate::terminal::columns;

    const FRAME: &str = r#"{"id":7,"data":{"id":7,"result":"exact","pid":"ad9ad883-2879-4a58","source":{"id":1,"name":"T\u00fcr \u001b[2J"},"space":{"id":1,"name":"Head office"},"age":66,"sex":0,"mood":"anger","liveness":"failed","confidence":83.34,"face_image":"https://m/1.jpg"}}"#;

    fn line(frame: &str, width: usize) -> String {
        let event = Event {
            received_at: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            ..testing::event(frame)
        };
        of(&event, false, width, Paint::PLAIN)
    }

    #[test]
    fn line_of_a_neuroio_event_shows_person_and_place() {
        insta::assert_snapshot!(line(FRAME, 120), @r"03:04:05.678  exact   ad9ad883  Head office / Tür \u{1b}[2J   83.34%  male 66  anger  liveness failed  #7");
        insta::assert_snapshot!(line(r#"{"id":"x","data":{}}"#, 120), @"03:04:05.678          -                                       #x");
    }

    #[test]
    fn line_of_a_declared_feed_shows_type_key_id_and_body() {
        let frame = r#"{"sym":"BTC","n":7,"ev":"trade","p":1.5}"#;
        let path = |key: &str| Path::new([key]);
        let paths = EventPaths {
            id: vec![path("sym"), path("n")],
            key: vec![path("sym")],
            kind: Some(path("ev")),
            ..EventPaths::default()
        };
        let event = Event {
            received_at: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            type_prefix: "com.example.",
            ..testing::event_at_paths(frame, &paths, &[])
        };
        insta::assert_snapshot!(of(&event, false, 80, Paint::PLAIN), @r#"03:04:05.678  trade     BTC           BTC/7  {"sym":"BTC","n":7,"ev":"trade","p…"#);
    }

    #[test]
    fn line_is_cut_to_the_width_of_the_terminal() {
        for width in [0, 1, 5, 13, 20, 40, 79, 80, 100] {
            let line = line(FRAME, width);
            assert!(columns(line.trim_end()) <= width, "{width}: {line}");
        }
        insta::assert_snapshot!(line(FRAME, 40), @"03:04:05.678  exact   ad9ad883  Head of…");
    }
}
