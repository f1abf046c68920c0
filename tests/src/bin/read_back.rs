//! Reads back all that a broker holds of the events of one spool, and prints the fingerprint of each copy, a line each,
//! in the order in which a consumer gets them.
//!
//! `read-back (kafka BOOTSTRAP TOPIC|nats URL STREAM) SPOOL`: a program of its own, so that the chores need no broker
//! clients. What is no event of that spool is an error.

use std::borrow::Cow;
use std::env;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use neurobridge_tests::fingerprint::Fingerprint;
use neurobridge_tests::kafka::records::each_record;
use neurobridge_tests::nats::messages::each_message;
use serde::Deserialize;

/// A day of events can be read in that time.
const LIMIT: Duration = Duration::from_secs(3600);
/// Between two messages.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [broker, address, name, spool] = &arguments[..] else {
        bail!("usage: read-back (kafka BOOTSTRAP TOPIC|nats URL STREAM) SPOOL");
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut print = |sequence: Option<&str>, id: Option<&str>, entry: &[u8]| -> Result<()> {
        let found = fingerprint(spool, sequence, id, entry)?;
        writeln!(out, "{found}").context("writing to standard output")
    };
    match broker.as_str() {
        "kafka" => each_record(address, name, LIMIT, |record| {
            let (sequence, id) = (record.header("ce_sequence"), record.header("ce_id"));
            print(sequence, id, record.value.as_deref().unwrap_or_default())
                .with_context(|| format!("partition {}, offset {}", record.partition, record.offset))
        })?,
        "nats" => each_message(address, name, PATIENCE, |message| {
            print(
                message.header("ce-sequence"),
                message.header("ce-id"),
                &message.payload,
            )
            .with_context(|| format!("message {} of the stream", message.place))
        })?,
        other => bail!("the broker is kafka or nats, not {other}"),
    }
    out.flush().context("writing to standard output")
}

fn fingerprint(spool: &str, sequence: Option<&str>, id: Option<&str>, entry: &[u8]) -> Result<Fingerprint> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        pid: Option<Cow<'a, str>>,
    }
    let sequence = sequence.context("no sequence")?;
    let number = sequence
        .strip_prefix(spool)
        .and_then(|rest| rest.strip_prefix(':')?.parse().ok())
        .with_context(|| format!("the sequence {sequence} is none of the spool {spool}"))?;
    let entry = str::from_utf8(entry).context("the body is no text")?;
    let Entry { pid } = serde_json::from_str(entry).context("the body is no entry")?;
    Ok(Fingerprint::of(
        number,
        id.context("no id")?,
        entry,
        pid.as_deref(),
    ))
}
