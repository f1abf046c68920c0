//! The simulated platform and the configuration of the bridge for each kind of run.

use std::time::Duration;

use super::reloads::{KAFKA, NATS, SOURCE, WRONG};
use super::{Mode, STREAM, TOPIC};

/// A long-lived credential, and two permanent tokens.
pub(super) const TOKENS: [&str; 3] = ["credential", "first", "second"];
/// The life of a token that the bridge creates. The bridge renews the token after 80 % of this time.
const TOKEN_LIFE: &str = "20s";

/// A fault rule, and its interval in seconds.
type Rule = (&'static str, u64);

/// Faults of the feed in addition to those of the schedule: a clean close, a hanging connection, a wrong answer to a ping, a
/// reset, and a refused token.
const FEED_FAULTS: [Rule; 5] = [
    ("close=1001", 17),
    ("half-open", 41),
    ("wrong-pong", 29),
    ("reset", 23),
    ("refuse-token", 37),
];
/// The faults of the list of events.
const REST_FAULTS: [Rule; 6] = [
    ("rest-http=503,path=/v1/entries", 7),
    ("rest-http=429,retry-after=1,path=/v1/entries", 13),
    ("rest-cut,path=/v1/entries", 11),
    ("rest-no-json,path=/v1/entries", 19),
    ("rest-slow=3s,path=/v1/entries", 23),
    ("rest-http=401,path=/v1/entries", 31),
];
/// The faults of the interface that creates tokens. The intervals are longer than the interval of the bridge's requests
/// without a valid token, so that some of these requests succeed.
const IAM_FAULTS: [Rule; 3] = [
    ("rest-http=503,path=/v1/tokens", 33),
    ("rest-cut,path=/v1/tokens", 71),
    ("rest-http=401,path=/v1/tokens", 61),
];
/// The fault that refuses every request for the list of events. Tokens can still be created.
const REST_DOWN: &str = "rest-http=503,path=/v1/entries";

/// Returns the arguments of the simulator. At the end of the run the platform stops recognising events, so that the last
/// gaps can be filled, and the fault rules of the feed end.
pub(super) fn platform(mode: Mode, seed: u64, rate: u64, duration: Duration, record: &str) -> Vec<String> {
    let seconds = duration.as_secs();
    let mut options: Vec<String> = Vec::new();
    let mut add = |flag: &str, value: &str| options.extend([flag.to_owned(), value.to_owned()]);
    add("--rate", &rate.to_string());
    add("--count", &(rate * seconds).max(1).to_string());
    add("--recognised", record);
    for token in TOKENS {
        add("--token", token);
    }
    add("--token-life", TOKEN_LIFE);
    add("--token-end", token_end(seed));
    if mode != Mode::TwoConnections {
        for (rule, every) in FEED_FAULTS {
            let times = seconds / every;
            if times > 0 {
                add("--fault", &format!("{rule},every={every}s,times={times}"));
            }
        }
        for (rule, every) in IAM_FAULTS {
            add("--fault", &format!("{rule},every={every}s"));
        }
    }
    match mode {
        Mode::RestUp => {
            for (rule, every) in REST_FAULTS {
                add("--fault", &format!("{rule},every={every}s"));
            }
        }
        Mode::RestDown => add("--fault", REST_DOWN),
        Mode::RestOff | Mode::TwoConnections => {}
    }
    options
}

/// Returns the platform's behaviour towards a connection whose token has expired.
pub(super) const fn token_end(seed: u64) -> &'static str {
    if seed.is_multiple_of(2) {
        "close"
    } else {
        "silence"
    }
}

/// The addresses of the servers.
pub(super) struct Addresses<'a> {
    pub(super) feed: &'a str,
    pub(super) rest: &'a str,
    pub(super) iam: &'a str,
    pub(super) kafka: &'a str,
    pub(super) nats: &'a str,
}

/// Returns the configuration of the bridge. Of two sources, one creates its tokens, and the other one is changed by reloads.
pub(super) fn configuration(mode: Mode, to: &Addresses<'_>) -> String {
    let mut config = String::new();
    for source in mode.sources() {
        let (more, tables) = match (mode, *source) {
            (Mode::TwoConnections, _) => ("token = \"first\"\nconnections = 2".to_owned(), String::new()),
            (_, "main") => (
                WRONG.to_owned(),
                format!(
                    "[sources.main.token_from]\nurl = \"http://{}\"\ncredential = {:?}\n",
                    to.iam, TOKENS[0]
                ),
            ),
            _ => (SOURCE.to_owned(), String::new()),
        };
        config.push_str(&format!(
            "[sources.{source}]\nurl = \"ws://{}/\"\nbackoff = {{ min = \"50ms\", max = \"1s\" }}\n{more}\n{tables}",
            to.feed
        ));
        if mode != Mode::RestOff {
            config.push_str(&backfill(source, to.rest, mode));
        }
    }
    config.push_str(&sinks(to));
    config
}

fn backfill(source: &str, rest: &str, mode: Mode) -> String {
    let give_up_after = if mode == Mode::RestDown { "1s" } else { "1h" };
    format!(
        r#"
[sources.{source}.backfill]
url = "http://{rest}"
rate = 1000
timeout = "2s"
give_up_after = "{give_up_after}"
"#
    )
}

fn sinks(to: &Addresses<'_>) -> String {
    format!(
        r#"
[spool]
type = "disk"
segment_size = "16 MiB"

[sinks.kafka]
type = "kafka"
bootstrap_servers = "{}"
topic = "{TOPIC}"
delivery = "exactly_once"
{KAFKA}

[sinks.nats]
type = "nats"
servers = ["{}"]
order = "strict"
{NATS}

[sinks.nats.stream]
name = "{STREAM}"
create = true
max_age = "7d"
replicas = 1
"#,
        to.kafka, to.nats
    )
}
