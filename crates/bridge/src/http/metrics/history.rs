//! The metrics of the history: gaps, and the time of the newest change of each kind.

use prometheus::proto::MetricFamily;

use super::Family;
use crate::{
    history::{Kind, OUTCOMES, gap_reasons},
    state::View,
};

pub(super) fn history(view: &View<'_>) -> [MetricFamily; 5] {
    let mut gaps = Family::counter(
        "source_gaps_total",
        "Gaps that have ended, by their first cause and what became of the events in them, with those of earlier runs. A gap is a \
         time without an authorised connection after the first one, also across a restart.",
    );
    let mut open = Family::gauge("source_open_gaps", "Gaps that are open at this moment: 0 or 1.");
    let mut gap_time = Family::counter(
        "source_gap_seconds_total",
        "Duration of all gaps, with those of earlier runs and the open one.",
    );
    for source in &view.sources {
        let name = ("source", source.name);
        for reason in gap_reasons() {
            for outcome in OUTCOMES {
                let count = source.gaps.totals.get(&(reason.into(), outcome.into()));
                gaps.add(
                    &[name, ("reason", reason), ("outcome", outcome)],
                    count.copied().unwrap_or(0) as f64,
                );
            }
        }
        open.add(&[name], f64::from(u8::from(source.gaps.open_seconds.is_some())));
        gap_time.add(&[name], source.gaps.total_seconds);
    }
    let mut newest = Family::gauge(
        "history_entry_timestamp_seconds",
        "Time of the newest entry of the history, by change and part (`bridge`, `spool`, `sources.NAME`, `sinks.NAME`); 0 without \
         one.",
    );
    let parts = [
        (vec!["bridge".to_owned()], &Kind::OF_BRIDGE[..]),
        (
            view.sources
                .iter()
                .map(|source| format!("sources.{}", source.name))
                .collect(),
            &Kind::OF_SOURCE,
        ),
        (vec!["spool".to_owned()], &Kind::OF_SPOOL),
        (
            view.sinks
                .iter()
                .map(|sink| format!("sinks.{}", sink.name))
                .collect(),
            &Kind::OF_SINK,
        ),
    ];
    for (parts, kinds) in parts {
        for part in parts {
            for kind in kinds {
                let key = (part.clone(), kind.label().into());
                let at = view.history.newest.get(&key);
                newest.add(
                    &[("change", kind.label()), ("part", &part)],
                    at.map_or(0.0, |at| at.as_microsecond() as f64 / 1e6),
                );
            }
        }
    }
    let mut errors = Family::counter(
        "history_write_errors_total",
        "Failed attempts to write the history. They are repeated; no event is affected.",
    );
    errors.add(&[], view.history.write_errors as f64);
    [gaps, open, gap_time, newest, errors].map(Family::done)
}
