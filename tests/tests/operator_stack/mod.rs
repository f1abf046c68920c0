//! Tests of the files around the bridge: the compose file, the image, the manifest, the alerts, the dashboard and their
//! documents.
//!
//! No container engine is needed: the files are compared with their schemas and with each other, and the containers'
//! programs run here as processes with the same files and command lines.

mod alerts;
mod compose;
mod deployment;
mod live;
mod recipes;
pub(crate) mod support;
