//! What a simulator is started with.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use secrecy::SecretString;
use thiserror::Error;

use crate::{entries::MIN_FRAME_BYTES, faults::FaultRule};

/// The largest frame that can be asked for, in bytes: one is held in memory for each connection.
pub const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;

/// What a simulator is started with. Fill what you need and take the rest from [`Options::default`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one. Default: `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// The tokens that are right. With none, which is the default, every token is. All tokens get the same events.
    pub tokens: Vec<SecretString>,
    /// Events a second. `None`, the default: as fast as they are read. 0 stands still until [`Handle::set_rate`].
    ///
    /// [`Handle::set_rate`]: crate::Handle::set_rate
    pub rate: Option<f64>,
    /// How many entries there are; afterwards connections stay open. Default: no end.
    pub count: Option<u64>,
    /// The size of every frame in bytes, reached with an inline picture; from [`MIN_FRAME_BYTES`] to [`MAX_FRAME_BYTES`].
    /// Default: about 600 bytes with picture URLs.
    pub size: Option<usize>,
    /// What entries are drawn from. Default: 1.
    pub seed: u64,
    /// The creation time of the first entry. Default: when the first client is authorised. Give one for the same bytes each time.
    pub start: Option<Timestamp>,
    /// The time between two entries' creation. Default: what `rate` gives, and 2 µs without one. It does not follow a changed
    /// rate: an entry's bytes depend on its id only.
    pub step: Option<Duration>,
    /// With a rate: whether the sequence stands still while no client is authorised, instead of losing what comes. Default: no,
    /// as the platform has no replay. Without a rate entries only come by being read, and this has no effect.
    pub hold: bool,
    /// The fault rules. Default: none.
    pub faults: Vec<FaultRule>,
    /// A file for the frames that were sent; one that exists is emptied. Default: none.
    pub record: Option<PathBuf>,
    /// How many of the newest frames [`Handle::frames`] keeps. Default: 0.
    ///
    /// [`Handle::frames`]: crate::Handle::frames
    pub keep_frames: usize,
    /// Serves TLS. Default: no.
    pub tls: Option<TlsFiles>,
}

/// The files that TLS is served with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain in PEM, the server's own first.
    pub certificates: PathBuf,
    /// The private key in PEM.
    pub key: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tokens: Vec::new(),
            rate: None,
            count: None,
            size: None,
            seed: 1,
            start: None,
            step: None,
            hold: false,
            faults: Vec::new(),
            record: None,
            keep_frames: 0,
            tls: None,
        }
    }
}

/// Why options cannot be used.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum OptionsError {
    /// A frame size out of bounds.
    #[error(
        "a frame of {found} bytes was asked for; from {MIN_FRAME_BYTES} to {MAX_FRAME_BYTES} are possible"
    )]
    Size {
        /// The size found, in bytes.
        found: usize,
    },
    /// A rate that is no number of events a second.
    #[error("a rate of {found} events a second was asked for; expected 0 or more, and finite")]
    Rate {
        /// The rate found.
        found: f64,
    },
}

impl Options {
    /// Looks for values that cannot be used.
    ///
    /// # Errors
    /// Gives the first one.
    pub fn check(&self) -> Result<(), OptionsError> {
        if let Some(found) = self.size
            && !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&found)
        {
            return Err(OptionsError::Size { found });
        }
        check_rate(self.rate)
    }

    pub(crate) fn created_step(&self) -> Duration {
        /// About what a fast reader takes, so that times of creation keep near the clock.
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
    fn values_that_cannot_be_used_are_named() {
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
            "a rate of -1 events a second was asked for; expected 0 or more, and finite"
        );
        assert_eq!(Options::default().check(), Ok(()));
    }

    #[test]
    fn tokens_are_not_printed() {
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
