//! A size limit for messages and lines of the server without an end. The client has no such limit.
//!
//! A client that was dropped ends only when it next finds nothing to receive, or after three pings without an answer. So its
//! connection is closed from outside: see [`sockets`]. A runtime for each client, which could be cancelled at once, doubled the
//! processor time of a message: the client was woken for single messages, and wrote each one by itself.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{Client, Statistics};
use neurobridge_core::sink::{FaultKind, SinkFault};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{events::Events, sockets};

/// The interval at which the client's counters are read. A server on the same machine sends some ten MiB in this time.
const INTERVAL: Duration = Duration::from_millis(25);
/// The range to which the announced `max_payload` of a server is limited: from 8 MiB, the largest value that nats-server
/// recommends, to 64 MiB, the largest value that it accepts.
const PAYLOADS: std::ops::RangeInclusive<usize> = (8 << 20)..=(64 << 20);
/// The bytes per second that a connection may receive in addition to messages (PONG, INFO).
const BYTES_PER_SECOND: u64 = 64 << 10;

/// Watches the received bytes of a client until it is dropped.
#[derive(Debug)]
pub(crate) struct ReceiveLimit(JoinHandle<()>);

impl ReceiveLimit {
    /// Begins to watch a client; a message or a line that is too long becomes the fault of its connection.
    ///
    /// `addresses`: the addresses of the server.
    pub(crate) fn start(client: &Client, addresses: Vec<SocketAddr>, events: Arc<Events>) -> Self {
        let payload = client.max_payload().clamp(*PAYLOADS.start(), *PAYLOADS.end());
        // Responses of the JetStream API contain messages in base64.
        let limit = 2 * payload as u64;
        let statistics = client.statistics();
        Self(tokio::spawn(async move {
            exceeded(&statistics, limit).await;
            sockets::close_to(&addresses);
            events.fail(SinkFault::new(
                FaultKind::Other,
                format!(
                    "the server has sent more than {limit} bytes of a message or a line without an end; the \
                     connection is closed, and unacknowledged events are sent again. Check that a NATS server \
                     listens at the addresses of servers"
                ),
            ));
        }))
    }
}

impl Drop for ReceiveLimit {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until more than `limit` bytes were received without the end of a message.
async fn exceeded(statistics: &Statistics, limit: u64) {
    let counters = || {
        (
            statistics.in_messages.load(Ordering::Relaxed),
            statistics.in_bytes.load(Ordering::Relaxed),
        )
    };
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut messages, mut bytes) = counters();
    let mut since = Instant::now();
    loop {
        tick.tick().await;
        let (now_messages, now_bytes) = counters();
        if now_messages != messages {
            (messages, bytes, since) = (now_messages, now_bytes, Instant::now());
        }
        let allowed = limit + BYTES_PER_SECOND * since.elapsed().as_secs();
        if now_bytes - bytes > allowed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_bytes_without_a_message_exceed_the_limit() {
        let statistics = Statistics::default();
        let mut watch = std::pin::pin!(exceeded(&statistics, 1000));
        let receive = |messages, bytes| {
            statistics.in_messages.add(messages, Ordering::Relaxed);
            statistics.in_bytes.add(bytes, Ordering::Relaxed);
        };
        for _ in 0..5 {
            receive(1, 900);
            assert!(timeout(INTERVAL * 3, &mut watch).await.is_err());
        }
        // Answers to pings.
        advance(Duration::from_secs(10)).await;
        receive(0, 10 * BYTES_PER_SECOND);
        assert!(timeout(INTERVAL * 3, &mut watch).await.is_err());
        receive(0, 2000);
        assert!(timeout(INTERVAL * 3, &mut watch).await.is_ok());
    }
}
