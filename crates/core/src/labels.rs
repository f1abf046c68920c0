//! The label values of metrics, as closed sets, and their counts.

use std::{array, fmt};

/// A closed set of label values.
pub trait Label: Copy + Eq + fmt::Debug + 'static {
    /// All values, in the order of declaration.
    const ALL: &'static [Self];

    /// Returns the value in snake case.
    fn as_str(self) -> &'static str;

    /// Returns the index in [`Label::ALL`].
    fn index(self) -> usize;
}

/// Declares an enum that implements [`Label`], with the word of each value.
#[macro_export]
macro_rules! labels {
    ($(#[$outer:meta])* $visibility:vis enum $name:ident { $($(#[$inner:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $visibility enum $name { $($(#[$inner])* $variant,)+ }

        impl $crate::labels::Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($crate::labels::Label::as_str(*self))
            }
        }

        impl From<$name> for &'static str {
            fn from(label: $name) -> Self {
                $crate::labels::Label::as_str(label)
            }
        }
    };
}

/// One counter for each value of a set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Counts<L, const N: usize> {
    counts: [u64; N],
    labels: std::marker::PhantomData<L>,
}

impl<L: Label, const N: usize> Counts<L, N> {
    /// Returns the count of a value.
    pub fn get(&self, label: L) -> u64 {
        self.counts[label.index()]
    }

    /// Returns all values with their counts, including zeros.
    pub fn iter(&self) -> impl Iterator<Item = (L, u64)> + use<L, N> {
        L::ALL.iter().copied().zip(self.counts)
    }

    /// Returns the sum.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds to the count of a value.
    pub fn add(&mut self, label: L, times: u64) {
        self.counts[label.index()] += times;
    }

    /// Adds all counts of another set.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }
}

impl<L: Label, const N: usize> Default for Counts<L, N> {
    fn default() -> Self {
        const { assert!(N == L::ALL.len(), "one count for each word") };
        Self {
            counts: array::from_fn(|_| 0),
            labels: std::marker::PhantomData,
        }
    }
}

impl<L: Label, const N: usize> fmt::Debug for Counts<L, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = self.iter().filter(|(_, count)| *count > 0);
        f.debug_map()
            .entries(counted.map(|(label, count)| (label.as_str(), count)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::ConnectStep,
        sink::{FaultKind, RejectionReason},
    };

    fn check_words<L: Label>() {
        let mut words: Vec<_> = L::ALL.iter().map(|label| label.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), L::ALL.len());
        let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(words.iter().all(|word| word.chars().all(is_plain)), "{words:?}");
        for (index, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), index);
        }
    }

    #[test]
    fn labels_are_unique_and_snake_case() {
        check_words::<FaultKind>();
        check_words::<RejectionReason>();
        check_words::<ConnectStep>();
    }
}
