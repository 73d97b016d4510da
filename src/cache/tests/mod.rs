//! Tests of the whole cache, against a model of EC2 with random stories that proptest shrinks.

mod adapter;
mod ask;
mod concurrency;
mod ec2;
mod model;
mod oracle;
mod pagination;
pub(super) mod pure;
mod run;
mod scenarios;
mod story;
pub(super) mod support;
