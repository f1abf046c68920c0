//! The options of a Kafka broker, and the configuration files that they result in.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The options of a broker that a test starts for itself.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// The settings of additional listeners with TLS and SASL. Default: none.
    pub secure: Option<Secure>,
    /// Whether operations need a permission, except for the clients of [`Listener::Plaintext`], which are superusers.
    /// Default: false.
    pub authorizer: bool,
    /// Additional lines of `server.properties`, which override the generated ones.
    pub properties: Vec<(String, String)>,
    /// The limit of the Java heap in MiB. Default: 512, with which the broker needs about 350 MiB of memory.
    pub heap_mib: u32,
    /// Whether Java uses its second compiler for hot code, which is needed for measurements. Default: false, because it
    /// takes CPU time from the tested program.
    pub optimised: bool,
    /// Whether a relay connects the broker with its controller, for [`super::Kafka::fence`]. Default: false.
    pub fenceable: bool,
    /// Additional listeners without encryption, each of which clients reach at another address. Default: none.
    pub relayed: Vec<Relayed>,
    /// Makes the broker a member of another broker's cluster. Default: none.
    pub member: Option<Member>,
}

/// A listener without encryption that is advertised at the address of a relay, because clients connect to the advertised
/// address.
#[derive(Debug, Clone)]
pub struct Relayed {
    /// The port of the listener.
    pub port: u16,
    /// `host:port` of the relay.
    pub advertised: String,
}

/// A broker without its own controller.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// The node id in the cluster.
    pub node: u16,
    /// The port of the cluster's controller.
    pub controller: u16,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            secure: None,
            authorizer: false,
            properties: Vec::new(),
            heap_mib: 512,
            optimised: false,
            fenceable: false,
            relayed: Vec::new(),
            member: None,
        }
    }
}

impl KafkaOptions {
    /// Returns the options of a broker that many tests share and that none of them kills or freezes. It is not fenced
    /// when it misses heartbeats on a busy machine, because it would then temporarily refuse the topics of all tests.
    #[must_use]
    pub fn shared() -> Self {
        Self::default().property("broker.session.timeout.ms", "60000")
    }

    /// Adds a line of `server.properties`.
    #[must_use]
    pub fn property(mut self, key: &str, value: &str) -> Self {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// The settings of the listeners with TLS and SASL.
#[derive(Debug, Clone)]
pub struct Secure {
    /// A PEM file with the server's PKCS#8 key, its certificate and the authority's certificate, in this order.
    pub keystore: PathBuf,
    /// A PEM file with the authority whose client certificates are accepted.
    pub truststore: PathBuf,
    /// User names and passwords for PLAIN and both kinds of SCRAM; the principal of a user is `User:<name>`.
    pub users: Vec<(String, String)>,
}

/// The broker's listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Without encryption and authentication; the principal is `User:ANONYMOUS`, always a superuser.
    Plaintext,
    /// TLS without client authentication; the principal is `User:ANONYMOUS`, and therefore a superuser.
    Tls,
    /// TLS with a required client certificate; the principal is `User:CN=<name>`.
    MutualTls,
    /// TLS and SASL with PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    SaslTls,
    /// The same SASL mechanisms without TLS.
    SaslPlaintext,
}

impl Listener {
    const SECURE: [Self; 4] = [Self::Tls, Self::MutualTls, Self::SaslTls, Self::SaslPlaintext];

    /// Returns the listener's name in the broker's configuration.
    fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Tls => "TLS",
            Self::MutualTls => "MUTUAL",
            Self::SaslTls => "SECURE",
            Self::SaslPlaintext => "SASL",
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Tls | Self::MutualTls => "SSL",
            Self::SaslTls => "SASL_SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
        }
    }
}

/// The ports of a broker, which stay the same after a restart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) controller: u16,
    listeners: [u16; 5],
}

impl From<[u16; 6]> for Ports {
    fn from([controller, listeners @ ..]: [u16; 6]) -> Self {
        Self {
            controller,
            listeners,
        }
    }
}

impl Ports {
    pub(super) fn of(&self, listener: Listener) -> u16 {
        self.listeners[listener as usize]
    }
}

/// The configuration of the broker's logging: to standard output, which [`crate::process::Process`] appends to a file. Routine
/// messages of the controller and of the topics' logs are omitted, so that the last lines show the reason of a failure.
pub(super) const LOG4J: &str = r#"Configuration:
  Appenders:
    Console:
      name: STDOUT
      PatternLayout:
        pattern: "%d{HH:mm:ss.SSS} %p %c{1} %m%n"
  Loggers:
    Root:
      level: INFO
      AppenderRef:
        - ref: STDOUT
    Logger:
      - name: org.apache.kafka.common.config.AbstractConfig
        level: WARN
      - name: org.apache.kafka.image
        level: WARN
      - name: kafka.log
        level: WARN
"#;

/// Settings for one node, which cannot create internal topics with the usual three replicas. With the heartbeat interval and
/// the session timeout, the controller detects a killed broker within 2 s instead of 9 s, so that a restarted broker is
/// available sooner.
const FIXED: &str = "\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
auto.create.topics.enable=false
";

/// Returns the text of `server.properties`. `relay` is the address at which the broker reaches its own controller, if
/// it differs from the controller's port.
pub(super) fn server_properties(
    options: &KafkaOptions,
    ports: &Ports,
    data: &Path,
    relay: Option<&str>,
) -> String {
    let mut listeners = vec![Listener::Plaintext];
    if options.secure.is_some() {
        listeners.extend(Listener::SECURE);
    }
    let mut addresses: Vec<String> = listeners
        .iter()
        .map(|one| format!("{}://127.0.0.1:{}", one.name(), ports.of(*one)))
        .collect();
    let mut protocols: Vec<String> = listeners
        .iter()
        .map(|one| format!("{}:{}", one.name(), one.protocol()))
        .collect();
    let mut advertised = addresses.clone();
    for (number, one) in options.relayed.iter().enumerate() {
        addresses.push(format!("RELAYED{number}://127.0.0.1:{}", one.port));
        advertised.push(format!("RELAYED{number}://{}", one.advertised));
        protocols.push(format!("RELAYED{number}:PLAINTEXT"));
    }
    let (addresses, advertised) = (addresses.join(","), advertised.join(","));
    let controller = format!("127.0.0.1:{}", ports.controller);
    let reached = relay.unwrap_or(&controller);

    let mut text = FIXED.to_owned();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key}={value}"); // Writing to a string cannot fail.
    };
    line("listeners", &format!("{addresses},CONTROLLER://{controller}"));
    line(
        "advertised.listeners",
        &format!("{advertised},CONTROLLER://{reached}"),
    );
    line(
        "listener.security.protocol.map",
        &format!("{},CONTROLLER:PLAINTEXT", protocols.join(",")),
    );
    line("controller.quorum.bootstrap.servers", reached);
    line("log.dirs", &data.display().to_string());
    if options.authorizer {
        line(
            "authorizer.class.name",
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        );
        line("super.users", "User:ANONYMOUS");
    }
    if let Some(secure) = &options.secure {
        secure_lines(secure, &mut line);
    }
    if let Some(member) = options.member {
        line("process.roles", "broker");
        line("node.id", &member.node.to_string());
        line("listeners", &addresses);
        line("advertised.listeners", &advertised);
        let controller = format!("127.0.0.1:{}", member.controller);
        line("controller.quorum.bootstrap.servers", &controller);
    }
    for (key, value) in &options.properties {
        line(key, value);
    }
    text
}

fn secure_lines(secure: &Secure, line: &mut impl FnMut(&str, &str)) {
    let path = |path: &Path| path.display().to_string();
    for listener in Listener::SECURE {
        let prefix = format!("listener.name.{}", listener.name().to_lowercase());
        if listener != Listener::SaslPlaintext {
            line(&format!("{prefix}.ssl.keystore.type"), "PEM");
            line(
                &format!("{prefix}.ssl.keystore.location"),
                &path(&secure.keystore),
            );
        }
        if listener == Listener::MutualTls {
            line(&format!("{prefix}.ssl.client.auth"), "required");
            line(&format!("{prefix}.ssl.truststore.type"), "PEM");
            line(
                &format!("{prefix}.ssl.truststore.location"),
                &path(&secure.truststore),
            );
        }
        if matches!(listener, Listener::SaslTls | Listener::SaslPlaintext) {
            let users: String = secure
                .users
                .iter()
                .map(|(name, password)| format!(" user_{name}=\"{password}\""))
                .collect();
            let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required";
            line(
                &format!("{prefix}.plain.sasl.jaas.config"),
                &format!("{plain}{users};"),
            );
            for kind in ["scram-sha-256", "scram-sha-512"] {
                let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
                line(&format!("{prefix}.{kind}.sasl.jaas.config"), scram);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports {
        controller: 1,
        listeners: [2, 3, 4, 5, 6],
    };

    #[test]
    fn insecure_broker_has_one_listener() {
        let text = server_properties(&KafkaOptions::default(), &PORTS, Path::new("/d"), None);
        assert!(
            text.contains("\nlisteners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\n"),
            "{text}"
        );
        assert!(!text.contains("ssl.") && !text.contains("super.users"), "{text}");
    }

    #[test]
    fn relay_replaces_the_controller_address() {
        let text = server_properties(
            &KafkaOptions::default(),
            &PORTS,
            Path::new("/d"),
            Some("127.0.0.1:9"),
        );
        assert!(text.contains(",CONTROLLER://127.0.0.1:1\n"), "{text}");
        assert!(
            text.contains("advertised.listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:9\n"),
            "{text}"
        );
        assert!(
            text.contains("\ncontroller.quorum.bootstrap.servers=127.0.0.1:9\n"),
            "{text}"
        );
    }

    #[test]
    fn relayed_listener_is_advertised_at_the_relay() {
        let options = KafkaOptions {
            relayed: vec![Relayed {
                port: 7,
                advertised: "127.0.0.1:8".to_owned(),
            }],
            ..KafkaOptions::default()
        };
        let text = server_properties(&options, &PORTS, Path::new("/d"), None);
        for line in [
            "listeners=PLAINTEXT://127.0.0.1:2,RELAYED0://127.0.0.1:7,CONTROLLER://127.0.0.1:1",
            "advertised.listeners=PLAINTEXT://127.0.0.1:2,RELAYED0://127.0.0.1:8,CONTROLLER://127.0.0.1:1",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,RELAYED0:PLAINTEXT,CONTROLLER:PLAINTEXT",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn additional_properties_come_last() {
        let options = KafkaOptions::default().property("auto.create.topics.enable", "true");
        let text = server_properties(&options, &PORTS, Path::new("/d"), None);
        assert!(text.ends_with("\nauto.create.topics.enable=true\n"), "{text}");
    }
}
