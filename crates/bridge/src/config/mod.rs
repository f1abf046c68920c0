//! The configuration: read from a file and the environment, validated as a whole, with all errors in one report.
//!
//! [`load`] parses the file and records the place of each key, overrides values with those of the environment, validates all
//! values against the JSON Schema of [`Config`], deserialises the remaining values, and calls the validation of each part.

mod checks;
mod document;
mod environment;
mod examples;
mod excerpt;
pub(crate) mod feeds;
mod load;
mod model;
mod report;
mod shape;
mod sink;
mod tables;
mod validate;
mod warnings;

#[cfg(test)]
pub(crate) use self::load::load_text;
pub use self::{
    environment::PREFIX,
    excerpt::Excerpt,
    load::{DEFAULT_PATHS, Loaded, UnreadableFile, load, load_with_keys, schema},
    model::{
        Config, DEFAULT_SINK, DeduplicateConfig, EventConfig, HttpConfig, LogConfig, LogFormat, LogLevel,
        MetricsAccess,
    },
    report::{Origin, Problem, Report},
    sink::{ConfiguredSink, SinkCommon},
    warnings::Warning,
};

#[cfg(test)]
mod tests;
