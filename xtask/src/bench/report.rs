//! Formats the results as lines of text.

use super::case::Case;
use super::latency::Quantile;
use super::program::{Cost, Program};
use super::rate::RateCost;

/// The heading above the runs.
pub(super) const HEADING: &str = "case                 program  CPU-s/million  events/s  peak MiB";

/// Formats a single run.
pub(super) fn turn(program: Program, case: Case, cost: &Cost) -> String {
    line(program, case, cost)
}

/// The pairs whose CPU times are compared.
const COMPARED: [(Program, Program); 8] = [
    (Program::Bridge, Program::Bare),
    (Program::Disk, Program::Bare),
    (Program::Declared, Program::Bare),
    (Program::Before, Program::Bare),
    (Program::Declared, Program::Bridge),
    (Program::Bridge, Program::Before),
    (Program::Bridge, Program::Python),
    (Program::Disk, Program::Python),
];

/// The CPU times of a program's runs.
type Times = (Program, Vec<f64>);

/// Formats the medians, the ratios of the compared programs, and the additional cost of the disk.
pub(super) fn summary(case: Case, programs: &[(Program, Vec<Cost>)]) -> Vec<String> {
    let mut lines: Vec<String> = programs
        .iter()
        .map(|(program, costs)| format!("{}  median", line(*program, case, &median(costs))))
        .collect();
    let times: Vec<Times> = programs
        .iter()
        .map(|(program, costs)| {
            let times = costs.iter().map(|cost| cost.cpu_seconds_per_million);
            (*program, times.collect())
        })
        .collect();
    lines.extend(ratios(&case.to_string(), &times));
    let disk_cost = compared(&times, Program::Disk, Program::Bridge, |disk, memory| {
        disk - memory
    });
    lines.extend(disk_cost.map(|(low, median, high)| {
        format!(
            "{case}: the spool on disk costs {median:.2} CPU-seconds per million more than the one in memory, per run \
             {low:.2} to {high:.2}"
        )
    }));
    lines
}

/// Formats the ratio of the CPU times for each pair in [`COMPARED`] of which both programs were run.
fn ratios(what: &str, times: &[Times]) -> Vec<String> {
    let pairs = COMPARED.iter();
    pairs
        .filter_map(|(one, other)| {
            let (low, median, high) = compared(times, *one, *other, |one, other| one / other)?;
            Some(format!(
                "{what}, {}: {median:.2} times the CPU of {}, per run {low:.2} to {high:.2}",
                one.word(),
                other.word()
            ))
        })
        .collect()
}

/// Compares the CPU time of two programs run by run, and returns the minimum, the median and the maximum. The two runs of a pair
/// happen within the same minute, so other load affects both and cancels out; in a comparison of two medians it would not.
fn compared(
    programs: &[Times],
    one: Program,
    other: Program,
    compare: fn(f64, f64) -> f64,
) -> Option<(f64, f64, f64)> {
    let of = |wanted| {
        let (_, times) = programs.iter().find(|(program, _)| *program == wanted)?;
        Some(times.iter().copied())
    };
    let figures: Vec<f64> = of(one)?
        .zip(of(other)?)
        .map(|(one, other)| compare(one, other))
        .collect();
    let least = figures.iter().copied().min_by(f64::total_cmp)?;
    let most = figures.iter().copied().max_by(f64::total_cmp)?;
    Some((least, middle(figures), most))
}

/// The heading above the runs at a constant rate.
pub(super) const RATE_HEADING: &str =
    "case                   events/s  program  CPU-us/event  receipt to acknowledgement";

/// Formats a run at a constant rate.
pub(super) fn at_rate(program: Program, case: Case, rate: u64, cost: &RateCost) -> String {
    let latency = cost.latency.map(|latency| {
        format!(
            "p50 {}, p99 {}, of {} events",
            milliseconds(latency.p50),
            milliseconds(latency.p99),
            latency.events
        )
    });
    format!(
        "{:<20} {rate:>10}  {:<8} {:>12.1}  {}",
        case.to_string(),
        program.word(),
        cost.cpu_microseconds,
        latency.unwrap_or_else(|| "not measured".to_owned())
    )
}

/// Formats the median CPU times at a constant rate, and the ratios of the compared programs.
pub(super) fn rate_summary(case: Case, rate: u64, programs: &[(Program, Vec<RateCost>)]) -> Vec<String> {
    let times: Vec<Times> = programs
        .iter()
        .map(|(program, costs)| (*program, costs.iter().map(|cost| cost.cpu_microseconds).collect()))
        .collect();
    let mut lines: Vec<String> = times
        .iter()
        .map(|(program, times)| {
            format!(
                "{:<20} {rate:>10}  {:<8} {:>12.1}  median",
                case.to_string(),
                program.word(),
                middle(times.clone())
            )
        })
        .collect();
    lines.extend(ratios(&format!("{case} at {rate} events/s"), &times));
    lines
}

fn line(program: Program, case: Case, cost: &Cost) -> String {
    format!(
        "{:<20} {:<7} {:>14.2} {:>9.0} {:>9.1}",
        case.to_string(),
        program.word(),
        cost.cpu_seconds_per_million,
        cost.events_per_second,
        cost.peak_memory_bytes as f64 / 1_048_576.0
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

/// Returns the median of each figure; the figures may come from different runs.
fn median(costs: &[Cost]) -> Cost {
    let middle = |figure: fn(&Cost) -> f64| middle(costs.iter().map(figure).collect());
    Cost {
        cpu_seconds_per_million: middle(|cost| cost.cpu_seconds_per_million),
        events_per_second: middle(|cost| cost.events_per_second),
        peak_memory_bytes: middle(|cost| cost.peak_memory_bytes as f64) as u64,
    }
}

/// Returns the median.
pub(super) fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let (low, high) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::super::case::{Format, Sink};
    use super::*;

    fn cost(cpu: f64) -> Cost {
        Cost {
            cpu_seconds_per_million: cpu,
            events_per_second: 100_000.0,
            peak_memory_bytes: 50 << 20,
        }
    }

    #[test]
    fn summary_reports_the_median() {
        let bare = vec![cost(9.0), cost(2.0), cost(1.0)];
        let bridge = vec![cost(2.0), cost(3.0), cost(9.0)];
        let case = Case {
            sink: Sink::Kafka,
            format: Format::Raw,
        };
        let (plain, disk) = (vec![cost(1.0)], vec![cost(3.5), cost(3.25), cost(10.0)]);
        let programs = [
            (Program::Plain, plain),
            (Program::Bare, bare),
            (Program::Bridge, bridge),
            (Program::Disk, disk),
        ];
        let lines = summary(case, &programs);
        assert_eq!(
            lines,
            [
                "kafka-raw            plain             1.00    100000      50.0  median",
                "kafka-raw            bare              2.00    100000      50.0  median",
                "kafka-raw            bridge            3.00    100000      50.0  median",
                "kafka-raw            disk              3.50    100000      50.0  median",
                "kafka-raw, bridge: 1.50 times the CPU of bare, per run 0.22 to 9.00",
                "kafka-raw, disk: 1.62 times the CPU of bare, per run 0.39 to 10.00",
                "kafka-raw: the spool on disk costs 1.00 CPU-seconds per million more than the one in memory, per run 0.25 to 1.50",
            ]
        );
    }
}
