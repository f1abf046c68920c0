//! The delay of one connection, and the order in which it sends the events.

use std::{num::NonZeroU64, ops::RangeInclusive, time::Duration};

use crate::{
    platform::Platform,
    random::{Draws, mix},
};

// The lanes of the random numbers of a connection (see `random`).
const LANE_DELAY: u64 = 101;
const LANE_ORDER: u64 = 102;

/// The delay and the order of a connection.
#[derive(Debug)]
pub(super) struct Order {
    seed: u64,
    connection: u64,
    delay: Duration,
    block: Option<NonZeroU64>,
}

impl Order {
    pub(super) fn new(platform: &Platform, connection: u64) -> Self {
        let seed = platform.entries.seed();
        let most = u64::try_from(platform.spread.delay.as_micros()).unwrap_or(u64::MAX);
        let delay = Draws::new(seed, connection, LANE_DELAY).below(most.saturating_add(1));
        Self {
            seed,
            connection,
            delay: Duration::from_micros(delay),
            block: platform.spread.shuffle,
        }
    }

    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    /// Returns the last position of the block that contains `position`.
    pub(super) fn block_end(&self, position: u64) -> u64 {
        self.block.map_or(position, |block| {
            let before = position.saturating_sub(1) / block * block.get();
            before.saturating_add(block.get())
        })
    }

    /// Returns the positions of a block in the order in which this connection sends them.
    pub(super) fn of(&self, positions: RangeInclusive<u64>) -> impl Iterator<Item = u64> + use<> {
        let mut ordered: Vec<u64> = positions.collect();
        if let Some(first) = ordered.first() {
            let seed = mix(self.seed, self.connection, LANE_ORDER);
            let mut draws = Draws::new(seed, *first, LANE_ORDER);
            for index in (1..ordered.len()).rev() {
                let other = draws.below(index as u64 + 1) as usize;
                ordered.swap(index, other);
            }
        }
        ordered.into_iter()
    }
}
