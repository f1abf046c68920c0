//! Subjects that share their memory.

use std::cell::Cell;

use async_nats::{Subject, ToSubject};
use bytes::BytesMut;

/// How much is allocated at once: some hundred subjects.
const BUFFER: usize = 16 << 10;

/// Makes subjects, one after the other in a buffer that lasts until the last of them is gone.
///
/// On its own, each would be two allocations that another thread frees: for small messages, that is much of what they cost.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    buffer: BytesMut,
    written: String,
}

impl Subjects {
    /// Makes a subject of what is written to an empty string.
    pub(crate) fn make(&mut self, write: impl FnOnce(&mut String)) -> Subject {
        self.written.clear();
        write(&mut self.written);
        let length = self.written.len();
        if self.buffer.capacity() < length {
            // Not `reserve`, which would make a buffer of just this length where it can't use the old one again.
            self.buffer = BytesMut::with_capacity(BUFFER.max(length));
        }
        self.buffer.extend_from_slice(self.written.as_bytes());
        let subject = Subject::from_utf8(self.buffer.split().freeze());
        // A string is always UTF-8.
        subject.unwrap_or_else(|_| Subject::from(self.written.as_str()))
    }
}

/// A subject for the client to keep. It asks through a reference, where a subject gives another handle on its memory: counted
/// up and down for each message, on two processors.
pub(crate) struct Given(Cell<Subject>);

impl From<Subject> for Given {
    fn from(subject: Subject) -> Self {
        Self(Cell::new(subject))
    }
}

impl ToSubject for Given {
    fn to_subject(&self) -> Subject {
        // Asked a second time it gives an empty one, which the client refuses.
        self.0.replace(Subject::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_was_written_and_lie_side_by_side() {
        let mut subjects = Subjects::default();
        let long = "x".repeat(2 * BUFFER);
        let mut made = Vec::new();
        for number in 0..10_000 {
            made.push(subjects.make(|text| text.push_str(&format!("a.{number}"))));
        }
        made.push(subjects.make(|text| text.push_str(&long)));
        made.push(subjects.make(|_| {}));
        for (number, subject) in made[..10_000].iter().enumerate() {
            assert_eq!(subject.as_str(), format!("a.{number}"));
        }
        assert_eq!(
            (made[10_000].as_str(), made[10_001].as_str()),
            (long.as_str(), "")
        );
        let end = |subject: &Subject| subject.as_bytes().as_ptr_range().end;
        let pairs = made[..10_000].windows(2);
        let shared = pairs.filter(|pair| end(&pair[0]) == pair[1].as_ptr()).count();
        assert!(shared > 9_900, "{shared}");
    }

    #[test]
    fn what_is_given_is_not_counted_again() {
        let subject = Subjects::default().make(|text| text.push_str("a.b"));
        let memory = subject.as_ptr();
        let given = Given::from(subject);
        let taken = given.to_subject();
        assert_eq!((taken.as_str(), taken.as_ptr()), ("a.b", memory));
        assert_eq!(given.to_subject().as_str(), "");
    }
}
