//! The configuration: read from a file and the environment, validated as a whole, with all errors in one report.
//!
//! [`load`] parses the file and records the position of each key, overrides values with those of the environment, compares all
//! keys with the JSON Schema of [`Config`], deserialises each table separately, and calls the validation of each part.

mod checks;

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
mod warnings;

pub use self::{
    environment::PREFIX,
    excerpt::Excerpt,
    load::{Loaded, PLACES, UnreadableFile, load, schema},
    model::{Config, DEFAULT_SINK, DeduplicateConfig, EventConfig, HttpConfig, LogConfig, LogFormat},
    report::{Origin, Problem, Report},
    sink::{SinkCommon, SinkEntry},
    warnings::Warning,
};

#[cfg(test)]
mod shipped_tests;
#[cfg(test)]
mod tests;
