//! Tests of the files with which an operator runs a bridge: the compose file, the `Dockerfile`, the Kubernetes
//! manifests, the alerts, the dashboard and their documents.
//!
//! No container engine is needed: the files are compared with their schemas and with each other, and the containers'
//! programs run here as processes with the same files and command lines.

mod alerts;
mod compose;
mod deployment;
mod live;
mod recipes;
pub(crate) mod support;
