//! What the README promises, held to a real bridge between real platforms, brokers and disks.
//!
//! One program, so that the tests of all modules run beside each other: most of the time they wait for a broker. A module
//! is run alone by its name: `cargo xtask test --package neurobridge-tests nats_sink`.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod all_sinks;
mod disk_spool;
mod documents;
mod exactly_once;
mod feed_faults;
mod full_disk;
mod full_spool;
mod hanging_files;
mod kafka_and_file;
mod kafka_sink;
mod nats_sink;
mod on_the_terminal;
mod operator_stack;
mod packages;
mod page;
mod privacy;
mod public_clients;
mod replay;
mod signals_and_exits;
mod stuck_readers;
mod what_others_see;
