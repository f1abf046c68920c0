//! Tests of the table `cluster`, and of settings that a member of a cluster cannot have.

use super::*;

#[test]
fn errors_of_a_cluster_are_reported_at_their_keys() {
    let report = report(load(&format!(
        "{SOURCE}[cluster]\nname = \"a b\"\nmembr = \"x\"\nlease = {{ type = \"nats\", servers = [\"nats://u:hunter2@h\"], bucket = \"b\", ttl = \"soon\" }}\n"
    )));
    for expected in [
        "cluster.membr: unknown key",
        "did you mean \"member\"?",
        "cluster.name: found \"a b\"",
        "cluster.lease.servers.0: found a URL with a user or password in it",
        "cluster.lease.ttl: found \"soon\"",
    ] {
        assert!(report.contains(expected), "{report}");
    }
    assert!(!report.contains("hunter2"), "{report}");
}

#[test]
fn settings_unsuitable_for_a_cluster_are_errors() {
    let report = report(load(&format!(
        "{SOURCE}[sinks.many]\ntype = \"kafka\"\nbootstrap_servers = \"h:9092\"\ntopic = \"t.{{type}}\"\n\
         [sinks.core]\ntype = \"nats\"\nservers = [\"nats://h\"]\nmode = \"core\"\n[cluster]\nname = \"a\"\n\
         standby = \"cold\"\nlease = {{ type = \"kafka\", bootstrap_servers = \"h:9092\", group = \"g\" }}\n"
    )));
    for expected in [
        "spool.type: found a spool in memory",
        "sinks.core: this sink cannot be part of a cluster: the members of the cluster need each other's reports",
        "sinks.many: this sink cannot be part of a cluster: a follower reads one topic",
        "cluster.standby: found \"cold\" with a lease in Kafka",
    ] {
        assert!(report.contains(expected), "{report}");
    }
}
