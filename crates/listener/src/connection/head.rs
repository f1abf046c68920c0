//! Reading the answer to the upgrade, and not a byte more.
//!
//! tungstenite's handshake reads what is there, and keeps what came behind the answer in a buffer of its own size, which
//! stays the size of all later ones. So the frames are left in the stream, and the WebSocket gets a buffer of our size.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

/// A stream that ends a read where the head of an HTTP answer ends.
#[derive(Debug)]
pub(super) struct UpToHead<S> {
    stream: S,
    place: Place,
}

/// Where in the head the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but empty lines so far, which a parser skips.
    Before,
    /// At the beginning of a line.
    LineStart,
    InLine,
    /// Behind the empty line that ends it.
    Behind,
}

impl Place {
    const fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Behind, _) | (Self::LineStart, b'\n') => Self::Behind,
            (_, b'\r') => self,
            (Self::Before, b'\n') => Self::Before,
            (Self::InLine, b'\n') => Self::LineStart,
            _ => Self::InLine,
        }
    }
}

impl<S> UpToHead<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self {
            stream,
            place: Place::Before,
        }
    }

    /// The stream, with what comes behind the head in it.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncBufRead + Unpin> AsyncRead for UpToHead<S> {
    /// Reads what there is of the head; behind it, the stream seems to be at its end.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.place == Place::Behind {
            return Poll::Ready(Ok(()));
        }
        let found = ready!(Pin::new(&mut this.stream).poll_fill_buf(cx))?;
        let mut length = 0;
        for byte in found.iter().take(buffer.remaining()) {
            this.place = this.place.after(*byte);
            length += 1;
            if this.place == Place::Behind {
                break;
            }
        }
        buffer.put_slice(&found[..length]);
        Pin::new(&mut this.stream).consume(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UpToHead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, BufReader};

    use super::*;

    const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

    /// Reads by pieces; what came of the head, and what is left.
    fn read(text: &str, at_once: usize, room: usize) -> (String, String) {
        let (mut head, mut rest) = (Vec::new(), String::new());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut stream = UpToHead::new(BufReader::with_capacity(at_once, text.as_bytes()));
            let mut piece = vec![0; room];
            loop {
                let length = stream.read(&mut piece).await.unwrap();
                if length == 0 {
                    break;
                }
                head.extend_from_slice(&piece[..length]);
            }
            stream.into_inner().read_to_string(&mut rest).await.unwrap();
        });
        (String::from_utf8(head).unwrap(), rest)
    }

    #[test]
    fn a_head_ends_at_its_empty_line() {
        for head in [
            HEAD.to_owned(),
            // Both are legal to a parser that is lenient, as ours is.
            HEAD.replace('\r', ""),
            format!("\r\n\r\n{HEAD}"),
        ] {
            for rest in ["", "frames\r\n\r\nmore"] {
                let both = format!("{head}{rest}");
                assert_eq!(read(&both, 8192, 4096), (head.clone(), rest.to_owned()));
            }
        }
        // Cut off: all of it, and no end.
        let cut = &HEAD[..HEAD.len() - 2];
        assert_eq!(read(cut, 8192, 4096), (cut.to_owned(), String::new()));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_it_comes(at_once in 1usize..80, room in 1usize..80, rest in "[\r\na]{0,9}") {
            let (head, left) = read(&format!("{HEAD}{rest}"), at_once, room);
            prop_assert_eq!((head.as_str(), left), (HEAD, rest));
        }
    }
}
