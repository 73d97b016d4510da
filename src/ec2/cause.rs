//! The chain of causes of an error, as one text without secrets.

use std::{error::Error, sync::Arc};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::error::ConnectorError;

use super::text_bounds;

/// 2,000 bytes: the longest text that is passed on. gRPC carries a message in a header, and peers
/// limit all headers together to 8 KiB.
const MAX_TEXT_BYTES: usize = 2_000;

/// Joins the host, if it is known, and the causes below the outermost error.
pub(super) fn joined(error: &(dyn Error + 'static), host: Option<&str>) -> Option<Arc<str>> {
    let mut texts = Vec::new();
    let mut by_provider = false;
    for cause in Causes::of(error).skip(1) {
        if cause.is::<ConnectorError>() {
            by_provider = false;
        }
        // The causes of a CredentialsError are a credentials provider's own words, for example
        // those of STS or of a credential process. They may quote secrets. The causes of a failed
        // connection do not.
        if !by_provider {
            push_new(&mut texts, cause.to_string());
        }
        if cause.is::<CredentialsError>() {
            by_provider = true;
        }
    }
    // A call without credentials never reaches EC2's host.
    if let Some(host) = host
        && find::<CredentialsError>(error).is_none()
    {
        texts.insert(0, host.to_owned());
    }
    if texts.is_empty() {
        return None;
    }
    Some(cut(&texts.join(": ")).into())
}

/// Adds a text, unless the previous one contains it: some errors quote their source.
fn push_new(texts: &mut Vec<String>, text: String) {
    match texts.last() {
        Some(last) if last.contains(&text) => {}
        _ => texts.push(text),
    }
}

/// The text in at most [`MAX_TEXT_BYTES`].
pub(super) fn cut(text: &str) -> String {
    text_bounds::cut(text, MAX_TEXT_BYTES)
}

/// The outermost error of this type.
pub(super) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    Causes::of(error).find_map(|cause| cause.downcast_ref())
}

/// An error and its causes, from the outermost to the innermost.
pub(super) struct Causes<'a>(Option<&'a (dyn Error + 'static)>);

impl<'a> Causes<'a> {
    pub(super) fn of(error: &'a (dyn Error + 'static)) -> Self {
        Self(Some(error))
    }
}

impl<'a> Iterator for Causes<'a> {
    type Item = &'a (dyn Error + 'static);

    fn next(&mut self) -> Option<Self::Item> {
        let error = self.0?;
        self.0 = error.source();
        Some(error)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("dispatch failure")]
    struct Outermost(#[source] Box<dyn Error + Send + Sync>);

    #[test]
    fn the_causes_follow_the_host() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let error = Outermost(ConnectorError::io(refused.into()).into());
        let cause = joined(&error, Some("127.0.0.1:1")).expect("causes");
        assert_eq!(&*cause, "127.0.0.1:1: io error: connection refused");
    }

    #[test]
    fn the_words_of_a_credentials_provider_are_left_out() {
        let error = Outermost(CredentialsError::provider_error("token SECRET").into());
        let cause = joined(&error, Some("127.0.0.1:1")).expect("causes");
        assert_eq!(&*cause, "an error occurred while loading credentials");
    }

    #[test]
    fn a_failed_connection_to_a_credentials_provider_is_kept() {
        let unreachable = Outermost(ConnectorError::io("no route to host".into()).into());
        let error = Outermost(CredentialsError::provider_error(unreachable).into());
        let cause = joined(&error, None).expect("causes");
        assert_eq!(
            &*cause,
            "an error occurred while loading credentials: io error: no route to host"
        );
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let cut = cut(&"é".repeat(2_000));
        assert_eq!(cut.chars().count(), 999);
        assert!(cut.ends_with("é…"), "{cut}");
    }
}
