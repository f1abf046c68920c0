//! Log lines as `key=value` pairs, the format that Loki and other tools parse.

use std::fmt::{self, Debug};

use jiff::Timestamp;
use neurobridge_core::foreign_text::{self, is_unsafe};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

/// Formats time, level, target, message, the event's fields, and the fields of the enclosing spans.
pub(super) struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let level = metadata.level().as_str().to_ascii_lowercase();
        write!(
            writer,
            "ts={:.6} level={level} target={}",
            Timestamp::now(),
            metadata.target()
        )?;
        let mut pairs = Pairs::default();
        event.record(&mut pairs);
        writer.write_str(&pairs.message)?;
        writer.write_str(&pairs.fields)?;
        for span in context.event_scope().into_iter().flatten() {
            // Formatted by the layer when the span was created: `key=value` with quoted texts.
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(writer, " {fields}")?;
            }
        }
        writeln!(writer)
    }
}

#[derive(Default)]
struct Pairs {
    message: String,
    fields: String,
}

impl Pairs {
    fn push(&mut self, field: &Field, value: &str) {
        let (key, out) = match field.name() {
            "message" => ("msg", &mut self.message),
            key => (key, &mut self.fields),
        };
        out.push(' ');
        out.push_str(key);
        out.push('=');
        push_value(value, out);
    }
}

impl Visit for Pairs {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.push(field, &format!("{value:?}"));
    }
}

/// Appends a value, quoted if it would be ambiguous without quotes.
fn push_value(value: &str, out: &mut String) {
    let is_plain = |c: char| !(c.is_whitespace() || is_unsafe(c) || matches!(c, '"' | '=' | '\\'));
    if !value.is_empty() && value.chars().all(is_plain) {
        out.push_str(value);
        return;
    }
    out.push('"');
    for c in foreign_text::escape_except(value, |c| c == '\n').chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_values_are_quoted() {
        let written = |value: &str| {
            let mut out = String::new();
            push_value(value, &mut out);
            out
        };
        assert_eq!(written("5s"), "5s");
        assert_eq!(written(""), "\"\"");
        assert_eq!(written("a b"), "\"a b\"");
        assert_eq!(written("k=v"), "\"k=v\"");
        assert_eq!(written("a\n\"b\"\u{1b}[1m"), "\"a\\n\\\"b\\\"\\\\u{1b}[1m\"");
    }
}
