//! The compared cases: a sink with a message format.

use std::fmt;

use clap::ValueEnum;

/// The destination of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sink {
    /// A Kafka topic
    Kafka,
    /// Core NATS, which stores nothing
    Core,
    /// A JetStream stream, in relaxed order
    Relaxed,
    /// A JetStream stream, in strict order
    Strict,
}

/// The message format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The frame as received; for a stream, with a message id for deduplication
    Raw,
    /// The entry, with the CloudEvents attributes as headers
    Cloudevents,
}

/// A sink with a message format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) sink: Sink,
    pub(crate) format: Format,
}

impl Case {
    /// Returns the selected combinations; an empty selection means all.
    pub(crate) fn all(sinks: &[Sink], formats: &[Format]) -> Vec<Self> {
        let named = |sink: &Sink| sinks.is_empty() || sinks.contains(sink);
        let sinks = Sink::value_variants().iter().copied().filter(named);
        sinks
            .flat_map(|sink| {
                let wanted = |format: &Format| formats.is_empty() || formats.contains(format);
                let formats = Format::value_variants().iter().copied().filter(wanted);
                formats.map(move |format| Self { sink, format })
            })
            .collect()
    }
}

impl Sink {
    /// Returns whether the destination retains messages, so that the members of a cluster can read them.
    pub(crate) fn is_stored(self) -> bool {
        self != Self::Core
    }

    /// Returns the sink's name on the command line and for the bare loop.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Core => "core",
            Self::Relaxed => "relaxed",
            Self::Strict => "strict",
        }
    }
}

impl Format {
    /// Returns the format's name in the configuration and for the bare loop.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Cloudevents => "cloudevents",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.sink.word(), self.format.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_selection_selects_all_cases() {
        let names = |sinks: &[Sink], formats: &[Format]| -> Vec<String> {
            Case::all(sinks, formats).iter().map(Case::to_string).collect()
        };
        assert_eq!(names(&[], &[]).len(), 8);
        assert_eq!(names(&[Sink::Strict], &[]), ["strict-raw", "strict-cloudevents"]);
        assert_eq!(
            names(&[Sink::Kafka, Sink::Core], &[Format::Raw]),
            ["kafka-raw", "core-raw"]
        );
    }
}
