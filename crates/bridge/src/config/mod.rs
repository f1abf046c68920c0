//! The configuration: a file, then the environment, then all that is wrong with them at once.
//!
//! [`load`] reads the file with the place of each key, puts the environment above it, holds all keys against the JSON
//! Schema of [`Config`], reads each table by itself, and asks each part what it thinks of its own.

mod checks;
mod dangers;
mod document;
mod environment;
mod examples;
mod excerpt;
mod load;
mod model;
mod read;
mod report;
mod shape;
mod sink;
mod tables;

pub use self::{
    dangers::Danger,
    environment::PREFIX,
    excerpt::Excerpt,
    load::{Loaded, PLACES, UnreadableFile, load, schema},
    model::{Config, DEFAULT_SINK, DeduplicateConfig, EventConfig, HttpConfig, LogConfig, LogFormat},
    report::{Origin, Problem, Report},
    sink::{SinkCommon, SinkEntry},
};

#[cfg(test)]
mod shipped_tests;
#[cfg(test)]
mod tests;
