//! Reads all events that a broker stores, and prints each copy on one line, with a fingerprint in place of its body, in the
//! order in which a consumer receives them.
//!
//! `read-back (kafka BOOTSTRAP TOPIC|nats URLS STREAM)` is a separate program, so that the development tasks need no broker
//! clients. A record that is not an event is an error.

use std::borrow::Cow;
use std::env;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use neurobridge_tests::fingerprint::{Copy, Fingerprint, Origin};
use neurobridge_tests::kafka::records::each_record;
use neurobridge_tests::nats::messages::each_message;
use serde::Deserialize;

/// The longest wait for the next Kafka record. A complete read may take at most ten times as long (see
/// [`neurobridge_tests::poll::Patience`]), which is long enough for the events of a day.
const LIMIT: Duration = Duration::from_secs(3600);
/// The longest wait for the next NATS message, for each message anew.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [broker, address, name] = &arguments[..] else {
        bail!("usage: read-back (kafka BOOTSTRAP TOPIC|nats URLS STREAM)");
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut print =
        |stored: Option<i64>, header: &dyn Fn(&str) -> Option<String>, entry: &[u8]| -> Result<()> {
            let found = copy(stored, header, entry)?;
            writeln!(out, "{found}").context("writing to standard output")
        };
    match broker.as_str() {
        "kafka" => each_record(address, name, LIMIT, |record| {
            let header = |name: &str| record.header(&format!("ce_{name}")).map(str::to_owned);
            print(
                record.timestamp,
                &header,
                record.value.as_deref().unwrap_or_default(),
            )
            .with_context(|| format!("partition {}, offset {}", record.partition, record.offset))
        })?,
        "nats" => each_message(address, name, PATIENCE, |message| {
            let header = |name: &str| message.header(&format!("ce-{name}")).map(str::to_owned);
            print(message.stored, &header, &message.payload)
                .with_context(|| format!("message {} of the stream", message.place))
        })?,
        other => bail!("unknown broker {other}; expected kafka or nats"),
    }
    out.flush().context("writing to standard output")
}

fn copy(stored: Option<i64>, header: &dyn Fn(&str) -> Option<String>, entry: &[u8]) -> Result<Copy> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        pid: Option<Cow<'a, str>>,
    }
    let sequence = header("sequence").context("the record has no sequence")?;
    let (spool, number) = sequence
        .rsplit_once(':')
        .and_then(|(spool, number)| Some((spool, number.parse().ok()?)))
        .with_context(|| format!("the sequence {sequence} is not <spool>:<number>"))?;
    let id = header("id").context("the record has no id")?;
    let entry = str::from_utf8(entry).context("the body is not UTF-8")?;
    let Entry { pid } = serde_json::from_str(entry).context("the body is not an entry")?;
    Ok(Copy {
        stored: stored.context("the record has no timestamp")?,
        spool: spool.to_owned(),
        fingerprint: Fingerprint::of(number, &id, entry, pid.as_deref()),
        origin: Origin::of(header("origin").as_deref(), header("late").as_deref()),
        source: header("source").context("the record has no source")?,
        id,
    })
}
