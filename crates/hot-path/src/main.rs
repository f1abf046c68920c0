//! The work of the bridge for each event, without sockets, disks and brokers. `cargo xtask bench --instructions` counts the
//! instructions of this program.
//!
//! `neurobridge-hot-path CASE STEP EVENTS` processes at least EVENTS events up to a step; `neurobridge-hot-path processor` prints
//! the features of the processor that change the executed code.

use std::{env, hint::black_box, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use neurobridge_core::{
    cloudevents,
    event::{Event, FieldPath, Origin, Sequence},
    filter::Filter,
    identity::{self, SpoolId},
    neuroio,
    record::Batch,
    template::Template,
};
use neurobridge_protocol::{Action, Declaration, FeedEvent, Interpreter, Neuroio, Protocol};

const NEUROIO_FRAMES: &str = include_str!("neuroio.ndjson");
const OKX_FRAMES: &str = include_str!("okx.ndjson");
/// The number of events in a batch, as after one wake-up of a busy socket.
const BATCH_EVENTS: u64 = 64;

/// A step of the work. Each step includes the earlier steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Checks the JSON of a frame, classifies it, and finds its fields.
    Read,
    /// Filters and encodes an event as a record, hashes identity and body, and numbers the records of a batch.
    Store,
    /// Decodes a record, filters, and renders two templates and a CloudEvent, as a sink does.
    Publish,
}

/// The work after a frame is read.
struct Work {
    step: Step,
    source_uri: &'static str,
    type_prefix: String,
    spool: SpoolId,
    filter: Filter,
    templates: [Template; 2],
    batch: Batch,
    next: Sequence,
    /// The number of events read.
    events: u64,
    /// The number of events published.
    published: u64,
    /// The rendered texts, reused for each event.
    text: String,
    scratch: String,
}

/// A measured feed with its configuration.
struct Case {
    frames: &'static str,
    declaration: Option<&'static str>,
    source_uri: &'static str,
    filter: &'static str,
    templates: [&'static str; 2],
}

const NEUROIO: Case = Case {
    frames: NEUROIO_FRAMES,
    declaration: None,
    source_uri: "/neuroio/main",
    filter: r#"result = ["new", "exact", "reinit"]"#,
    templates: ["neuroio.entries.{space.id}.{source.id}.{result}", "{pid}"],
};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["processor"] => print_processor(),
        [case, step, events] => {
            let case = match *case {
                "neuroio" => NEUROIO,
                "declared" => Case {
                    declaration: Some(include_str!("neuroio.toml")),
                    ..NEUROIO
                },
                "okx" => Case {
                    frames: OKX_FRAMES,
                    declaration: Some(include_str!("../../../config/feeds/okx.toml")),
                    source_uri: "/okx/main",
                    filter: r#"side = ["buy", "sell"]"#,
                    templates: ["okx.{instId}.{side}", "{instId}"],
                },
                other => bail!("found case {other:?}, expected neuroio, declared or okx"),
            };
            let step = match *step {
                "read" => Step::Read,
                "store" => Step::Store,
                "publish" => Step::Publish,
                other => bail!("found step {other:?}, expected read, store or publish"),
            };
            case.run(step, events.parse().context("EVENTS is not a number")?)
        }
        _ => bail!("usage: neurobridge-hot-path CASE STEP EVENTS"),
    }
}

impl Case {
    fn run(self, step: Step, events: u64) -> Result<()> {
        let filter: Filter = toml::from_str(self.filter)?;
        let template = |text: &str| text.parse::<Template>().with_context(|| text.to_owned());
        let templates = [template(self.templates[0])?, template(self.templates[1])?];
        let mut fields: Vec<FieldPath> = filter.fields().map(|(_, field)| field.clone()).collect();
        for field in templates.iter().flat_map(Template::fields) {
            if !fields.contains(field) {
                fields.push(field.clone());
            }
        }
        let mut type_prefix = neuroio::TYPE_PREFIX.to_owned();
        let mut protocol = match self.declaration {
            None => {
                let unused = Duration::from_secs(10);
                Protocol::Neuroio(Box::new(Neuroio::new(unused, unused, unused, &fields)))
            }
            Some(text) => {
                let declaration: Declaration = toml::from_str(text)?;
                type_prefix = declaration.event.type_prefix.clone().unwrap_or_default();
                match Interpreter::new(declaration, &fields) {
                    Ok(interpreter) => Protocol::Declared(Box::new(interpreter)),
                    Err(problems) => bail!("invalid declaration: {problems:?}"),
                }
            }
        };
        protocol.skip_opening();
        let mut work = Work {
            step,
            source_uri: self.source_uri,
            type_prefix,
            spool: SpoolId::from_bytes([7; 16]),
            filter,
            templates,
            batch: Batch::default(),
            next: Sequence::FIRST,
            events: 0,
            published: 0,
            text: String::new(),
            scratch: String::new(),
        };
        let frames: Vec<&str> = self.frames.lines().collect();
        for frame in frames.into_iter().cycle() {
            if work.events >= events {
                break;
            }
            let mut other = None;
            protocol.receive(frame, &mut |action| match action {
                Action::Event(event) => work.store(&event),
                action => other = Some(format!("{action:?}")),
            });
            if let Some(other) = other {
                bail!("found {other}, expected an event: {frame}");
            }
        }
        work.end_batch();
        ensure!(
            step < Step::Publish || work.published > events / 2,
            "{} of {events} events were published, expected more than half",
            work.published
        );
        Ok(())
    }
}

impl Work {
    fn store(&mut self, received: &FeedEvent<'_>) {
        self.events += 1;
        let event = Event {
            sequence: Sequence::FIRST,
            received_at: Timestamp::UNIX_EPOCH,
            source: "main",
            source_uri: self.source_uri,
            type_prefix: &self.type_prefix,
            conflict: None,
            origin: Origin::Feed,
            positions: received.positions,
            frame: received.text,
        };
        if self.step == Step::Read {
            black_box(event);
            return;
        }
        if self.filter.matches(&event) {
            self.batch.push(&event);
        }
        let id = event.id();
        black_box(id.map(|id| identity::identity_hash(event.source, &id)));
        black_box(identity::body_hash(event.body()));
        if self.events.is_multiple_of(BATCH_EVENTS) {
            self.end_batch();
        }
    }

    fn end_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch).fitted();
        batch.set_received_at(Timestamp::UNIX_EPOCH);
        let sealed = black_box(batch.seal(self.next));
        self.next = sealed.end();
        if self.step < Step::Publish {
            return;
        }
        for event in sealed.iter().filter_map(Result::ok) {
            if !self.filter.matches(&event) {
                continue;
            }
            for template in &self.templates {
                self.text.clear();
                black_box(template.render_complete(&event, &mut self.text));
            }
            self.text.clear();
            cloudevents::write_structured(&event, &self.spool, &[], &mut self.scratch, &mut self.text);
            black_box(self.text.as_str());
            self.published += 1;
        }
    }
}

/// Prints the architecture and the detected features by which libraries select their code.
#[expect(clippy::print_stdout, reason = "the result of the program")]
fn print_processor() -> Result<()> {
    let mut features: Vec<&str> = vec![env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    for (name, is_there) in [
        ("sse4.2", std::arch::is_x86_feature_detected!("sse4.2")),
        ("pclmulqdq", std::arch::is_x86_feature_detected!("pclmulqdq")),
        ("bmi2", std::arch::is_x86_feature_detected!("bmi2")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ] {
        if is_there {
            features.push(name);
        }
    }
    println!("{}", features.join(" "));
    Ok(())
}
