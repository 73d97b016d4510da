//! The innermost service: one `DescribeStoreImageTasks` call by the SDK, in the domain's types.

use std::{
    cmp::Reverse,
    sync::{Arc, Mutex, PoisonError},
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

use super::{
    endpoint::EndpointHost,
    error::{self, Circumstances},
    response_integrity::ResponseIntegrity,
    sdk::{Loaded, Sdk},
    text_bounds,
    unknown_words::UnknownWords,
};
use crate::domain::{
    Answer, DescribeRequest, DescribeResponse, DescribeTarget, ImageId, ListingFilter,
    MAX_TASKS_PER_CALL, NextToken, Region, StoreImageTask, TaskKey, TaskState, UpstreamError,
};

/// 255 bytes: the longest name of a bucket, of an old one in us-east-1 (S3 user guide, "General purpose
/// buckets naming rules"). It bounds the task IDs of the contract.
const MAX_BUCKET_BYTES: usize = 255;

/// A client for one region with one account's credentials.
#[derive(Clone, Debug)]
pub(super) struct Client {
    sdk: Arc<Sdk>,
    region: Region,
    host: EndpointHost,
    unknown_words: UnknownWords,
    /// The SDK's client of the newest generation that was used.
    newest: Arc<Mutex<Option<(u64, aws_sdk_ec2::Client)>>>,
}

impl Client {
    pub(super) fn new(sdk: Arc<Sdk>, region: &Region, unknown_words: UnknownWords) -> Self {
        Self {
            sdk,
            region: region.clone(),
            host: EndpointHost::default(),
            unknown_words,
            newest: Arc::default(),
        }
    }

    /// The SDK's client with the newest configuration, as soon as there is one, and its generation.
    async fn newest(&self) -> (u64, aws_sdk_ec2::Client) {
        let Loaded { generation, config } = self.sdk.get().await;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = &*newest
            && *of == generation
        {
            return (generation, client.clone());
        }
        let client = self.client(&config);
        *newest = Some((generation, client.clone()));
        (generation, client)
    }

    fn client(&self, config: &SdkConfig) -> aws_sdk_ec2::Client {
        let region = aws_config::Region::new(self.region.as_str().to_owned());
        let config = aws_sdk_ec2::config::Builder::from(config)
            .region(region)
            .interceptor(ResponseIntegrity)
            .interceptor(self.host.clone())
            .build();
        aws_sdk_ec2::Client::from_conf(config)
    }

    async fn describe(
        &self,
        target: DescribeTarget,
        dry_run: bool,
    ) -> Result<DescribeResponse, UpstreamError> {
        let (generation, client) = self.newest().await;
        let failed = match send(&client, target, dry_run).await {
            Ok(output) => {
                self.sdk.note_credentials();
                return Ok(DescribeResponse::Tasks(answer(output, &self.unknown_words)));
            }
            Err(failed) => failed,
        };
        if error::was_signed(&failed) {
            self.sdk.note_credentials();
        }
        let refused = error::refuses_old_credentials(&failed);
        // The SDK also remembers that a credentials file was missing or could not be read.
        if refused || error::lacks_credentials(&failed) {
            let renewed = self.sdk.renew(generation).await;
            if refused && renewed {
                return Err(error::renewed(&failed));
            }
        }
        let circumstances = Circumstances {
            host: self.host.get(),
            region: &self.region,
            had_credentials: self.sdk.had_credentials(),
        };
        error::classify(&failed, &circumstances)
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
        let DescribeRequest { target, dry_run, .. } = request;
        let client = self.clone();
        async move { client.describe(target, dry_run).await }.boxed()
    }
}

async fn send(
    client: &aws_sdk_ec2::Client,
    target: DescribeTarget,
    dry_run: bool,
) -> Result<DescribeStoreImageTasksOutput, error::Failed> {
    let call = client.describe_store_image_tasks();
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
    let call = if dry_run { call.dry_run(true) } else { call };
    call.send().await
}

/// The filters by their names in the API reference. None if EC2 is to list all tasks.
fn filters(filter: &ListingFilter) -> Option<Vec<Filter>> {
    let ListingFilter { states, buckets } = filter;
    let states: Vec<_> = states.iter().map(|state| state.as_ec2().to_owned()).collect();
    let buckets: Vec<_> = buckets.iter().map(ToString::to_string).collect();
    let mut filters = Vec::new();
    for (name, values) in [("task-state", states), ("bucket", buckets)] {
        if !values.is_empty() {
            filters.push(Filter::builder().name(name).set_values(Some(values)).build());
        }
    }
    if filters.is_empty() { None } else { Some(filters) }
}

fn answer(output: DescribeStoreImageTasksOutput, unknown_words: &UnknownWords) -> Answer {
    let next = match output.next_token {
        Some(token) if !token.is_empty() => Some(NextToken(token.into())),
        _ => None,
    };
    let results = output.store_image_task_results.unwrap_or_default();
    let mut tasks = Vec::with_capacity(results.len());
    for result in results {
        let Some(key) = key(&result) else {
            tracing::warn!(
                ?result,
                "EC2 answered a task without a usable image, start time or bucket; it is left out"
            );
            continue;
        };
        let task = task(key, result);
        unknown_words.observe(&task);
        tasks.push(task);
    }
    Answer { tasks, next }
}

/// The identity of a task. None if EC2 leaves a part of it out, or if the bucket is too long for S3.
fn key(result: &StoreImageTaskResult) -> Option<TaskKey> {
    let bucket = result.bucket()?;
    if bucket.is_empty() || bucket.len() > MAX_BUCKET_BYTES {
        return None;
    }
    Some(TaskKey {
        start_time: Reverse(SystemTime::try_from(*result.task_start_time()?).ok()?),
        image_id: ImageId::parse(result.ami_id()?).ok()?,
        bucket: bucket.into(),
    })
}

fn task(key: TaskKey, result: StoreImageTaskResult) -> StoreImageTask {
    let object_key = match result.s3object_key {
        Some(object_key) if text_bounds::is_object_key(&object_key) => object_key,
        Some(_) | None => format!("{}.bin", key.image_id),
    };
    let failure_reason = match result.store_task_failure_reason {
        Some(reason) if !reason.is_empty() => Some(reason.into()),
        _ => None,
    };
    let state = result.store_task_state.unwrap_or_default();
    StoreImageTask {
        key,
        object_key: object_key.into(),
        state: TaskState::from_ec2(&text_bounds::state(&state)),
        progress: percent(result.progress_percentage),
        failure_reason,
    }
}

/// EC2's progress within its bounds. None if EC2 gives none.
fn percent(progress: Option<i32>) -> Option<u8> {
    u8::try_from(progress?.clamp(0, 100)).ok()
}
