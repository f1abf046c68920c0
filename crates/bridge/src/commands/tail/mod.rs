//! `neurobridge tail`: writes events to standard output as they arrive.

mod event_input;
mod line;
mod printer;

use neurobridge_core::{filter::Filter, identity::SpoolId};
use tracing::warn;

use self::{event_input::EventInput, printer::Printer};
use crate::{
    cli::TailFlags,
    config::Config,
    control::TailMessage,
    exit::{Exit, Failure, OrExit},
    preview::Preview,
    signals::Signals,
};

/// Writes events to standard output, from the running bridge or, if none runs, from the feed. Publishes nothing.
///
/// Ends after `--count` events, at a signal, when standard output is closed, or with the bridge.
///
/// # Errors
/// Fails when a source fails, the connection to the bridge breaks, or standard output cannot be written.
pub(super) async fn run(config: &Config, flags: &TailFlags) -> Result<(), Failure> {
    let mut signals = Signals::new().or_exit(Exit::Unavailable)?;
    let only = only(&flags.only)?;
    for field in only.fields().filter_map(|(_, field)| field.unknown_field()) {
        warn!("unknown field \"{field}\": events without it are not shown");
    }
    if let Some(name) = &flags.sink {
        // A mistyped name is reported before connecting.
        Preview::new(config, name, SpoolId::from_bytes([0; 16]))?;
    }
    let mut input = EventInput::open(config).await?;
    let preview = match &flags.sink {
        Some(name) => Some(Preview::new(config, name, input.spool())?),
        None => None,
    };
    let mut printer = Printer::new(preview, flags.json, flags.raw, config.sources.len() > 1);
    let mut left = flags.count.unwrap_or(u64::MAX);
    while left > 0 {
        let message = tokio::select! {
            biased;
            _ = signals.next() => return Ok(()),
            message = input.next() => message?,
        };
        match message {
            TailMessage::Events(batch) => {
                for event in batch.iter() {
                    let event = event.or_exit(Exit::Unavailable)?;
                    if left > 0 && only.matches(&event) && printer.add(&event) {
                        left -= 1;
                    }
                }
                // A full pipe blocks this program alone; a signal still ends it.
                let is_open = tokio::select! {
                    biased;
                    _ = signals.next() => return Ok(()),
                    written = printer.write() => written.or_exit(Exit::Disk)?,
                };
                if !is_open {
                    return Ok(());
                }
                input.settle(&batch);
            }
            TailMessage::Missed(events) => {
                warn!(
                    events,
                    "standard output is too slow: events were not shown (a running bridge delivers them to its sinks)"
                );
            }
            TailMessage::End if flags.count.is_some() => {
                let message = format!("the bridge stopped before {left} of the events of --count arrived");
                return Err(Failure::message(Exit::Unavailable, message));
            }
            TailMessage::End => {
                warn!("the bridge stopped; tail ends too");
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Returns the filter of `--only field=value`: any of the values of a field matches, and all fields must match.
fn only(conditions: &[(String, String)]) -> Result<Filter, Failure> {
    let mut fields: Vec<(&str, Vec<&str>)> = Vec::new();
    for (field, value) in conditions {
        match fields.iter_mut().find(|(known, _)| known == field) {
            Some((_, values)) => values.push(value),
            None => fields.push((field, vec![value])),
        }
    }
    Filter::new(fields).or_exit(Exit::Usage)
}
