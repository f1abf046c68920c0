//! Small text files whose last line is a checksum of the others.

use std::{fs, io, path::Path};

use super::files::{self, DiskError};

/// The content of a text file with a checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The file does not exist.
    Missing,
    /// The checksum of the file is wrong.
    Damaged,
    /// The lines without the checksum.
    Whole(String),
}

/// Reads a file and verifies its checksum.
pub(crate) fn read(path: &Path) -> Result<Content, DiskError> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8(bytes)
            .ok()
            .and_then(|text| checked(&text))
            .map_or(Content::Damaged, Content::Whole)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Content::Missing),
        Err(error) => Err(DiskError::of("read", path)(error)),
    }
}

/// Replaces a file atomically; adds the checksum to the lines.
pub(crate) fn write(folder: &Path, name: &str, lines: &str) -> Result<(), DiskError> {
    let checksum = crc32c::crc32c(lines.as_bytes());
    files::replace(folder, name, format!("{lines}{checksum:08x}\n").as_bytes())
}

fn checked(text: &str) -> Option<String> {
    let (lines, checksum) = text.split_at_checked(text.len().checked_sub(9)?)?;
    (checksum == format!("{:08x}\n", crc32c::crc32c(lines.as_bytes()))).then(|| lines.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_truncation_is_damage() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        assert_eq!(read(&path).unwrap(), Content::Missing);
        write(root.path(), "file", "1 2\n3 4\n").unwrap();
        assert_eq!(read(&path).unwrap(), Content::Whole("1 2\n3 4\n".to_owned()));
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            assert_eq!(read(&path).unwrap(), Content::Damaged, "bit {bit}");
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert_eq!(read(&path).unwrap(), Content::Damaged, "length {length}");
        }
    }
}
