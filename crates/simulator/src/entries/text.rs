//! Numbers and times as JSON text, written directly into a buffer, because `format!` would take more time than the rest of
//! an entry.

/// Appends a whole number.
pub(crate) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a number given in hundredths as a decimal fraction with two places.
pub(crate) fn push_hundredths(out: &mut Vec<u8>, hundredths: i64) {
    if hundredths < 0 {
        out.push(b'-');
    }
    let size = hundredths.unsigned_abs();
    push_number(out, size / 100);
    out.extend_from_slice(&[b'.', b'0' + (size / 10 % 10) as u8, b'0' + (size % 10) as u8]);
}

/// Appends a time, given in microseconds since 1970, as RFC 3339 in UTC with six places; the years 0 to 9999 fit.
pub(crate) fn push_time(out: &mut Vec<u8>, microseconds: i64) {
    let days = microseconds.div_euclid(86_400_000_000);
    let of_day = microseconds.rem_euclid(86_400_000_000) as u64;
    let (year, month, day) = civil(days);
    let seconds = of_day / 1_000_000;
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    put(&mut text[0..4], year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], seconds / 3_600);
    put(&mut text[14..16], seconds / 60 % 60);
    put(&mut text[17..19], seconds % 60);
    put(&mut text[20..26], of_day % 1_000_000);
    out.extend_from_slice(&text);
}

fn put(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Converts days since 1970 into year, month and day. The year starts in March, so that the leap day is its last day
/// and every month before it has a fixed offset.
fn civil(days: i64) -> (u64, u64, u64) {
    let from_march_0 = days + 719_468;
    let era = from_march_0.div_euclid(146_097);
    let day_of_era = from_march_0.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year.max(0) as u64, month as u64, day as u64)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn hundredths_keep_their_sign_and_zeros() {
        assert_eq!(text(|out| push_hundredths(out, 8_731)), "87.31");
        assert_eq!(text(|out| push_hundredths(out, -5)), "-0.05");
        assert_eq!(text(|out| push_hundredths(out, 700)), "7.00");
    }

    proptest! {
        #[test]
        fn written_times_parse_to_the_same_instant(microseconds in 0_i64..253_370_764_799_000_000) {
            let written = text(|out| push_time(out, microseconds));
            prop_assert_eq!(written.len(), 27);
            let read: Timestamp = written.parse().unwrap();
            prop_assert_eq!(read.as_microsecond(), microseconds);
        }

        #[test]
        fn numbers_are_written_like_display(number: u64) {
            prop_assert_eq!(text(|out| push_number(out, number)), number.to_string());
        }
    }
}
