//! Who keeps the events, and what is answered.

use std::{borrow::Cow, sync::Arc};

use serde::Deserialize;

use crate::{chain::Chain, error::ApiError};

/// Who keeps the events, and so who answers.
pub(crate) enum Keeper {
    /// A stream answers to each message.
    Stream {
        name: Arc<str>,
        chain: Option<Chain>,
        replayed_behind: Option<String>,
    },
    /// Nobody: an echo of our own comes back when the server has taken all before it.
    Nobody { echo_is_out: bool },
}

impl Keeper {
    /// The chain, under strict order.
    pub(crate) const fn chain(&self) -> Option<&Chain> {
        match self {
            Self::Stream { chain, .. } => chain.as_ref(),
            Self::Nobody { .. } => None,
        }
    }

    pub(crate) const fn chain_mut(&mut self) -> Option<&mut Chain> {
        match self {
            Self::Stream { chain, .. } => chain.as_mut(),
            Self::Nobody { .. } => None,
        }
    }
}

/// What a stream answers to a message.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer<'a> {
    #[serde(borrow, default)]
    pub(crate) stream: Cow<'a, str>,
    /// The message's place.
    #[serde(default)]
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) duplicate: bool,
    #[serde(default)]
    pub(crate) error: Option<ApiError>,
}
