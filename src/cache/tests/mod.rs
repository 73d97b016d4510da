//! Tests of the whole cache: against a model of EC2, with random stories that proptest shrinks.

mod concurrency;
pub(super) mod model;
mod pagination;
pub(super) mod support;
