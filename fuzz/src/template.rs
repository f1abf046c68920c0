//! Fuzzes the parsing and rendering of templates.

use neurobridge_core::{neuroio::Frames, template::Template};

use crate::event;

const FRAME: &str =
    r#"{"id":7,"data":{"result":"new","pid":null,"space":{"id":"a b.c"},"extra":{"deep":true}}}"#;

/// Checks that any text is parsed as a template or rejected, that the display form of a template equals the parsed text,
/// and that the template can be rendered. The first line of the input is the template, the other lines are a frame;
/// without other lines, or if they are not an event, `FRAME` is used.
pub fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (text, frame) = text.split_once('\n').unwrap_or((text, FRAME));
    let template: Template = match text.parse() {
        Ok(template) => template,
        Err(error) => {
            assert!(error.to_string().contains(text), "{error}");
            assert!(text.contains(['{', '}']), "{error}");
            return;
        }
    };
    assert_eq!(template.to_string(), text);
    assert_eq!(text.parse::<Template>().as_ref(), Ok(&template));
    let mut frames = Frames::default();
    let is_event = frames.event(frame).is_some();
    let frame = if is_event { frame } else { FRAME };
    let event = event(frames.event(frame).expect("an event"), frame);
    let (mut complete, mut name, mut plain) = (String::new(), String::new(), String::new());
    let is_complete = template.render_complete(&event, &mut complete);
    template.render_name(&event, |_| true, &mut name);
    template.render_name(&event, |c| c.is_ascii_alphanumeric(), &mut plain);
    assert_eq!(plain.chars().count(), name.chars().count());
    if let Some(constant) = template.constant() {
        assert_eq!((constant, constant), (complete.as_str(), plain.as_str()));
        assert!(is_complete);
    }
    if is_complete && !complete.is_empty() && !name.contains("unknown") {
        assert_eq!(complete, name);
    }
}
