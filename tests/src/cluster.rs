//! The table of a member of a cluster in the configuration.

/// Returns the table of a member. The lease is in a bucket of a single server, which the member creates. `ttl`: such as `5s`.
pub fn cluster_table(cluster: &str, member: &str, nats: &str, ttl: &str) -> String {
    format!(
        r#"[cluster]
name = "{cluster}"
member = "{member}"
[cluster.lease]
type = "nats"
servers = ["{nats}"]
bucket = "LEASES"
create = true
replicas = 1
ttl = "{ttl}"
"#
    )
}
