//! `watch`: follows tasks to their end.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    Failure, Output,
    client::{ScopeArgs, has_failed, is_terminal, rpc_error, task_json, time_json},
    progress::{Progress, TaskProgress},
};
use crate::proto::{
    StoreImageTask, WatchStoreImageTaskRequest, WatchStoreImageTaskResponse,
    store_image_task_service_client::StoreImageTaskServiceClient,
};

/// Follows the latest store-image task of one or many images until all are over.
///
/// A connection that breaks, or a gateway that is replaced, is survived: the watch calls again,
/// up to ten times in a row.
///
/// Exit codes: 0 when all tasks are completed, 1 when a task failed, 2 on a usage or RPC error,
/// 130 after Ctrl-C.
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    scope: ScopeArgs,

    /// The images; give it several times, or separate with commas.
    #[arg(
        long,
        env = "AMISTORE_WATCH_IMAGE",
        value_name = "AMI",
        value_delimiter = ',',
        required = true
    )]
    image: Vec<String>,

    /// Only the task into this bucket. Default: into any.
    #[arg(long, env = "AMISTORE_WATCH_BUCKET", value_name = "BUCKET", default_value = "")]
    bucket: String,

    /// Wait for a task to show up where there is none.
    #[arg(long, env = "AMISTORE_WATCH_WAIT")]
    wait: bool,

    /// Progress bars for people (lines on a pipe), or a JSON object a message for programs.
    #[arg(long, env = "AMISTORE_WATCH_OUTPUT", value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// So often in a row is called again.
const MOST_RETRIES: u32 = 10;

impl Watch {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let client = StoreImageTaskServiceClient::new(self.scope.server.channel()?);
        let progress = Progress::new();
        let mut watches = JoinSet::new();
        for image in &self.image {
            let shown = match self.output {
                Output::Table => Shown::Progress(progress.task(image.clone())),
                Output::Json => Shown::Json,
            };
            watches.spawn(follow(client.clone(), self.request(image), shown));
        }
        let mut code = ExitCode::SUCCESS;
        loop {
            let ended = tokio::select! {
                ended = watches.join_next() => ended,
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
            };
            match ended {
                None => return Ok(code),
                Some(Ok(Ok(task))) if has_failed(&task) => code = ExitCode::FAILURE,
                Some(Ok(Ok(_))) => {}
                Some(Ok(Err(status))) => return Err(Failure::message(rpc_error(&status))),
                Some(Err(died)) => return Err(Failure::message(died)),
            }
        }
    }

    fn request(&self, image: &str) -> WatchStoreImageTaskRequest {
        WatchStoreImageTaskRequest {
            account: self.scope.account.clone(),
            region: self.scope.region.clone(),
            image_id: image.to_owned(),
            bucket: self.bucket.clone(),
            wait_for_task: self.wait,
            heartbeat_interval: None,
        }
    }
}

/// How the messages of one watch are shown.
enum Shown {
    Progress(TaskProgress),
    Json,
}

impl Shown {
    fn message(&mut self, message: &WatchStoreImageTaskResponse) {
        match (self, &message.task) {
            (Self::Progress(progress), Some(task)) => {
                progress.update(task, message.degraded.as_ref());
            }
            (Self::Progress(_), None) => {}
            (Self::Json, task) => {
                let degraded = message.degraded.as_ref().map(|degraded| {
                    json!({ "code": degraded.code, "reason": degraded.reason, "since": time_json(degraded.since.as_ref()) })
                });
                let line = json!({
                    "kind": message.kind().as_str_name(),
                    "task": task.as_ref().map(task_json),
                    "asOf": time_json(message.as_of.as_ref()),
                    "degraded": degraded,
                });
                super::print_line(line);
            }
        }
    }

    fn trouble(&mut self, status: &Status) {
        if let Self::Progress(progress) = self {
            progress.print_line(&format!("{}; calling again", rpc_error(status)));
        }
    }
}

/// Follows one task to its end. Each message carries the whole state, so calling again is all that
/// there is to resuming.
async fn follow(
    mut client: StoreImageTaskServiceClient<Channel>,
    request: WatchStoreImageTaskRequest,
    mut shown: Shown,
) -> Result<StoreImageTask, Status> {
    let mut retries = 0;
    loop {
        let status = match watch_once(&mut client, &request, &mut shown, &mut retries).await {
            Ok(task) => return Ok(task),
            Err(status) => status,
        };
        if status.code() != Code::Unavailable || retries >= MOST_RETRIES {
            return Err(status);
        }
        shown.trouble(&status);
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
        sleep(asked.unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(10))).await;
        retries += 1;
    }
}

async fn watch_once(
    client: &mut StoreImageTaskServiceClient<Channel>,
    request: &WatchStoreImageTaskRequest,
    shown: &mut Shown,
    retries: &mut u32,
) -> Result<StoreImageTask, Status> {
    let mut messages = client.watch_store_image_task(request.clone()).await?.into_inner();
    let mut last = None;
    while let Some(message) = messages.message().await? {
        *retries = 0;
        shown.message(&message);
        last = message.task;
    }
    last.filter(is_terminal)
        .ok_or_else(|| Status::unavailable("the stream ended before the task did"))
}
