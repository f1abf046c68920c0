//! Installs Apache Kafka from its published JAR files.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use neurobridge_tests::kafka::{KafkaInstallation, MINIMUM_JAVA, VERSION};
use neurobridge_tests::paths::brokers_dir;

use crate::packages;
use crate::shell::{log, run_quietly, succeeds};

/// The time limit for the download of fifty megabytes in a hundred files, and of twenty megabytes for Maven's plugin.
const LIMIT: Duration = Duration::from_secs(900);

const PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// Installs those of Java, Maven and Kafka's JAR files that are missing.
pub(super) fn install() -> Result<()> {
    let jars = KafkaInstallation::jars_dir();
    if !jars.is_dir() {
        if !succeeds("mvn", &["--version"]) {
            packages::install("Maven (`mvn`) is needed to download Kafka", &["maven"])?;
        }
        fetch_jars()?;
    }
    if KafkaInstallation::find_java().is_none() {
        let reason = format!("Kafka {VERSION} needs Java {MINIMUM_JAVA} or newer");
        // The first package that the distribution offers is installed.
        let packages = [
            "openjdk-21-jre-headless",
            "openjdk-17-jre-headless",
            "openjdk-25-jre-headless",
        ];
        packages::install(&reason, &packages)?;
    }
    KafkaInstallation::find().map(drop)
}

fn fetch_jars() -> Result<()> {
    log(&format!("downloading Kafka {VERSION}"));
    let jars = KafkaInstallation::jars_dir();
    let work = brokers_dir().join("cache").join("kafka-fetch");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("creating the folder {}", work.display()))?;
    fs::write(work.join("pom.xml"), pom()).context("writing a pom.xml")?;
    let mut maven = Command::new("mvn");
    maven
        .current_dir(&work)
        .args(["-B", PLUGIN, "-DoutputDirectory=jars", "-DincludeScope=runtime"]);
    run_quietly("mvn", &mut maven, LIMIT)?;
    let fetched = work.join("jars");
    ensure!(
        fetched.join(format!("kafka_2.13-{VERSION}.jar")).is_file(),
        "Maven downloaded no Kafka into {}",
        fetched.display()
    );
    // The rename is atomic: an interrupted download leaves nothing that looks like an installation.
    fs::rename(&fetched, &jars).with_context(|| format!("moving the jars to {}", jars.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))
}

fn pom() -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>\n"
        )
    };
    let dependencies = [
        dependency("org.apache.kafka", "kafka_2.13", VERSION),
        dependency("org.apache.kafka", "kafka-tools", VERSION),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3"),
    ];
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n  <modelVersion>4.0.0</modelVersion>\n  \
         <groupId>neurobridge</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>\n  \
         <dependencies>\n{}  </dependencies>\n</project>\n",
        dependencies.concat()
    )
}
