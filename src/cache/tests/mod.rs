//! Tests of the whole cache: against a model of EC2, with random stories that proptest shrinks.

mod concurrency;
mod pagination;
pub(super) mod pure;
pub(super) mod support;
