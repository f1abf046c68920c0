//! The output of the real program on terminals and in pipes: `tail`, `check` and `demo`.

mod check;
mod demo;
mod tail;

use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn source(url: &str) -> String {
    format!("[sources.main]\nurl = \"{url}\"\ntoken = \"t\"\n")
}
