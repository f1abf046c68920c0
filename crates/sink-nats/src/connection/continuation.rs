//! Continues a broken chain over the same connection.

use std::sync::Arc;

use neurobridge_core::sink::{Ack, AfterOutcomes, SinkFault};

use super::Connection;
use crate::{backend::Backend, chain::Chain, recovery::End, stream::Api};

impl Connection {
    /// Reads the end of the stream and continues the chain there: all events without an outcome have to be sent again.
    /// Cancel-safe: a request that was sent stays pending.
    pub(super) async fn continue_chain(&mut self, acks: &mut Vec<Ack>) -> Result<AfterOutcomes, SinkFault> {
        if self.following.is_some() {
            // Another member may have published.
            return self.take_over(acks).await;
        }
        let Backend::Stream {
            name,
            chain: Some((chain, recovery)),
            ..
        } = &mut self.backend
        else {
            return Ok(AfterOutcomes::Continue);
        };
        match recovery.end() {
            End::Known(place) => {
                chain.continue_after(place);
                recovery.continued(place, false);
            }
            End::Unknown => {
                let request = self.end_request.get_or_insert_with(|| {
                    let (client, events) = (self.client.clone(), Arc::clone(&self.events));
                    let (name, ownership) = (Arc::clone(name), self.ownership.clone());
                    let (next, in_flight) = (recovery.first_refused(), self.max_in_flight as u64);
                    Box::pin(async move {
                        let api = Api {
                            client: &client,
                            events: &events,
                        };
                        api.end_now(&name, &ownership.owner(), next, in_flight).await
                    })
                });
                let answer = request.await;
                self.end_request = None;
                let end = answer?;
                recovery.continued(end.place, !end.is_last_own);
                // Our messages in the stream may have been sent over an older connection.
                *chain = Chain::new(&self.ownership.owner(), end);
            }
        }
        Ok(AfterOutcomes::Resend {
            acks_are_cumulative: self.acks_are_cumulative(),
        })
    }

    /// Returns a condition that the operator should know although events are delivered.
    pub(crate) fn notice(&self) -> Option<String> {
        let Backend::Stream {
            name,
            chain: Some((_, recovery)),
            ..
        } = &self.backend
        else {
            return None;
        };
        (recovery.foreign() > 0).then(|| {
            format!(
                "another client publishes to the stream \"{name}\" ({} times since the sink connected); with order = \
                 \"strict\" each time interrupts the delivery: use a separate stream for the sink, or set order = \"relaxed\"",
                recovery.foreign()
            )
        })
    }
}
