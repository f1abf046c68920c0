//! Payloads that are not copied.

use bytes::Bytes;

/// The bytes in which most payloads lie.
///
/// They are kept until others are lent, as the client keeps the parts of them that it has not written yet. That is no more
/// memory: the delivery keeps what is not settled all the same.
#[derive(Debug, Default)]
pub(crate) struct Lent(Bytes);

impl Lent {
    pub(crate) fn take(&mut self, bytes: &Bytes) {
        self.0 = bytes.clone();
    }

    /// A part of the lent bytes where the payload is one, a copy where it lies elsewhere.
    pub(crate) fn payload(&self, payload: &[u8]) -> Bytes {
        let (whole, part) = (self.0.as_ptr_range(), payload.as_ptr_range());
        if whole.start <= part.start && part.end <= whole.end {
            self.0.slice_ref(payload)
        } else {
            Bytes::copy_from_slice(payload)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_lent_bytes_is_shared_and_the_rest_copied() {
        let log = Bytes::from(b"one two three".to_vec());
        let mut lent = Lent::default();
        assert_eq!(lent.payload(b"none is lent"), "none is lent");
        lent.take(&log);
        for part in [&log[..], &log[..3], &log[4..7], &log[8..], &log[2..2]] {
            let payload = lent.payload(part);
            assert_eq!(payload, part);
            assert!(part.is_empty() || payload.as_ptr() == part.as_ptr(), "shared");
        }
        let elsewhere = b"one two three".to_vec();
        let payload = lent.payload(&elsewhere);
        assert!(
            payload == elsewhere && payload.as_ptr() != elsewhere.as_ptr(),
            "copied"
        );
    }
}
