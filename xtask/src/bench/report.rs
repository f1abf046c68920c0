//! The lines that are printed.

use super::Args;
use super::case::Case;
use super::contender::{Contender, Weight};
use super::latency::{Latency, Quantile};

/// What stands above the turns.
pub(super) const HEADING: &str = "case                 program  CPU-s/million  events/s  peak MiB";

/// A single turn.
pub(super) fn turn(contender: Contender, case: Case, weight: &Weight) -> String {
    line(contender, case, weight)
}

/// The medians, the ratio of each bridge to the bare loop, and what the disk adds.
pub(super) fn summary(case: Case, contenders: &[(Contender, Vec<Weight>)]) -> Vec<String> {
    let mut lines: Vec<String> = contenders
        .iter()
        .map(|(contender, weights)| format!("{}  median", line(*contender, case, &median(weights))))
        .collect();
    let bridges = contenders.iter().filter(|(contender, _)| contender.is_bridge());
    lines.extend(bridges.filter_map(|(contender, _)| {
        let (low, median, high) = compared(contenders, *contender, Contender::Bare, |bridge, bare| {
            bridge / bare
        })?;
        Some(format!(
            "{case}, {}: {median:.2} times the CPU of its bare loop, from turn to turn {low:.2} to {high:.2}",
            contender.word()
        ))
    }));
    let disk_cost = compared(contenders, Contender::Disk, Contender::Bridge, |disk, memory| {
        disk - memory
    });
    lines.extend(disk_cost.map(|(low, median, high)| {
        format!(
            "{case}: the spool on disk costs {median:.2} CPU-seconds a million more than the one in memory, from turn to \
             turn {low:.2} to {high:.2}"
        )
    }));
    lines
}

/// The CPU of two contenders compared turn by turn: the least, the median, the most. Both of a turn ran in the same
/// minute, so what else the machine did falls out; of a comparison of two medians it would not.
fn compared(
    contenders: &[(Contender, Vec<Weight>)],
    one: Contender,
    other: Contender,
    compare: fn(f64, f64) -> f64,
) -> Option<(f64, f64, f64)> {
    let of = |wanted| {
        let (_, weights) = contenders.iter().find(|(contender, _)| *contender == wanted)?;
        Some(weights.iter().map(|weight| weight.cpu_seconds_per_million))
    };
    let figures: Vec<f64> = of(one)?
        .zip(of(other)?)
        .map(|(one, other)| compare(one, other))
        .collect();
    let least = figures.iter().copied().min_by(f64::total_cmp)?;
    let most = figures.iter().copied().max_by(f64::total_cmp)?;
    Some((least, middle(figures), most))
}

/// The latency at a steady rate.
pub(super) fn latency(contender: Contender, case: Case, args: &Args, latency: &Latency) -> String {
    format!(
        "{case}, {}: receipt to acknowledgement at {} events/s: p50 {}, p99 {}, of {} events",
        contender.word(),
        args.rate,
        milliseconds(latency.p50),
        milliseconds(latency.p99),
        latency.events
    )
}

fn line(contender: Contender, case: Case, weight: &Weight) -> String {
    format!(
        "{:<20} {:<7} {:>14.2} {:>9.0} {:>9.1}",
        case.to_string(),
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
    let middle = |figure: fn(&Weight) -> f64| middle(weights.iter().map(figure).collect());
    Weight {
        cpu_seconds_per_million: middle(|weight| weight.cpu_seconds_per_million),
        events_per_second: middle(|weight| weight.events_per_second),
        peak_memory_bytes: middle(|weight| weight.peak_memory_bytes as f64) as u64,
    }
}

fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let (low, high) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::super::case::{Format, Sink};
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
        let bridge = vec![weight(2.0), weight(3.0), weight(9.0)];
        let case = Case {
            sink: Sink::Kafka,
            format: Format::Raw,
        };
        let (plain, disk) = (vec![weight(1.0)], vec![weight(3.5), weight(3.25), weight(10.0)]);
        let contenders = [
            (Contender::Plain, plain),
            (Contender::Bare, bare),
            (Contender::Bridge, bridge),
            (Contender::Disk, disk),
        ];
        let lines = summary(case, &contenders);
        assert_eq!(
            lines,
            [
                "kafka-raw            plain             1.00    100000      50.0  median",
                "kafka-raw            bare              2.00    100000      50.0  median",
                "kafka-raw            bridge            3.00    100000      50.0  median",
                "kafka-raw            disk              3.50    100000      50.0  median",
                "kafka-raw, bridge: 1.50 times the CPU of its bare loop, from turn to turn 0.22 to 9.00",
                "kafka-raw, disk: 1.62 times the CPU of its bare loop, from turn to turn 0.39 to 10.00",
                "kafka-raw: the spool on disk costs 1.00 CPU-seconds a million more than the one in memory, from turn to turn 0.25 to 1.50",
            ]
        );
    }
}
