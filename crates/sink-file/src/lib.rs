//! Writes neurobridge events to files of JSON lines, rotated by size and by time, removed by age, synced.
//!
//! [`FileSink`] is the sink, [`FileDeadLetters`] the place for dead letters of sinks that keep none themselves. Both
//! write in the same way: a batch is one write and one sync, done on the blocking pool; a line is there whole or not at
//! all; one process writes to a file at a time.

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
