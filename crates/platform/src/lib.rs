//! The REST and IAM interfaces of the NeuroIO platform, and the lists of declared feeds.
//!
//! - [`BackfillReader`] reads the entries of a gap, and converts each to the event that the feed would have sent: from
//!   NeuroIO's list, or from one that is declared with the feed.
//! - [`Iam`] creates and deletes tokens; [`Renewal`] decides when, and [`TokenFile`] stores the token of a bridge across
//!   restarts.
//!
//! # A backfilled event
//! The frame is `{"id":…,"data":…}` with the id of the entry and the entry as the interface returned it, byte for byte. So
//! its identity is that of the live event. The body and its hash equal those of the live event if the platform formats an
//! entry for REST as for the feed, and if the entry was not changed after the live event. What may differ:
//! - The platform may have merged persons, removed pictures or changed groups: the entry is as it is now.
//! - White space between values, if the interface pretty-prints its answers.
//! - An entry, or a person in it, may have been deleted, and is then missing.
//! - An entry that cannot be read, because it has no id, is counted, and makes the outcome [`Outcome::Partly`].
//!
//! The protocol is known from the platform's public clients, their documentation and their tests. *Assumed*, because none of
//! them states it: a list is in the order of ids, `id_from` and the times are inclusive, and `ordering=id` selects the
//! oldest first (as in the framework that the shape of the answers suggests). [`BackfillReader`] detects where an assumption
//! does not hold: it reads the newest first, by time instead of by id, or stops with a reason.

mod backfill_reader;
mod client;
mod declared;
mod error;
mod iam;
mod listing;
mod neuroio;
mod page;
mod pager;
mod renewal;
mod token_file;

pub use self::{
    backfill_reader::{BackfillReader, BackfillReport, Outcome, StopReason, Window},
    client::Client,
    error::{PlatformAnswer, RequestError},
    iam::{CreatedToken, IAM_URL, Iam, Identity, Named, Scope},
    pager::{MissedEvent, PagingError},
    renewal::{Now, Renewal, Step},
    token_file::{StoredToken, TokenFile, TokenFileError},
};

/// Returns an error and its causes as one sentence.
pub fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
