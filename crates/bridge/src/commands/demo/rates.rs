//! Events received and delivered per second.

use std::{collections::VecDeque, time::Instant};

use crate::state::View;

/// The number of values that the plot shows, one per second.
const MAX_VALUES: usize = 60;
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Measures rates once a second, however often `measure` is called.
#[derive(Debug, Default)]
pub(super) struct Rates {
    before: Option<(Instant, u64, u64)>,
    received: VecDeque<f64>,
    delivered: VecDeque<f64>,
}

impl Rates {
    pub(super) fn measure(&mut self, view: &View<'_>) {
        let received = view.sources.iter().map(|source| source.ledger.received).sum();
        let delivered = view.sinks.iter().map(|sink| sink.ledger.counts.delivered).sum();
        let now = Instant::now();
        let Some((at, old_received, old_delivered)) = self.before else {
            self.before = Some((now, received, delivered));
            return;
        };
        let seconds = now.duration_since(at).as_secs_f64();
        if seconds >= 1.0 {
            let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
            push(&mut self.received, rate(received, old_received));
            push(&mut self.delivered, rate(delivered, old_delivered));
            self.before = Some((now, received, delivered));
        }
    }

    pub(super) fn received(&self) -> f64 {
        self.received.back().copied().unwrap_or(0.0)
    }

    pub(super) fn delivered(&self) -> f64 {
        self.delivered.back().copied().unwrap_or(0.0)
    }

    /// Returns the latest rates as two lines of bars with a common scale, the newest value at the right.
    pub(super) fn plots(&self, width: usize) -> (String, String) {
        let max = self
            .received
            .iter()
            .chain(&self.delivered)
            .copied()
            .fold(1.0, f64::max);
        let plot = |rates: &VecDeque<f64>| {
            rates
                .iter()
                .skip(rates.len().saturating_sub(width))
                .map(|rate| STEPS[((rate / max * 7.0).round() as usize).min(7)])
                .collect()
        };
        (plot(&self.received), plot(&self.delivered))
    }
}

fn push(rates: &mut VecDeque<f64>, rate: f64) {
    if rates.len() == MAX_VALUES {
        rates.pop_front();
    }
    rates.push_back(rate);
}
