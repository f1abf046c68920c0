//! The lease in a key-value bucket of NATS JetStream. A bucket is a stream that keeps the last message of each subject (key).
//! A write names the message that it replaces, and the stream rejects it if the key has another last message.
//!
//! Reads go to the leader of the stream, never to a replica that may lag behind. The bucket needs no expiry of its own: the
//! members measure the age of the lease.

use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::StreamExt;
use neurobridge_core::{
    connect::ConnectSteps,
    sink::{FaultKind, SinkFault},
    units::format_duration,
};
use neurobridge_sink_nats::{
    NatsConfig,
    client::{ApiError, NatsClient},
};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tracing::info;

use crate::{
    config::{NatsLease, stream_of},
    record::MAX_BYTES,
    store::{Engine, Store, Value, Written, member_key},
};

/// The server's error for a bucket that does not exist.
const STREAM_NOT_FOUND: u32 = 10059;
/// The server's error for a key without a value.
const NO_MESSAGE: u32 = 10037;
/// The server's errors for a write whose expected revision is wrong.
const WRONG_REVISION: [u32; 2] = [10071, 10164];
/// The largest number of members whose states are read.
const MAX_MEMBERS: usize = 64;
/// The smallest `max_bytes` and `max_msgs` of a bucket that has room for the lease and the states of all members.
const MIN_BUCKET_BYTES: i64 = 64 << 10;
const MIN_BUCKET_VALUES: i64 = 16;
/// The `max_bytes` of a created bucket.
const BUCKET_BYTES: i64 = 1 << 20;

/// The engine of a lease in NATS: connects to its bucket.
#[derive(Debug)]
pub(crate) struct NatsEngine {
    lease: NatsLease,
    cluster: String,
    member: String,
    connection: NatsConfig,
}

/// The bucket over one connection.
#[derive(Debug)]
pub(crate) struct Bucket {
    client: NatsClient,
    stream: String,
    /// The prefix of the subjects of the cluster's keys.
    prefix: String,
    /// The messages that write the lease.
    changes: Subscriber,
}

/// The settings of a stream that decide whether it is a suitable bucket. Unset limits are -1 or 0.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Limits {
    max_age: u64,
    max_bytes: i64,
    max_msgs: i64,
    max_msg_size: i64,
    subjects: Option<Vec<String>>,
    sealed: bool,
    no_ack: bool,
}

impl NatsEngine {
    pub(crate) fn new(lease: NatsLease, cluster: String, member: String) -> Self {
        Self {
            connection: lease.connection(),
            lease,
            cluster,
            member,
        }
    }

    /// Returns the settings of the bucket. Creates a missing bucket if configured; `None` if it would be created and
    /// `may_create` is false.
    async fn bucket(&self, client: &NatsClient, may_create: bool) -> Result<Option<Limits>, SinkFault> {
        #[derive(Deserialize)]
        struct Info {
            config: Limits,
        }
        let bucket = &self.lease.bucket;
        let stream = stream_of(bucket);
        match client
            .request::<Info>(&format!("STREAM.INFO.{stream}"), &Json::Null)
            .await?
        {
            Ok(info) => Ok(Some(info.config)),
            Err(error) if error.err_code == STREAM_NOT_FOUND && !self.lease.create => Err(SinkFault::new(
                FaultKind::Missing,
                format!(
                    "the bucket \"{bucket}\" of the lease does not exist; create it (nats kv add {bucket}), or set create = true \
                     with replicas"
                ),
            )),
            Err(error) if error.err_code == STREAM_NOT_FOUND => {
                if !may_create {
                    return Ok(None);
                }
                let created = client
                    .request::<Info>(&format!("STREAM.CREATE.{stream}"), &self.creation())
                    .await?;
                let created = created.map_err(|error| refused(&error, bucket))?;
                info!(bucket, "lease bucket created");
                Ok(Some(created.config))
            }
            Err(error) => Err(refused(&error, bucket)),
        }
    }

    fn creation(&self) -> Json {
        let bucket = &self.lease.bucket;
        json!({
            "name": stream_of(bucket),
            "subjects": [format!("$KV.{bucket}.>")],
            "retention": "limits",
            "discard": "new",
            "storage": "file",
            "num_replicas": self.lease.replicas,
            "max_msgs_per_subject": 1,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": BUCKET_BYTES,
            "max_age": 0,
            "allow_rollup_hdrs": true,
            "deny_delete": true,
            "allow_direct": true,
        })
    }

    async fn open(&self) -> Result<NatsClient, SinkFault> {
        let name = format!("lease of {}", self.member);
        NatsClient::connect(&self.connection, &name, &ConnectSteps::default()).await
    }

    /// Connects and checks the bucket without creating or writing anything. Returns whether the bucket exists.
    ///
    /// # Errors
    /// Returns a fault if the servers cannot be reached, or the bucket is unsuitable.
    pub(crate) async fn probe(&self) -> Result<bool, SinkFault> {
        let client = self.open().await?;
        let found = self.bucket(&client, false).await?;
        found.map_or(Ok(false), |limits| {
            limits.check(&self.lease.bucket, self.lease.ttl)?;
            Ok(true)
        })
    }
}

impl Engine for NatsEngine {
    type Store = Bucket;

    async fn connect(&mut self, ttl: Duration) -> Result<Bucket, SinkFault> {
        let client = self.open().await?;
        let bucket = &self.lease.bucket;
        if let Some(limits) = self.bucket(&client, true).await? {
            limits.check(bucket, ttl)?;
        }
        let prefix = format!("$KV.{bucket}.{}.", self.cluster);
        // Each write is also a message to the subscribers of its subject: a notice that needs no consumer.
        let changes = client.subscribe(format!("{prefix}lease")).await?;
        Ok(Bucket {
            client,
            stream: stream_of(bucket),
            prefix,
            changes,
        })
    }
}

impl Limits {
    fn check(&self, bucket: &str, ttl: Duration) -> Result<(), SinkFault> {
        let age = Duration::from_nanos(self.max_age);
        let problem = if self.max_age > 0 && age < ttl * 2 {
            format!(
                "deletes keys after {} (max_age), expected no limit, or at least {}: twice the ttl of the lease",
                format_duration(age),
                format_duration(ttl * 2)
            )
        } else if (1..MIN_BUCKET_BYTES).contains(&self.max_bytes) {
            format!(
                "holds {} bytes (max_bytes), expected at least {MIN_BUCKET_BYTES}",
                self.max_bytes
            )
        } else if (1..MIN_BUCKET_VALUES).contains(&self.max_msgs) {
            format!(
                "holds {} values (max_msgs), expected at least {MIN_BUCKET_VALUES}",
                self.max_msgs
            )
        } else if (1..MAX_BYTES as i64).contains(&self.max_msg_size) {
            format!(
                "holds values of at most {} bytes (max_msg_size), expected at least {MAX_BYTES}",
                self.max_msg_size
            )
        } else if self.sealed || self.no_ack {
            "is sealed or acknowledges nothing, expected a bucket that can be written".to_owned()
        } else if !self
            .subjects
            .iter()
            .flatten()
            .any(|subject| *subject == format!("$KV.{bucket}.>"))
        {
            format!("does not store the subjects \"$KV.{bucket}.>\", expected a key-value bucket")
        } else {
            return Ok(());
        };
        Err(SinkFault::new(
            FaultKind::Other,
            format!(
                "the bucket \"{bucket}\" of the lease {problem}; change the bucket, or set cluster.lease.bucket to \
                 the name of another bucket"
            ),
        ))
    }
}

impl Bucket {
    /// Reads the message that a request selects.
    async fn get(&self, request: &Json) -> Result<Option<Value>, SinkFault> {
        #[derive(Deserialize)]
        struct Found {
            message: Message,
        }
        #[derive(Deserialize)]
        struct Message {
            seq: u64,
            #[serde(default)]
            hdrs: Option<String>,
            #[serde(default)]
            data: Option<String>,
        }
        let answer = self
            .client
            .request::<Found>(&format!("STREAM.MSG.GET.{}", self.stream), request)
            .await?;
        let message = match answer {
            Ok(found) => found.message,
            Err(error) if error.err_code == NO_MESSAGE => return Ok(None),
            Err(error) => return Err(refused(&error, self.bucket())),
        };
        let decoded = |text: Option<String>| {
            BASE64
                .decode(text.unwrap_or_default().as_bytes())
                .unwrap_or_default()
        };
        // A deleted key has a last message with this header, whose value is DEL or PURGE.
        let is_deleted = String::from_utf8_lossy(&decoded(message.hdrs)).contains("KV-Operation");
        Ok(Some(Value {
            revision: message.seq,
            bytes: (!is_deleted).then(|| decoded(message.data)),
        }))
    }

    fn bucket(&self) -> &str {
        self.stream.strip_prefix("KV_").unwrap_or(&self.stream)
    }
}

impl Store for Bucket {
    async fn read(&mut self, key: &str) -> Result<Value, SinkFault> {
        let found = self
            .get(&json!({ "last_by_subj": format!("{}{key}", self.prefix) }))
            .await?;
        Ok(found.unwrap_or_default())
    }

    async fn write(
        &mut self,
        key: &str,
        expected: u64,
        bytes: Option<Vec<u8>>,
    ) -> Result<Written, SinkFault> {
        let mut headers = HeaderMap::new();
        headers.insert(
            "Nats-Expected-Last-Subject-Sequence",
            expected.to_string().as_str(),
        );
        if bytes.is_none() {
            headers.insert("KV-Operation", "DEL");
        }
        let body = bytes.map_or_else(Bytes::new, Bytes::from);
        let written = self
            .client
            .publish(format!("{}{key}", self.prefix), headers, body)
            .await?;
        match written {
            Ok(revision) => Ok(Written::Stored(revision)),
            Err(error) if WRONG_REVISION.contains(&error.err_code) => Ok(Written::Conflict),
            Err(error) => Err(refused(&error, self.bucket())),
        }
    }

    async fn members(&mut self) -> Result<Vec<Value>, SinkFault> {
        let subject = format!("{}{}", self.prefix, member_key(">"));
        let (mut members, mut from) = (Vec::new(), 1);
        while members.len() < MAX_MEMBERS {
            let found = self.get(&json!({ "seq": from, "next_by_subj": subject })).await?;
            let Some(found) = found else { break };
            from = found.revision + 1;
            members.push(found);
        }
        Ok(members)
    }

    async fn changed(&mut self) -> Result<(), SinkFault> {
        tokio::select! {
            biased;
            fault = self.client.faulted() => Err(fault),
            Some(_) = self.changes.next() => Ok(()),
        }
    }
}

/// Creates the fault of a request that the bucket answers with an error.
fn refused(error: &ApiError, bucket: &str) -> SinkFault {
    let kind = match error.code {
        401 | 403 => FaultKind::Unauthorised,
        429 | 503 => FaultKind::Unavailable,
        _ => FaultKind::Other,
    };
    SinkFault::new(
        kind,
        format!(
            "the bucket \"{bucket}\" of the lease answers: {} (error {}); check the bucket and the permissions of this user",
            error.description, error.err_code
        ),
    )
}
