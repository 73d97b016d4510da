//! `watch`: follows tasks to their end.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    client::{ScopeArgs, rpc_error},
    output::{Failure, INTERRUPTED, Output, print_line},
    progress::{Progress, TaskProgress},
    task_format::{has_failed, task_json, time_json},
};
use crate::proto::{
    Degraded, StoreImageTask, WatchStoreImageTaskRequest, WatchStoreImageTaskResponse,
    store_image_task_service_client::StoreImageTaskServiceClient,
};

/// Follows the latest store-image task of each given image until all have ended.
///
/// If the connection breaks or the gateway is replaced, the command calls again, up to ten times in
/// a row.
///
/// Exit codes: 0 if all tasks have completed, 1 if a task has failed, 2 on a usage or RPC error,
/// 130 after Ctrl-C.
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    scope: ScopeArgs,

    /// Images whose tasks to follow, separated by commas or given several times.
    #[arg(
        long,
        env = "AMISTORE_WATCH_IMAGE",
        value_name = "AMI",
        value_delimiter = ',',
        required = true
    )]
    image: Vec<String>,

    /// Bucket of the tasks to follow; without this flag, any bucket.
    #[arg(
        long,
        env = "AMISTORE_WATCH_BUCKET",
        value_name = "BUCKET",
        default_value = "",
        hide_default_value = true
    )]
    bucket: String,

    /// Wait for a task to appear if an image has none.
    #[arg(long, env = "AMISTORE_WATCH_WAIT")]
    wait: bool,

    /// Format of the output: progress bars (plain lines if standard output is not a terminal), or a
    /// JSON object for each message.
    #[arg(long, env = "AMISTORE_WATCH_OUTPUT", value_name = "FORMAT", default_value_t = Output::Table, value_enum)]
    output: Output,
}

/// Maximum number of retries in a row.
const MAX_RETRIES: u32 = 10;
/// Pause before a retry if the gateway names none, for example because it is still starting.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause before a retry, even if the gateway asks for more: a person may be waiting.
const MAX_PAUSE: Duration = Duration::from_secs(10);

impl Watch {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let mut watches = self.start()?;
        let mut code = ExitCode::SUCCESS;
        loop {
            let ended = tokio::select! {
                ended = watches.join_next() => ended,
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(INTERRUPTED)),
            };
            match ended {
                None => return Ok(code),
                Some(Ok(Ok(task))) if has_failed(&task) => code = ExitCode::FAILURE,
                Some(Ok(Ok(_))) => {}
                Some(Ok(Err(status))) => return Err(Failure::Message(rpc_error(&status))),
                Some(Err(panic)) => return Err(Failure::message(panic)),
            }
        }
    }

    /// Starts a watch for each image.
    fn start(&self) -> Result<JoinSet<Result<StoreImageTask, Status>>, Failure> {
        let client = StoreImageTaskServiceClient::new(self.scope.server.channel()?);
        let progress = Progress::new();
        let mut watches = JoinSet::new();
        for image in &self.image {
            let display = match self.output {
                Output::Table => Display::Progress(progress.task(image.clone())),
                Output::Json => Display::Json,
            };
            watches.spawn(follow(client.clone(), self.request(image), display));
        }
        Ok(watches)
    }

    fn request(&self, image: &str) -> WatchStoreImageTaskRequest {
        WatchStoreImageTaskRequest {
            account: self.scope.account.clone(),
            region: self.scope.region.clone(),
            image_id: image.to_owned(),
            bucket: self.bucket.clone(),
            wait_for_task: self.wait.then_some(prost_types::Duration { seconds: 600, nanos: 0 }),
            ..WatchStoreImageTaskRequest::default()
        }
    }
}

/// Display of one watch's messages.
enum Display {
    Progress(TaskProgress),
    Json,
}

impl Display {
    fn message(&mut self, message: &WatchStoreImageTaskResponse) {
        match self {
            Self::Json => print_line(message_json(message)),
            Self::Progress(progress) => {
                if let Some(task) = &message.task {
                    progress.update(task, message.degraded.as_ref());
                }
            }
        }
    }

    fn retry(&mut self, status: &Status) {
        if let Self::Progress(progress) = self {
            progress.message(format!("{}; calling again", rpc_error(status)));
        }
    }
}

fn message_json(message: &WatchStoreImageTaskResponse) -> Value {
    json!({
        "kind": message.kind().as_str_name(),
        "task": message.task.as_ref().map(task_json),
        "asOf": time_json(message.as_of.as_ref()),
        "degraded": message.degraded.as_ref().map(degraded_json),
    })
}

fn degraded_json(degraded: &Degraded) -> Value {
    json!({
        "code": degraded.code,
        "reason": degraded.reason,
        "since": time_json(degraded.since.as_ref()),
    })
}

/// Follows one task to its end. A retry needs nothing from the previous call, because each message
/// carries the whole state.
async fn follow(
    mut client: StoreImageTaskServiceClient<Channel>,
    request: WatchStoreImageTaskRequest,
    mut display: Display,
) -> Result<StoreImageTask, Status> {
    let mut retries = 0;
    loop {
        let status = match watch_once(&mut client, &request, &mut display, &mut retries).await {
            Ok(task) => return Ok(task),
            Err(status) => status,
        };
        if status.code() != Code::Unavailable || retries >= MAX_RETRIES {
            return Err(status);
        }
        display.retry(&status);
        sleep(pause(&status)).await;
        retries += 1;
    }
}

/// Follows one task to the end of one call. Resets `retries` when the gateway answers.
async fn watch_once(
    client: &mut StoreImageTaskServiceClient<Channel>,
    request: &WatchStoreImageTaskRequest,
    display: &mut Display,
    retries: &mut u32,
) -> Result<StoreImageTask, Status> {
    let mut messages = client.watch_store_image_task(request.clone()).await?.into_inner();
    let mut last = None;
    while let Some(message) = messages.message().await? {
        *retries = 0;
        display.message(&message);
        if message.task.is_some() {
            last = message.task;
        }
    }
    match last {
        Some(task) if task.done => Ok(task),
        _ => Err(Status::unavailable("the stream ended before the task did")),
    }
}

/// Pause that the gateway asks for, at most [`MAX_PAUSE`].
fn pause(status: &Status) -> Duration {
    let mut pause = DEFAULT_PAUSE;
    if let Some(retry) = status.get_details_retry_info()
        && let Some(delay) = retry.retry_delay
    {
        pause = delay;
    }
    pause.min(MAX_PAUSE)
}
