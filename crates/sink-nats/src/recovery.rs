//! Continues a broken chain over the same connection.
//!
//! A chained message is refused if the message before it is not the last one of the stream: because the message before was a
//! duplicate, which is not stored again, or because another publisher has published in between. All later messages in flight
//! are refused too. Once all of them are answered, the end of the stream is determined. If a duplicate is the cause, the end
//! is the place that was acknowledged last. Otherwise the stream is queried, also for own messages: a server that was frozen
//! may have stored messages of an older connection in between.

use std::pin::Pin;

use neurobridge_core::{event::Sequence, sink::SinkFault};

use crate::chain;

/// The number of consecutive breaks of a chain without a stored event after which the fault is reported, so that the delivery
/// waits before it reconnects.
const MAX_IN_VAIN: u32 = 8;

/// The pending request for the end of the stream.
pub(crate) type EndRequest = Pin<Box<dyn Future<Output = Result<chain::End, SinkFault>> + Send>>;

/// The state of a connection's chain, and how to continue it.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// The highest known place of the stream.
    last_place: u64,
    is_broken: bool,
    /// Whether a duplicate was acknowledged since the chain began or was continued, which breaks the chain without another
    /// publisher.
    had_duplicate: bool,
    /// Whether a duplicate broke the chain, and nothing was stored since: then the end of the stream is known.
    is_explained: bool,
    /// The first event that was refused since the chain broke.
    first_refused: Option<Sequence>,
    /// The number of breaks since an event was settled.
    in_vain: u32,
    /// The number of times that foreign messages were found at the end of the stream.
    foreign: u64,
}

/// The source of the stream's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Known(u64),
    Unknown,
}

impl Recovery {
    /// Creates the state of a chain that begins after this place of the stream.
    pub(crate) const fn new(last_place: u64) -> Self {
        Self {
            last_place,
            is_broken: false,
            had_duplicate: false,
            is_explained: false,
            first_refused: None,
            in_vain: 0,
            foreign: 0,
        }
    }

    /// Records that a message of the chain was stored at this place.
    pub(crate) fn stored(&mut self, place: u64) {
        self.last_place = self.last_place.max(place);
        self.is_explained = false;
        self.in_vain = 0;
    }

    /// Records that a message of the chain was a duplicate.
    pub(crate) const fn duplicate(&mut self) {
        self.had_duplicate = true;
        self.in_vain = 0;
    }

    /// Records that a message of the chain was refused. Returns whether the chain can be continued over this connection.
    pub(crate) fn refused(&mut self, sequence: Sequence) -> bool {
        if !self.is_broken {
            self.is_broken = true;
            self.is_explained = self.had_duplicate;
            self.in_vain += 1;
        }
        self.first_refused = Some(self.first_refused.map_or(sequence, |first| first.min(sequence)));
        self.in_vain <= MAX_IN_VAIN
    }

    /// Returns whether a message was refused since the chain began or was continued. Nothing may be sent then.
    pub(crate) const fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Returns whether the next message has to be sent alone, because messages after it would probably be refused.
    pub(crate) const fn is_contended(&self) -> bool {
        self.in_vain > 1
    }

    /// Returns the end of the stream if it is known. Valid only when all messages are answered.
    pub(crate) const fn end(&self) -> End {
        if self.is_explained {
            End::Known(self.last_place)
        } else {
            End::Unknown
        }
    }

    /// Returns the first event that was refused since the chain broke.
    pub(crate) fn first_refused(&self) -> Sequence {
        self.first_refused.unwrap_or(Sequence::FIRST)
    }

    /// Records that the chain is continued after this place, and whether the message there is foreign.
    pub(crate) const fn continued(&mut self, place: u64, is_foreign: bool) {
        if is_foreign && place > self.last_place {
            self.foreign += 1;
        }
        self.last_place = place;
        self.is_explained = false;
        self.first_refused = None;
        self.is_broken = false;
        self.had_duplicate = false;
    }

    /// Returns the number of times that foreign messages were found at the end of the stream.
    pub(crate) const fn foreign(&self) -> u64 {
        self.foreign
    }
}

#[cfg(test)]
mod tests;
