//! JetStream's API: finds, creates and checks the stream of a sink, and reads the end of the stream.

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
    chain::{self, ChainedBy, End, OwnEvent, Owner},
    config::{NatsConfig, Order, Storage, StreamConfig},
    error::{self, ApiError},
    events::Events,
    subject,
};

/// The number of messages at the end of a stream that are searched for own messages, in addition to those that may have been in
/// flight. After more foreign messages than this, only the duplicate window detects duplicates.
const LOOK_BACK: u64 = 256;
/// The largest number of messages that are requested at the same time. They are returned with their bodies, which may contain
/// pictures.
const MAX_REQUESTS: usize = 16;

/// The properties of a stream that the sink needs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Stream {
    pub(crate) config: Config,
    /// The time of its creation.
    #[serde(default)]
    pub(crate) created: String,
    state: State,
    #[serde(default)]
    cluster: Option<Cluster>,
}

/// The configuration of a stream. Durations are in nanoseconds; unset limits are -1 or 0.
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

impl Stream {
    /// Returns the place of the last message that was ever stored; 0 without one.
    pub(crate) const fn last_place(&self) -> u64 {
        self.state.last_seq
    }
}

/// The JetStream API over a connection.
pub(crate) struct Api<'a> {
    pub(crate) client: &'a Client,
    pub(crate) events: &'a Events,
}

impl Api<'_> {
    /// Returns the stream, and creates it if configured. `None` if it would be created and this is a trial.
    ///
    /// # Errors
    /// Returns a fault if the stream does not exist or is unsuitable, or no response arrives.
    pub(crate) async fn stream(
        &self,
        config: &NatsConfig,
        stream: &StreamConfig,
        may_create: bool,
    ) -> Result<Option<Stream>, SinkFault> {
        let answer = self
            .request(&format!("STREAM.INFO.{}", stream.name), &Value::Null)
            .await?;
        let found: Stream = match answer {
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

    /// Returns the end of the stream with the own events from `next` on, some of which may have been in flight when the
    /// previous connection broke. Events that the log has lost do not count as own events.
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
            own_events: Vec::new(),
            log_end: None,
            is_last_own: false,
        };
        if stream.state.messages == 0 {
            return Ok(end);
        }
        let look_back = match end.by {
            ChainedBy::Id => LOOK_BACK,
            ChainedBy::Place => LOOK_BACK + in_flight,
        };
        let first = stream
            .state
            .first_seq
            .max(end.place.saturating_sub(look_back))
            .max(1);
        let mut places = (first..=end.place).rev();
        let mut at_once = 1;
        loop {
            let requested: Vec<u64> = places.by_ref().take(at_once).collect();
            if requested.is_empty() {
                return Ok(end);
            }
            let requests = requested
                .iter()
                .map(|&place| self.message(&stream.config.name, place, owner));
            for (place, found) in requested.iter().zip(try_join_all(requests).await?) {
                let Some(found) = found else { continue };
                end.is_last_own |= *place == end.place;
                let mut own = found.sequence;
                if let Some(log_end) = owner.epochs.end_of(found.epoch).filter(|end| *end <= own) {
                    end.log_end = end.log_end.min(Some(log_end)).or(Some(log_end));
                    match (end.by, Sequence::new(log_end.get() - 1)) {
                        // The event was stored only after all earlier events, so the last event of the log is stored too.
                        (ChainedBy::Id, Some(before)) => own = before,
                        (ChainedBy::Id, None) => return Ok(end),
                        (ChainedBy::Place, _) => continue,
                    }
                }
                end.own_events.push(own);
                if end.by == ChainedBy::Id || own < next {
                    return Ok(end);
                }
            }
            at_once = MAX_REQUESTS;
        }
    }

    /// As [`end`](Self::end), but first reads the current state of the stream.
    ///
    /// # Errors
    /// Returns a fault if the stream does not exist, or no response arrives.
    pub(crate) async fn end_now(
        &self,
        stream: &str,
        owner: &Owner<'_>,
        next: Sequence,
        in_flight: u64,
    ) -> Result<End, SinkFault> {
        let answer = self
            .request::<Stream>(&format!("STREAM.INFO.{stream}"), &Value::Null)
            .await?;
        match answer {
            Ok(found) => self.end(&found, owner, next, in_flight).await,
            Err(error) => Err(error::fault(&error, stream)),
        }
    }

    /// Returns the place of the last message that was ever stored in a stream; 0 without one.
    ///
    /// # Errors
    /// Returns a fault if the stream does not exist, or no response arrives.
    pub(crate) async fn last_place(&self, stream: &str) -> Result<u64, SinkFault> {
        let answer = self
            .request::<Stream>(&format!("STREAM.INFO.{stream}"), &Value::Null)
            .await?;
        match answer {
            Ok(found) => Ok(found.last_place()),
            Err(error) => Err(error::fault(&error, stream)),
        }
    }

    /// Returns the own event at a place of the stream, if there is one.
    async fn message(
        &self,
        stream: &str,
        place: u64,
        owner: &Owner<'_>,
    ) -> Result<Option<OwnEvent>, SinkFault> {
        #[derive(Deserialize)]
        struct Found {
            message: Message,
        }
        #[derive(Deserialize)]
        struct Message {
            #[serde(default)]
            hdrs: Option<String>,
        }
        let answer = self
            .request::<Found>(&format!("STREAM.MSG.GET.{stream}"), &json!({ "seq": place }))
            .await?;
        match answer {
            Ok(found) => {
                let headers = found
                    .message
                    .hdrs
                    .and_then(|hdrs| BASE64.decode(hdrs.as_bytes()).ok());
                Ok(headers.and_then(|headers| own_event(&headers, owner)))
            }
            // Purged or deleted.
            Err(error) if error.err_code == error::NO_MESSAGE => Ok(None),
            Err(error) => Err(error::fault(&error, stream)),
        }
    }

    async fn create(&self, config: &NatsConfig, stream: &StreamConfig) -> Result<Stream, SinkFault> {
        let answer = self
            .request(
                &format!("STREAM.CREATE.{}", stream.name),
                &creation(config, stream),
            )
            .await?;
        match answer {
            Ok(created) => {
                info!(stream = stream.name, "stream created");
                Ok(created)
            }
            // Another client has created it at the same time. The next attempt checks it like any other stream.
            Err(error) if error.err_code == error::STREAM_NAME_IN_USE => Err(SinkFault::new(
                FaultKind::Unavailable,
                format!(
                    "the stream \"{}\" was created by another client at the same time; the stream is checked again",
                    stream.name
                ),
            )),
            Err(error) => {
                let fault = error::fault(&error, &stream.name);
                Err(SinkFault::new(
                    fault.kind,
                    format!(
                        "the stream \"{}\" cannot be created: {}",
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
        let answer = self
            .request::<Names>("STREAM.NAMES", &json!({ "subject": subject }))
            .await?;
        match answer {
            Ok(names) if names.streams.is_empty() => Err(SinkFault::new(
                FaultKind::Missing,
                format!(
                    "no stream stores the subject \"{subject}\" of dead letters; create one, or set dead_letter.path"
                ),
            )),
            Ok(_) => Ok(()),
            Err(error) => Err(error::fault(&error, subject)),
        }
    }

    /// Sends a request and waits for the response, with the client's time limit.
    pub(crate) async fn request<T: DeserializeOwned>(
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
            // A refusal is reported as an event of the client, and no response follows.
            fault = self.events.faulted() => return Err(fault),
            answered = self.client.request(format!("$JS.API.{what}"), body) => answered,
        };
        let answer = answered.map_err(|error| match error.kind() {
            kind @ (RequestErrorKind::NoResponders | RequestErrorKind::TimedOut) => error::of_request(kind),
            kind => self.events.fault().unwrap_or_else(|| error::of_request(kind)),
        })?;
        let unreadable = |cause: serde_json::Error| error::unreadable(what, &cause);
        let refusal: Refusal = serde_json::from_slice(&answer.payload).map_err(unreadable)?;
        match refusal.error {
            Some(error) => Ok(Err(error)),
            None => serde_json::from_slice(&answer.payload)
                .map(Ok)
                .map_err(unreadable),
        }
    }
}

/// Returns the configuration of a stream to create.
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

/// Returns the own event of the message with these headers; `None` for the message of another publisher.
fn own_event(headers: &[u8], owner: &Owner<'_>) -> Option<OwnEvent> {
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
    /// Returns how messages of a chain refer to the message before.
    pub(crate) const fn chained_by(&self) -> ChainedBy {
        if self.config.num_replicas > 1 {
            ChainedBy::Place
        } else {
            ChainedBy::Id
        }
    }

    /// Checks whether the stream is suitable for the sink.
    fn check(&self, config: &NatsConfig) -> Result<(), SinkFault> {
        let name = &self.config.name;
        let pattern = subject::pattern(&config.subject);
        if let Some(mirror) = &self.config.mirror {
            return Err(SinkFault::new(
                FaultKind::Missing,
                format!(
                    "the stream \"{name}\" is a mirror of \"{}\" and accepts no messages, expected a stream with subjects of its \
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
                    "the stream \"{name}\" accepts {:?}, expected \"{pattern}\" among them; add this subject to the \
                     stream, or change the subject of the sink",
                    self.config.subjects
                ),
            ));
        }
        if self.config.sealed {
            return Err(SinkFault::new(
                FaultKind::Unavailable,
                format!("the stream \"{name}\" is sealed and accepts no messages; choose another stream"),
            ));
        }
        if self.config.no_ack {
            return Err(SinkFault::new(
                FaultKind::Other,
                format!(
                    "the stream \"{name}\" acknowledges nothing (no_ack), expected a stream that acknowledges \
                     messages: otherwise it is unknown which events are stored"
                ),
            ));
        }
        if config.order() == Order::Strict
            && let Some(dead_letters) = config.dead_letter_subject()
            && self
                .config
                .subjects
                .iter()
                .any(|subject| subject::covers(subject, dead_letters))
        {
            return Err(SinkFault::new(
                FaultKind::Other,
                format!(
                    "dead letters to \"{dead_letters}\" would be stored between the events in the stream \"{name}\"; with order = \
                     \"strict\" another stream has to store them"
                ),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
mod warnings;
