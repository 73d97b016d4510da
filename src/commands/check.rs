//! `serve --check`: tries the configuration, the credentials and the permission, and says what it finds.

use std::{collections::BTreeSet, process::ExitCode};

use tower::ServiceExt as _;

use super::{
    config::UnknownVariable,
    output::{Failure, print_line},
};
use crate::{
    domain::{
        AccountName, DescribeRequest, DescribeTarget, ListingFilter, Region, Scope, UpstreamError,
    },
    ec2::{Ec2, StartError},
};

/// Prints what is found, up to the first fault.
///
/// # Errors
/// The first fault.
pub(super) async fn run(
    ec2: &Ec2,
    named: Option<Region>,
    allowed: &BTreeSet<Region>,
    unknown: &[UnknownVariable],
) -> Result<ExitCode, Failure> {
    if let Some(UnknownVariable { name, nearest }) = unknown.first() {
        return Err(Failure::message(format_args!(
            "unknown environment variable {name}; did you mean {nearest}?"
        )));
    }
    print_line("configuration: valid");
    let region = find_region(ec2, named, allowed).await?;
    print_line(format_args!("region: {region}"));
    ec2.load(&region, allowed).await?;
    let key = ec2.access_key_id().await.map_err(|error| failure("credentials", &error))?;
    print_line(format_args!("credentials: access key ID {key}"));
    dry_run(ec2, region.clone()).await.map_err(|error| failure("EC2", &error))?;
    print_line(format_args!("EC2: DescribeStoreImageTasks is permitted in {region}"));
    Ok(ExitCode::SUCCESS)
}

/// The default region, or else the first of those that requests may name.
async fn find_region(
    ec2: &Ec2,
    named: Option<Region>,
    allowed: &BTreeSet<Region>,
) -> Result<Region, StartError> {
    if let Some(region) = named {
        return Ok(region);
    }
    match ec2.search_region().await? {
        Some(region) => Ok(region),
        None => allowed.first().cloned().ok_or(StartError::NoRegion),
    }
}

async fn dry_run(ec2: &Ec2, region: Region) -> Result<(), UpstreamError> {
    let scope = Scope { account: AccountName::default(), region };
    let target = DescribeTarget::Listing { filter: ListingFilter::default(), next: None };
    let upstream = (ec2.clone().make_upstream())(&scope);
    upstream.oneshot(DescribeRequest::new(target, true)).await.map(|_| ())
}

fn failure(part: &str, error: &UpstreamError) -> Failure {
    let mut text = format!("{part}: {}: {error}", error.code);
    if let Some(cause) = &error.cause {
        text = format!("{text}: {cause}");
    }
    Failure::Message(text)
}
