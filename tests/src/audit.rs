//! Compares the events that arrived at a sink with the events that the platform sent.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::platform::{Platform, Sent};

/// An event as it arrived at a sink.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// The id assigned by the feed.
    pub id: u64,
    /// The unmodified JSON of the entry.
    pub data: String,
    /// The `sequence` attribute, a text that sorts in the order of the log.
    pub sequence: String,
}

/// The result of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// The number of sent events, each counted once.
    pub sent: usize,
    /// The number of copies after the first of each event.
    pub duplicates: usize,
}

/// Checks that each sent event arrived with an identical body, that no other event arrived, and that each person's
/// first copies arrived in the order of sending and of their sequences.
///
/// `lanes` are the partitions of a topic, or a single file: the order is checked within each.
///
/// # Errors
/// Returns an error that describes the first violation.
pub fn audit(sent: &[Sent], lanes: &[Vec<Arrived>]) -> Result<Audit> {
    let positions: HashMap<u64, usize> = sent
        .iter()
        .enumerate()
        .map(|(position, event)| (event.id, position))
        .collect();
    ensure!(
        positions.len() == sent.len(),
        "an id was sent twice, which this audit does not support"
    );
    let mut seen = HashSet::new();
    let mut arrived_in_all = 0;
    for lane in lanes {
        let mut last_of_person: HashMap<&str, (usize, &str)> = HashMap::new();
        for arrived in lane {
            arrived_in_all += 1;
            let position = *positions
                .get(&arrived.id)
                .with_context(|| format!("event {} was never sent", arrived.id))?;
            let event = &sent[position];
            ensure!(
                event.data == arrived.data,
                "event {} arrived with a different body: {}",
                arrived.id,
                arrived.data
            );
            if !seen.insert(arrived.id) {
                continue;
            }
            if let Some(pid) = &event.pid {
                let now = (position, arrived.sequence.as_str());
                if let Some(last) = last_of_person.insert(pid, now) {
                    ensure!(
                        last.0 < now.0 && last.1 < now.1,
                        "events of person {pid} out of order: sequence {} arrived after {}",
                        now.1,
                        last.1
                    );
                }
            }
        }
    }
    if let Some(missing) = sent.iter().find(|event| !seen.contains(&event.id)) {
        anyhow::bail!(
            "{} of {} events are missing; the first is {}",
            sent.len() - seen.len(),
            sent.len(),
            missing.id
        );
    }
    Ok(Audit {
        sent: sent.len(),
        duplicates: arrived_in_all - seen.len(),
    })
}

/// Stops a platform and returns the events that the bridge received from it over one connection, according to the
/// ledger in the bridge's log. Events that the platform sent after the bridge had stopped reading are omitted.
///
/// # Errors
/// Returns an error if the log has no ledger of this source, or if the ledger has more events than were sent.
pub fn received(platform: Platform, log: &str, source: &str) -> Result<Vec<Sent>> {
    let words = format!("source {source}: ");
    let received = log
        .lines()
        .find_map(|line| line.split_once(&words)?.1.split_once(" received = "))
        .and_then(|(received, _)| received.parse().ok())
        .with_context(|| format!("no ledger of the source {source} in {log}"))?;
    let mut sent = platform.stop()?;
    ensure!(
        received <= sent.len(),
        "the ledger has {received} events, but only {} were sent",
        sent.len()
    );
    sent.truncate(received);
    Ok(sent)
}

/// Parses lines of CloudEvents in structured mode.
///
/// # Errors
/// Returns an error if a line is not a CloudEvent.
pub fn structured(text: &str) -> Result<Vec<Arrived>> {
    #[derive(Deserialize)]
    struct Structured<'a> {
        id: &'a str,
        sequence: &'a str,
        specversion: &'a str,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    text.lines()
        .map(|line| {
            let event: Structured<'_> =
                serde_json::from_str(line).with_context(|| format!("not a CloudEvent: {line}"))?;
            ensure!(event.specversion == "1.0", "specversion is {}", event.specversion);
            Ok(Arrived {
                id: event
                    .id
                    .parse()
                    .with_context(|| format!("the id {} is not a number", event.id))?,
                data: event.data.get().to_owned(),
                sequence: event.sequence.to_owned(),
            })
        })
        .collect()
}

/// Parses CloudEvents in binary mode from NATS messages and checks their subjects and headers. `in_stream` is true for the
/// messages of a stream, which have message ids. In strict order, the header `Neurobridge-Chain` contains the sink, the spool,
/// its epoch and the sequence of the event.
///
/// # Errors
/// Returns an error if a message is not a CloudEvent.
#[cfg(feature = "clients")]
pub fn nats_binary(
    messages: &[crate::nats::messages::Message],
    source: &str,
    in_stream: bool,
) -> Result<Vec<Arrived>> {
    messages
        .iter()
        .map(|message| {
            let header = |name: &str| {
                message
                    .header(name)
                    .with_context(|| format!("{message:?} has no header {name}"))
            };
            let (id, sequence) = (header("ce-id")?, header("ce-sequence")?);
            ensure!(
                header("ce-specversion")? == "1.0" && header("ce-datacontenttype")? == "application/json",
                "unexpected version or content type: {message:?}"
            );
            ensure!(
                header("ce-source")? == format!("/neuroio/{source}"),
                "the source is not {source}: {message:?}"
            );
            let identity = in_stream.then(|| format!("{source}/{id}"));
            ensure!(
                message.header("Nats-Msg-Id") == identity.as_deref(),
                "expected the message id {identity:?}: {message:?}"
            );
            if let Some(position) = message.header("Neurobridge-Chain") {
                // `<sink>/<spool>/<epoch>:<sequence>`
                let (who, number) = position
                    .rsplit_once(':')
                    .with_context(|| format!("{message:?}"))?;
                let (spool, expected) = sequence
                    .rsplit_once(':')
                    .with_context(|| format!("{message:?}"))?;
                let epoch = who.rsplit_once('/').map(|(who, _)| who.ends_with(spool));
                ensure!(
                    number == expected && epoch == Some(true),
                    "Neurobridge-Chain contradicts ce-sequence: {message:?}"
                );
            }
            let entry = entry_of(message, "neuroio.entries")?;
            ensure!(
                header("ce-type")? == kind_of(&entry),
                "ce-type contradicts the entry: {message:?}"
            );
            ensure!(
                entry["created"].as_str() == message.header("ce-time"),
                "ce-time contradicts the entry: {message:?}"
            );
            Ok(Arrived {
                id: id.parse().with_context(|| format!("{message:?}"))?,
                data: String::from_utf8(message.payload.clone())?,
                sequence: sequence.to_owned(),
            })
        })
        .collect()
}

/// Parses raw frames from NATS messages and checks that each subject is `prefix` followed by the space, the camera and
/// the result of the entry. Frames have no sequence, so their position is used instead.
///
/// # Errors
/// Returns an error if a message is not a frame.
#[cfg(feature = "clients")]
pub fn nats_raw(messages: &[crate::nats::messages::Message], prefix: &str) -> Result<Vec<Arrived>> {
    messages
        .iter()
        .enumerate()
        .map(|(position, message)| {
            let frame = entry_of(message, prefix)?;
            ensure!(
                message.header("ce-id").is_none(),
                "a raw frame has the header ce-id: {message:?}"
            );
            Ok(Arrived {
                id: frame["id"].as_u64().with_context(|| format!("{message:?}"))?,
                data: String::from_utf8(message.payload.clone())?,
                sequence: format!("{position:020}"),
            })
        })
        .collect()
}

/// Parses the payload as JSON and checks that the subject matches its entry.
#[cfg(feature = "clients")]
fn entry_of(message: &crate::nats::messages::Message, prefix: &str) -> Result<serde_json::Value> {
    let payload: serde_json::Value = serde_json::from_slice(&message.payload)?;
    let entry = payload.get("data").unwrap_or(&payload);
    let expected = format!(
        "{prefix}.{}.{}.{}",
        entry["space"]["id"],
        entry["source"]["id"],
        entry["result"].as_str().unwrap_or("unknown")
    );
    ensure!(
        message.subject == expected,
        "expected the subject {expected}: {message:?}"
    );
    Ok(payload)
}

#[cfg(feature = "clients")]
fn kind_of(entry: &serde_json::Value) -> String {
    format!(
        "com.neuroio.entry.{}",
        entry["result"].as_str().unwrap_or("unknown")
    )
}

/// Groups a topic's records by partition and checks the key and the headers of each record.
///
/// # Errors
/// Returns an error if a record is not a CloudEvent in binary mode, or if its key is not the person.
#[cfg(feature = "clients")]
pub fn kafka(records: &[crate::kafka::records::Record], source: &str) -> Result<Vec<Vec<Arrived>>> {
    let mut lanes: HashMap<i32, Vec<Arrived>> = HashMap::new();
    for record in records {
        let header = |name: &str| {
            record
                .header(name)
                .with_context(|| format!("{record:?} has no header {name}"))
        };
        ensure!(
            header("ce_specversion")? == "1.0" && header("content-type")? == "application/json",
            "unexpected version or content type: {record:?}"
        );
        ensure!(
            header("ce_source")? == format!("/neuroio/{source}"),
            "the source is not {source}: {record:?}"
        );
        let value = record.value.as_deref().context("a record without a value")?;
        let entry: serde_json::Value = serde_json::from_slice(value)?;
        ensure!(
            header("ce_type")? == kind_of(&entry),
            "ce_type contradicts the entry: {record:?}"
        );
        ensure!(
            entry["created"].as_str() == record.header("ce_time"),
            "ce_time contradicts the entry: {record:?}"
        );
        ensure!(
            entry["pid"].as_str().map(str::as_bytes) == record.key.as_deref(),
            "the key is not the person: {record:?}"
        );
        lanes.entry(record.partition).or_default().push(Arrived {
            id: header("ce_id")?.parse().with_context(|| format!("{record:?}"))?,
            data: String::from_utf8(value.to_vec())?,
            sequence: header("ce_sequence")?.to_owned(),
        });
    }
    Ok(lanes.into_values().collect())
}
