//! What the extensions of a request say of its connection. A call without a connection is made by this
//! process.

use http::Extensions;

use crate::{api::Lifetime, domain::Caller};

/// The caller of a request.
pub(super) fn caller(extensions: &Extensions) -> Caller {
    extensions.get::<Caller>().cloned().unwrap_or_default()
}

/// The life of the connection of a request.
pub(super) fn lifetime(extensions: &Extensions) -> Lifetime {
    extensions.get::<Lifetime>().cloned().unwrap_or_default()
}
