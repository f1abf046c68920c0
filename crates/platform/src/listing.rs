//! The common interface of the two kinds of list, for the code that sends the requests: NeuroIO's list, and the list of a
//! declared feed.

use neurobridge_protocol::ListError;

use crate::{
    page::PageError,
    pager::{MissedEvent, PagingError},
};

/// The state of reading one list, without I/O: what to request next, and what an answer contains.
pub(crate) trait Listing {
    /// Returns the path and query of the next request.
    ///
    /// # Errors
    /// The limit of pages is reached.
    fn next(&self) -> Result<String, PagingError>;

    /// Reads the answer to the request that [`next`](Self::next) has returned. Returns whether the list was read to its end.
    ///
    /// # Errors
    /// The list cannot be read further. The events that are ready are valid.
    fn accept(&mut self, body: &[u8]) -> Result<bool, Unreadable>;

    /// Changes the form of the requests, because the server refused one with status 400. Returns false if there is no other
    /// form.
    fn change_refused(&mut self) -> bool;

    /// Requests fewer entries, because the answer was too large. Returns false if there is no smaller page.
    fn shrink(&mut self) -> bool;

    /// Takes the new events that need not wait for others, in the order in which they occurred.
    fn take_ready(&mut self) -> Vec<MissedEvent>;

    /// Takes all new events, in the order in which they occurred.
    fn finish(&mut self) -> Vec<MissedEvent>;

    /// Returns the counts so far.
    fn tally(&self) -> Tally;
}

/// The counts of reading a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) pages: u32,
    /// The entries that were known before the gap.
    pub(crate) known: u64,
    /// The entries that were skipped because they have no usable id.
    pub(crate) without_id: u64,
}

/// The reason why an answer cannot be used.
#[derive(Debug)]
pub(crate) enum Unreadable {
    Page(PageError),
    List(ListError),
    Paging(PagingError),
}

impl From<PagingError> for Unreadable {
    fn from(error: PagingError) -> Self {
        Self::Paging(error)
    }
}
