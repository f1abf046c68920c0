//! Kafka's own command-line tools, run from its JAR files; each run takes a second.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Kafka;
use crate::poll::wait_for;
use crate::process::{Process, log_tail};

/// Longer than the tools' own timeouts of one minute.
const TIMEOUT: Duration = Duration::from_secs(90);

/// The time limit for a change that the broker refuses temporarily.
const LIMIT: Duration = Duration::from_secs(240);

/// The messages of temporary errors: while the broker is fenced, while it starts, or on a busy machine.
const TEMPORARY: [&str; 5] = [
    "BrokerNotAvailableException",
    "DisconnectException",
    "InvalidReplicationFactorException",
    "NotControllerException",
    "TimeoutException",
];

/// Logs only errors, and not to standard output, which contains the tool's response.
const LOG4J: &str = r#"Configuration:
  Appenders:
    Console:
      name: STDERR
      target: SYSTEM_ERR
      PatternLayout:
        pattern: "%p %m%n"
  Loggers:
    Root:
      level: ERROR
      AppenderRef:
        - ref: STDERR
"#;

const TOPIC_COMMAND: &str = "org.apache.kafka.tools.TopicCommand";
const ACL_COMMAND: &str = "org.apache.kafka.tools.AclCommand";
const CONFIG_COMMAND: &str = "kafka.admin.ConfigCommand";

/// A permission for one topic.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// The principal, such as `User:alice`, `User:CN=client` or `User:*`.
    pub principal: &'a str,
    /// The name of the topic, or `*`.
    pub topic: &'a str,
    /// The operations, such as `Write` (which includes `Describe` and idempotent writes), `Read`, `Create`,
    /// `DescribeConfigs` or `All`.
    pub operations: &'a [&'a str],
}

impl Kafka {
    /// Runs a Kafka tool by its class name and returns its output.
    ///
    /// # Errors
    /// Returns an error with the output if the tool exits with a status other than 0, or does not exit in time (see
    /// [`crate::poll::Patience`]).
    pub fn tool(&self, class: &str, args: &[&str]) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log4j = self.dir.join("log4j2-tool.yaml");
        fs::write(&log4j, LOG4J).with_context(|| format!("writing {}", log4j.display()))?;
        let stdout = self.dir.join(format!("tool-{number}.out"));
        let log = self.dir.join(format!("tool-{number}.log"));
        let mut command = self.java(256);
        command
            .arg("-XX:TieredStopAtLevel=1")
            .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()));
        command
            .args(["-cp", &self.installation.class_path(), class])
            .args(args);
        let status = Process::spawn_split(class, &mut command, &stdout, &log)?.wait(TIMEOUT)?;
        let answer = fs::read_to_string(&stdout).with_context(|| format!("reading {}", stdout.display()))?;
        if !status.success() {
            bail!(
                "{class} {} exited with {status}: {answer}\n{}",
                args.join(" "),
                log_tail(&log)
            );
        }
        Ok(answer)
    }

    /// Runs a tool that changes something, and repeats it after a temporary error.
    fn administer(&self, class: &str, args: &[&str]) -> Result<()> {
        wait_for(class, LIMIT, || match self.tool(class, args) {
            Err(error) if is_temporary(&format!("{error:#}")) => Ok(None),
            result => result.map(|_| Some(())),
        })
    }

    /// Creates a topic unless it exists, with configuration entries such as `("max.message.bytes", "1000")`.
    ///
    /// Most tests use `KafkaAdmin`, which does not start a Java process.
    ///
    /// # Errors
    /// Returns an error if the tool refuses.
    pub fn create_topic_by_tool(&self, topic: &str, partitions: u32, config: &[(&str, &str)]) -> Result<()> {
        let (bootstrap, partitions) = (self.bootstrap(), partitions.to_string());
        let mut args = vec![
            "--bootstrap-server",
            &bootstrap,
            "--create",
            // An earlier attempt may have created the topic although its response was lost.
            "--if-not-exists",
            "--topic",
            topic,
            "--partitions",
            &partitions,
        ];
        let entries: Vec<String> = config
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        for entry in &entries {
            args.extend(["--config", entry]);
        }
        self.administer(TOPIC_COMMAND, &args)
    }

    /// Deletes a topic if it exists.
    ///
    /// # Errors
    /// Returns an error if the tool refuses.
    pub fn delete_topic_by_tool(&self, topic: &str) -> Result<()> {
        let bootstrap = self.bootstrap();
        let args = [
            "--bootstrap-server",
            &bootstrap,
            "--delete",
            "--if-exists",
            "--topic",
            topic,
        ];
        self.administer(TOPIC_COMMAND, &args)
    }

    /// Grants a permission, effective immediately. Needs [`super::KafkaOptions::authorizer`].
    ///
    /// # Errors
    /// Returns an error if the tool refuses.
    pub fn grant(&self, grant: Grant<'_>) -> Result<()> {
        self.acl("--add", grant)
    }

    /// Revokes a permission that was granted with the same value, effective immediately.
    ///
    /// # Errors
    /// Returns an error if the tool refuses.
    pub fn revoke(&self, grant: Grant<'_>) -> Result<()> {
        self.acl("--remove", grant)
    }

    /// Sets a user's password for both kinds of SCRAM; the user need not exist. PLAIN has only the users from the start
    /// of the broker. Open connections stay open.
    ///
    /// # Errors
    /// Returns an error if the tool refuses.
    pub fn set_scram_password(&self, user: &str, password: &str) -> Result<()> {
        // One request per credential, because the broker accepts only one credential of a user per request.
        for kind in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            self.alter_config("users", user, &format!("{kind}=[password={password}]"))?;
        }
        Ok(())
    }

    /// Changes the broker's dynamic configuration; entries have the form `key=value` and are separated by commas.
    ///
    /// # Errors
    /// Returns an error if the tool refuses.
    pub fn alter_broker_config(&self, entries: &str) -> Result<()> {
        self.alter_config("brokers", "1", entries)
    }

    /// Changes entries of a topic's configuration; entries have the form `key=value` and are separated by commas.
    ///
    /// # Errors
    /// Returns an error if the tool refuses.
    pub fn alter_topic_config(&self, topic: &str, entries: &str) -> Result<()> {
        self.alter_config("topics", topic, entries)
    }

    fn alter_config(&self, kind: &str, name: &str, entries: &str) -> Result<()> {
        let bootstrap = self.bootstrap();
        let args = [
            "--bootstrap-server",
            &bootstrap,
            "--alter",
            "--entity-type",
            kind,
            "--entity-name",
            name,
        ];
        self.administer(CONFIG_COMMAND, &[&args[..], &["--add-config", entries]].concat())
    }

    fn acl(&self, action: &str, grant: Grant<'_>) -> Result<()> {
        let bootstrap = self.bootstrap();
        let mut args = vec!["--bootstrap-server", &bootstrap, action, "--topic", grant.topic];
        args.extend(["--allow-principal", grant.principal]);
        for operation in grant.operations {
            args.extend(["--operation", operation]);
        }
        if action == "--remove" {
            args.push("--force"); // Without it, the tool asks for confirmation on the terminal.
        }
        self.administer(ACL_COMMAND, &args)
    }
}

fn is_temporary(printed: &str) -> bool {
    TEMPORARY.iter().any(|name| printed.contains(name))
}
