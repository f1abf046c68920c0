//! Fuzzes the decoding of segment headers and cursor slots of the spool.

use neurobridge_spool::format::{CursorSlot, FormatError, SLOT_LENGTH, SegmentHeader};

/// The offset of the checksum in a segment header.
const HEADER_CHECKSUM: usize = 60;
/// The offset of the checksum in a cursor slot.
const SLOT_CHECKSUM: usize = 108;

/// Checks that any bytes are decoded as a header or a slot or rejected, without and with a correct checksum. Checks that
/// encoding and decoding a decoded header or slot again returns the same value.
pub fn spool_format(bytes: &[u8]) {
    header(bytes);
    slot(bytes);
    if let Err(FormatError::Checksum { expected, .. }) = SegmentHeader::decode(bytes) {
        header(&with_checksum(bytes, HEADER_CHECKSUM, expected));
    }
    if let Err(FormatError::Checksum { expected, .. }) = CursorSlot::decode(bytes) {
        slot(&with_checksum(bytes, SLOT_CHECKSUM, expected));
    }
}

fn header(bytes: &[u8]) {
    if let Ok(header) = SegmentHeader::decode(bytes) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
}

fn slot(bytes: &[u8]) {
    if let Ok(slot) = CursorSlot::decode(bytes) {
        match slot.encode() {
            Some(again) => assert_eq!(CursorSlot::decode(&again), Ok(slot)),
            None => assert!(bytes.len() > SLOT_LENGTH),
        }
    }
}

fn with_checksum(bytes: &[u8], at: usize, checksum: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}
