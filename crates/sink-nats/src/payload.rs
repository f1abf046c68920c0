//! Payloads without a copy: slices of the buffer that holds the events.
//!
//! The client keeps such a slice, and with it the whole buffer, until it has written the message. This needs no further memory,
//! because the delivery keeps the batches of the events in flight anyway.

use bytes::Bytes;

/// Returns a payload as a slice of the buffer if the buffer holds it, otherwise as a copy.
pub(crate) fn payload_in(buffer: &Bytes, payload: &[u8]) -> Bytes {
    let (whole, part) = (buffer.as_ptr_range(), payload.as_ptr_range());
    if whole.start <= part.start && part.end <= whole.end {
        buffer.slice_ref(payload)
    } else {
        Bytes::copy_from_slice(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_payload_outside_the_buffer_is_copied() {
        let buffer = Bytes::from(b"one two three".to_vec());
        for part in [
            &buffer[..],
            &buffer[..3],
            &buffer[4..7],
            &buffer[8..],
            &buffer[2..2],
        ] {
            let payload = payload_in(&buffer, part);
            assert_eq!(payload, part);
            assert!(part.is_empty() || payload.as_ptr() == part.as_ptr(), "shared");
        }
        let elsewhere = b"one two three".to_vec();
        for buffer in [&buffer, &Bytes::new()] {
            let payload = payload_in(buffer, &elsewhere);
            assert!(
                payload == elsewhere && payload.as_ptr() != elsewhere.as_ptr(),
                "copied"
            );
        }
    }
}
