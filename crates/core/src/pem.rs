//! Certificates in a PEM file, parsed independently: an unreadable one does not make the others unusable.

use data_encoding::BASE64;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificates of a PEM file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// The readable certificates.
    pub readable: Vec<Certificate>,
    /// The positions of the unreadable certificates in the file, from 1.
    pub unreadable: Vec<usize>,
}

/// A certificate of a PEM file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The position in the file, from 1.
    pub number: usize,
    /// The DER encoding. Its content is not checked.
    pub der: Vec<u8>,
}

impl Certificates {
    /// Finds the certificates in a text and skips all other text.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let sections = text.split(BEGIN).skip(1);
        for (number, section) in (1..).zip(sections) {
            match section.split_once(END).and_then(|(body, _)| der(body)) {
                Some(der) => found.readable.push(Certificate { number, der }),
                None => found.unreadable.push(number),
            }
        }
        found
    }

    /// Returns a message for the log that lists the skipped certificates of `file`, `None` if there are none.
    /// `unusable` are the positions of readable certificates that were rejected later.
    pub fn skipped_message(&self, file: &str, unusable: &[usize]) -> Option<String> {
        let mut numbers = [self.unreadable.as_slice(), unusable].concat();
        numbers.sort_unstable();
        let list: Vec<String> = numbers.iter().take(10).map(usize::to_string).collect();
        let more = if numbers.len() > list.len() { ", …" } else { "" };
        (!numbers.is_empty()).then(|| {
            format!(
                "skipped unusable certificates in {file}, at position {}{more}; replace or remove them",
                list.join(", ")
            )
        })
    }
}

impl Certificate {
    /// Returns the certificate as PEM.
    pub fn pem(&self) -> String {
        let body = BASE64.encode(&self.der);
        let mut pem = format!("{BEGIN}\n");
        // Lines of 64 characters, as RFC 7468 requires; base64 is ASCII.
        for line in body.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem + END + "\n"
    }
}

/// Returns whether a text contains an encrypted private key: PKCS#8, or the older format of OpenSSL.
pub fn has_encrypted_key(text: &str) -> bool {
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// Decodes the body of a section, which is one ASN.1 sequence.
fn der(body: &str) -> Option<Vec<u8>> {
    let text: String = body.split_ascii_whitespace().collect();
    let der = BASE64.decode(text.as_bytes()).ok()?;
    let (0x30, rest) = (*der.first()?, der.get(2..)?) else {
        return None;
    };
    let length = match der[1] {
        short @ 0..=0x7f => usize::from(short),
        // The number of bytes that encode the length.
        long @ 0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            return (rest.len() == length).then_some(der);
        }
        _ => return None,
    };
    (rest.len() == length).then_some(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(number: usize, length: usize) -> Certificate {
        let mut der = vec![0x30, 0x82];
        der.extend(u16::try_from(length).unwrap().to_be_bytes());
        der.resize(der.len() + length, 7);
        Certificate { number, der }
    }

    #[test]
    fn unreadable_certificates_are_skipped_and_counted() {
        let (first, last) = (certificate(1, 300), certificate(5, 60));
        let text = format!(
            "# roots\r\n{}{BEGIN}\nno base64!\n{END}\n{BEGIN}\n{}{BEGIN}\n{}\n{END}\nbetween{}",
            first.pem().replace('\n', "\r\n"),
            // One without an end marker, and one that is too short.
            "TUlJ\n",
            BASE64.encode(&certificate(4, 300).der[..100]),
            last.pem(),
        );
        let found = Certificates::parse(&text);
        assert_eq!(found.readable, [first, last]);
        assert_eq!(found.unreadable, [2, 3, 4]);
        assert_eq!(
            found.skipped_message("ca.pem", &[1]).unwrap(),
            "skipped unusable certificates in ca.pem, at position 1, 2, 3, 4; replace or remove them"
        );
        assert_eq!(Certificates::parse("").skipped_message("x", &[]), None);
    }

    #[test]
    fn certificate_serialises_to_its_input() {
        let certificate = certificate(1, 200);
        assert_eq!(Certificates::parse(&certificate.pem()).readable, [certificate]);
    }
}
