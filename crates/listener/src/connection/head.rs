//! Reads the head of an HTTP answer (status line and headers) of a server or a proxy, and no byte after it.
//!
//! The parser is as lenient as possible: only the status and a few headers are used, and a refusal must be
//! reported as a refusal in any spelling. Lines may end with a bare line feed, the number of headers is unlimited,
//! and the answer may arrive byte by byte. Only the length is limited.

use std::io;

use neurobridge_core::units::ByteSize;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The maximum length of an answer, including the interim answers before it.
const MAX_HEAD: ByteSize = ByteSize::from_kib(64);

/// The first bytes of every answer.
const PREFIX: &[u8] = b"HTTP/";

/// The head of an HTTP answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Names (in lower case) and values.
    headers: Vec<(String, String)>,
    /// The error that ended the answer before the empty line after the headers.
    cut: Option<HeadError>,
}

/// Why the head of an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("the answer is not HTTP")]
    NotHttp,
    #[error("the headers are longer than {MAX_HEAD}")]
    TooLong,
    #[error("the connection ended before the answer was complete")]
    Incomplete,
    #[error("the connection failed before the answer was complete")]
    Io(#[source] io::Error),
}

impl Head {
    /// Reads an answer, skipping interim answers such as `100 Continue` and `103 Early Hints` (RFC 9110,
    /// 15.2). 101 is the answer to an upgrade.
    ///
    /// An answer that ends early is returned if its status is known: a server that refuses a connection may
    /// close it before everything is sent.
    ///
    /// # Errors
    /// The status could not be read.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, HeadError> {
        let mut allowance = MAX_HEAD.bytes();
        loop {
            let mut head = Self::read_one(stream, &mut allowance).await?;
            let is_interim = (100..200).contains(&head.status) && head.status != 101;
            match head.cut.take() {
                Some(cut) if is_interim => return Err(cut),
                None if is_interim => {}
                cut => return Ok(Self { cut, ..head }),
            }
        }
    }

    async fn read_one(stream: &mut (impl AsyncRead + Unpin), allowance: &mut u64) -> Result<Self, HeadError> {
        let mut text = Vec::new();
        let mut is_line_empty = true;
        let cut = loop {
            if *allowance == 0 {
                break Some(HeadError::TooLong);
            }
            *allowance -= 1;
            // Byte by byte, because the bytes after the head belong to the next layer. A head has a few
            // hundred bytes and is read once for each connection.
            let byte = match stream.read_u8().await {
                Ok(byte) => byte,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    break Some(HeadError::Incomplete);
                }
                Err(error) => break Some(HeadError::Io(error)),
            };
            match byte {
                b'\r' => {}
                // Empty lines before a status line are skipped (RFC 9112, 2.2).
                b'\n' if is_line_empty && text.is_empty() => {}
                b'\n' if is_line_empty => break None,
                b'\n' => {
                    text.push(byte);
                    is_line_empty = true;
                }
                _ => {
                    text.push(byte);
                    is_line_empty = false;
                    // Checked at once: a server of another protocol may wait for more data from the client.
                    if text.len() <= PREFIX.len() && !PREFIX.starts_with(&text) {
                        return Err(HeadError::NotHttp);
                    }
                }
            }
        };
        Self::parse(&text, cut)
    }

    fn parse(text: &[u8], cut: Option<HeadError>) -> Result<Self, HeadError> {
        let text = String::from_utf8_lossy(text);
        // Without a line feed after it, the status may be truncated.
        let Some((status_line, rest)) = text.split_once('\n') else {
            return Err(cut.unwrap_or(HeadError::NotHttp));
        };
        let status = status_line
            .split_ascii_whitespace()
            .nth(1)
            .filter(|code| code.len() == 3)
            .and_then(|code| code.parse().ok())
            .filter(|code| (100..1000).contains(code))
            .ok_or(HeadError::NotHttp)?;
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in rest.lines() {
            if line.starts_with([' ', '\t']) {
                // The continuation of the previous line (RFC 9112, 5.2).
                if let Some((_, value)) = headers.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                headers.push((name.trim_end().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        Ok(Self { status, headers, cut })
    }

    /// Checks that the answer was read up to the empty line after its headers.
    ///
    /// # Errors
    /// The error that ended the answer early; only at the first call.
    pub(crate) fn complete(&mut self) -> Result<(), HeadError> {
        self.cut.take().map_or(Ok(()), Err)
    }

    /// Returns the values of a header; `name` is in lower case.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the elements of a list header over all its lines, without empty ones (RFC 9110, 5.6.1).
    pub(crate) fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name)
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|element| !element.is_empty())
    }

    /// Returns whether a list header contains an element, ignoring case.
    pub(crate) fn lists(&self, name: &str, element: &str) -> bool {
        self.list(name).any(|found| found.eq_ignore_ascii_case(element))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, BufReader};

    use super::*;

    const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

    /// Reads an answer that arrives in pieces; also returns the bytes left in the stream.
    fn read(bytes: &[u8], piece: usize) -> (Result<Head, HeadError>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut stream = BufReader::with_capacity(piece, bytes);
            let head = Head::read(&mut stream).await;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            (head, rest)
        })
    }

    #[test]
    fn head_ends_at_the_empty_line() {
        for head in [
            HEAD.to_owned(),
            HEAD.replace('\r', ""),
            format!("\r\n\r\n{HEAD}"),
            format!("HTTP/1.1 100 Continue\r\n\r\n{HEAD}"),
            format!("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 102 X\n\n{HEAD}"),
        ] {
            for rest in ["", "frames\r\n\r\nmore"] {
                let (read, left) = read(format!("{head}{rest}").as_bytes(), 512);
                let mut read = read.unwrap();
                assert_eq!(read.status, 101);
                assert!(read.complete().is_ok() && read.lists("upgrade", "WebSocket"));
                assert_eq!(left, rest.as_bytes());
            }
        }
    }

    #[test]
    fn headers_are_parsed_in_any_spelling() {
        let many = "X-Filler: 1\r\n".repeat(500);
        let text = format!(
            "HTTP/1.0 503\r\n{many}no header\r\nCONNECTION : keep-alive,\r\n\tUpgrade\r\nconnection:a,,b\r\nN\u{e4}me:\u{e4}\r\n\r\n"
        );
        let head = read(text.as_bytes(), 1).0.unwrap();
        assert_eq!(head.status, 503);
        assert_eq!(
            head.list("connection").collect::<Vec<_>>(),
            ["keep-alive", "Upgrade", "a", "b"]
        );
        assert_eq!(head.values("x-filler").count(), 500);
        assert_eq!(head.values("no header").count(), 0);
    }

    #[test]
    fn status_of_a_truncated_response_is_known() {
        let endless = format!(
            "HTTP/1.1 503 X\r\nRetry-After: 7\r\n{}",
            "X-Filler: 1\r\n".repeat(10_000)
        );
        for (text, expected) in [
            (endless.as_str(), "longer than 64 KiB"),
            ("HTTP/1.1 503 X\r\nRetry-After: 7\r\nX", "ended before"),
        ] {
            let mut head = read(text.as_bytes(), 512).0.unwrap();
            assert_eq!(head.status, 503);
            assert_eq!(head.values("retry-after").next(), Some("7"));
            let error = head.complete().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for (text, expected) in [
            ("", "ended before"),
            ("HTTP/1.1 50", "ended before"),
            ("HTTP/1.1 100 Continue\r\n\r\n", "ended before"),
            ("HTTP/1.1 100 Continue\r\n", "ended before"),
            ("SSH-2.0", "not HTTP"),
            ("\x15\x03\x01", "not HTTP"),
            ("HTTP/1.1 5000 X\r\n\r\n", "not HTTP"),
            ("HTTP/1.1 abc\r\n\r\n", "not HTTP"),
        ] {
            let error = read(text.as_bytes(), 512).0.unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn interim_answers_are_bounded() {
        let endless = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000);
        assert!(matches!(read(endless.as_bytes(), 512).0, Err(HeadError::TooLong)));
    }

    proptest! {
        #[test]
        fn split_input_has_the_same_result(piece in 1usize..80, rest in "[\r\na]{0,9}") {
            let (head, left) = read(format!("{HEAD}{rest}").as_bytes(), piece);
            prop_assert_eq!(head.unwrap().status, 101);
            prop_assert_eq!(left, rest.as_bytes());
        }

        #[test]
        fn any_bytes_parse_to_an_answer_or_an_error(bytes: Vec<u8>, piece in 1usize..80) {
            let mut whole = b"HTTP/1.1 ".to_vec();
            whole.extend(bytes);
            let (head, _) = read(&whole, piece);
            prop_assert!(head.map_or(true, |head| (100..1000).contains(&head.status)));
        }
    }
}
