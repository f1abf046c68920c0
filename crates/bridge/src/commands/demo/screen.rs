//! The demo's screen: a picture drawn over and over on a terminal, plain lines elsewhere.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, IsTerminal},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use super::{
    happenings::Happenings,
    picture::{Picture, Places},
    rates::Rates,
    totals::{self, Totals},
};
use crate::{
    output::Output,
    state::View,
    terminal::{self, Paint, Style},
};

/// A second screen, which leaves what was there as it was; no cursor; lines that are too long are cut, not wrapped.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Shown at once when it is whole, by terminals that know these.
const BEGIN_PICTURE: &str = "\x1b[?2026h\x1b[H";
const END_PICTURE: &str = "\x1b[J\x1b[?2026l";

/// How often the counts are told when the output is no terminal.
const COUNTS_INTERVAL: Duration = Duration::from_secs(2);

/// Draws the demo, without waiting for the terminal. Dropped, it leaves the terminal as it was.
pub(super) struct Screen {
    output: Output,
    is_terminal: bool,
    has_entered: bool,
    paint: Paint,
    places: Places,
    rates: Rates,
    began: Instant,
    /// Happenings that were told as lines.
    told: usize,
    /// When the counts are told as a line again.
    next_counts: Instant,
}

impl Screen {
    /// # Errors
    /// Standard output can't be written to.
    pub(super) fn begin(places: Places) -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let mut screen = Self {
            // What a reader who is too slow misses of a demo needs no report.
            output: Output::start("screen", stdout, |_| {})?,
            is_terminal: io::stdout().is_terminal(),
            has_entered: false,
            paint: Paint::of(&io::stdout()),
            places,
            rates: Rates::default(),
            began: Instant::now(),
            told: 0,
            next_counts: Instant::now(),
        };
        if screen.is_terminal {
            screen.write(ENTER)?;
            screen.has_entered = true;
        } else {
            let Places {
                events,
                page,
                metrics,
                ..
            } = &screen.places;
            screen.write(&format!(
                "neurobridge demo: a simulated NeuroIO platform, the bridge, and a file\n\n  events   {}\n  page     {page}\n  \
                 metrics  {metrics}\n\n",
                events.display()
            ))?;
        }
        Ok(screen)
    }

    /// # Errors
    /// Standard output can't be written to.
    pub(super) fn draw(
        &mut self,
        view: &View<'_>,
        totals: &Totals,
        happenings: &Happenings,
    ) -> io::Result<()> {
        self.rates.measure(view);
        if !self.is_terminal {
            let mut text = self.new_happenings(happenings);
            if Instant::now() >= self.next_counts {
                self.next_counts = Instant::now() + COUNTS_INTERVAL;
                self.write_counts(view, &mut text);
            }
            return self.write(&text);
        }
        if !self.output.is_idle() {
            // The terminal is slower than the pictures are, or held: the next one shows all of it.
            return Ok(());
        }
        // Asked each time: a window may have become another.
        let (columns, rows) = terminal::size();
        let results = totals.counts();
        let picture = Picture {
            view,
            results: &results,
            happenings,
            rates: &self.rates,
            places: &self.places,
            running_for: self.began.elapsed(),
        };
        let mut text = BEGIN_PICTURE.to_owned();
        for (row, line) in picture.lines(columns, rows).iter().enumerate() {
            if row > 0 {
                text.push_str("\r\n");
            }
            // Cleared before: behind a line that fills its row, clearing would take its last character.
            text.push_str("\x1b[2K");
            text.push_str(&line.render(columns, self.paint));
        }
        text.push_str(END_PICTURE);
        self.write(&text)
    }

    /// Leaves the terminal, and says what became of every event.
    ///
    /// # Errors
    /// Standard output can't be written to.
    pub(super) fn end(
        mut self,
        view: &View<'_>,
        happenings: &Happenings,
        ledger: &str,
        totals: &Totals,
    ) -> io::Result<()> {
        self.leave();
        let mut text = String::new();
        if !self.is_terminal {
            text += &self.new_happenings(happenings);
            self.write_counts(view, &mut text);
        }
        // Writing to a string cannot fail.
        let title = self
            .paint
            .paint(Style::Bold, "The ledger: what became of every event");
        let _ = writeln!(text, "{}{title}", if self.is_terminal { "" } else { "\n" });
        for line in ledger.lines() {
            let _ = writeln!(text, "  {line}");
        }
        let counts = totals.counts();
        let counts = counts
            .iter()
            .map(|(result, count)| format!("{count} {}", totals::in_words(result)));
        let _ = writeln!(text, "\n  by result: {}", counts.collect::<Vec<_>>().join(", "));
        let earlier = if self.places.has_earlier_events {
            ", behind those of an earlier run"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "\nThe events are in {}{earlier}",
            self.places.events.display()
        );
        self.write(&text)?;
        self.output.flush();
        self.failure()
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.has_entered) {
            // Nobody is left to report an error to.
            let _ = self.write(LEAVE);
        }
    }

    /// Queues a text. Returns the error of an earlier one.
    fn write(&self, text: &str) -> io::Result<()> {
        if !text.is_empty() {
            self.output.push(text.as_bytes());
        }
        self.failure()
    }

    /// A pipe that has seen enough is no reason to end: the demo ends by its signal or its time.
    fn failure(&self) -> io::Result<()> {
        match self.output.take_error() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// What has happened since the last call, for an output that can't be drawn over.
    fn new_happenings(&mut self, happenings: &Happenings) -> String {
        let mut text = String::new();
        let (new, total) = happenings.after(self.told);
        for happening in new {
            let _ = writeln!(
                text,
                "{}  {}: {}",
                happening.at.strftime("%H:%M:%S"),
                happening.who.name(),
                happening.what
            );
        }
        self.told = total;
        text
    }

    fn write_counts(&self, view: &View<'_>, text: &mut String) {
        let received: u64 = view.sources.iter().map(|source| source.ledger.received).sum();
        let delivered: u64 = view.sinks.iter().map(|sink| sink.ledger.counts.delivered).sum();
        let rate = self.rates.received();
        let _ = writeln!(text, "{received} received, {delivered} delivered, {rate:.1}/s");
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
        self.output.flush();
    }
}
