//! Secrets, and the search for them in every form in which a program could write them.

use std::collections::HashMap;

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER, HEXUPPER};

/// The length of the pieces that the search looks for, so that it also finds a part of a long text: any part of twice
/// this length contains a complete piece.
const PIECE: usize = 20;

/// A secret that is in the feed and must not be in any output of the bridge.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    what: &'static str,
    bytes: Vec<u8>,
}

impl Known {
    pub(crate) fn new(what: &'static str, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        assert!(bytes.len() >= 6, "{what} is too short: it may occur by chance");
        Self { what, bytes }
    }
}

/// All forms of all secrets, indexed for the search.
pub(crate) struct Search {
    /// The forms, by their first bytes.
    forms: HashMap<[u8; HEAD], Vec<Form>>,
}

/// The number of bytes by which forms are indexed, which is less than the length of the shortest form.
const HEAD: usize = 6;

struct Form {
    what: &'static str,
    how: &'static str,
    bytes: Vec<u8>,
}

impl Search {
    pub(crate) fn new(known: &[Known]) -> Self {
        let mut forms: HashMap<[u8; HEAD], Vec<Form>> = HashMap::new();
        for known in known {
            for (how, bytes) in forms_of(&known.bytes) {
                for piece in pieces(&bytes) {
                    let head = piece[..HEAD].try_into().unwrap();
                    forms.entry(head).or_default().push(Form {
                        what: known.what,
                        how,
                        bytes: piece.to_vec(),
                    });
                }
            }
        }
        Self { forms }
    }

    /// Returns the secrets in these bytes and their forms, without repetitions.
    pub(crate) fn find(&self, bytes: &[u8]) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        for (start, head) in bytes.windows(HEAD).enumerate() {
            let Some(forms) = self.forms.get(head) else {
                continue;
            };
            for form in forms {
                let hit = (form.what, form.how);
                if bytes[start..].starts_with(&form.bytes) && !found.contains(&hit) {
                    found.push(hit);
                }
            }
        }
        found
    }
}

fn pieces(form: &[u8]) -> Vec<&[u8]> {
    let whole = form.chunks_exact(PIECE).collect::<Vec<_>>();
    if whole.is_empty() { vec![form] } else { whole }
}

/// Returns the forms in which a program may write bytes: unchanged, escaped by JSON, by Rust's `Debug` or by a URL, as
/// hexadecimal digits, in base64 (alone or within a longer text), and as a list of numbers.
fn forms_of(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut forms = vec![
        ("as it is", bytes.to_vec()),
        ("in hexadecimal digits", HEXLOWER.encode(bytes).into_bytes()),
        ("in hexadecimal digits", HEXUPPER.encode(bytes).into_bytes()),
        ("in base64", BASE64.encode(bytes).into_bytes()),
        ("as a list of numbers", numbers(bytes)),
        ("percent-encoded", percent(bytes, "%", HEXUPPER.encode(bytes))),
        ("percent-encoded", percent(bytes, "%", HEXLOWER.encode(bytes))),
        (
            "with escaped bytes",
            percent(bytes, "\\x", HEXLOWER.encode(bytes)),
        ),
    ];
    for before in 0..3 {
        forms.push(("within base64", within_base64(bytes, before)));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let json = |digits: fn(u16) -> String| -> Vec<u8> {
            let escape = |c: char| match c {
                c if c.is_ascii() => c.to_string(),
                c => c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|unit| digits(*unit))
                    .collect(),
            };
            text.chars().map(escape).collect::<String>().into_bytes()
        };
        forms.push(("escaped as in JSON", json(|unit| format!("\\u{unit:04x}"))));
        forms.push(("escaped as in JSON", json(|unit| format!("\\u{unit:04X}"))));
        forms.push((
            "escaped as by Rust",
            text.escape_default().to_string().into_bytes(),
        ));
    }
    forms.sort_by(|one, other| one.1.cmp(&other.1));
    forms.dedup_by(|one, other| one.1 == other.1);
    forms
}

fn numbers(bytes: &[u8]) -> Vec<u8> {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    numbers.join(", ").into_bytes()
}

/// Escapes bytes by `sign` and two digits: `%` as in a URL, `\x` as in a Rust byte string. Letters, digits and unreserved
/// characters remain unchanged, with `\x` all visible characters.
fn percent(bytes: &[u8], sign: &str, digits: String) -> Vec<u8> {
    let mut form = Vec::new();
    for (byte, digits) in bytes.iter().zip(digits.as_bytes().chunks(2)) {
        if byte.is_ascii_alphanumeric()
            || b"-_.~".contains(byte)
            || (sign == "\\x" && byte.is_ascii_graphic())
        {
            form.push(*byte);
        } else {
            form.extend_from_slice(sign.as_bytes());
            form.extend_from_slice(digits);
        }
    }
    form
}

/// Returns the part of the base64 form that does not depend on the surrounding text, if `before` bytes of the same
/// group of three precede the bytes.
fn within_base64(bytes: &[u8], before: usize) -> Vec<u8> {
    let skipped = (3 - before) % 3;
    let rest = &bytes[skipped..];
    BASE64_NOPAD.encode(&rest[..rest.len() / 3 * 3]).into_bytes()
}

#[test]
fn search_finds_a_secret_in_every_encoding_and_in_parts() {
    let name = "Zoë Ångström-Müller";
    let picture: Vec<u8> = (0..2000_u32).map(|n| (n * n % 251) as u8).collect();
    let search = Search::new(&[Known::new("the name", name), Known::new("the picture", &picture)]);
    for text in [
        name.to_owned(),
        format!("{:?}", name.as_bytes()),
        name.escape_default().to_string(),
        HEXUPPER.encode(name.as_bytes()),
        BASE64.encode(format!("{{\"name\":\"{name}\"}}").as_bytes()),
        BASE64.encode(format!(" {{\"name\":\"{name}\"}}").as_bytes()),
        BASE64.encode(format!("  {{\"name\":\"{name}\"}}").as_bytes()),
        "/Zo%C3%AB%20%C3%85ngstr%C3%B6m-M%C3%BCller".to_owned(),
        r"Zo\u00eb \u00c5ngstr\u00f6m-M\u00fcller".to_owned(),
        r"Zo\xc3\xab \xc3\x85ngstr\xc3\xb6m-M\xc3\xbcller".to_owned(),
    ] {
        let within = format!("before {text} after");
        assert!(
            search
                .find(within.as_bytes())
                .iter()
                .any(|hit| hit.0 == "the name"),
            "{within}"
        );
    }
    let part = &BASE64.encode(&picture)[701..741];
    assert_eq!(search.find(part.as_bytes())[0].0, "the picture");
    assert!(search.find(b"Zoe Angstrom-Muller and no picture").is_empty());
}
