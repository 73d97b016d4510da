//! The ID of an AMI.

use std::{fmt, str::FromStr};

use super::NameError;

/// An AMI ID: `ami-` and 8 to 17 lower-case hexadecimal digits. EC2's own have 8 or 17
/// (user guide, "Resource IDs"); what lies between is left to EC2-compatible endpoints.
///
/// A number, since there are as many of them as tasks: four bits a digit from the left, and the
/// count of digits in the last ones. It sorts as its text does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(u128);

const PREFIX: &str = "ami-";
const FEWEST: usize = 8;
const MOST: usize = 17;
const COUNT: u128 = 0xff;

/// Where a digit stands.
fn shift(place: usize) -> usize {
    124 - 4 * place
}

impl ImageId {
    /// Checks and takes over a text.
    ///
    /// # Errors
    /// When it does not have this form.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        text.strip_prefix(PREFIX).and_then(Self::of_digits).ok_or_else(|| {
            NameError::new(
                text,
                "an AMI ID: \"ami-\" and 8 to 17 lower-case hexadecimal digits, such as \"ami-0123456789abcdef0\"",
            )
        })
    }

    fn of_digits(digits: &str) -> Option<Self> {
        if !(FEWEST..=MOST).contains(&digits.len()) {
            return None;
        }
        let mut packed = digits.len() as u128;
        for (place, digit) in digits.bytes().enumerate() {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            packed |= u128::from(digit) << shift(place);
        }
        Some(Self(packed))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand: what makes numbers into text does so digit by digit, several times slower.
        let count = usize::try_from(self.0 & COUNT).unwrap_or(MOST).min(MOST);
        let mut digits = [0; MOST];
        for (place, digit) in digits.iter_mut().enumerate() {
            *digit =
                b"0123456789abcdef"[usize::try_from(self.0 >> shift(place) & 0xf).unwrap_or(0)];
        }
        f.write_str(PREFIX)?;
        f.write_str(std::str::from_utf8(&digits[..count]).unwrap_or_default())
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_image_id() {
        for bad in [
            "",
            "ami-",
            "ami-0123456",
            "ami-0123456789ABCDEF0",
            "ami-0123456g",
            "i-01234567",
            "ami-0123456789abcdef01",
            "ami-0123456é",
        ] {
            assert!(ImageId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_says_what_would_be_right_and_stays_short() {
        let error = ImageId::parse(&"x".repeat(10_000)).expect_err("bad").to_string();
        assert!(error.contains("ami-0123456789abcdef0") && error.len() < 250, "{error}");
    }

    proptest! {
        #[test]
        fn it_says_what_it_was_made_of(text in "ami-[0-9a-f]{8,17}") {
            prop_assert_eq!(ImageId::parse(&text).expect("valid").to_string(), text);
        }

        #[test]
        fn it_sorts_as_its_text_does(one in "ami-[01f]{8,10}", two in "ami-[01f]{8,10}") {
            let parse = |text: &str| ImageId::parse(text).expect("valid");
            prop_assert_eq!(parse(&one).cmp(&parse(&two)), one.cmp(&two));
        }
    }
}
