//! The headers of an HTTP answer that contain a time.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

use super::head::Head;

/// Returns the delay that a server requests with `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(head: &Head) -> Option<Duration> {
    parse_retry_after(head.values("retry-after").next()?, head.values("date").next())
}

/// Returns the delay that a server requests with `value` in `Retry-After`: seconds, or a date. `date` is the header
/// `Date` of the same answer: the delay is relative to the server's own clock if it is known, because the local clock
/// may be wrong.
pub fn parse_retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = parse_date(value)?;
    let now = date.and_then(parse_date).unwrap_or_else(Timestamp::now);
    then.duration_since(now).try_into().ok()
}

/// Returns the local time minus the server's, in seconds. A `Date` has whole seconds: on average the server's time is
/// half a second later.
pub(crate) fn clock_skew_seconds(head: &Head, now: Timestamp) -> Option<f64> {
    let theirs = date(head)?;
    Some(now.duration_since(theirs).as_secs_f64() - 0.5)
}

fn date(head: &Head) -> Option<Timestamp> {
    parse_date(head.values("date").next()?)
}

fn parse_date(value: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn head(headers: &str) -> Head {
        let text = format!("HTTP/1.1 503 X\r\n{headers}\r\n");
        Head::read(&mut text.as_bytes()).await.unwrap()
    }

    #[tokio::test]
    async fn retry_after_is_seconds_or_a_date() {
        let seconds = head("Retry-After:  7 \r\n").await;
        assert_eq!(retry_after(&seconds), Some(Duration::from_secs(7)));
        let date =
            head("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:00 GMT\r\n")
                .await;
        assert_eq!(retry_after(&date), Some(Duration::from_secs(23)));
        for useless in ["", "soon", "-1", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            let head = head(&format!("Retry-After: {useless}\r\n")).await;
            assert_eq!(retry_after(&head), None);
        }
        assert_eq!(retry_after(&head("").await), None);
    }

    #[tokio::test]
    async fn skew_is_local_minus_remote_time() {
        let head = head("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n").await;
        let now: Timestamp = "1994-11-06T08:49:40Z".parse().unwrap();
        assert_eq!(clock_skew_seconds(&head, now), Some(2.5));
    }
}
