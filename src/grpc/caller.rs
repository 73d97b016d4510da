//! The caller of a request, from its extensions.

use http::Extensions;

use crate::domain::Caller;

/// The caller of a request. A connection gives it to each of its calls; a call without a connection is
/// made by this process.
pub(super) fn caller(extensions: &Extensions) -> Caller {
    extensions.get::<Caller>().cloned().unwrap_or_default()
}
