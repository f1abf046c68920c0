//! Kafka's own command-line tools, run from its jars (a second each).

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Kafka;
use crate::poll::wait_for;
use crate::process::{Process, log_tail};

/// The tools' own time-outs are a minute.
const TIMEOUT: Duration = Duration::from_secs(90);

/// For a change that the broker refuses for a moment.
const LIMIT: Duration = Duration::from_secs(240);

/// What a tool prints when the broker refuses for a moment: while it is fenced, starts, or runs on a busy machine.
const TEMPORARY: [&str; 5] = [
    "BrokerNotAvailableException",
    "DisconnectException",
    "InvalidReplicationFactorException",
    "NotControllerException",
    "TimeoutException",
];

/// Errors only, and not into the tool's answer.
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

/// A permission on one topic.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// `User:alice`, `User:CN=client` or `User:*`.
    pub principal: &'a str,
    /// The topic's name, or `*`.
    pub topic: &'a str,
    /// `Write` (which includes `Describe`, and idempotent writing), `Read`, `Create`, `DescribeConfigs`, `All`, ….
    pub operations: &'a [&'a str],
}

impl Kafka {
    /// Runs one of Kafka's tools by its class and returns what it prints.
    ///
    /// # Errors
    /// When it ends with anything but 0, with what it printed, or does not end in time (see [`crate::poll::Patience`]).
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
                "{class} {} ended with {status}: {answer}\n{}",
                args.join(" "),
                log_tail(&log)
            );
        }
        Ok(answer)
    }

    /// Runs a tool that changes something, again after a temporary refusal.
    fn administer(&self, class: &str, args: &[&str]) -> Result<()> {
        wait_for(class, LIMIT, || match self.tool(class, args) {
            Err(error) if is_temporary(&format!("{error:#}")) => Ok(None),
            result => result.map(|_| Some(())),
        })
    }

    /// Creates a topic unless it exists, with configuration entries such as `("max.message.bytes", "1000")`.
    ///
    /// Tests use `KafkaAdmin` instead, which does not start a Java each time.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn create_topic_by_tool(&self, topic: &str, partitions: u32, config: &[(&str, &str)]) -> Result<()> {
        let (bootstrap, partitions) = (self.bootstrap(), partitions.to_string());
        let mut args = vec![
            "--bootstrap-server",
            &bootstrap,
            "--create",
            // An earlier try may have created it, and its answer been lost.
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

    /// Deletes a topic, if it exists.
    ///
    /// # Errors
    /// When the tool refuses.
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

    /// Gives a permission; takes effect at once. Needs [`super::KafkaOptions::authorizer`].
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn grant(&self, grant: Grant<'_>) -> Result<()> {
        self.acl("--add", grant)
    }

    /// Takes a permission away that was given by the same grant; takes effect at once.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn revoke(&self, grant: Grant<'_>) -> Result<()> {
        self.acl("--remove", grant)
    }

    /// Sets a user's password for both kinds of SCRAM; the user need not exist. (PLAIN knows only the users it
    /// started with.) Connections that are open stay so.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn set_scram_password(&self, user: &str, password: &str) -> Result<()> {
        // One by one: the broker takes no two credentials of a user in one request.
        for kind in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            self.alter_config("users", user, &format!("{kind}=[password={password}]"))?;
        }
        Ok(())
    }

    /// Sets entries of a broker's dynamic configuration, `key=value` with commas between them.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn alter_broker_config(&self, entries: &str) -> Result<()> {
        self.alter_config("brokers", "1", entries)
    }

    /// Sets entries of a topic's configuration, `key=value` with commas between them, leaving the others.
    ///
    /// # Errors
    /// When the tool refuses.
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
            args.push("--force"); // It would ask on the terminal.
        }
        self.administer(ACL_COMMAND, &args)
    }
}

fn is_temporary(printed: &str) -> bool {
    TEMPORARY.iter().any(|name| printed.contains(name))
}
