//! Loads the newest events of the spool, with which received events are compared.

use std::sync::Arc;

use jiff::Timestamp;
use neurobridge_core::identity;
use neurobridge_spool::Spool;
use tokio::task::spawn_blocking;

use super::{ANY_BODY, order_of};
use crate::task::joined;

/// The properties of a stored event with which received events are compared.
pub(super) struct StoredEvent {
    pub(super) source: Arc<str>,
    /// The number of the event in the order of the feed; `None` if its id is not a number.
    pub(super) order: Option<u64>,
    pub(super) identity: u128,
    /// A hash of the body; [`ANY_BODY`] for an event that did not come from the feed.
    pub(super) body: u128,
}

/// Reads the newest events of the spool, oldest first, and the time at which the last one was received. Unreadable events
/// are omitted.
pub(super) async fn load_newest(spool: &Spool, max_events: usize) -> (Vec<StoredEvent>, Option<Timestamp>) {
    // At least one event, for its time of receipt.
    let newest = spool.recent(max_events.max(1) as u64);
    let read = move || {
        let (mut stored, mut last) = (Vec::new(), None);
        let mut sources: Vec<Arc<str>> = Vec::new();
        for batch in newest.map_while(Result::ok) {
            for event in batch.iter().filter_map(Result::ok) {
                last = Some(event.received_at);
                if let Some(id) = event.id() {
                    let known = sources.iter().find(|name| ***name == *event.source).cloned();
                    let source = known.unwrap_or_else(|| {
                        sources.push(event.source.into());
                        event.source.into()
                    });
                    stored.push(StoredEvent {
                        source,
                        order: order_of(&event, &id),
                        identity: identity::identity_hash(event.source, &id),
                        body: if event.origin.is_feed() {
                            identity::body_hash(event.body())
                        } else {
                            ANY_BODY
                        },
                    });
                }
            }
        }
        (stored, last)
    };
    joined(spawn_blocking(read).await)
}
