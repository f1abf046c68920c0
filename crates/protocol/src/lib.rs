//! Declarations of WebSocket feeds: the messages to send on a connection, the answers to expect, and the meaning of frames.
//!
//! [`Declaration`] is the declaration as written in the configuration; the files in `config/feeds` are examples.
//! [`Interpreter`] interprets it. Nothing here opens a socket or waits: the caller sends the messages that this crate returns,
//! passes the received frames, and enforces the time limits that this crate returns.
//!
//! A *unit* is the part of a frame that the rules are applied to: the whole frame, or with `events` each element of an array
//! in the frame. Paths are relative to the unit; a path that begins with `$.` is relative to the frame.

mod action;
mod backfill;
mod check;
mod counterpart;
mod declaration;
mod declaration_error;
mod elements;
mod error_fields;
mod fields;
mod interpreter;
mod list;
mod neuroio;
mod notation;
mod percent;
mod protocol;
mod resume;
mod shipped;
mod text;

pub use self::{
    action::{Action, ConnectionRequest, MalformedReason, Ping},
    backfill::{BackfillList, ListOrder, PageType, Pages},
    counterpart::{CURSOR, Counterpart, ListRequest, RequestError},
    declaration::{
        Acknowledgement, Declaration, EventFields, Heartbeat, Meaning, OpeningStep, Request, Resume, Rule,
        SecretSource,
    },
    declaration_error::DeclarationError,
    fields::FeedEvent,
    interpreter::Interpreter,
    list::{EventList, ListEntry, ListError, ListPage, ListWindow, OtherOrigin, Position},
    neuroio::{Neuroio, TOKEN},
    notation::{Answer, Conditions, FeedPath, MessageTemplate, Paths, QueryValues, Rewind, TimeField},
    protocol::{Pings, Protocol},
    shipped::{SHIPPED, shipped, shipped_script},
    text::{Message, Recognised, Secrets},
};
