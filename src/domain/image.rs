//! The ID of an AMI, as a number.

use std::{fmt, str::FromStr};

use super::name::NameError;

/// An AMI ID: `ami-` and 8 to 17 lower-case hexadecimal digits. EC2's own IDs have 8 or 17 digits
/// (user guide, "Resource IDs"); EC2-compatible endpoints may use other lengths.
///
/// The ID is stored as a number, because the cache holds one for each task. Each digit takes four
/// bits, from the most significant bits down; the lowest byte holds the number of digits. The
/// numbers sort as their texts do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(u128);

impl ImageId {
    /// An ID that sorts before all others. EC2 has no such image.
    pub const FIRST: Self = Self(0);
}

const PREFIX: &str = "ami-";
const MIN_DIGITS: usize = 8;
const MAX_DIGITS: usize = 17;
const COUNT_MASK: u128 = 0xff;
const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Number of bits by which the digit at this place is shifted. Places count from the left, from 0.
fn shift(place: usize) -> usize {
    124 - 4 * place
}

impl ImageId {
    /// Parses an image ID.
    ///
    /// # Errors
    /// If the text does not have the form of an AMI ID.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if let Some(digits) = text.strip_prefix(PREFIX)
            && let Some(image_id) = Self::of_digits(digits)
        {
            return Ok(image_id);
        }
        Err(NameError::new(
            text,
            "an AMI ID: \"ami-\" and 8 to 17 lower-case hexadecimal digits, such as \"ami-0123456789abcdef0\"",
        ))
    }

    fn of_digits(digits: &str) -> Option<Self> {
        if !(MIN_DIGITS..=MAX_DIGITS).contains(&digits.len()) {
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
        // format! would write the number digit by digit, which is several times slower.
        let mut digits = [0; MAX_DIGITS];
        for (place, digit) in digits.iter_mut().enumerate() {
            *digit = HEX_DIGITS[(self.0 >> shift(place) & 0xf) as usize];
        }
        let count = (self.0 & COUNT_MASK) as usize;
        f.write_str(PREFIX)?;
        f.write_str(str::from_utf8(&digits[..count]).map_err(|_| fmt::Error)?)
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
    fn texts_of_another_form_are_refused() {
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
    fn an_error_says_what_was_expected_and_stays_short() {
        let error = ImageId::parse(&"x".repeat(10_000)).expect_err("bad").to_string();
        assert!(error.contains("ami-0123456789abcdef0") && error.len() < 250, "{error}");
    }

    proptest! {
        #[test]
        fn it_is_written_as_it_was_read(text in "ami-[0-9a-f]{8,17}") {
            prop_assert_eq!(ImageId::parse(&text).expect("valid").to_string(), text);
        }

        #[test]
        fn it_sorts_as_its_text_does(one in "ami-[01f]{8,10}", two in "ami-[01f]{8,10}") {
            let parse = |text: &str| ImageId::parse(text).expect("valid");
            prop_assert_eq!(parse(&one).cmp(&parse(&two)), one.cmp(&two));
        }
    }
}
