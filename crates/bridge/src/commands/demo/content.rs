//! The lines of the demo's screen, laid out for a terminal of any size.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use neurobridge_core::delivery::SinkState;
use neurobridge_listener::SourceState;

use super::{
    rates::Rates,
    scenario::{Report, Scenario},
};
use crate::{
    state::View,
    terminal::{Line, Style, pad},
};

/// The data shown on the screen at one moment.
pub(super) struct Content<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) results: &'a BTreeMap<String, u64>,
    pub(super) scenario: &'a Scenario,
    pub(super) rates: &'a Rates,
    pub(super) locations: &'a Locations,
    pub(super) running_for: Duration,
}

/// Where the events, the page and the metrics are found.
pub(super) struct Locations {
    /// The file contains events of an earlier run; new events are appended.
    pub(super) has_earlier_events: bool,
    pub(super) events: PathBuf,
    pub(super) page: String,
    pub(super) metrics: String,
}

/// The columns before the rates and plots.
const COUNTER_COLUMNS: usize = 47;
/// The columns of a result's name and its count, before the bar.
const RESULT_COLUMNS: usize = 18;

impl Content<'_> {
    /// Returns at most `rows` lines. The least important sections are left out first if not all of them fit.
    pub(super) fn lines(&self, columns: usize, rows: usize) -> Vec<Line> {
        let head = self.head(columns);
        let flow = self.flow(columns);
        let results = self.results(columns);
        let locations = self.locations();
        let hint = Line::default().styled(
            Style::Dim,
            "  Ctrl-C stops the demo and prints the ledger. Faults are automatic.",
        );

        let fixed = 1 + flow.len();
        // Space is assigned to the most important section first.
        let mut left = rows.saturating_sub(fixed);
        let mut fits = |lines: usize| {
            let is_shown = lines <= left;
            left -= if is_shown { lines } else { 0 };
            is_shown
        };
        let has_reports = fits(3);
        let has_locations = fits(locations.len());
        let has_results = fits(results.len());
        let has_hint = fits(1);
        let gaps = [has_results, has_reports, has_locations, true].map(|is_shown| is_shown && fits(1));
        let has_subtitle = fits(1);
        let more = if has_reports { left } else { 0 };

        let mut lines = vec![head];
        if has_subtitle {
            lines.push(Line::default().styled(
                Style::Dim,
                "  a simulated platform, the bridge, and a file, in one process",
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
        if has_reports {
            section(gaps[1], self.reports(3 + more));
        }
        if has_locations {
            section(gaps[2], locations);
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

    /// Returns the state of the feed, the spool and the file sink.
    fn flow(&self, columns: usize) -> Vec<Line> {
        let (received, delivered) = self
            .rates
            .plots(columns.saturating_sub(COUNTER_COLUMNS + 12).min(30));
        let mut lines = Vec::new();
        for source in &self.view.sources {
            let state = source.snapshot.state;
            let style = match state {
                SourceState::Authenticated => Style::Green,
                SourceState::Blocked | SourceState::Dialling | SourceState::Opening => Style::Yellow,
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
            let mut text = format!("{waiting} waiting");
            if let (Some(median), Some(p99)) = (within(0.5), within(0.99)) {
                text += &format!("; socket to disk: median {median:.0} ms, 99 % within {p99:.0} ms");
            }
            lines.push(Line::default().styled(Style::Dim, format!("           {text}")));
        }
        lines
    }

    /// Returns the counts by result with a bar each, in two columns if the terminal is wide enough.
    fn results(&self, columns: usize) -> Vec<Line> {
        let max_count = self.results.values().copied().max().unwrap_or(0).max(1);
        let bar_columns = if columns >= 72 { 2 } else { 1 };
        let width = columns.saturating_sub(4) / bar_columns;
        let max_bar = width.saturating_sub(RESULT_COLUMNS);
        let entry = |(result, count): (&String, &u64)| {
            let bar = (max_bar as u64 * count / max_count) as usize;
            (
                format!("{}{count:>7}  ", pad(result, 7)),
                pad(&"▇".repeat(bar.max(1).min(max_bar)), max_bar + 2),
            )
        };
        let entries: Vec<_> = self.results.iter().map(entry).collect();
        let rows = entries.len().div_ceil(bar_columns);
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

    fn reports(&self, count: usize) -> Vec<Line> {
        let mut lines: Vec<Line> = self.scenario.last(count).map(report_line).collect();
        // Empty lines fill the section, so that the sections below do not move.
        lines.resize_with(count, Line::default);
        lines
    }

    pub(super) fn locations(&self) -> Vec<Line> {
        let locations = self.locations;
        [
            ("events", locations.events.display().to_string()),
            ("page", locations.page.clone()),
            ("metrics", locations.metrics.clone()),
        ]
        .map(|(name, location)| {
            Line::default()
                .styled(Style::Dim, format!("  {name:<9}"))
                .text(location)
        })
        .to_vec()
    }
}

/// Returns a line such as `  feed   ● authenticated    1462 received`.
fn counter(name: &str, style: Style, state: &str, count: u64, what: &str) -> Line {
    Line::default()
        .text(format!("  {name:<7}"))
        .styled(style, format!("● {}", pad(state, 14)))
        .styled(Style::Bold, format!("{count:>7}"))
        .text(format!(" {what:<10}"))
}

pub(super) fn report_line(report: &Report) -> Line {
    let Report { at, actor, text } = report;
    Line::default()
        .styled(Style::Dim, format!("  {}  ", at.strftime("%H:%M:%S")))
        .styled(actor.style(), format!("{:<10}", actor.name()))
        .text(text.clone())
}
