//! A bounded set of event numbers, with which events are compared.

use std::collections::BTreeMap;

/// The largest number of pages: about a megabyte, for 4 million consecutive numbers.
const MAX_PAGES: usize = 16_384;
/// The number of bits of a page.
const PAGE_BITS: u64 = 256;

type Page = [u64; PAGE_BITS as usize / 64];

/// The numbers of the stored events of a source: the largest ones, in pages of bits.
///
/// The deduplication window has the newest events of all sources. Missed events that are fetched much later are compared with
/// this set too.
#[derive(Debug, Default)]
pub(super) struct NumberSet {
    /// The pages by their number, without `current`.
    pages: BTreeMap<u64, Page>,
    /// The page of the last insertion with its number. It is outside of `pages`, because most numbers follow each other.
    current: (u64, Page),
}

impl NumberSet {
    pub(super) fn insert(&mut self, number: u64) {
        let page = number / PAGE_BITS;
        if page != self.current.0 {
            let next = self.pages.remove(&page).unwrap_or_default();
            let (before, bits) = std::mem::replace(&mut self.current, (page, next));
            if bits != Page::default() {
                self.pages.insert(before, bits);
            }
            if self.pages.len() >= MAX_PAGES {
                self.pages.pop_first();
            }
        }
        let (word, bit) = word_and_bit(number);
        self.current.1[word] |= bit;
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let page = number / PAGE_BITS;
        let (word, bit) = word_and_bit(number);
        let bits = match page == self.current.0 {
            true => Some(&self.current.1),
            false => self.pages.get(&page),
        };
        bits.is_some_and(|bits| bits[word] & bit != 0)
    }
}

/// Returns the word of a number in its page, and its bit.
const fn word_and_bit(number: u64) -> (usize, u64) {
    let index = number % PAGE_BITS;
    ((index / 64) as usize, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn set_contains_exactly_the_inserted_numbers(numbers in proptest::collection::vec(0..2_000_u64, 0..300)) {
            let mut set = NumberSet::default();
            for number in &numbers {
                set.insert(*number);
            }
            let model: BTreeSet<u64> = numbers.into_iter().collect();
            for number in 0..2_000 {
                prop_assert_eq!(set.contains(number), model.contains(&number), "{}", number);
            }
        }
    }

    #[test]
    fn full_set_removes_its_smallest_numbers() {
        let mut set = NumberSet::default();
        let last = MAX_PAGES as u64 * PAGE_BITS;
        for page in 0..=MAX_PAGES as u64 {
            set.insert(page * PAGE_BITS);
        }
        assert!(set.pages.len() < MAX_PAGES);
        assert!(!set.contains(0));
        assert!(set.contains(PAGE_BITS) && set.contains(last));
        set.insert(u64::MAX);
        assert!(set.contains(u64::MAX));
    }
}
