//! The options of the REST interface.

use std::{num::NonZeroU64, str::FromStr, time::Duration};

/// The retention, the order and the shape of REST lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestOptions {
    /// The shape of a list. Default: an object with `results`.
    pub shape: RestShape,
    /// The order of a list. Default: newest first.
    pub order: RestOrder,
    /// The maximum number of entries on a page, also for a request with a larger `limit`. Default: 100.
    pub max_page: NonZeroU64,
    /// The number of newest entries that are listed. Default: 100 000.
    pub keep: u64,
    /// The maximum age of listed entries, from their regular creation time. Default: no limit.
    pub keep_for: Option<Duration>,
}

impl Default for RestOptions {
    fn default() -> Self {
        Self {
            shape: RestShape::Results,
            order: RestOrder::NewestFirst,
            max_page: NonZeroU64::MIN.saturating_add(99),
            keep: 100_000,
            keep_for: None,
        }
    }
}

/// The shape of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestShape {
    /// `{"results":[…]}`, as in the tests of the public clients.
    Results,
    /// `[…]`, as in the documentation of the public clients.
    List,
}

/// The order of a list, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestOrder {
    /// The newest entry first.
    NewestFirst,
    /// The oldest entry first.
    OldestFirst,
}

impl FromStr for RestShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "results" => Ok(Self::Results),
            "list" => Ok(Self::List),
            _ => Err("expected results or list".to_owned()),
        }
    }
}

impl FromStr for RestOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "newest" => Ok(Self::NewestFirst),
            "oldest" => Ok(Self::OldestFirst),
            _ => Err("expected newest or oldest".to_owned()),
        }
    }
}
