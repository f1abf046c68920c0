//! The lines that are printed.

use super::contender::{Contender, Weight};
use super::latency::{Latency, Quantile};
use super::{Args, Format};

/// What stands above the turns.
pub(super) const HEADING: &str = "format       program  CPU-s/million  events/s  peak MiB";

/// A single turn.
pub(super) fn turn(contender: Contender, format: Format, weight: &Weight) -> String {
    line(contender, format, weight)
}

/// The medians, the ratio of each bridge to the bare loop, and what the disk adds.
pub(super) fn summary(format: Format, contenders: &[(Contender, Vec<Weight>)]) -> Vec<String> {
    let medians: Vec<(Contender, Weight)> = contenders
        .iter()
        .map(|(contender, weights)| (*contender, median(weights)))
        .collect();
    let mut lines: Vec<String> = medians
        .iter()
        .map(|(contender, weight)| format!("{}  median", line(*contender, format, weight)))
        .collect();
    if let [(_, bare), bridges @ ..] = &medians[..] {
        lines.extend(bridges.iter().map(|(contender, bridge)| {
            let ratio = bridge.cpu_seconds_per_million / bare.cpu_seconds_per_million;
            format!(
                "{}, {}: {ratio:.2} times the CPU of its bare loop",
                format.word(),
                contender.word()
            )
        }));
    }
    if let [_, (_, memory), (_, disk)] = &medians[..] {
        let more = disk.cpu_seconds_per_million - memory.cpu_seconds_per_million;
        lines.push(format!(
            "{}: the spool on disk costs {more:.2} CPU-seconds a million more than the one in memory",
            format.word()
        ));
    }
    lines
}

/// The latency at a steady rate.
pub(super) fn latency(contender: Contender, format: Format, args: &Args, latency: &Latency) -> String {
    format!(
        "{}, {}: receipt to acknowledgement at {} events/s: p50 {}, p99 {}, of {} events",
        format.word(),
        contender.word(),
        args.rate,
        milliseconds(latency.p50),
        milliseconds(latency.p99),
        latency.events
    )
}

fn line(contender: Contender, format: Format, weight: &Weight) -> String {
    format!(
        "{:<12} {:<7} {:>14.2} {:>9.0} {:>9.1}",
        format.word(),
        contender.word(),
        weight.cpu_seconds_per_million,
        weight.events_per_second,
        weight.peak_memory_bytes as f64 / 1_048_576.0
    )
}

fn milliseconds(quantile: Quantile) -> String {
    let (estimate, bound) = (quantile.seconds * 1e3, quantile.at_most * 1e3);
    if bound.is_finite() {
        format!("{estimate:.1} ms (bucket to {bound} ms)")
    } else {
        format!("above {estimate} ms")
    }
}

/// Each figure's own median: they need not come from the same turn.
fn median(weights: &[Weight]) -> Weight {
    let middle = |figure: fn(&Weight) -> f64| {
        let mut figures: Vec<f64> = weights.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        let (low, high) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        f64::midpoint(low, high)
    };
    Weight {
        cpu_seconds_per_million: middle(|weight| weight.cpu_seconds_per_million),
        events_per_second: middle(|weight| weight.events_per_second),
        peak_memory_bytes: middle(|weight| weight.peak_memory_bytes as f64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(cpu: f64) -> Weight {
        Weight {
            cpu_seconds_per_million: cpu,
            events_per_second: 100_000.0,
            peak_memory_bytes: 50 << 20,
        }
    }

    #[test]
    fn the_median_decides() {
        let bare = vec![weight(9.0), weight(2.0), weight(1.0)];
        let bridge = vec![weight(2.0), weight(4.0)];
        let disk = vec![weight(3.5)];
        let lines = summary(
            Format::Raw,
            &[
                (Contender::Bare, bare),
                (Contender::Bridge, bridge),
                (Contender::Disk, disk),
            ],
        );
        assert_eq!(
            lines,
            [
                "raw          bare              2.00    100000      50.0  median",
                "raw          bridge            3.00    100000      50.0  median",
                "raw          disk              3.50    100000      50.0  median",
                "raw, bridge: 1.50 times the CPU of its bare loop",
                "raw, disk: 1.75 times the CPU of its bare loop",
                "raw: the spool on disk costs 0.50 CPU-seconds a million more than the one in memory",
            ]
        );
    }
}
