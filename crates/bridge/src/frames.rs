//! Reads frames that are stored in files, with the protocol of a source.

use neurobridge_core::event::Event;
use neurobridge_listener::{EventAttributes, SourceConfig};
use neurobridge_protocol::{Action, Protocol, Secrets};

use crate::{
    config::Config,
    exit::{Exit, Failure},
};

/// Reads frames as a connection of a source does.
pub(crate) struct StoredFrameReader {
    source: String,
    attributes: EventAttributes,
    protocol: Protocol,
}

impl StoredFrameReader {
    /// Creates the reader of a source. A source that is no longer configured is read as NeuroIO's feed.
    ///
    /// # Errors
    /// Returns an error if the declaration of the feed is invalid.
    pub(crate) fn new(config: &Config, source: &str) -> Result<Self, Failure> {
        let default = SourceConfig::default();
        let of_source = config.sources.get(source).unwrap_or(&default);
        let protocol = of_source
            .protocol(&config.named_fields())
            .map_err(|problem| Failure::message(Exit::Config, format!("sources.{source}.feed: {problem}")))?;
        Ok(Self {
            source: source.to_owned(),
            attributes: of_source.attributes(source),
            protocol,
        })
    }

    /// Begins the opening of a connection. The messages of the opening are not sent.
    pub(crate) fn begin(&mut self) {
        self.protocol.begin(Secrets::new());
    }

    /// Returns the index of the opening step that waits for an answer.
    pub(crate) fn step(&self) -> Option<usize> {
        self.protocol.deadline().map(|(step, _)| step)
    }

    /// Reads a frame, and calls `act` with each action that it requires.
    pub(crate) fn read(&mut self, frame: &str, act: &mut dyn FnMut(Action<'_>)) {
        self.protocol.receive(frame, act);
    }

    /// Reads a frame of an authenticated connection, and returns what `take` returns for its first event; `None` if the frame
    /// has no event.
    pub(crate) fn first_event<T>(&mut self, frame: &str, take: impl FnOnce(Event<'_>) -> T) -> Option<T> {
        let Self {
            source,
            attributes,
            protocol,
        } = self;
        protocol.skip_opening();
        let (mut take, mut taken) = (Some(take), None);
        protocol.receive(frame, &mut |action| {
            if let Action::Event(event) = action
                && let Some(take) = take.take()
            {
                taken = Some(take(attributes.event(source, &event)));
            }
        });
        taken
    }

    /// Returns the attributes of the events.
    pub(crate) const fn attributes(&self) -> &EventAttributes {
        &self.attributes
    }
}
