//! Draws a terminal screen as SVG. Several screens become an animation.

use std::fmt::Write;
use std::time::Duration;

use vt100::{Cell, Color, Screen};

const FONT_SIZE: f64 = 14.0;
/// The column width of a monospaced font of this size. Each run of text is stretched to the width of its columns, independent of
/// the font.
const COLUMN: f64 = 8.4;
const ROW: f64 = 18.0;
const MARGIN: f64 = 16.0;
/// The height of the bar at the top, which shows the command line.
const BAR: f64 = 34.0;

const BACKGROUND: &str = "#11151c";
const TEXT: &str = "#d5dae3";
/// The eight colours of a terminal, then the eight bright ones.
const COLOURS: [&str; 16] = [
    "#4b5563", "#ff6b6b", "#5fd787", "#f2c55c", "#6aa9ff", "#d58cff", "#4fd1d9", "#d5dae3", "#7b8698",
    "#ff8f8f", "#86e8a6", "#ffd97a", "#93c2ff", "#e3b0ff", "#7be3e9", "#ffffff",
];

/// The style of a run of cells.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Style {
    colour: &'static str,
    bold: bool,
    dim: bool,
}

impl Style {
    fn of(cell: &Cell) -> Self {
        let colour = match cell.fgcolor() {
            Color::Idx(index @ 0..16) => COLOURS[usize::from(index)],
            _ => TEXT,
        };
        Self {
            colour,
            bold: cell.bold(),
            dim: cell.dim(),
        }
    }
}

/// Draws screens below the command that produced them, each shown for `time_per_screen`. Rows at the end that are empty on all
/// screens are omitted.
pub(super) fn draw(command: &str, screens: &[Screen], time_per_screen: Duration) -> String {
    let rows = screens.iter().map(used_rows).max().unwrap_or(0);
    let columns = screens.first().map_or(80, |screen| screen.size().1.get());
    let width = f64::from(columns) * COLUMN + 2.0 * MARGIN;
    let height = BAR + f64::from(rows) * ROW + 2.0 * MARGIN;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         role=\"img\" aria-label=\"{label}\">\n<style>text{{font:{FONT_SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,\
         'DejaVu Sans Mono',monospace;fill:{TEXT};white-space:pre}}{animation}</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>",
        label = escape(&format!("a terminal with: {command}")),
        animation = animation(screens.len(), time_per_screen),
    );
    for (index, colour) in ["#ff6b6b", "#f2c55c", "#5fd787"].iter().enumerate() {
        let x = MARGIN + 4.0 + 16.0 * index as f64;
        let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"18\" r=\"5\" fill=\"{colour}\"/>");
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"23\" opacity=\".75\">$ {}</text>",
        MARGIN + 62.0,
        escape(command)
    );
    for (index, screen) in screens.iter().enumerate() {
        let _ = match screens.len() {
            1 => writeln!(svg, "<g>"),
            _ => writeln!(
                svg,
                "<g class=\"s\" style=\"animation-delay:{}s\">",
                index as f64 * time_per_screen.as_secs_f64()
            ),
        };
        for row in 0..rows {
            draw_row(screen, row, &mut svg);
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Returns an animation that shows the screens in a loop. For readers who prefer reduced motion, only the last screen is
/// shown.
fn animation(screens: usize, time_per_screen: Duration) -> String {
    if screens < 2 {
        return String::new();
    }
    let share = 100.0 / screens as f64;
    let all = time_per_screen.as_secs_f64() * screens as f64;
    format!(
        ".s{{visibility:hidden;animation:s {all}s step-end infinite}}@keyframes s{{0%{{visibility:visible}}\
         {share:.3}%{{visibility:hidden}}}}@media (prefers-reduced-motion:reduce){{.s{{animation:none}}\
         .s:last-of-type{{visibility:visible}}}}"
    )
}

fn draw_row(screen: &Screen, row: u16, svg: &mut String) {
    let mut runs: Vec<(u16, u16, Style, String)> = Vec::new();
    for column in 0..screen.size().1.get() {
        let Some(cell) = screen
            .cell(row, column)
            .filter(|cell| !cell.is_wide_continuation())
        else {
            continue;
        };
        let (style, text) = (Style::of(cell), cell.contents());
        let is_blank = text.trim().is_empty();
        let width = if cell.is_wide() { 2 } else { 1 };
        match runs.last_mut() {
            // A blank cell takes the style of the cell before it.
            Some((_, columns, known, run)) if *known == style || is_blank => {
                run.push_str(if text.is_empty() { " " } else { text });
                *columns += width;
            }
            _ if is_blank => {}
            _ => runs.push((column, width, style, text.to_owned())),
        }
    }
    let y = BAR + MARGIN + (f64::from(row) + 0.75) * ROW;
    for (column, _, style, run) in runs {
        let run = run.trim_end();
        let x = MARGIN + f64::from(column) * COLUMN;
        let length = run.chars().count() as f64 * COLUMN;
        let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" textLength=\"{length:.1}\"");
        if style.colour != TEXT {
            let _ = write!(svg, " style=\"fill:{}\"", style.colour);
        }
        if style.bold {
            svg.push_str(" font-weight=\"bold\"");
        }
        if style.dim {
            svg.push_str(" opacity=\".65\"");
        }
        let _ = writeln!(svg, ">{}</text>", escape(run));
    }
}

fn used_rows(screen: &Screen) -> u16 {
    let contents: Vec<String> = screen.rows(0, screen.size().1.get()).collect();
    let used = contents.iter().rposition(|row| !row.trim().is_empty());
    used.map_or(0, |row| row as u16 + 1)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
