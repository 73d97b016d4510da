//! One scope's `DescribeStoreImageTasks`, in the words of the domain.

use std::{
    cmp::Reverse,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use aws_config::SdkConfig;
use aws_sdk_ec2::{
    operation::describe_store_image_tasks::DescribeStoreImageTasksOutput,
    types::{Filter, StoreImageTaskResult},
};
use futures_util::{FutureExt as _, future::BoxFuture};
use tower::Service;

use super::{error, response_integrity::ResponseIntegrity};
use crate::domain::{
    Answer, DescribeRequest, DescribeResponse, DescribeTarget, ImageId, ListingFilter,
    MAX_TASKS_PER_CALL, NextToken, Region, StoreImageTask, TaskKey, TaskState, UpstreamError,
};

/// Makes calls in one region with one account's credentials.
#[derive(Clone, Debug)]
pub(super) struct Client {
    ec2: aws_sdk_ec2::Client,
}

impl Client {
    pub(super) fn new(config: &SdkConfig, region: &Region) -> Self {
        let region = aws_config::Region::new(region.as_str().to_owned());
        let config = aws_sdk_ec2::config::Builder::from(config)
            .region(region)
            .interceptor(ResponseIntegrity)
            .build();
        Self { ec2: aws_sdk_ec2::Client::from_conf(config) }
    }
}

impl Service<DescribeRequest> for Client {
    type Response = DescribeResponse;
    type Error = UpstreamError;
    type Future = BoxFuture<'static, Result<DescribeResponse, UpstreamError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: DescribeRequest) -> Self::Future {
        let DescribeRequest { target, dry_run } = request;
        let call = self.ec2.describe_store_image_tasks();
        let call = match target {
            DescribeTarget::Listing { filter, next } => call
                .max_results(MAX_TASKS_PER_CALL.into())
                .set_filters(filters(&filter))
                .set_next_token(next.map(|token| token.0.to_string())),
            // EC2 refuses MaxResults together with ImageIds.
            DescribeTarget::Images(images) => {
                call.set_image_ids(Some(images.iter().map(ToString::to_string).collect()))
            }
        };
        let call = call.set_dry_run(dry_run.then_some(true));
        async move {
            match call.send().await {
                Ok(output) => Ok(DescribeResponse::Tasks(answer(output))),
                Err(failed) => error::classify(&failed),
            }
        }
        .boxed()
    }
}

/// By the names of the API reference. None where EC2 is to list everything.
fn filters(filter: &ListingFilter) -> Option<Vec<Filter>> {
    let ListingFilter { states, buckets } = filter;
    let states: Vec<_> = states.iter().map(|state| state.as_ec2().to_owned()).collect();
    let buckets: Vec<_> = buckets.iter().map(ToString::to_string).collect();
    let filters: Vec<_> = [("task-state", states), ("bucket", buckets)]
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| Filter::builder().name(name).set_values(Some(values)).build())
        .collect();
    (!filters.is_empty()).then_some(filters)
}

fn answer(output: DescribeStoreImageTasksOutput) -> Answer {
    let next = output.next_token.filter(|token| !token.is_empty());
    let tasks = output.store_image_task_results.unwrap_or_default();
    Answer {
        tasks: tasks.into_iter().filter_map(task).collect(),
        next: next.map(|token| NextToken(token.into())),
    }
}

/// A task without an image, a start or a bucket has no identity, and nothing could be said of it.
fn task(result: StoreImageTaskResult) -> Option<StoreImageTask> {
    let identified = || {
        let image_id = ImageId::parse(result.ami_id()?).ok()?;
        let start_time = SystemTime::try_from(*result.task_start_time()?).ok()?;
        Some((image_id, Reverse(start_time), Arc::from(result.bucket()?)))
    };
    let Some((image_id, start_time, bucket)) = identified() else {
        tracing::warn!(
            ?result,
            "EC2 answered a task without a usable image, start time or bucket; it is left out"
        );
        return None;
    };
    let progress = result.progress_percentage.unwrap_or(0).clamp(0, 100);
    Some(StoreImageTask {
        object_key: result
            .s3object_key
            .map_or_else(|| format!("{image_id}.bin").into(), Into::into),
        key: TaskKey { start_time, image_id, bucket },
        state: TaskState::from_ec2(result.store_task_state.as_deref().unwrap_or_default()),
        progress: u8::try_from(progress).unwrap_or(100),
        failure_reason: result
            .store_task_failure_reason
            .filter(|text| !text.is_empty())
            .map(Into::into),
    })
}
