//! A description of the machine and the versions that produced the results.

use std::fs;
use std::thread::available_parallelism;

use neurobridge_tests::kafka;
use neurobridge_tests::nats::NatsInstallation;
use neurobridge_tests::paths::workspace_root;

use crate::shell::output;

/// Returns the versions and the machine as lines of text.
pub(super) fn describe() -> Vec<String> {
    let unknown = || "unknown".to_owned();
    let rustc = output("rustc", &["--version"]).unwrap_or_else(unknown);
    let kernel = output("uname", &["-sr"]).unwrap_or_else(unknown);
    let cores = available_parallelism().map_or_else(|_| unknown(), |cores| cores.to_string());
    let java = kafka::KafkaInstallation::find().ok();
    let java = java
        .and_then(|found| output(&found.java.to_string_lossy(), &["--version"]))
        .unwrap_or_else(unknown);
    let nats = NatsInstallation::find().ok();
    let nats = nats.and_then(|found| found.version()).unwrap_or_else(unknown);
    vec![
        format!(
            "{rustc}; rdkafka {}, librdkafka's bindings {}, async-nats {}",
            locked("rdkafka"),
            locked("rdkafka-sys"),
            locked("async-nats")
        ),
        format!(
            "Kafka {} on {}",
            kafka::VERSION,
            java.lines().next().unwrap_or_default()
        ),
        format!("nats-server {nats}"),
        format!("{kernel}, {cores} cores: {}", cpu_model().unwrap_or_else(unknown)),
    ]
}

/// Returns the version of a dependency from the lock file.
fn locked(package: &str) -> String {
    let lock = fs::read_to_string(workspace_root().join("Cargo.lock")).unwrap_or_default();
    version_of(&lock, package).unwrap_or("unknown").to_owned()
}

fn version_of<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    rest.split('"').next()
}

fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_version_is_found() {
        let lock = "[[package]]\nname = \"rdkafka-sys\"\nversion = \"4.10.0+2.12.1\"\n\n[[package]]\nname = \"rdkafka\"\nversion = \"0.39.0\"\n";
        assert_eq!(version_of(lock, "rdkafka"), Some("0.39.0"));
        assert_eq!(version_of(lock, "rdkafka-sys"), Some("4.10.0+2.12.1"));
        assert_eq!(version_of(lock, "tokio"), None);
    }
}
