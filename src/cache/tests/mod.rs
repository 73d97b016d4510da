//! Tests of the whole cache: against a model of EC2 with a history, with random stories that proptest
//! shrinks, and fault by fault.

mod adapter;
mod ask;
mod concurrency;
mod ec2;
mod faults;
mod model;
mod oracle;
mod pagination;
pub(super) mod pure;
mod run;
mod scenarios;
mod story;
pub(super) mod support;
mod world;
