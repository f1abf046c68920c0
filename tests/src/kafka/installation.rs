//! Where Kafka and the Java that runs it are on this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::paths::brokers_dir;

/// The version of Apache Kafka that is fetched and tested with.
pub const VERSION: &str = "4.3.1";

/// The oldest Java on which Kafka 4 brokers run.
pub const MINIMUM_JAVA: u32 = 17;

/// Kafka's jars, and a Java to run them.
#[derive(Debug, Clone)]
pub struct KafkaInstallation {
    /// The `java` program, of version 17 or newer.
    pub java: PathBuf,
    /// The folder with Kafka's jars and those that they need.
    pub jars: PathBuf,
}

impl KafkaInstallation {
    /// Finds what was installed by `cargo xtask brokers`.
    ///
    /// # Errors
    /// When the jars or a Java are not there; the error says which command gets them.
    pub fn find() -> Result<Self> {
        let jars = Self::jars_dir();
        if !jars.is_dir() {
            bail!(
                "there is no Kafka {VERSION} in {}; type `cargo xtask brokers install` to get it",
                jars.display()
            );
        }
        let Some(java) = Self::find_java() else {
            bail!("there is no Java {MINIMUM_JAVA} or newer; type `cargo xtask brokers install` to get it");
        };
        Ok(Self { java, jars })
    }

    /// Returns the folder in which the jars are, once they were fetched.
    pub fn jars_dir() -> PathBuf {
        brokers_dir().join("cache").join(format!("kafka-{VERSION}"))
    }

    /// Returns a Java that is new enough: of `JAVA_HOME`, of the path, or one that lies beside an older default.
    pub fn find_java() -> Option<PathBuf> {
        let home = env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
        let candidates = home
            .into_iter()
            .chain([PathBuf::from("java")])
            .chain(distribution_javas());
        candidates
            .into_iter()
            .find(|java| java_version(java).is_some_and(|version| version >= MINIMUM_JAVA))
    }

    /// Returns the class path of all the jars.
    pub(super) fn class_path(&self) -> String {
        format!("{}/*", self.jars.display())
    }
}

/// Where Debian and its kin install every Java beside the default one.
fn distribution_javas() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/usr/lib/jvm") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/java")))
        .filter(|java| java.is_file())
        .collect()
}

fn java_version(java: &Path) -> Option<u32> {
    let output = Command::new(java).arg("-version").output().ok()?;
    major_version(&String::from_utf8_lossy(&output.stderr))
}

/// Java 8 and older call themselves 1.8, newer ones by the major number first; some print a notice above it.
fn major_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version \"")?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_javas_version() {
        assert_eq!(
            major_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK"),
            Some(17)
        );
        assert_eq!(
            major_version("Picked up X\nopenjdk version \"21\" 2023"),
            Some(21)
        );
        assert_eq!(major_version("java version \"1.8.0_301\""), Some(1));
        assert_eq!(major_version("command not found"), None);
    }
}
