//! End-to-end tests of the features and guarantees in the README, with real processes, brokers and disks.
//!
//! All modules are in one program, so that their tests run in parallel, because they mostly wait for a broker. A single
//! module is run by its name: `cargo xtask test --package neurobridge-tests nats_sink`.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod acknowledged_feeds;
mod all_sinks;
mod backfilled_gaps;
mod cluster_sizes;
mod clusters;
mod deliveries;
mod disk_spool;
mod documents;
mod exactly_once;
mod feed_faults;
mod full_disk;
mod full_spool;
mod hanging_files;
mod history;
mod http_access;
mod incidents;
mod kafka_and_file;
mod kafka_sink;
mod nats_sink;
mod on_the_terminal;
mod operator_stack;
mod packages;
mod page;
mod privacy;
mod public_clients;
mod recreated_destinations;
mod reload;
mod replay;
mod resumed_feeds;
mod scripted_feeds;
mod shared_files;
mod shipped_feeds;
mod signals_and_exits;
mod silent_name_server;
mod stuck_readers;
mod systemd;
mod takeovers;
mod tokens;
mod what_others_see;
mod wrong_clock;
