//! The protocol of a feed: NeuroIO's, or a declared one.

use std::time::Duration;

use crate::{
    action::{Action, ConnectionRequest, Ping},
    interpreter::Interpreter,
    neuroio::Neuroio,
    text::{Message, Secrets},
};

/// The protocol of a feed and the state of its connection, without I/O: the caller sends the messages, passes the received
/// frames, and enforces the time limits.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// The protocol of NeuroIO.
    Neuroio(Box<Neuroio>),
    /// A declared feed.
    Declared(Box<Interpreter>),
}

/// When to send pings, and when a silent connection is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// The time between two pings; `None` for a feed without pings.
    pub interval: Option<Duration>,
    /// The time limit for the answer to a ping.
    pub timeout: Duration,
    /// The time limit without any frame.
    pub idle_timeout: Option<Duration>,
    /// Whether a ping is one of the WebSocket protocol, whose pong is the answer.
    pub websocket: bool,
    /// Whether every frame counts as an answer to a ping.
    pub any_frame_answers: bool,
}

impl Protocol {
    /// Returns the additions to the request of the next connection. `last` is the resume value of the last event that is
    /// stored, as written by the feed.
    pub fn request(&self, secrets: &Secrets, last: Option<&str>) -> ConnectionRequest {
        match self {
            Self::Neuroio(_) => ConnectionRequest::default(),
            Self::Declared(interpreter) => interpreter.request(secrets, last),
        }
    }

    /// Starts a connection with the current secrets, and returns the messages to send at once.
    pub fn begin(&mut self, secrets: Secrets) -> Vec<Message> {
        match self {
            Self::Neuroio(neuroio) => vec![neuroio.begin(&secrets)],
            Self::Declared(interpreter) => interpreter.begin(secrets),
        }
    }

    /// Returns whether the opening is complete.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Neuroio(neuroio) => neuroio.is_ready(),
            Self::Declared(interpreter) => interpreter.is_ready(),
        }
    }

    /// Returns the index of the opening step that waits for an answer, and its time limit, which begins with the step.
    pub fn deadline(&self) -> Option<(usize, Duration)> {
        match self {
            Self::Neuroio(neuroio) => neuroio.deadline(),
            Self::Declared(interpreter) => interpreter.deadline(),
        }
    }

    /// Returns when to send pings.
    pub fn pings(&self) -> Pings {
        match self {
            Self::Neuroio(neuroio) => neuroio.pings(),
            Self::Declared(interpreter) => interpreter.pings(),
        }
    }

    /// Returns the next ping, which is due [`interval`](Pings::interval) after the last one; `None` for a feed without pings.
    pub fn ping(&mut self) -> Option<Ping> {
        match self {
            Self::Neuroio(_) => Some(Ping::Message(Neuroio::ping())),
            Self::Declared(interpreter) => interpreter.ping(),
        }
    }

    /// Returns the messages that acknowledge durable events; see [`Interpreter::acknowledge`].
    pub fn acknowledge(&mut self, values: &[&str]) -> Vec<Message> {
        match self {
            Self::Neuroio(_) => Vec::new(),
            Self::Declared(interpreter) => interpreter.acknowledge(values),
        }
    }

    /// Completes the opening without a connection, for reading frames that are stored in a file.
    pub fn skip_opening(&mut self) {
        match self {
            Self::Neuroio(neuroio) => neuroio.skip_opening(),
            Self::Declared(interpreter) => interpreter.skip_opening(),
        }
    }

    /// Returns whether a connection continues from the last stored event.
    pub fn resumes(&self) -> bool {
        match self {
            Self::Neuroio(_) => false,
            Self::Declared(interpreter) => interpreter.declaration().resume.is_some(),
        }
    }

    /// Returns whether the feed expects acknowledgements.
    pub fn acknowledges(&self) -> bool {
        match self {
            Self::Neuroio(_) => false,
            Self::Declared(interpreter) => interpreter.declaration().ack.is_some(),
        }
    }

    /// Returns whether binary frames contain JSON.
    pub fn reads_binary(&self) -> bool {
        match self {
            Self::Neuroio(_) => false,
            Self::Declared(interpreter) => interpreter.declaration().binary,
        }
    }

    /// Returns the age at which a connection is replaced.
    pub fn max_age(&self) -> Option<Duration> {
        match self {
            Self::Neuroio(_) => None,
            Self::Declared(interpreter) => interpreter.declaration().max_age,
        }
    }

    /// Interprets a frame, and calls `act` with each action that it requires, in order. An opening step that is completed
    /// without a further message may require none.
    #[inline]
    pub fn receive(&mut self, frame: &str, act: &mut dyn FnMut(Action<'_>)) {
        match self {
            Self::Neuroio(neuroio) => neuroio.receive(frame, act),
            Self::Declared(interpreter) => interpreter.receive(frame, act),
        }
    }
}
