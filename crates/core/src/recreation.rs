//! Destinations that were removed and recreated after events were delivered into them.

use tracing::warn;

/// The destinations of a sink that were found to be recreated, in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recreations {
    /// The number of times.
    pub count: u64,
    /// The sentence about the last one.
    pub last: Option<String>,
}

impl Recreations {
    /// Counts and logs one. `what` names the destination, such as `the topic "t"`; `found` states how that was detected.
    pub fn note(&mut self, sink: &str, what: &str, found: &str) {
        let text = format!(
            "{what} was recreated or has lost its end ({found}): events that were delivered into it are gone; publish them \
             again with `neurobridge spool replay --sink {sink}`"
        );
        warn!(sink, "{text}");
        self.count += 1;
        self.last = Some(text);
    }
}
