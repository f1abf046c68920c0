//! The table `[cluster]` for the configuration of a bridge under test.

/// Returns the table of a cluster's member. The lease is in a bucket of the single NATS server `nats`, and the member creates
/// the bucket. `ttl` is a time such as `5s`.
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
