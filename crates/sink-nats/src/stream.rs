//! What is to be known of a stream before anything is sent to it: whether it is there, what it takes, how safe it is,
//! where it ends.

use std::time::Duration;

use async_nats::{Client, RequestErrorKind};
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::future::try_join_all;
use neurobridge_core::{
    event::Sequence,
    sink::{FaultKind, SinkFault},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::info;

use crate::{
    chain::{self, By, End, Ours, Owner},
    config::{NatsConfig, Order, Storage, StreamConfig},
    error::{self, ApiError},
    events::Events,
    subject,
};

/// So many messages at the end of a stream are looked at, beside those that may have been in flight, to find those of
/// ours. More foreign ones than these behind them, and what comes twice is told by the duplicate window alone.
const LOOK_BACK: u64 = 256;
/// So many are asked for at once, when more than the last one has to be looked at. They come with their bodies, which may
/// be pictures.
const MOST_ASKED: usize = 16;

/// A stream, as far as the sink has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Stream {
    pub(crate) config: Config,
    state: State,
    #[serde(default)]
    cluster: Option<Cluster>,
}

/// Its configuration. Durations are nanoseconds; limits that are not set are -1 or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) subjects: Vec<String>,
    mirror: Option<Mirror>,
    retention: String,
    discard: String,
    storage: String,
    max_msgs: i64,
    max_bytes: i64,
    max_msgs_per_subject: i64,
    pub(crate) max_msg_size: i64,
    num_replicas: u64,
    duplicate_window: u64,
    no_ack: bool,
    sealed: bool,
    persist_mode: String,
}

/// The stream that another one copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Mirror {
    name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct State {
    messages: u64,
    first_seq: u64,
    last_seq: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Cluster {
    name: Option<String>,
}

/// JetStream's API over a connection.
pub(crate) struct Api<'a> {
    pub(crate) client: &'a Client,
    pub(crate) events: &'a Events,
}

impl Api<'_> {
    /// The stream; made if it is not there and is to be. `None` when it would be, and may not now.
    ///
    /// # Errors
    /// It is not there, can't take what the sink sends, or nobody answers.
    pub(crate) async fn stream(
        &self,
        config: &NatsConfig,
        stream: &StreamConfig,
        may_create: bool,
    ) -> Result<Option<Stream>, SinkFault> {
        let asked = self
            .ask(&format!("STREAM.INFO.{}", stream.name), &Value::Null)
            .await?;
        let found: Stream = match asked {
            Ok(found) => found,
            Err(error) if error.err_code == error::STREAM_NOT_FOUND && stream.create => {
                if !may_create {
                    return Ok(None);
                }
                self.create(config, stream).await?
            }
            Err(error) => return Err(error::fault(&error, &stream.name)),
        };
        found.check(config)?;
        if let Some(subject) = config.dead_letter_subject() {
            self.check_dead_letters(subject).await?;
        }
        Ok(Some(found))
    }

    /// Where the stream ends, and what of ours is there of the events from `next` on, of which some may have been in
    /// flight when the connection before broke. What is there of events that the log has lost is none of ours any more.
    pub(crate) async fn end(
        &self,
        stream: &Stream,
        owner: &Owner<'_>,
        next: Sequence,
        in_flight: u64,
    ) -> Result<End, SinkFault> {
        let mut end = End {
            place: stream.state.last_seq,
            by: stream.chained_by(),
            ours: Vec::new(),
            log_end: None,
            is_ours: false,
        };
        if stream.state.messages == 0 {
            return Ok(end);
        }
        let look_back = match end.by {
            By::Id => LOOK_BACK,
            By::Place => LOOK_BACK + in_flight,
        };
        let first = stream
            .state
            .first_seq
            .max(end.place.saturating_sub(look_back))
            .max(1);
        let mut places = (first..=end.place).rev();
        let mut at_once = 1;
        loop {
            let asked: Vec<u64> = places.by_ref().take(at_once).collect();
            if asked.is_empty() {
                return Ok(end);
            }
            let asking = asked
                .iter()
                .map(|&place| self.message(&stream.config.name, place, owner));
            for (place, found) in asked.iter().zip(try_join_all(asking).await?) {
                let Some(found) = found else { continue };
                end.is_ours |= *place == end.place;
                let mut ours = found.sequence;
                if let Some(log_end) = owner.epochs.end_of(found.epoch).filter(|end| *end <= ours) {
                    end.log_end = end.log_end.min(Some(log_end)).or(Some(log_end));
                    match (end.by, Sequence::new(log_end.get() - 1)) {
                        // It was stored behind all before it: those are there.
                        (By::Id, Some(before)) => ours = before,
                        (By::Id, None) => return Ok(end),
                        (By::Place, _) => continue,
                    }
                }
                end.ours.push(ours);
                if end.by == By::Id || ours < next {
                    return Ok(end);
                }
            }
            at_once = MOST_ASKED;
        }
    }

    /// As [`end`](Self::end), with the state of the stream as it is now.
    ///
    /// # Errors
    /// The stream does not exist, or no answer comes.
    pub(crate) async fn end_now(
        &self,
        stream: &str,
        owner: &Owner<'_>,
        next: Sequence,
        in_flight: u64,
    ) -> Result<End, SinkFault> {
        let asked = self
            .ask::<Stream>(&format!("STREAM.INFO.{stream}"), &Value::Null)
            .await?;
        match asked {
            Ok(found) => self.end(&found, owner, next, in_flight).await,
            Err(error) => Err(error::fault(&error, stream)),
        }
    }

    /// Which event of ours stands at a place of the stream, if one does.
    async fn message(&self, stream: &str, place: u64, owner: &Owner<'_>) -> Result<Option<Ours>, SinkFault> {
        #[derive(Deserialize)]
        struct Found {
            message: Message,
        }
        #[derive(Deserialize)]
        struct Message {
            #[serde(default)]
            hdrs: Option<String>,
        }
        let asked = self
            .ask::<Found>(&format!("STREAM.MSG.GET.{stream}"), &json!({ "seq": place }))
            .await?;
        match asked {
            Ok(found) => {
                let headers = found
                    .message
                    .hdrs
                    .and_then(|hdrs| BASE64.decode(hdrs.as_bytes()).ok());
                Ok(headers.and_then(|headers| ours(&headers, owner)))
            }
            // Purged or deleted.
            Err(error) if error.err_code == error::NO_MESSAGE => Ok(None),
            Err(error) => Err(error::fault(&error, stream)),
        }
    }

    async fn create(&self, config: &NatsConfig, stream: &StreamConfig) -> Result<Stream, SinkFault> {
        let asked = self
            .ask(
                &format!("STREAM.CREATE.{}", stream.name),
                &creation(config, stream),
            )
            .await?;
        match asked {
            Ok(created) => {
                info!(stream = stream.name, "the stream is created");
                Ok(created)
            }
            // Another one was faster. What it made is looked at like any other at the next try.
            Err(error) if error.err_code == error::STREAM_NAME_IN_USE => Err(SinkFault::new(
                FaultKind::Unavailable,
                format!(
                    "the stream \"{}\" was created by another one at this moment; it is looked at again",
                    stream.name
                ),
            )),
            Err(error) => {
                let fault = error::fault(&error, &stream.name);
                Err(SinkFault::new(
                    fault.kind,
                    format!(
                        "the stream \"{}\" can't be created: {}",
                        stream.name, fault.reason
                    ),
                ))
            }
        }
    }

    async fn check_dead_letters(&self, subject: &str) -> Result<(), SinkFault> {
        #[derive(Deserialize)]
        struct Names {
            #[serde(default, deserialize_with = "null_as_default")]
            streams: Vec<String>,
        }
        let asked = self
            .ask::<Names>("STREAM.NAMES", &json!({ "subject": subject }))
            .await?;
        match asked {
            Ok(names) if names.streams.is_empty() => Err(SinkFault::new(
                FaultKind::Missing,
                format!(
                    "no stream keeps the subject \"{subject}\" of dead letters; create one, or set dead_letter.path"
                ),
            )),
            Ok(_) => Ok(()),
            Err(error) => Err(error::fault(&error, subject)),
        }
    }

    /// Asks, and waits for the answer as long as the client's requests may take.
    async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        request: &Value,
    ) -> Result<Result<T, ApiError>, SinkFault> {
        #[derive(Deserialize)]
        struct Refusal {
            error: Option<ApiError>,
        }
        let body = match request {
            Value::Null => Bytes::new(),
            request => Bytes::from(request.to_string()),
        };
        let answered = tokio::select! {
            biased;
            // A refusal comes beside the answer, which then never comes.
            fault = self.events.faulted() => return Err(fault),
            answered = self.client.request(format!("$JS.API.{what}"), body) => answered,
        };
        let answer = answered.map_err(|error| match error.kind() {
            kind @ (RequestErrorKind::NoResponders | RequestErrorKind::TimedOut) => error::of_request(kind),
            kind => self.events.fault().unwrap_or_else(|| error::of_request(kind)),
        })?;
        let unreadable = |error: serde_json::Error| {
            SinkFault::new(
                FaultKind::Other,
                format!(
                    "JetStream's answer to {what} can't be read: {error}; expected that of a nats-server of 2.9 or later"
                ),
            )
        };
        let refusal: Refusal = serde_json::from_slice(&answer.payload).map_err(unreadable)?;
        match refusal.error {
            Some(error) => Ok(Err(error)),
            None => serde_json::from_slice(&answer.payload)
                .map(Ok)
                .map_err(unreadable),
        }
    }
}

/// What a stream is created with.
fn creation(config: &NatsConfig, stream: &StreamConfig) -> Value {
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2);
    let subjects = stream
        .subjects
        .clone()
        .unwrap_or_else(|| vec![subject::pattern(&config.subject)]);
    let max_age = stream.max_age.unwrap_or_default();
    let window = stream
        .duplicate_window
        .unwrap_or(Duration::from_secs(120))
        .min(max_age);
    json!({
        "name": stream.name,
        "subjects": subjects,
        "retention": "limits",
        "discard": "old",
        "storage": match stream.storage.unwrap_or_default() {
            Storage::File => "file",
            Storage::Memory => "memory",
        },
        "max_age": nanoseconds(max_age),
        "num_replicas": stream.replicas,
        "duplicate_window": nanoseconds(window),
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msgs_per_subject": -1,
    })
}

/// Which event of ours has these headers.
fn ours(headers: &[u8], owner: &Owner<'_>) -> Option<Ours> {
    let headers = std::str::from_utf8(headers).ok()?;
    headers
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| *name == chain::HEADER)
        .and_then(|(_, value)| owner.event(value.trim_end()))
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Stream {
    /// How messages of a chain name the one before.
    const fn chained_by(&self) -> By {
        if self.config.num_replicas > 1 {
            By::Place
        } else {
            By::Id
        }
    }

    /// Whether it can take what the sink sends.
    fn check(&self, config: &NatsConfig) -> Result<(), SinkFault> {
        let name = &self.config.name;
        let pattern = subject::pattern(&config.subject);
        if let Some(mirror) = &self.config.mirror {
            return Err(SinkFault::new(
                FaultKind::Missing,
                format!(
                    "the stream \"{name}\" is a mirror of \"{}\" and takes no messages, expected a stream with subjects of its \
                     own for \"{pattern}\"; set stream.name to another stream",
                    mirror.name
                ),
            ));
        }
        if !self
            .config
            .subjects
            .iter()
            .any(|subject| subject::overlap(subject, &pattern))
        {
            return Err(SinkFault::new(
                FaultKind::Missing,
                format!(
                    "the stream \"{name}\" takes {:?}, expected \"{pattern}\" among them; add it, or change subject",
                    self.config.subjects
                ),
            ));
        }
        if self.config.sealed {
            return Err(SinkFault::new(
                FaultKind::Unavailable,
                format!("the stream \"{name}\" is sealed and takes nothing any more; choose another one"),
            ));
        }
        if self.config.no_ack {
            return Err(SinkFault::new(
                FaultKind::Other,
                format!(
                    "the stream \"{name}\" acknowledges nothing (no_ack); expected one that does: else nobody knows what is stored"
                ),
            ));
        }
        if config.order() == Order::Strict
            && let Some(letters) = config.dead_letter_subject()
            && self
                .config
                .subjects
                .iter()
                .any(|subject| subject::covers(subject, letters))
        {
            return Err(SinkFault::new(
                FaultKind::Other,
                format!(
                    "dead letters to \"{letters}\" would get between the events in the stream \"{name}\"; with order = \"strict\" another stream has to keep them"
                ),
            ));
        }
        Ok(())
    }
}

mod dangers;
#[cfg(test)]
mod tests;
