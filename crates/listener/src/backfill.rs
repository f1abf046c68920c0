//! The configuration of backfill: reading the events that a feed did not deliver from a REST interface.

use std::time::Duration;

use neurobridge_core::{
    address::{self, Address, describe_scheme},
    units::format_duration,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::endpoint::Endpoint;

/// The host of the platform's own feed.
const PLATFORM_FEED: &str = "events.neuroio.com";
/// The address of the platform's own REST interface.
const PLATFORM_REST: &str = "https://api.neuroio.com";

/// The largest `max_pages`. Reading more pages takes longer than a platform keeps the entries.
const MAX_PAGES: u32 = 100_000;
/// The largest `rate`. All clients of a platform share its interface.
const MAX_RATE: u32 = 1_000;
/// The largest `hold`. Live events that wait longer are late for every consumer.
const MAX_HOLD: Duration = Duration::from_secs(60);

/// Reading missed events from the platform's REST interface, with the token, proxy and certificates of the source; with a declared
/// feed from the list in its `feed.backfill`, with its secrets.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BackfillConfig {
    /// Whether missed events may be read from the REST interface. By default true if its address is known: the feed is
    /// the platform's own (`events.neuroio.com`), `url` is set, or a declared feed has the table `backfill`.
    pub enabled: Option<bool>,
    /// Address of the REST interface: `https://host[:port][/path]`, or `http://` without TLS. By default
    /// `https://api.neuroio.com` for the platform's own feed, and none for another one. Not with a declared feed.
    #[schemars(extend("format" = address::SCHEMA_FORMAT))]
    pub url: Option<String>,
    /// Longest time for which live events wait while a gap is filled, so that the order for each key is complete. The
    /// default of 2 seconds is sufficient for about twenty pages, and short for a consumer.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub hold: Duration,
    /// Time by which a gap is extended at both ends if it is read by times: because no id before it is known, or because the list
    /// of a declared feed is selected by `{from}` and `{to}`. Events that are read twice are recognised as duplicates within the deduplication window.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub overlap: Duration,
    /// Time after the end of a gap for which a failed attempt to fetch its events is repeated, with a growing delay. Then the
    /// gap is reported as not recovered. An hour covers most outages of an interface that is restarted.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub give_up_after: Duration,
    /// Largest number of pages for one gap, with NeuroIO of at most 100 events each. The rest of a larger gap is reported as not
    /// recovered.
    #[schemars(range(min = 1, max = MAX_PAGES))]
    pub max_pages: u32,
    /// Largest number of requests per second. The limit of the platform is unknown. After an answer 429, the next request is
    /// delayed by the time that the platform requests.
    #[schemars(range(min = 1, max = MAX_RATE))]
    pub rate: u32,
    /// Time limit for one answer, from the request to its last byte. Opening a connection has the limit `open_timeout`
    /// of the source.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub timeout: Duration,
}

impl Default for BackfillConfig {
    fn default() -> Self {
        Self {
            enabled: None,
            url: None,
            hold: Duration::from_secs(2),
            overlap: Duration::from_secs(60),
            give_up_after: Duration::from_secs(3_600),
            max_pages: 1_000,
            rate: 10,
            timeout: Duration::from_secs(15),
        }
    }
}

impl BackfillConfig {
    /// Returns the address of the REST interface for a feed; `None` if backfill is switched off, or the address is not
    /// known.
    pub(crate) fn address(&self, feed: &str) -> Option<&str> {
        if self.enabled == Some(false) {
            return None;
        }
        self.url
            .as_deref()
            .or_else(|| is_platform(feed).then_some(PLATFORM_REST))
    }

    /// Returns the configuration errors, each with its key below the source and a sentence that states the found and the
    /// expected value. `declared` is whether a declared feed has a list of past events; `None` for NeuroIO.
    pub(crate) fn check(&self, feed: &str, declared: Option<bool>) -> Vec<(&'static str, String)> {
        let mut errors = Vec::new();
        match &self.url {
            _ if declared.is_some() => {
                if self.url.is_some() {
                    let message = "found together with a declared feed, expected the list of past events in \"feed.backfill\"";
                    errors.push(("backfill.url", message.to_owned()));
                }
                if self.enabled == Some(true) && declared == Some(false) {
                    let message =
                        "found true, but the declared feed has no list of past events: expected one in \"feed.backfill\"";
                    errors.push(("backfill.enabled", message.to_owned()));
                }
            }
            Some(url) => {
                if let Err(error) = parse_endpoint(url) {
                    errors.push(("backfill.url", error));
                }
            }
            None if self.enabled == Some(true) && !is_platform(feed) => errors.push((
                "backfill.url",
                "missing: expected the address of the REST interface, because the feed is not the platform's own"
                    .into(),
            )),
            None => {}
        }
        let day = Duration::from_secs(86_400);
        let second = Duration::from_secs(1);
        for (key, time, least, most) in [
            ("backfill.hold", self.hold, Duration::ZERO, MAX_HOLD),
            ("backfill.overlap", self.overlap, Duration::ZERO, day),
            (
                "backfill.give_up_after",
                self.give_up_after,
                Duration::ZERO,
                30 * day,
            ),
            ("backfill.timeout", self.timeout, second, 300 * second),
        ] {
            if !(least..=most).contains(&time) {
                let [found, least, most] = [time, least, most].map(format_duration);
                errors.push((
                    key,
                    format!("found \"{found}\", expected \"{least}\" to \"{most}\""),
                ));
            }
        }
        for (key, number, most) in [
            ("backfill.max_pages", self.max_pages, MAX_PAGES),
            ("backfill.rate", self.rate, MAX_RATE),
        ] {
            if !(1..=most).contains(&number) {
                errors.push((key, format!("found {number}, expected 1 to {most}")));
            }
        }
        errors
    }
}

/// Returns whether a feed is the platform's own.
fn is_platform(feed: &str) -> bool {
    Address::parse(feed).is_ok_and(|address| address.host.eq_ignore_ascii_case(PLATFORM_FEED))
}

/// Parses `https://host[:port][/path]`. No error repeats a part of `url`, which may contain a password.
pub(crate) fn parse_endpoint(url: &str) -> Result<Endpoint, String> {
    const EXPECTED: &str = "expected https://host[:port][/path], or http:// without TLS";
    let address = Address::parse(url).map_err(|error| format!("{error}, {EXPECTED}"))?;
    let is_tls = match address.scheme {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => true,
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => false,
        scheme => return Err(format!("{}, {EXPECTED}", describe_scheme(scheme))),
    };
    if address.user.is_some() {
        return Err(format!("found a user or password in the URL, {EXPECTED}"));
    }
    if address.rest.contains('?') {
        return Err(format!("found a query, {EXPECTED}"));
    }
    let uri = url
        .parse()
        .map_err(|error| format!("not a URL ({error}), {EXPECTED}"))?;
    Ok(Endpoint {
        uri,
        is_tls,
        host: address.host.to_owned(),
        port: address.port.unwrap_or(if is_tls { 443 } else { 80 }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: &str = "wss://feed.example";

    #[test]
    fn list_address_is_that_of_the_platform_or_configured() {
        let default = BackfillConfig::default();
        assert_eq!(default.address("wss://events.neuroio.com"), Some(PLATFORM_REST));
        assert_eq!(
            default.address("WSS://Events.NeuroIO.com:443/"),
            Some(PLATFORM_REST)
        );
        assert_eq!(default.address(OTHER), None);
        let other = BackfillConfig {
            url: Some("https://rest.example".into()),
            ..BackfillConfig::default()
        };
        assert_eq!(other.address(OTHER), Some("https://rest.example"));
        let off = BackfillConfig {
            enabled: Some(false),
            ..other
        };
        assert_eq!(off.address(OTHER), None);
        assert!(default.check(OTHER, None).is_empty() && off.check(OTHER, Some(true)).len() == 1);
    }

    #[test]
    fn all_backfill_errors_are_reported() {
        let config = BackfillConfig {
            enabled: Some(true),
            hold: Duration::from_secs(61),
            overlap: Duration::from_secs(86_401),
            give_up_after: Duration::from_secs(31 * 86_400),
            max_pages: 0,
            rate: 1_001,
            timeout: Duration::ZERO,
            ..BackfillConfig::default()
        };
        let errors = config.check(OTHER, None);
        let lines: Vec<_> = errors
            .iter()
            .map(|(key, text)| format!("{key}: {text}"))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        backfill.url: missing: expected the address of the REST interface, because the feed is not the platform's own
        backfill.hold: found "1m 1s", expected "0s" to "1m"
        backfill.overlap: found "1d 1s", expected "0s" to "1d"
        backfill.give_up_after: found "31d", expected "0s" to "30d"
        backfill.timeout: found "0s", expected "1s" to "5m"
        backfill.max_pages: found 0, expected 1 to 100000
        backfill.rate: found 1001, expected 1 to 1000
        "#);
    }

    #[test]
    fn invalid_url_is_rejected_and_not_shown() {
        for url in [
            "",
            "rest",
            "wss://rest",
            "https://",
            "https://u:hunter2@rest",
            "https://rest/?key=hunter2",
            "https://rest/#hunter2",
            "hunter2://rest",
            "https://rest:port",
        ] {
            let error = parse_endpoint(url).unwrap_err();
            assert!(
                error.contains("expected https://") && !error.contains("hunter2"),
                "{url}: {error}"
            );
        }
        let endpoint = parse_endpoint("http://[::1]:81/below/").unwrap();
        assert_eq!(endpoint.authority(), "[::1]:81");
        assert_eq!((endpoint.uri.path(), endpoint.is_tls), ("/below/", false));
    }
}
