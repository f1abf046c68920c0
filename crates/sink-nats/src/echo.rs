//! Echoes replace acknowledgements in core mode, which has none.
//!
//! An echo is a message that the sink publishes to its own inbox, and that the server returns after it has processed all
//! messages before it. The server reports a refused message earlier on the same connection, but the client passes refusals
//! to another task than messages. So an echo is final only if the connection has received nothing else that may be a
//! refusal. Otherwise the refusal gets time to be reported, and another echo is requested. When the other echo arrives
//! without a reported refusal, the messages before the first echo were accepted.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{Message, Statistics};
use tokio::time::Instant;

/// The payload of an echo.
pub(crate) const PAYLOAD: &[u8] = b"1";
/// The time for the client's other task to report a refusal. Far more than the task needs, which costs little: other data of
/// this length is rare while messages are in flight, namely the INFO that a server sends when its cluster changes.
const GRACE_PERIOD: Duration = Duration::from_millis(250);
/// The smallest number of other bytes that may be a refusal: less than half of the shortest refusal, which two reads may split
/// (`-ERR 'Permissions Violation for Publish to "a"'`), and more than PING and PONG together.
const REFUSAL: u64 = 20;

/// The echoes of a connection.
pub(crate) struct Echoes {
    /// Whether an echo is pending, or will be requested.
    pub(crate) is_pending: bool,
    /// The time of the next request after an echo that was not final.
    pub(crate) repeat_at: Option<Instant>,
    /// The number of the last echo that was not final.
    unconfirmed: Option<u64>,
    statistics: Arc<Statistics>,
    /// The received bytes up to the last echo, or to the first message after it.
    received: u64,
}

impl Echoes {
    pub(crate) fn new(statistics: Arc<Statistics>) -> Self {
        Self {
            is_pending: false,
            repeat_at: None,
            unconfirmed: None,
            received: statistics.in_bytes.load(Ordering::Relaxed),
            statistics,
        }
    }

    /// Records that a message is sent while none is in flight: nothing that was received before refuses it.
    pub(crate) fn begin(&mut self) {
        self.received = self.statistics.in_bytes.load(Ordering::Relaxed);
    }

    /// Records the echo with this number. Returns the number of the echo before which all messages were accepted, unless a
    /// refusal was reported: `number` if the echo is final, otherwise the number of the last echo that was not final. After
    /// an echo that is not final, another one has to be requested at [`repeat_at`](Self::repeat_at).
    pub(crate) fn receive(&mut self, echo: &Message, number: u64) -> Option<u64> {
        // The client counts bytes before it passes on the message that they contain.
        let received = self.statistics.in_bytes.load(Ordering::Relaxed);
        let new = received - mem::replace(&mut self.received, received);
        let is_final = new < length(echo) + REFUSAL;
        self.is_pending = !is_final;
        self.repeat_at = (!is_final).then(|| Instant::now() + GRACE_PERIOD);
        let earlier = mem::replace(&mut self.unconfirmed, (!is_final).then_some(number));
        if is_final { Some(number) } else { earlier }
    }

    /// Records that nothing is in flight: no further echo is needed.
    pub(crate) const fn end(&mut self) {
        self.is_pending = false;
        self.repeat_at = None;
        self.unconfirmed = None;
    }
}

/// Returns the length of an echo on the connection. The inbox is the first subscription of its client.
fn length(echo: &Message) -> u64 {
    let parts = [
        "MSG ".len(),
        echo.subject.len(),
        " 1 1\r\n".len(),
        PAYLOAD.len(),
        "\r\n".len(),
    ];
    parts.iter().map(|part| *part as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_after_a_refusal_confirms_no_event() {
        let statistics = Arc::new(Statistics::default());
        let receive = |text: &str| statistics.in_bytes.add(text.len() as u64, Ordering::Relaxed);
        receive("INFO {}\r\n");
        let mut echoes = Echoes::new(Arc::clone(&statistics));
        let echo = Message {
            subject: "_INBOX.a.1".into(),
            reply: None,
            payload: PAYLOAD.into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        receive("MSG _INBOX.a.1 1 1\r\n1\r\n");
        assert_eq!(echoes.receive(&echo, 1), Some(1));
        receive("PING\r\nPONG\r\nMSG _INBOX.a.1 1 1\r\n1\r\n");
        assert_eq!(echoes.receive(&echo, 2), Some(2));
        receive(&"PONG\r\n".repeat(5));
        echoes.begin();
        receive("MSG _INBOX.a.1 1 1\r\n1\r\n");
        assert_eq!(
            echoes.receive(&echo, 3),
            Some(3),
            "the time without messages does not count"
        );
        receive("-ERR 'Permissions Violat");
        receive("MSG _INBOX.a.1 1 1\r\n1\r\n");
        assert_eq!(echoes.receive(&echo, 4), None);
        assert!(echoes.is_pending && echoes.repeat_at.is_some());
        receive("MSG _INBOX.a.1 1 1\r\n1\r\n");
        assert_eq!(echoes.receive(&echo, 5), Some(5));
        assert!(!echoes.is_pending && echoes.repeat_at.is_none());
        // A member of a cluster that is still subscribed receives messages of others before each echo.
        for (number, accepted) in [(6, None), (7, Some(6)), (8, Some(7))] {
            receive("HMSG faces.seen 2 30 40\r\n");
            receive("MSG _INBOX.a.1 1 1\r\n1\r\n");
            assert_eq!(echoes.receive(&echo, number), accepted);
            assert!(echoes.repeat_at.is_some());
        }
        echoes.end();
        assert!(!echoes.is_pending && echoes.repeat_at.is_none());
    }
}
