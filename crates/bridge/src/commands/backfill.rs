//! `neurobridge backfill`: requests the running bridge to fetch the events of a period from the platform's REST interface; with
//! `--dry-run`, fetches and shows them itself.

use std::{fmt::Write, time::Duration};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use neurobridge_core::{
    cloudevents,
    event::{Event, FieldPath, Origin},
    event_buf::EventBuf,
    foreign_text,
    redact::Redaction,
};
use neurobridge_listener::{EventAttributes, FeedEvent, SourceConfig};
use neurobridge_platform::{BackfillReader, BackfillReport, MissedEvent, Window, sentence};
use neurobridge_protocol::{Action, Protocol};
use serde::Serialize;
use tokio::sync::mpsc;

use super::{print, print_json, send_request};
use crate::{
    backfill,
    cli::{BackfillFlags, TimeOrAge},
    config::Config,
    control::Request,
    exit::{Exit, Failure, OrExit},
    redaction::read_redaction,
    table::Table,
};

/// The field with the id of the person in an event.
const PERSON: &str = "pid";

/// Prints the events of a period and their number, or sends a request to the running bridge to store them.
///
/// # Errors
/// Fails when the source is unknown or has no REST interface, when no bridge runs to store the events, and when not all events
/// could be read.
pub(super) async fn run(config: &Config, flags: &BackfillFlags) -> Result<(), Failure> {
    if flags.dry_run {
        show(config, flags).await
    } else {
        store(config, flags).await
    }
}

/// Requests the events from the running bridge, and prints its answer.
async fn store(config: &Config, flags: &BackfillFlags) -> Result<(), Failure> {
    let (from, to) = period(flags)?;
    let request = Request::Backfill {
        source: flags.source.clone(),
        from,
        to,
        after: flags.after.clone(),
    };
    print(
        send_request(
            &config.data_dir,
            request,
            "start the bridge, or show the events with --dry-run",
        )
        .await?,
    )
}

/// Returns the start and the end of the period.
fn period(flags: &BackfillFlags) -> Result<(Timestamp, Timestamp), Failure> {
    let (TimeOrAge(from), TimeOrAge(to)) = (
        flags.from,
        flags.to.unwrap_or_else(|| TimeOrAge(Timestamp::now())),
    );
    if from >= to {
        return Err(Failure::new(
            Exit::Usage,
            anyhow!("--from: found {from}, expected a time before --to, {to}"),
        ));
    }
    Ok((from, to))
}

async fn show(config: &Config, flags: &BackfillFlags) -> Result<(), Failure> {
    let found = find(config, flags).await?;
    if flags.json {
        print_json(&found)?;
    } else {
        print(found.to_table())?;
    }
    let error = |exit, reason: &str| {
        Err(Failure::message(
            exit,
            format!("not all events were read: {reason}"),
        ))
    };
    match &found.reason {
        None => Ok(()),
        Some(reason) if found.is_token_refused => error(Exit::TokenRefused, reason),
        Some(reason) => error(Exit::Unavailable, reason),
    }
}

/// The events of a period, in the shape of `--json`.
#[derive(Debug, Serialize)]
struct Found {
    source: String,
    from: Timestamp,
    to: Timestamp,
    outcome: &'static str,
    reason: Option<String>,
    pages: u32,
    requests: u32,
    /// The number of entries without a usable id.
    without_id: u64,
    /// The number of events that the filter of the configuration rejects.
    filtered: u64,
    events: Vec<Row>,
    #[serde(skip)]
    is_token_refused: bool,
}

/// An event, after the filter and the redaction of the configuration.
#[derive(Debug, Serialize)]
struct Row {
    /// A JSON number if the id is a number, otherwise a string.
    id: serde_json::Value,
    created: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    person: Option<String>,
}

async fn find(config: &Config, flags: &BackfillFlags) -> Result<Found, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, anyhow!(message));
    let source = config.sources.get(&flags.source).ok_or_else(|| {
        let names: Vec<&str> = config.sources.keys().map(String::as_str).collect();
        usage(format!(
            "--source: found \"{}\", expected one of {}",
            flags.source,
            names.join(", ")
        ))
    })?;
    let (from, to) = period(flags)?;
    let window = Window {
        after: flags.after.clone(),
        skips_known: false,
        from,
        to: Some(to),
        // The flags contain times of the platform's clock, so no deviation of clocks has to be covered.
        overlap: Duration::ZERO,
    };
    let redaction = read_redaction(&config.event.redact, config.event.pseudonymise.as_ref(), "event").await?;
    let mut protocol = backfill::protocol(source, config)
        .with_context(|| format!("sources.{}", flags.source))
        .or_exit(Exit::Config)?;
    let mut reader = Reader::new(config, &flags.source, source, redaction);
    let mut entries = connect(&flags.source, source.clone()).await?;
    let (events, mut received) = mpsc::channel(1);
    let reading = async move { entries.fetch(&window, &events).await };
    let showing = async {
        while let Some(page) = received.recv().await {
            page.iter().for_each(|missed| reader.read(missed, &mut protocol));
        }
    };
    let (report, ()) = tokio::join!(reading, showing);
    Ok(reader.found(&flags.source, from, to, &report))
}

/// Creates a client of the REST interface.
async fn connect(name: &str, source: SourceConfig) -> Result<BackfillReader, Failure> {
    let place = format!("sources.{name}");
    let reader = backfill::missed_events_reader(&source)
        .await
        .with_context(|| place.clone())
        .or_exit(Exit::Config)?;
    reader.ok_or_else(|| {
        let message = format!(
            "{place}.backfill: found no address of a REST interface, expected `url` for a feed other than the platform's \
             own, the table `backfill` in the declaration of a declared feed, and no `enabled = false`"
        );
        Failure::new(Exit::Config, anyhow!(message))
    })
}

/// Filters and redacts fetched events as the intake does, and collects a row for each event.
struct Reader<'a> {
    config: &'a Config,
    name: &'a str,
    attributes: EventAttributes,
    redaction: Redaction,
    buffer: EventBuf,
    rows: Vec<Row>,
    filtered: u64,
}

impl<'a> Reader<'a> {
    fn new(config: &'a Config, name: &'a str, source: &SourceConfig, redaction: Redaction) -> Self {
        Self {
            config,
            name,
            attributes: source.attributes(name),
            redaction,
            buffer: EventBuf::default(),
            rows: Vec::new(),
            filtered: 0,
        }
    }

    fn read(&mut self, missed: &MissedEvent, protocol: &mut Protocol) {
        protocol.receive(&missed.frame, &mut |action| {
            if let Action::Event(event) = action {
                self.add(missed, &event);
            }
        });
    }

    fn add(&mut self, missed: &MissedEvent, event: &FeedEvent<'_>) {
        let event = Event {
            origin: Origin::Backfill,
            ..self.attributes.event(self.name, event)
        };
        if !self.config.event.filter.matches(&event) {
            self.filtered += 1;
            return;
        }
        // An event that cannot be redacted is shown without its person.
        let redacted = self.redaction.apply(&event, &mut self.buffer).ok();
        let person = redacted.as_ref().and_then(|event| {
            FieldPath::parse(PERSON)?
                .value(event)
                .map(|value| value.into_owned())
        });
        let mut kind = String::new();
        cloudevents::write_type(&event, &mut kind);
        self.rows.push(Row {
            id: missed
                .number()
                .map_or_else(|| missed.id.clone().into(), Into::into),
            created: event.time().map(|time| time.into_owned()),
            kind,
            person,
        });
    }

    fn found(self, source: &str, from: Timestamp, to: Timestamp, report: &BackfillReport) -> Found {
        Found {
            source: source.to_owned(),
            from,
            to,
            outcome: report.outcome.label(),
            reason: report.outcome.reason().map(|reason| sentence(reason)),
            pages: report.pages,
            requests: report.requests,
            without_id: report.without_id,
            filtered: self.filtered,
            events: self.rows,
            is_token_refused: report.outcome.is_token_refused(),
        }
    }
}

impl Found {
    fn to_table(&self) -> String {
        let mut table = Table::new(["id", "created", "type", "person"]);
        // The values come from the platform, and may contain control characters.
        let shown =
            |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| foreign_text::clean(text));
        for event in &self.events {
            table.row([
                event
                    .id
                    .as_str()
                    .map_or_else(|| event.id.to_string(), foreign_text::clean),
                shown(event.created.as_ref()),
                foreign_text::clean(&event.kind),
                shown(event.person.as_ref()),
            ]);
        }
        let mut text = table.to_string();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "\n{} on {}, {}: {}",
            count(self.events.len() as u64, "event"),
            count(self.pages.into(), "page"),
            count(self.requests.into(), "request"),
            self.outcome
        );
        for (number, what) in [
            (self.filtered, "rejected by the filter"),
            (self.without_id, "skipped, without an id"),
        ] {
            if number > 0 {
                let _ = writeln!(text, "{}: {what}", count(number, "event"));
            }
        }
        text
    }
}

fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use neurobridge_core::filter::Filter;
    use neurobridge_listener::EventListener;
    use neurobridge_simulator::{Options, Simulator};
    use tokio_util::sync::CancellationToken;

    use super::*;

    const START: &str = "2026-03-01T08:00:00Z";

    fn flags(after: Option<&str>) -> BackfillFlags {
        BackfillFlags {
            config: crate::cli::ConfigFlag::default(),
            source: "main".to_owned(),
            from: START.parse().unwrap(),
            to: Some("2026-03-01T08:00:59Z".parse().unwrap()),
            after: after.map(str::to_owned),
            dry_run: true,
            json: false,
        }
    }

    fn config(url: &str, token: &str) -> Config {
        let mut source = SourceConfig::new(url.replacen("http", "ws", 1), token);
        source.backfill.url = Some(url.to_owned());
        source.backfill.rate = 1_000;
        let mut config = Config::default();
        config.sources.insert("main".to_owned(), source);
        config
    }

    /// Starts a simulated platform that has recognised an entry each second for two minutes.
    async fn platform(stop: &CancellationToken) -> String {
        let options = Options {
            tokens: vec!["token-of-the-test".into()],
            count: Some(120),
            start: Some(START.parse().unwrap()),
            step: Some(Duration::from_secs(1)),
            ..Options::default()
        };
        let simulator = Simulator::bind(options).await.unwrap();
        let handle = simulator.handle();
        tokio::spawn(simulator.run(stop.clone()));
        let url = format!("http://{}", handle.local_addr());
        let source = config(&url, "token-of-the-test").sources["main"].clone();
        let listener = EventListener::from_config(source);
        let stopped = stop.child_token();
        let listening =
            tokio::spawn(listener.run(stopped.clone(), |_| async { Ok::<(), std::io::Error>(()) }));
        handle.done().await;
        stopped.cancel();
        drop(listening);
        url
    }

    #[tokio::test]
    async fn events_of_a_period_are_shown_filtered_and_redacted() {
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let url = platform(&stop).await;
        let mut config = config(&url, "token-of-the-test");
        let all = find(&config, &flags(None)).await.unwrap();
        assert_eq!((all.events.len(), all.filtered, all.outcome), (60, 0, "complete"));
        assert!(all.events.iter().any(|row| row.person.is_some()));
        config.event.filter = Filter::new([("result", ["new"])]).unwrap();
        config.event.redact = vec!["pid".parse().unwrap()];
        let found = find(&config, &flags(Some("50"))).await.unwrap();
        assert_eq!(found.events.len() as u64 + found.filtered, 10);
        assert!(found.filtered > 0 && found.events.iter().all(|row| row.person.is_none()));
        let text = found.to_table();
        assert!(
            text.contains("requests: complete\n") && text.contains(": rejected by the filter\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn errors_name_the_flag_or_the_key() {
        let mut config = config("http://127.0.0.1:9", "token");
        let mut wrong = flags(None);
        wrong.source = "other".to_owned();
        let failure = find(&config, &wrong).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("expected one of main"), "{failure}");
        wrong = flags(None);
        wrong.to = Some(wrong.from);
        assert_eq!(find(&config, &wrong).await.unwrap_err().exit, Exit::Usage);
        config.sources.get_mut("main").unwrap().backfill.url = None;
        let failure = find(&config, &flags(None)).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.to_string().contains("sources.main.backfill"), "{failure}");
    }

    #[tokio::test]
    async fn refused_token_is_distinguished_from_other_failures() {
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let url = platform(&stop).await;
        let failure = run(&config(&url, "another-token"), &flags(None))
            .await
            .unwrap_err();
        assert_eq!(failure.exit, Exit::TokenRefused);
        assert!(
            failure.to_string().contains("not all events were read"),
            "{failure}"
        );
    }
}
