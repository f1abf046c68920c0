//! Declarations of WebSocket feeds: what has to be sent and expected on a connection, and what its frames mean.
//!
//! [`Declaration`] is the declaration as written in the configuration; the files in `config/feeds` are examples.
//! [`Declared`] interprets it. Nothing here opens a socket or waits: the caller sends the messages that this crate returns,
//! passes frames to it, and keeps the time limits that it names.
//!
//! A *unit* is what a rule judges: a frame, or with `events` each element of an array in it. Paths are relative to the
//! unit; a path that begins with `$.` is relative to the frame.

mod check;
mod declaration;
mod declared;
mod elements;
mod fields;
mod notation;
mod problem;
mod resume;
mod text;

pub use self::{
    declaration::{
        Acknowledgement, Declaration, EventFields, Heartbeat, Meaning, OpeningStep, Request, Resume, Rule,
        SecretSource,
    },
    declared::{Action, Declared, MalformedReason, Ping, Prepared},
    fields::FeedEvent,
    notation::{Answer, FeedPath, MessageText, Paths, QueryValues, Rewind, TimeField, When},
    problem::Problem,
    text::{Message, Secrets},
};
