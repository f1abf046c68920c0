//! Writes neurobridge events to files of JSON lines, which are rotated by size and time, removed by age, and synced.
//!
//! [`FileSink`] is the sink; [`FileDeadLetters`] stores the dead letters of sinks without a dead-letter destination of
//! their own. Both write in the same way: each batch is one write and one sync on the blocking pool; a line is written
//! completely or not at all; only one process writes to a file at a time.

mod clock;
mod config;
mod dead_letters;
mod encode;
mod error;
mod folder;
mod lineage;
mod log;
mod position;
mod resume;
mod rotation;
mod sink;
mod sink_type;
mod trial;
mod writer;

pub use self::{
    config::{FileConfig, FileFormat, SyncMode},
    dead_letters::{DeadLettersConfig, FileDeadLetters},
    error::FileError,
    sink::FileSink,
};
