//! Values of the environment and of the file: their texts, and clap's errors about them.

use clap::{Arg, Command};

/// The texts of a value, without the blanks around them: several if the flag takes a list. None if
/// the value is empty.
pub(super) fn texts_in(arg: &Arg, value: &str) -> Vec<String> {
    let mut texts = Vec::new();
    match arg.get_value_delimiter() {
        Some(delimiter) => texts.extend(value.split(delimiter).map(str::trim)),
        None => texts.push(value.trim()),
    }
    texts.retain(|text| !text.is_empty());
    texts.into_iter().map(str::to_owned).collect()
}

/// The reason for which clap refuses these texts as the values of a flag. None if it takes them.
pub(super) fn refusal(arg: &Arg, texts: &[String]) -> Option<String> {
    let arg = arg.clone().env(None::<&'static str>).required(false).default_values(texts.to_vec());
    match Command::new("values").arg(arg).try_get_matches_from(["values"]) {
        Ok(_) => None,
        Err(error) => Some(reason(&error)),
    }
}

/// The text of an error without clap's prefix and its hint at `--help`.
pub(super) fn reason(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.trim_start_matches("error: ");
    let text = match text.split_once("\n\nFor more information") {
        Some((reason, _)) => reason,
        None => text,
    };
    text.trim_end().to_owned()
}
