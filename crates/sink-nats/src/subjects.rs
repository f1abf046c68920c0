//! Subjects that share a buffer.

use std::cell::Cell;

use async_nats::{Subject, ToSubject};
use bytes::BytesMut;

/// The size of a buffer: some hundred subjects.
const BUFFER: usize = 16 << 10;

/// Creates subjects as consecutive slices of a buffer, which is freed with its last subject.
///
/// Separate subjects would need two allocations each, and another thread would free them: a large part of the cost of a small
/// message.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    buffer: BytesMut,
    written: String,
}

impl Subjects {
    /// Creates a subject from the text that `write` appends to an empty string.
    pub(crate) fn make(&mut self, write: impl FnOnce(&mut String)) -> Subject {
        self.written.clear();
        write(&mut self.written);
        let length = self.written.len();
        if self.buffer.capacity() < length {
            // Not `reserve`, which would allocate only this length if it cannot reuse the old buffer.
            self.buffer = BytesMut::with_capacity(BUFFER.max(length));
        }
        self.buffer.extend_from_slice(self.written.as_bytes());
        let subject = Subject::from_utf8(self.buffer.split().freeze());
        // Never fails: a string is always UTF-8.
        subject.unwrap_or_else(|_| Subject::from(self.written.as_str()))
    }
}

/// A subject that is moved to the client. The client takes a subject by reference and would clone it, and each clone costs two
/// updates of a reference count that two processors share.
pub(crate) struct MovedSubject(Cell<Subject>);

impl From<Subject> for MovedSubject {
    fn from(subject: Subject) -> Self {
        Self(Cell::new(subject))
    }
}

impl ToSubject for MovedSubject {
    fn to_subject(&self) -> Subject {
        // A second call returns an empty subject, which the client rejects.
        self.0.replace(Subject::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_contiguous_and_as_written() {
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
    fn subject_is_taken_without_a_copy() {
        let subject = Subjects::default().make(|text| text.push_str("a.b"));
        let memory = subject.as_ptr();
        let moved = MovedSubject::from(subject);
        let taken = moved.to_subject();
        assert_eq!((taken.as_str(), taken.as_ptr()), ("a.b", memory));
        assert_eq!(moved.to_subject().as_str(), "");
    }
}
