//! Encodes an event as one line of a file.

use neurobridge_core::{cloudevents, event::Event, identity::SpoolId};

use crate::config::FileFormat;

/// Appends an event as one line, with its line break. `scratch` is overwritten; a reused buffer avoids allocations.
pub(crate) fn push_line(
    format: FileFormat,
    event: &Event<'_>,
    spool: &SpoolId,
    scratch: &mut String,
    out: &mut String,
) {
    match format {
        FileFormat::CloudeventsJson => cloudevents::write_structured(event, spool, &[], scratch, out),
        FileFormat::Raw => cloudevents::push_one_line(event.frame, out),
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use neurobridge_core::{event::Sequence, testing};

    use super::*;

    #[test]
    fn event_is_one_line_in_every_format() {
        let frame = "{\"id\":7,\r\n\"data\":{\n\"created\":\"2026-01-02T03:04:05Z\",\"result\":\"new\"}}";
        let event = Event {
            sequence: Sequence::new(42).unwrap(),
            ..testing::event(frame)
        };
        let line = |format| {
            let mut out = String::new();
            push_line(
                format,
                &event,
                &SpoolId::from_bytes([0x11; 16]),
                &mut String::new(),
                &mut out,
            );
            out
        };
        insta::assert_snapshot!(line(FileFormat::Raw), @r#"{"id":7,  "data":{ "created":"2026-01-02T03:04:05Z","result":"new"}}"#);
        insta::assert_snapshot!(line(FileFormat::CloudeventsJson), @r#"{"specversion":"1.0","id":"7","source":"/neuroio/main","type":"com.neuroio.entry.new","time":"2026-01-02T03:04:05Z","sequence":"11111111-1111-1111-1111-111111111111:00000000000000000042","datacontenttype":"application/json","data":{ "created":"2026-01-02T03:04:05Z","result":"new"}}"#);
        for format in [FileFormat::Raw, FileFormat::CloudeventsJson] {
            assert_eq!(line(format).matches(['\n', '\r']).count(), 1);
        }
    }
}
