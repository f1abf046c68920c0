//! What the demo's screen shows, line by line, for a terminal of any size.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use neurobridge_core::delivery::SinkState;
use neurobridge_listener::SourceState;

use super::{
    happenings::{Happening, Happenings},
    rates::Rates,
};
use crate::{
    state::View,
    terminal::{Line, Style, pad},
};

/// What can be seen at a moment.
pub(super) struct Picture<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) results: &'a BTreeMap<String, u64>,
    pub(super) happenings: &'a Happenings,
    pub(super) rates: &'a Rates,
    pub(super) places: &'a Places,
    pub(super) running_for: Duration,
}

/// Where a person finds what the demo makes.
pub(super) struct Places {
    /// The file was there before, from an earlier run, and goes on.
    pub(super) has_earlier_events: bool,
    pub(super) events: PathBuf,
    pub(super) page: String,
    pub(super) metrics: String,
}

/// Before what stands right of the counters.
const COUNTER_COLUMNS: usize = 47;
/// A result's name, its count, and what is between them and the bar.
const RESULT_COLUMNS: usize = 18;

impl Picture<'_> {
    /// As many lines as there are rows, at most; what is least missed goes first where they are few.
    pub(super) fn lines(&self, columns: usize, rows: usize) -> Vec<Line> {
        let head = self.head(columns);
        let flow = self.flow(columns);
        let results = self.results(columns);
        let places = self.places();
        let hint = Line::default().styled(
            Style::Dim,
            "  Ctrl-C ends it, with the ledger of every event. Faults come by themselves.",
        );

        let fixed = 1 + flow.len();
        // Sections in the order in which they are given up, last first.
        let mut left = rows.saturating_sub(fixed);
        let mut fits = |lines: usize| {
            let is_there = lines <= left;
            left -= if is_there { lines } else { 0 };
            is_there
        };
        let some_happenings = fits(3);
        let has_places = fits(places.len());
        let has_results = fits(results.len());
        let has_hint = fits(1);
        let gaps = [has_results, some_happenings, has_places, true].map(|is_there| is_there && fits(1));
        let has_subtitle = fits(1);
        let more = if some_happenings { left } else { 0 };

        let mut lines = vec![head];
        if has_subtitle {
            lines.push(Line::default().styled(
                Style::Dim,
                "  a simulated NeuroIO platform, the bridge, and a file, in one process",
            ));
        }
        let mut section = |has_gap: bool, section: Vec<Line>| {
            if has_gap {
                lines.push(Line::default());
            }
            lines.extend(section);
        };
        section(gaps[3], flow);
        if has_results {
            section(gaps[0], results);
        }
        if some_happenings {
            section(gaps[1], self.happenings(3 + more));
        }
        if has_places {
            section(gaps[2], places);
        }
        if has_hint {
            lines.push(hint);
        }
        lines.truncate(rows);
        lines
    }

    fn head(&self, columns: usize) -> Line {
        let seconds = self.running_for.as_secs();
        let clock = format!("{:02}:{:02}", seconds / 60, seconds % 60);
        let line = Line::default().styled(Style::Bold, "  neurobridge demo");
        let gap = columns.saturating_sub(line.columns() + clock.len() + 1).max(1);
        line.text(" ".repeat(gap)).styled(Style::Dim, clock)
    }

    /// The way of the events: feed, spool, file.
    fn flow(&self, columns: usize) -> Vec<Line> {
        let (received, delivered) = self
            .rates
            .plots(columns.saturating_sub(COUNTER_COLUMNS + 12).min(30));
        let mut lines = Vec::new();
        for source in &self.view.sources {
            let state = source.snapshot.state;
            let style = match state {
                SourceState::Authorised => Style::Green,
                SourceState::Blocked | SourceState::Dialling | SourceState::Authorising => Style::Yellow,
                _ => Style::Red,
            };
            let line = counter("feed", style, state.into(), source.ledger.received, "received");
            lines.push(
                line.text(format!("{:>8.1}/s  ", self.rates.received()))
                    .styled(Style::Blue, received.clone()),
            );
        }
        let spool = &self.view.spool;
        let line = counter(
            "spool",
            Style::Green,
            spool.kind,
            spool.durable_sequence,
            "stored",
        );
        lines.push(line.styled(
            Style::Dim,
            format!(
                "  {} KiB of {} MiB",
                spool.size_bytes >> 10,
                spool.limit_bytes >> 20
            ),
        ));
        for sink in &self.view.sinks {
            let (style, state) = match sink.snapshot.state {
                SinkState::Up if sink.lag_seconds > 1.0 => (Style::Yellow, "behind"),
                SinkState::Up => (Style::Green, "up"),
                SinkState::Draining => (Style::Yellow, "draining"),
                SinkState::Connecting => (Style::Yellow, "connecting"),
                _ => (Style::Red, "down"),
            };
            let line = counter("file", style, state, sink.ledger.counts.delivered, "delivered");
            lines.push(
                line.text(format!("{:>8.1}/s  ", self.rates.delivered()))
                    .styled(Style::Blue, delivered.clone()),
            );
            let waiting = sink.ledger.pending;
            let latency = sink.handle.progress.latency();
            let within = |quantile| latency.quantile(quantile).map(|bound| (bound * 1000.0).ceil());
            let mut words = format!("{waiting} waiting");
            if let (Some(half), Some(most)) = (within(0.5), within(0.99)) {
                words += &format!("; socket to disk: half within {half:.0} ms, 99 % within {most:.0} ms");
            }
            lines.push(Line::default().styled(Style::Dim, format!("           {words}")));
        }
        lines
    }

    /// Results with a bar each, in two columns where there is room for them.
    fn results(&self, columns: usize) -> Vec<Line> {
        let most = self.results.values().copied().max().unwrap_or(0).max(1);
        let in_columns = if columns >= 72 { 2 } else { 1 };
        let width = columns.saturating_sub(4) / in_columns;
        let longest = width.saturating_sub(RESULT_COLUMNS);
        let entry = |(result, count): (&String, &u64)| {
            let bar = (longest as u64 * count / most) as usize;
            (
                format!("{}{count:>7}  ", pad(result, 7)),
                pad(&"▇".repeat(bar.max(1).min(longest)), longest + 2),
            )
        };
        let entries: Vec<_> = self.results.iter().map(entry).collect();
        let rows = entries.len().div_ceil(in_columns);
        (0..rows)
            .map(|row| {
                let mut line = Line::default().text("  ");
                for (name, bar) in entries.iter().skip(row).step_by(rows.max(1)) {
                    line = line.text(name.clone()).styled(Style::Cyan, bar.clone());
                }
                line
            })
            .collect()
    }

    fn happenings(&self, most: usize) -> Vec<Line> {
        let mut lines: Vec<Line> = self.happenings.last(most).map(of_happening).collect();
        // What stands below does not move.
        lines.resize_with(most, Line::default);
        lines
    }

    pub(super) fn places(&self) -> Vec<Line> {
        let places = self.places;
        [
            ("events", places.events.display().to_string()),
            ("page", places.page.clone()),
            ("metrics", places.metrics.clone()),
        ]
        .map(|(name, place)| {
            Line::default()
                .styled(Style::Dim, format!("  {name:<9}"))
                .text(place)
        })
        .to_vec()
    }
}

/// `  feed   ● authorised      1462 received`
fn counter(name: &str, style: Style, state: &str, count: u64, what: &str) -> Line {
    Line::default()
        .text(format!("  {name:<7}"))
        .styled(style, format!("● {}", pad(state, 12)))
        .styled(Style::Bold, format!("{count:>9}"))
        .text(format!(" {what:<10}"))
}

pub(super) fn of_happening(happening: &Happening) -> Line {
    let Happening { at, who, what } = happening;
    Line::default()
        .styled(Style::Dim, format!("  {}  ", at.strftime("%H:%M:%S")))
        .styled(who.style(), format!("{:<10}", who.name()))
        .text(what.clone())
}
