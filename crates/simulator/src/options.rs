//! The options of a simulator.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use secrecy::SecretString;
use thiserror::Error;

use crate::{
    declared::DeclaredFeed,
    entries::{EntryOptions, MIN_FRAME_BYTES},
    faults::FaultRule,
    iam::TokenOptions,
    rest::RestOptions,
};

/// The largest configurable frame size in bytes. Each connection holds one frame in memory.
pub const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;

/// The options of a simulator. Set the required fields and take the others from [`Options::default`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on; port 0 selects a free port. Default: `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// A declared feed to play instead of NeuroIO. A declared feed has no tokens of the platform, and no REST interface
    /// except the list of past events of its `backfill`. The options [`size`](Self::size), [`entries`](Self::entries) and
    /// [`SpreadOptions::shuffle`] have no effect on it. Default: none.
    pub feed: Option<DeclaredFeed>,
    /// The accepted tokens. An empty list, the default, accepts every token. All tokens receive the same events.
    pub tokens: Vec<SecretString>,
    /// The lifetime of tokens, and the number of connections with one token.
    pub token_options: TokenOptions,
    /// Events per second. `None`, the default, sends as fast as clients read; 0 sends nothing until
    /// [`Handle::set_rate`].
    ///
    /// [`Handle::set_rate`]: crate::Handle::set_rate
    pub rate: Option<f64>,
    /// The number of entries; connections stay open after the last one. Default: unlimited.
    pub count: Option<u64>,
    /// The size of every frame in bytes, from [`MIN_FRAME_BYTES`] to [`MAX_FRAME_BYTES`]; an inline picture fills the
    /// frame up to that size. Default: about 600 bytes, with picture URLs instead.
    pub size: Option<usize>,
    /// The seed from which entries are generated. Default: 1.
    pub seed: u64,
    /// The creation time of the first entry. Default: the time at which the first client is authenticated. A fixed time
    /// makes every run produce the same bytes.
    pub start: Option<Timestamp>,
    /// The time between the creation of two entries. Default: the inverse of `rate`, or 2 µs without a rate. A later
    /// change of the rate has no effect, because an entry's bytes do not depend on the time at which it is sent.
    pub step: Option<Duration>,
    /// With a rate: whether the sequence pauses while no client is authenticated, instead of losing entries. Default:
    /// no, because the platform has no replay. Without a rate this option has no effect, since entries are created only
    /// for readers.
    pub hold: bool,
    /// Irregularities of the entries.
    pub entries: EntryOptions,
    /// The retention, the order and the shape of REST lists.
    pub rest: RestOptions,
    /// Differences between connections.
    pub spread: SpreadOptions,
    /// The fault rules. Default: none.
    pub faults: Vec<FaultRule>,
    /// A file that records the frames that were sent; an existing file is truncated. Default: none.
    pub record: Option<PathBuf>,
    /// A file that records each entry that was recognised, with the time, whether a client was connected or not; an
    /// existing file is truncated. Default: none.
    pub recognised: Option<PathBuf>,
    /// The number of recent frames that [`Handle::frames`] returns. Default: 0.
    ///
    /// [`Handle::frames`]: crate::Handle::frames
    pub keep_frames: usize,
    /// The TLS files; `None`, the default, serves plain TCP.
    pub tls: Option<TlsFiles>,
}

/// Differences between connections, which all receive the same events. Each connection's delay and order depend on the
/// seed and on its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpreadOptions {
    /// With a rate: the largest delay of a connection's events; each connection has its own. Default: none.
    pub delay: Duration,
    /// The size of the blocks within which each connection has its own order. A block waits until its last event is
    /// due. Default: every connection sends in the order of the sequence.
    pub shuffle: Option<NonZeroU64>,
}

/// The certificate and key files for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain in PEM, with the server's own certificate first.
    pub certificates: PathBuf,
    /// The private key in PEM.
    pub key: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            feed: None,
            tokens: Vec::new(),
            token_options: TokenOptions::default(),
            rate: None,
            count: None,
            size: None,
            seed: 1,
            start: None,
            step: None,
            hold: false,
            entries: EntryOptions::default(),
            rest: RestOptions::default(),
            spread: SpreadOptions::default(),
            faults: Vec::new(),
            record: None,
            recognised: None,
            keep_frames: 0,
            tls: None,
        }
    }
}

/// An option with an invalid value.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum OptionsError {
    /// The frame size is out of range.
    #[error("invalid frame size {found}; expected {MIN_FRAME_BYTES} to {MAX_FRAME_BYTES} bytes")]
    Size {
        /// The configured size in bytes.
        found: usize,
    },
    /// The rate is negative or not finite.
    #[error("invalid rate {found}; expected a finite number of events per second, 0 or more")]
    Rate {
        /// The configured rate.
        found: f64,
    },
}

impl Options {
    /// Validates all values.
    ///
    /// # Errors
    /// Returns the first invalid value.
    pub fn check(&self) -> Result<(), OptionsError> {
        if let Some(found) = self.size
            && !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&found)
        {
            return Err(OptionsError::Size { found });
        }
        check_rate(self.rate)
    }

    /// Returns the time between the creation of two entries.
    pub(crate) fn created_step(&self) -> Duration {
        /// The approximate time that a fast reader needs for one entry, so that creation times stay near the clock.
        const WITHOUT_RATE: Duration = Duration::from_micros(2);
        self.step.unwrap_or_else(|| {
            let seconds = self.rate.filter(|rate| *rate > 0.0).map(f64::recip);
            seconds
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .unwrap_or(WITHOUT_RATE)
        })
    }
}

pub(crate) fn check_rate(rate: Option<f64>) -> Result<(), OptionsError> {
    match rate {
        Some(found) if !found.is_finite() || found < 0.0 => Err(OptionsError::Rate { found }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_values_are_reported() {
        let size = Options {
            size: Some(100),
            ..Options::default()
        };
        assert_eq!(size.check(), Err(OptionsError::Size { found: 100 }));
        let rate = Options {
            rate: Some(-1.0),
            ..Options::default()
        };
        assert_eq!(
            rate.check().unwrap_err().to_string(),
            "invalid rate -1; expected a finite number of events per second, 0 or more"
        );
        assert_eq!(Options::default().check(), Ok(()));
    }

    #[test]
    fn debug_output_hides_tokens() {
        let options = Options {
            tokens: vec!["hush".into()],
            ..Options::default()
        };
        assert!(!format!("{options:?}").contains("hush"));
    }

    #[test]
    fn created_times_follow_the_rate() {
        let options = Options {
            rate: Some(100.0),
            ..Options::default()
        };
        assert_eq!(options.created_step(), Duration::from_millis(10));
    }
}
