//! The demo's output: a redrawn screen on a terminal, plain lines elsewhere.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, IsTerminal},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use super::{
    content::{Content, Locations},
    rates::Rates,
    scenario::Scenario,
    totals::{self, Totals},
};
use crate::{
    output::Output,
    signals::Suspension,
    state::View,
    terminal::{self, Paint, Style},
};

/// Switches to the alternate screen, hides the cursor and turns line wrapping off.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Delimits a synchronised update: terminals that support it show the screen only when it is complete.
const BEGIN_SCREEN: &str = "\x1b[?2026h\x1b[H";
const END_SCREEN: &str = "\x1b[J\x1b[?2026l";

/// The interval of the counts if the output is not a terminal.
const COUNTS_INTERVAL: Duration = Duration::from_secs(2);

/// Draws the demo without waiting for the terminal, and restores the terminal on drop.
pub(super) struct Screen {
    output: Output,
    is_terminal: bool,
    has_entered: bool,
    paint: Paint,
    locations: Locations,
    rates: Rates,
    began: Instant,
    /// The number of reports already written as lines.
    written_reports: usize,
    /// When the next line with counts is due.
    next_counts: Instant,
}

impl Screen {
    /// Shows the empty screen, or on an output that is no terminal the first lines.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written to.
    pub(super) fn begin(locations: Locations) -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let mut screen = Self {
            // Output that a slow reader misses needs no warning in a demo.
            output: Output::start("screen", stdout, |_| {})?,
            is_terminal: io::stdout().is_terminal(),
            has_entered: false,
            paint: Paint::of(&io::stdout()),
            locations,
            rates: Rates::default(),
            began: Instant::now(),
            written_reports: 0,
            next_counts: Instant::now(),
        };
        if screen.is_terminal {
            screen.enter()?;
        } else {
            let Locations {
                events,
                page,
                metrics,
                ..
            } = &screen.locations;
            screen.write(&format!(
                "neurobridge demo: a simulated platform, the bridge, and a file\n\n  events   {}\n  page     {page}\n  \
                 metrics  {metrics}\n\n",
                events.display()
            ))?;
        }
        Ok(screen)
    }

    /// Restores the terminal, stops the process until SIGCONT, and shows the screen again.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written to, or the system refuses to stop the process.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        let has_entered = self.has_entered;
        self.leave();
        self.output.flush();
        Suspension::stop()?;
        if has_entered { self.enter() } else { Ok(()) }
    }

    fn enter(&mut self) -> io::Result<()> {
        self.has_entered = true;
        self.write(ENTER)
    }

    /// Redraws the screen, or writes the new reports and from time to time the counts as lines.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written to.
    pub(super) fn draw(&mut self, view: &View<'_>, totals: &Totals, scenario: &Scenario) -> io::Result<()> {
        self.rates.measure(view);
        if !self.is_terminal {
            let mut text = self.new_reports(scenario);
            if Instant::now() >= self.next_counts {
                self.next_counts = Instant::now() + COUNTS_INTERVAL;
                self.write_counts(view, &mut text);
            }
            return self.write(&text);
        }
        if !self.output.is_idle() {
            // The terminal is slow or stopped. The next screen shows the complete state.
            return Ok(());
        }
        // Queried each time, since the window may have been resized.
        let (columns, rows) = terminal::size();
        let results = totals.counts();
        let content = Content {
            view,
            results: &results,
            scenario,
            rates: &self.rates,
            locations: &self.locations,
            running_for: self.began.elapsed(),
        };
        let mut text = BEGIN_SCREEN.to_owned();
        for (row, line) in content.lines(columns, rows).iter().enumerate() {
            if row > 0 {
                text.push_str("\r\n");
            }
            // Cleared before the text: after a line that fills its row, clearing would delete its last character.
            text.push_str("\x1b[2K");
            text.push_str(&line.render(columns, self.paint));
        }
        text.push_str(END_SCREEN);
        self.write(&text)
    }

    /// Restores the terminal and prints the ledger.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written to.
    pub(super) fn end(
        mut self,
        view: &View<'_>,
        scenario: &Scenario,
        ledger: &str,
        totals: &Totals,
    ) -> io::Result<()> {
        self.leave();
        let mut text = String::new();
        if !self.is_terminal {
            text += &self.new_reports(scenario);
            self.write_counts(view, &mut text);
        }
        // Writing to a string cannot fail.
        let title = self
            .paint
            .paint(Style::Bold, "The ledger: the result of every event");
        let _ = writeln!(text, "{}{title}", if self.is_terminal { "" } else { "\n" });
        for line in ledger.lines() {
            let _ = writeln!(text, "  {line}");
        }
        let counts = totals.counts();
        let counts = counts
            .iter()
            .map(|(result, count)| format!("{count} {}", totals::describe(result)));
        let _ = writeln!(text, "\n  by result: {}", counts.collect::<Vec<_>>().join(", "));
        let earlier = if self.locations.has_earlier_events {
            ", after the events of an earlier run"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "\nThe events are in {}{earlier}",
            self.locations.events.display()
        );
        self.write(&text)?;
        self.output.flush();
        self.failure()
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.has_entered) {
            // If the write fails, the terminal is gone, and no error can be shown.
            let _ = self.write(LEAVE);
        }
    }

    /// Queues a text.
    ///
    /// # Errors
    /// Returns the error of an earlier write.
    fn write(&self, text: &str) -> io::Result<()> {
        if !text.is_empty() {
            self.output.push(text.as_bytes());
        }
        self.failure()
    }

    /// A closed pipe is not an error: the demo ends by a signal or after its duration.
    fn failure(&self) -> io::Result<()> {
        match self.output.take_error() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the reports since the last call as lines, for an output that cannot be redrawn.
    fn new_reports(&mut self, scenario: &Scenario) -> String {
        let mut text = String::new();
        let (new, total) = scenario.after(self.written_reports);
        for report in new {
            let _ = writeln!(
                text,
                "{}  {}: {}",
                report.at.strftime("%H:%M:%S"),
                report.actor.name(),
                report.text
            );
        }
        self.written_reports = total;
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
