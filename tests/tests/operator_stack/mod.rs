//! What stands beside the bridge: the compose file, the image, the manifest, alerts, dashboard and their documents.
//!
//! No container engine is needed: the files are held to their schemas and to each other, and what runs in the
//! containers runs here as processes, with the same files and command lines.

mod alerts;
mod compose;
mod deployment;
mod live;
mod support;
