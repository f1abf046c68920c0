//! Exact comparison of numbers in the notation of JSON.

use std::cmp::Ordering;

/// A decimal number of any length, borrowed from its text. Binary numbers would round: from 2⁵³ on, neighbouring ids would
/// be equal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal<'a> {
    is_negative: bool,
    /// The digits before and after the point.
    whole: &'a str,
    fraction: &'a str,
    exponent: i64,
}

impl<'a> Decimal<'a> {
    /// Parses a number in the grammar of JSON.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (is_negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, rest) = digits(rest);
        if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
            return None;
        }
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => Some(digits(rest)).filter(|(fraction, _)| !fraction.is_empty())?,
            None => ("", rest),
        };
        let exponent = match rest.strip_prefix(['e', 'E']) {
            Some(written) => {
                let (sign, written) = match written.strip_prefix(['+', '-']) {
                    Some(rest) if written.starts_with('-') => (-1, rest),
                    Some(rest) => (1, rest),
                    None => (1, written),
                };
                let (power, rest) = digits(written);
                if power.is_empty() || !rest.is_empty() {
                    return None;
                }
                // The limit prevents an overflow when the number of digits is added.
                sign * power.parse().unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
            }
            None if rest.is_empty() => 0,
            None => return None,
        };
        Some(Self {
            is_negative,
            whole,
            fraction,
            exponent,
        })
    }

    /// Compares the values: `1`, `1.0` and `10e-1` are equal.
    pub(super) fn order(self, other: Self) -> Ordering {
        match (self.sign(), other.sign()) {
            (1, 1) => self.order_of_magnitudes(other),
            (-1, -1) => other.order_of_magnitudes(self),
            (own, other) => own.cmp(&other),
        }
    }

    fn sign(self) -> i8 {
        match self.significant().next() {
            None => 0,
            Some(_) if self.is_negative => -1,
            Some(_) => 1,
        }
    }

    /// Compares the absolute values of numbers other than zero.
    fn order_of_magnitudes(self, other: Self) -> Ordering {
        self.magnitude().cmp(&other.magnitude()).then_with(|| {
            let (own, other) = (self.significant(), other.significant());
            // Missing digits are zeros.
            let length = (self.whole.len() + self.fraction.len()).max(other.clone().count());
            let zeros = std::iter::repeat(b'0');
            own.chain(zeros.clone())
                .take(length)
                .cmp(other.chain(zeros).take(length))
        })
    }

    /// Returns the exponent `e` of the notation 0.d₁d₂d₃… × 10ᵉ, in which d₁ is the first significant digit.
    fn magnitude(self) -> i64 {
        let leading = (self.whole.len() + self.fraction.len()) - self.significant().count();
        self.exponent + self.whole.len() as i64 - leading as i64
    }

    /// Returns the digits without leading zeros.
    fn significant(self) -> impl Iterator<Item = u8> + Clone + use<'a> {
        self.whole
            .bytes()
            .chain(self.fraction.bytes())
            .skip_while(|digit| *digit == b'0')
    }
}

/// Splits a text after its leading digits.
fn digits(text: &str) -> (&str, &str) {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_exactly() {
        let order =
            |one: &str, other: &str| Decimal::parse(one).unwrap().order(Decimal::parse(other).unwrap());
        for (small, large) in [
            ("9007199254740992", "9007199254740993"),
            ("-9007199254740993", "-9007199254740992"),
            ("99999999999999999999998", "99999999999999999999999"),
            ("0.1", "0.10000000000000000001"),
            ("9", "10"),
            ("0.0099", "1e-2"),
            ("-1", "0"),
            ("0", "1e-99"),
            ("1e400", "1e401"),
            ("1e99999999999999999998", "2e99999999999999999998"),
            ("-1e400", "1e-400"),
        ] {
            assert_eq!(order(small, large), Ordering::Less, "{small} {large}");
            assert_eq!(order(large, small), Ordering::Greater, "{small} {large}");
        }
        for (one, other) in [
            ("1", "1.0"),
            ("1", "10e-1"),
            ("0", "-0.0"),
            ("0e7", "0"),
            ("120", "1.2E+2"),
        ] {
            assert_eq!(order(one, other), Ordering::Equal, "{one} {other}");
        }
    }

    #[test]
    fn notations_that_json_lacks_are_not_numbers() {
        for text in [
            "", "-", "+1", "01", "1.", ".5", "1e", "1e+", "0x1", "NaN", " 1", "1 ", "1,5", "1e5x",
        ] {
            assert!(Decimal::parse(text).is_none(), "{text}");
        }
    }
}
