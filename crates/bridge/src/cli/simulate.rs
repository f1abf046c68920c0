//! The flags of `simulate`.

use std::{net::SocketAddr, num::NonZeroU64, path::PathBuf, time::Duration};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use neurobridge_core::units;
use neurobridge_simulator::{FaultRule, RestOrder, RestShape, TokenEnd};
use secrecy::SecretString;

use super::values::{rate, size};

/// Flags of `simulate`.
#[derive(Clone, Debug, Args)]
pub struct SimulateFlags {
    /// The address to listen on; port 0 chooses a free port, which is logged.
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// A valid token; may be given several times. Without any, every token is valid.
    #[arg(long = "token", value_name = "T")]
    pub tokens: Vec<SecretString>,
    /// Events per second [default: as fast as they are read].
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// The number of events, after which connections stay open [default: unlimited].
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// The size of every event, such as 2000 or "2 MiB", reached by an inline picture [default: about 600 bytes].
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub size: Option<usize>,
    /// The seed of the random events; the same seed generates the same events.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The creation time of the first event, for reproducible bytes [default: when the first client connects].
    #[arg(long, value_name = "TIME")]
    pub start: Option<Timestamp>,
    /// With --rate: pauses while no client is connected; without it, the events of that time are lost.
    #[arg(long)]
    pub hold: bool,
    /// A fault rule; may be given several times. The rules are at the end of this help.
    #[arg(long = "fault", value_name = "RULE")]
    pub faults: Vec<FaultRule>,
    /// A file to which each recognised event is written with its time, whether it was sent or not; it is truncated first.
    #[arg(long, value_name = "FILE")]
    pub recognised: Option<PathBuf>,
    /// A file to which each sent event is written as a JSON line; it is truncated first.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// A PEM file with the certificate chain: serves wss instead of ws.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// A PEM file with the private key of --tls-cert.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// The differences between connections.
    #[command(flatten)]
    pub connections: ConnectionFlags,
    /// The irregularities of events.
    #[command(flatten)]
    pub events: EventFlags,
    /// The REST interface.
    #[command(flatten)]
    pub rest: RestFlags,
    /// The tokens.
    #[command(flatten)]
    pub token: TokenFlags,
    /// The declared feed.
    #[command(flatten)]
    pub feed: FeedFlags,
}

/// Flags of `simulate` about a declared feed.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Declared feed")]
pub struct FeedFlags {
    /// The declaration of a feed to simulate instead of NeuroIO: the name of a shipped one such as okx, or a file. A
    /// secret with a value has to be sent with this value; any value is accepted for other secrets.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tokens", "size"])]
    pub feed: Option<String>,
    /// A file with frames as the feed sends them, one per line: samples of events, and answers; or the name of a shipped declaration,
    /// for its script. A line that begins with # is a comment, with #! a fault rule. Without a script, frames are built from the
    /// declaration.
    #[arg(long, value_name = "FILE", requires = "feed")]
    pub script: Option<String>,
    /// A file to which the ids of acknowledged events are written; it is truncated first.
    #[arg(long, value_name = "FILE", requires = "feed")]
    pub acknowledged: Option<PathBuf>,
}

/// Flags of `simulate` about connections.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connections")]
pub struct ConnectionFlags {
    /// With --rate: the largest delay of events; each connection has a delay of its own [default: none].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub delay: Option<Duration>,
    /// Gives each connection its own order within blocks of this many events.
    #[arg(long, value_name = "N")]
    pub shuffle: Option<NonZeroU64>,
    /// Closes the older connection of a token when a second one authenticates.
    #[arg(long)]
    pub one_connection: bool,
}

/// Flags of `simulate` about irregular events.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Irregular events")]
pub struct EventFlags {
    /// Skips an id after every N events.
    #[arg(long, value_name = "N")]
    pub holes: Option<NonZeroU64>,
    /// Deletes every Nth event: it is sent, but not listed by REST.
    #[arg(long, value_name = "N")]
    pub deleted: Option<NonZeroU64>,
    /// Gives every Nth event an earlier creation time.
    #[arg(long, value_name = "N")]
    pub late: Option<NonZeroU64>,
    /// How much earlier the creation time of the events of --late is.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1h", requires = "late")]
    pub late_by: Duration,
    /// The deviation of the platform's clock, such as 1h or -90s.
    #[arg(long, value_name = "TIME", value_parser = offset, default_value = "0s", allow_hyphen_values = true)]
    pub clock_offset: SignedDuration,
}

/// Flags of `simulate` about the REST interface.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "REST")]
pub struct RestFlags {
    /// The shape of a list: results ({"results":[…]}) or list ([…]).
    #[arg(long, value_name = "SHAPE", default_value = "results")]
    pub rest_shape: RestShape,
    /// The order of a list by id: newest or oldest first.
    #[arg(long, value_name = "ORDER", default_value = "newest")]
    pub rest_order: RestOrder,
    /// The largest page of a list.
    #[arg(long, value_name = "N", default_value = "100")]
    pub rest_max_page: NonZeroU64,
    /// The number of newest events that are listed.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub rest_keep: u64,
    /// The age up to which events are listed [default: any].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub rest_keep_for: Option<Duration>,
}

/// Flags of `simulate` about tokens.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tokens")]
pub struct TokenFlags {
    /// The life of a temporary token, which POST /v1/tokens/ creates.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "24h")]
    pub token_life: Duration,
    /// What happens to the connections of a token that has expired or was deleted: close or silence.
    #[arg(long, value_name = "END", default_value = "close")]
    pub token_end: TokenEnd,
}

fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|error| error.to_string())
}

/// Parses a duration that may be negative.
fn offset(text: &str) -> Result<SignedDuration, String> {
    let (is_negative, length) = match text.strip_prefix('-') {
        Some(length) => (true, length),
        None => (false, text),
    };
    let length = SignedDuration::try_from(duration(length)?).map_err(|error| error.to_string())?;
    Ok(if is_negative { -length } else { length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_clock_offset_is_accepted() {
        assert_eq!(offset("1h"), Ok(SignedDuration::from_hours(1)));
        assert_eq!(offset("-90s"), Ok(SignedDuration::from_secs(-90)));
        assert!(offset("--1s").is_err());
    }
}
