//! Random numbers that depend only on a seed, a number (such as the position of an entry) and a lane, so that any entry can
//! be generated without the entries before it.
//!
//! A *lane* is a constant for each use of random numbers. With different lanes, the values of an entry are independent of
//! each other.

/// Mixes a seed, a number and a lane into 64 well-spread bits (the finaliser of SplitMix64, Steele et al. 2014).
pub(crate) fn mix(seed: u64, number: u64, lane: u64) -> u64 {
    let mut bits = seed
        .wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(lane.wrapping_mul(0xd1b5_4a32_d192_ed03));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A short sequence of random numbers.
pub(crate) struct Draws(u64);

impl Draws {
    /// Starts the sequence for a number and a lane.
    pub(crate) fn new(seed: u64, number: u64, lane: u64) -> Self {
        Self(mix(seed, number, lane))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0, 0, 0)
    }

    /// Draws a number below `bound`; the bias of the multiplication is below 2^-32 for the small bounds used here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Draws a number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = high.abs_diff(low) + 1;
        low + i64::try_from(self.below(width)).unwrap_or(0)
    }

    /// Selects one value from a table whose second column is the weight of the value.
    pub(crate) fn weighted<T: Copy>(&mut self, table: &[(T, u64)]) -> T {
        let mut left = self.below(table.iter().map(|(_, weight)| weight).sum());
        for (value, weight) in table {
            if left < *weight {
                return *value;
            }
            left -= weight;
        }
        table[table.len() - 1].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_rows_are_drawn_in_proportion_to_their_weights() {
        let mut draws = Draws::new(1, 1, 1);
        let mut seen = [0_u32; 3];
        for _ in 0..10_000 {
            seen[draws.weighted(&[(0_usize, 70), (1, 25), (2, 5)])] += 1;
        }
        assert!((6_700..7_300).contains(&seen[0]), "{seen:?}");
        assert!((2_300..2_700).contains(&seen[1]), "{seen:?}");
        assert!((400..600).contains(&seen[2]), "{seen:?}");
    }

    #[test]
    fn between_includes_both_bounds() {
        let mut draws = Draws::new(7, 7, 7);
        let drawn: std::collections::BTreeSet<i64> = (0..1_000).map(|_| draws.between(-2, 2)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [-2, -1, 0, 1, 2]);
    }
}
