//! Changes of destinations by other programs after events were delivered: topics and streams that were removed and recreated,
//! files that were moved, truncated or removed.

use tracing::warn;

/// The recreated destinations of a sink, as far as the sink has detected them in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recreations {
    /// The number of recreations.
    pub count: u64,
    /// The sentence about the last recreation.
    pub last: Option<String>,
}

impl Recreations {
    /// Counts and logs a recreation. `what` names the destination, such as `the topic "t"`; `found` states how the
    /// recreation was detected.
    pub fn note(&mut self, sink: &str, what: &str, found: &str) {
        let text = format!(
            "{what} was recreated or has lost its newest messages ({found}): delivered events were lost; publish \
             them again with `neurobridge spool replay --sink {sink}`"
        );
        warn!(sink, "{text}");
        self.count += 1;
        self.last = Some(text);
    }
}

/// The changes that other programs made to the files of a sink, as far as the sink has detected them in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileChanges {
    /// The number of changes.
    pub count: u64,
    /// The number of delivered events that were lost.
    pub lost: u64,
    /// The sentence about the last change.
    pub last: Option<String>,
}

impl FileChanges {
    /// Counts and logs a change. `what` names the file, the change and the reaction of the sink; `lost` is the number of lost
    /// events.
    pub fn note(&mut self, what: &str, lost: u64) {
        let text = match lost {
            0 => format!("{what}; no event is lost"),
            1 => format!("{what}; 1 delivered event was lost"),
            _ => format!("{what}; {lost} delivered events were lost"),
        };
        warn!(lost, "{text}");
        self.count += 1;
        self.lost += lost;
        self.last = Some(text);
    }

    /// Adds later changes.
    pub fn add(&mut self, later: Self) {
        self.count += later.count;
        self.lost += later.lost;
        self.last = later.last.or_else(|| self.last.take());
    }
}
