//! The demo's picture: drawn over itself on a terminal, plain lines elsewhere.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    time::Instant,
};

use jiff::Timestamp;

use crate::state::View;

/// Where a person finds what the demo makes.
pub(super) struct Places {
    pub(super) events: PathBuf,
    pub(super) page: String,
    pub(super) metrics: String,
}

/// Draws the demo.
pub(super) struct Screen {
    is_terminal: bool,
    colour: bool,
    places: Places,
    /// Lines of the last picture, to be drawn over.
    drawn: usize,
    before: Option<(Instant, u64, u64)>,
    rates: (f64, f64),
    told: Option<Timestamp>,
}

impl Screen {
    pub(super) fn new(is_terminal: bool, places: Places) -> Self {
        let colour = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            is_terminal,
            colour,
            places,
            drawn: 0,
            before: None,
            rates: (0.0, 0.0),
            told: None,
        }
    }

    pub(super) fn begin(&self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(
            stdout,
            "{}",
            self.bold("neurobridge demo: a simulated NeuroIO platform, the bridge, and a file")
        )?;
        writeln!(stdout)?;
        writeln!(stdout, "  events   {}", self.places.events.display())?;
        writeln!(stdout, "  page     {}", self.places.page)?;
        writeln!(stdout, "  metrics  {}", self.places.metrics)?;
        writeln!(stdout)?;
        stdout.flush()
    }

    pub(super) fn draw(
        &mut self,
        view: &View<'_>,
        results: &BTreeMap<String, u64>,
        happenings: &VecDeque<(Timestamp, String)>,
    ) -> io::Result<()> {
        self.measure(view);
        let picture = if self.is_terminal {
            self.picture(view, results, happenings)
        } else {
            self.lines(view, happenings)
        };
        let mut stdout = io::stdout().lock();
        if self.is_terminal && self.drawn > 0 {
            // Back to the first line of the last picture, and clear from there.
            write!(stdout, "\x1b[{}A\x1b[J", self.drawn)?;
        }
        stdout.write_all(picture.as_bytes())?;
        self.drawn = picture.lines().count();
        stdout.flush()
    }

    pub(super) fn end(&self, ledger: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(
            stdout,
            "\n{}",
            self.bold("The ledger: what became of every event")
        )?;
        for line in ledger.lines() {
            writeln!(stdout, "  {line}")?;
        }
        writeln!(stdout, "\nThe events are in {}", self.places.events.display())?;
        stdout.flush()
    }

    fn measure(&mut self, view: &View<'_>) {
        let received = view.sources.iter().map(|source| source.ledger.received).sum();
        let delivered = view.sinks.iter().map(|sink| sink.ledger.counts.delivered).sum();
        let now = Instant::now();
        match self.before {
            Some((at, old_received, old_delivered)) => {
                let seconds = now.duration_since(at).as_secs_f64();
                if seconds >= 1.0 {
                    let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
                    self.rates = (rate(received, old_received), rate(delivered, old_delivered));
                    self.before = Some((now, received, delivered));
                }
            }
            None => self.before = Some((now, received, delivered)),
        }
    }

    fn picture(
        &self,
        view: &View<'_>,
        results: &BTreeMap<String, u64>,
        happenings: &VecDeque<(Timestamp, String)>,
    ) -> String {
        let mut text = String::new();
        for source in &view.sources {
            let state = self.state(source.snapshot.state.into(), "authorised");
            let rate = self.rates.0;
            let _ = writeln!(
                text,
                "  feed   {state}  {:>9} received   {rate:>7.1}/s",
                source.ledger.received
            );
        }
        let spool = &view.spool;
        let _ = writeln!(
            text,
            "  spool  {:<11}  {:>9} stored     {:>7} KiB of {} MiB",
            spool.kind,
            spool.durable_sequence,
            spool.size_bytes >> 10,
            spool.limit_bytes >> 20
        );
        for sink in &view.sinks {
            let up = matches!(sink.snapshot.state, neurobridge_core::delivery::SinkState::Up);
            let state = self.state(if up { "up" } else { "not up" }, "up");
            let latency = sink
                .handle
                .progress
                .latency()
                .quantile(0.99)
                .map_or(String::new(), |bound| {
                    format!("   99 of 100 within {:.0} ms", (bound * 1000.0).ceil())
                });
            let rate = self.rates.1;
            let delivered = sink.ledger.counts.delivered;
            let _ = writeln!(
                text,
                "  file   {state}  {delivered:>9} delivered  {rate:>7.1}/s{latency}"
            );
        }
        let results: Vec<String> = results
            .iter()
            .map(|(result, count)| format!("{result} {count}"))
            .collect();
        let _ = writeln!(text, "\n  by result  {}\n", results.join("  "));
        for (at, happening) in happenings {
            let _ = writeln!(text, "  {}  {happening}", at.strftime("%H:%M:%S"));
        }
        let _ = writeln!(
            text,
            "\n  {}",
            self.dim("Ctrl-C ends the demo, with the ledger. A fault comes now and then.")
        );
        text
    }

    /// What is new since the last call, for an output that can't be drawn over.
    fn lines(&mut self, view: &View<'_>, happenings: &VecDeque<(Timestamp, String)>) -> String {
        let mut text = String::new();
        for (at, happening) in happenings
            .iter()
            .filter(|(at, _)| self.told.is_none_or(|told| *at > told))
        {
            let _ = writeln!(text, "{}  {happening}", at.strftime("%H:%M:%S"));
        }
        self.told = happenings.back().map(|(at, _)| *at).or(self.told);
        let received: u64 = view.sources.iter().map(|source| source.ledger.received).sum();
        let delivered: u64 = view.sinks.iter().map(|sink| sink.ledger.counts.delivered).sum();
        let (rate, _) = self.rates;
        let _ = writeln!(text, "{received} received, {delivered} delivered, {rate:.1}/s");
        text
    }

    fn state(&self, state: &str, good: &str) -> String {
        let padded = format!("{state:<11}");
        match (self.colour, state == good) {
            (false, _) => padded,
            (true, true) => format!("\x1b[32m{padded}\x1b[0m"),
            (true, false) => format!("\x1b[33m{padded}\x1b[0m"),
        }
    }

    fn bold(&self, text: &str) -> String {
        if self.colour {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn dim(&self, text: &str) -> String {
        if self.colour {
            format!("\x1b[2m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
