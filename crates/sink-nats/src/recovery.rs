//! A broken chain is continued over the same connection.
//!
//! A message that names the one before is refused when that one is not the last of the stream: because it was a duplicate, which
//! is not stored again, or because somebody else has published in between. All messages in flight after it are refused as
//! well. Once each of them has its answer, the end of the stream has to be found. Where a duplicate is the cause, the end is the
//! place that was acknowledged last. Else the stream is asked, also for what it has of ours: a server that was frozen may
//! have stored messages of an older connection in between.

use std::pin::Pin;

use neurobridge_core::{event::Sequence, sink::SinkFault};

use crate::chain;

/// So many times in a row a chain may break without one event stored in between. Then the fault is reported, and the
/// delivery waits before it connects again.
const MOST_IN_VAIN: u32 = 8;

/// The answer to a question for the end of the stream.
pub(crate) type Asked = Pin<Box<dyn Future<Output = Result<chain::End, SinkFault>> + Send>>;

/// Whether the chain of a connection is intact, and how it is continued.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// The highest place of the stream that is known.
    last_place: u64,
    is_broken: bool,
    /// A duplicate was answered since the chain began or was continued: what breaks the chain without anybody else.
    had_duplicate: bool,
    /// Whether a duplicate broke the chain, and nothing was stored since: then the end of the stream is known.
    is_explained: bool,
    /// The first event that was refused since the chain broke.
    first_refused: Option<Sequence>,
    /// How many times the chain was broken since an event was settled.
    in_vain: u32,
    /// How many times messages of others were found at the end of the stream.
    foreign: u64,
}

/// Where to find the end of the stream.
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

    /// Notes that a message of the chain was stored at this place.
    pub(crate) fn stored(&mut self, place: u64) {
        self.last_place = self.last_place.max(place);
        self.is_explained = false;
        self.in_vain = 0;
    }

    /// Notes that a message of the chain was a duplicate.
    pub(crate) const fn duplicate(&mut self) {
        self.had_duplicate = true;
        self.in_vain = 0;
    }

    /// Notes that a message of the chain was refused; returns whether the chain can be continued over this connection.
    pub(crate) fn refused(&mut self, sequence: Sequence) -> bool {
        if !self.is_broken {
            self.is_broken = true;
            self.is_explained = self.had_duplicate;
            self.in_vain += 1;
        }
        self.first_refused = Some(self.first_refused.map_or(sequence, |first| first.min(sequence)));
        self.in_vain <= MOST_IN_VAIN
    }

    /// Returns whether a message was refused since the chain began or was continued. Nothing may be sent then.
    pub(crate) const fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Returns whether the next message has to be sent alone: what follows it would be refused too.
    pub(crate) const fn is_contended(&self) -> bool {
        self.in_vain > 1
    }

    /// Returns the end of the stream, as far as it is known. Only valid when each message has its answer.
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

    /// Notes that the chain is continued after this place, and whether the message there is another publisher's.
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

    /// Returns how many times messages of others were found at the end of the stream.
    pub(crate) const fn foreign(&self) -> u64 {
        self.foreign
    }
}

#[cfg(test)]
mod tests;
