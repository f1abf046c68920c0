//! The headers of an HTTP answer that hold a time.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use tokio_tungstenite::tungstenite::http::{HeaderMap, header};

/// How long a server asks us to stay away: seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = DateTimeParser::new().parse_timestamp(value).ok()?;
    // By the server's own clock where it tells it: ours may be wrong.
    let now = date(headers).unwrap_or_else(Timestamp::now);
    then.duration_since(now).try_into().ok()
}

/// Our clock minus the server's, in seconds. A `Date` has no fractions: on average half a second has passed since.
pub(crate) fn clock_skew_seconds(headers: &HeaderMap, now: Timestamp) -> Option<f64> {
    let theirs = date(headers)?;
    Some(now.duration_since(theirs).as_secs_f64() - 0.5)
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let value = headers.get(header::DATE)?.to_str().ok()?;
    DateTimeParser::new().parse_timestamp(value.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let seconds = headers(&[(header::RETRY_AFTER, " 7 ")]);
        assert_eq!(retry_after(&seconds), Some(Duration::from_secs(7)));
        let date = headers(&[
            (header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (header::RETRY_AFTER, "Sun, 06 Nov 1994 08:50:00 GMT"),
        ]);
        assert_eq!(retry_after(&date), Some(Duration::from_secs(23)));
        for useless in ["", "soon", "-1", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(retry_after(&headers(&[(header::RETRY_AFTER, useless)])), None);
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn the_skew_is_ours_minus_theirs() {
        let headers = headers(&[(header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let now: Timestamp = "1994-11-06T08:49:40Z".parse().unwrap();
        assert_eq!(clock_skew_seconds(&headers, now), Some(2.5));
    }
}
