//! Fuzzes declarations of feeds, and their interpretation of frames.

use neurobridge_protocol::{Action, Declaration, Interpreter, Secrets};
use serde_json::value::RawValue;

/// Checks that a declaration is valid or has errors that state the expected value, that its interpreter accepts any
/// frame, and that the text and the body of each event are JSON. The first line of the input is the declaration in JSON,
/// each further line a frame.
pub fn declaration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.lines();
    let Ok(declaration) = serde_json::from_str::<Declaration>(lines.next().unwrap_or_default()) else {
        return;
    };
    let mut interpreter = match Interpreter::new(declaration, &[]) {
        Ok(interpreter) => interpreter,
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!(error.to_string().contains("expected"), "{error}");
            }
            return;
        }
    };
    let mut last = None;
    interpreter.begin(Secrets::new());
    for frame in lines {
        let step = interpreter.deadline();
        let mut count = 0;
        interpreter.receive(frame, &mut |action| {
            count += 1;
            if let Action::Event(event) = action {
                for part in [event.text, event.body()] {
                    assert!(serde_json::from_str::<&RawValue>(part).is_ok(), "{part}");
                }
                let _ = (event.id(), event.key(), event.kind(), event.time());
                last = event.resume.map(str::to_owned);
                let positions = event.positions;
                let fixed = [positions.body(), positions.time(), positions.kind()];
                for position in fixed.into_iter().chain(positions.ids()) {
                    assert!(position.is_absent() || position.of(event.text).is_some());
                }
            }
        });
        // An answer that completes one of several opening steps may require no action.
        assert!(count > 0 || interpreter.deadline() != step, "{frame}");
    }
    interpreter.ping();
    interpreter.acknowledge(&["1", "\"b\""]);
    interpreter.request(&Secrets::new(), last.as_deref());
}
