//! Finds Kafka and a suitable Java on this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::paths::brokers_dir;

/// The version of Apache Kafka that is downloaded and tested.
pub const VERSION: &str = "4.3.1";

/// The oldest Java version that runs Kafka 4 brokers.
pub const MINIMUM_JAVA: u32 = 17;

/// The JAR files of Kafka, and a Java to run them.
#[derive(Debug, Clone)]
pub struct KafkaInstallation {
    /// The path of the `java` program, version 17 or newer.
    pub java: PathBuf,
    /// The folder with the JAR files of Kafka and its dependencies.
    pub jars: PathBuf,
}

impl KafkaInstallation {
    /// Finds the JAR files downloaded by `cargo xtask brokers install`, and a Java.
    ///
    /// # Errors
    /// Returns an error if the JAR files or Java are missing; the error contains the command that installs them.
    pub fn find() -> Result<Self> {
        let jars = Self::jars_dir();
        if !jars.is_dir() {
            bail!(
                "Kafka {VERSION} is missing in {}; run `cargo xtask brokers install`",
                jars.display()
            );
        }
        let Some(java) = Self::find_java() else {
            bail!("Java {MINIMUM_JAVA} or newer is missing; run `cargo xtask brokers install`");
        };
        Ok(Self { java, jars })
    }

    /// Returns the folder of the downloaded JAR files.
    pub fn jars_dir() -> PathBuf {
        brokers_dir().join("cache").join(format!("kafka-{VERSION}"))
    }

    /// Returns a Java that is new enough: from `JAVA_HOME`, from the path, or another version installed by the
    /// distribution.
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

    /// Returns the class path with all JAR files.
    pub(super) fn class_path(&self) -> String {
        format!("{}/*", self.jars.display())
    }
}

/// Returns the `java` programs that Debian and its derivatives install in addition to the default one.
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

/// Parses the major version in the output of `java -version`, in which a notice may precede the version. Java 8 and older
/// versions report `1.8`, so the result is 1.
fn major_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version \"")?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_version_is_parsed() {
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
