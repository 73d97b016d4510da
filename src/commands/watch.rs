//! `watch`: follows tasks to their end.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    client::{ScopeArgs, ServerArgs, rpc_error},
    output::{CANNOT_RUN, Failure, INTERRUPTED, Output, print_error_line, print_line},
    progress::{Progress, TaskProgress},
    task_format::{has_failed, task_json, time_json, time_text},
    values::{duration, past_time, protobuf_duration},
};
use crate::proto::{
    Degraded, StoreImageTask, Waiting, WatchStoreImageTaskRequest, WatchStoreImageTaskResponse,
    store_image_task_service_client::StoreImageTaskServiceClient,
};

/// Follows the latest store-image task of each given image, and each given task, until all have ended.
///
/// If the connection breaks, the gateway is replaced or says no word for a minute, the command calls
/// again, up to ten times in a row.
///
/// An image or task that cannot be followed is an error on standard error; the others are followed
/// to their end.
///
/// Exit codes: 0 if all tasks have completed, 2 on a usage error or if a task could not be followed to
/// its end, else 1 if a task has failed, 130 after Ctrl-C.
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    scope: ScopeArgs,

    /// Images whose tasks to follow, separated by commas or given several times. An image or a task is
    /// required.
    #[arg(long, env = "AMISTORE_WATCH_IMAGE", value_name = "AMI", value_delimiter = ',')]
    image: Vec<String>,

    /// Task IDs of tasks to follow, separated by commas or given several times.
    #[arg(long, env = "AMISTORE_WATCH_TASK", value_name = "TASK_ID", value_delimiter = ',')]
    task: Vec<String>,

    /// Bucket of the tasks to follow; without this flag, any bucket.
    #[arg(
        long,
        env = "AMISTORE_WATCH_BUCKET",
        value_name = "BUCKET",
        default_value = "",
        hide_default_value = true
    )]
    bucket: String,

    /// Follow the first task of each image that started later: a time, or how long ago it was, such as
    /// 2h; without this flag, the latest task. For people: not for a second try within that time, which
    /// would follow the first one.
    #[arg(long, env = "AMISTORE_WATCH_STARTED_AFTER", value_name = "TIME", value_parser = past_time)]
    started_after: Option<SystemTime>,

    /// Wait this long for a task to appear if an image has none; without a value, 10 minutes.
    #[arg(long, env = "AMISTORE_WATCH_WAIT", value_name = "DURATION", value_parser = duration, num_args = 0..=1, default_missing_value = "10m")]
    wait: Option<Duration>,

    /// Format of the output: progress bars (plain lines if standard output is not a terminal), or a
    /// JSON object for each message.
    #[arg(long, env = "AMISTORE_WATCH_OUTPUT", value_name = "FORMAT", default_value_t = Output::Table, value_enum)]
    output: Output,
}

/// Time without a word of the gateway after which the command calls again. The gateway sends a heartbeat
/// every 30 s.
const SILENCE: Duration = Duration::from_mins(1);
/// Maximum number of retries in a row.
const MAX_RETRIES: u32 = 10;
/// Pause before a retry if the gateway names none, for example because it is still starting.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause before a retry, even if the gateway asks for more: a person may be waiting.
const MAX_PAUSE: Duration = Duration::from_secs(10);

impl Watch {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        // Not a rule of clap, which does not count the values of variables and of the file.
        if self.image.is_empty() && self.task.is_empty() {
            return Err(Failure::message("expected --image or --task, found neither"));
        }
        let progress = Progress::new();
        let mut watches = self.start(&progress)?;
        let mut code = 0;
        loop {
            let ended = tokio::select! {
                ended = watches.join_next() => ended,
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(INTERRUPTED)),
            };
            let Some(ended) = ended else { break };
            let end = ended.map_err(Failure::message)?;
            code = code.max(end.exit_code());
        }
        progress.finish();
        Ok(ExitCode::from(code))
    }

    /// Starts a watch for each image and each task.
    fn start(&self, progress: &Progress) -> Result<JoinSet<WatchEnd>, Failure> {
        let server = &self.scope.server;
        let client = StoreImageTaskServiceClient::new(server.channel()?);
        let mut watches = JoinSet::new();
        for (name, request) in self.requests() {
            let output = match self.output {
                Output::Table => DisplayOutput::Progress(progress.task(name.clone())),
                Output::Json => DisplayOutput::Json,
            };
            let display = Display { name, server: server.clone(), output };
            watches.spawn(follow(client.clone(), request, display));
        }
        Ok(watches)
    }

    /// A request for each image and each task, with the name under which it is shown.
    fn requests(&self) -> Vec<(String, WatchStoreImageTaskRequest)> {
        let mut requests = Vec::new();
        for image in &self.image {
            requests.push((image.clone(), self.request_by_image(image)));
        }
        for task in &self.task {
            let request =
                WatchStoreImageTaskRequest { task_id: task.clone(), ..self.request_by_image("") };
            requests.push((task.clone(), request));
        }
        requests
    }

    fn request_by_image(&self, image: &str) -> WatchStoreImageTaskRequest {
        WatchStoreImageTaskRequest {
            account: self.scope.account.clone(),
            region: self.scope.region.clone(),
            image_id: image.to_owned(),
            bucket: self.bucket.clone(),
            started_after: self.started_after.map(Into::into),
            wait_for_task: self.wait.map(protobuf_duration),
            ..WatchStoreImageTaskRequest::default()
        }
    }
}

/// How one watch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchEnd {
    Completed,
    Failed,
    /// The gateway refused the watch, or could not be reached.
    Refused,
}

impl WatchEnd {
    fn of(task: &StoreImageTask) -> Self {
        if has_failed(task) { Self::Failed } else { Self::Completed }
    }

    /// The exit code of the command, unless another watch has a greater one.
    fn exit_code(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Failed => 1,
            Self::Refused => CANNOT_RUN,
        }
    }
}

/// Display of one watch's messages.
struct Display {
    name: String,
    server: ServerArgs,
    output: DisplayOutput,
}

enum DisplayOutput {
    Progress(TaskProgress),
    Json,
}

impl Display {
    fn message(&mut self, message: &WatchStoreImageTaskResponse) {
        match &mut self.output {
            DisplayOutput::Json => print_line(message_json(message)),
            DisplayOutput::Progress(progress) => match &message.task {
                Some(task) => progress.update(task, message.degraded.as_ref()),
                None => progress.message(&waiting_text(message)),
            },
        }
    }

    fn retry(&mut self, status: &Status) {
        if let DisplayOutput::Progress(progress) = &mut self.output {
            let server = &self.server.server;
            progress.message(&format!("{server}: {}; calling again", rpc_error(status)));
        }
    }

    /// Says why the watch ends without the end of its task.
    fn refused(&self, status: &Status) {
        let error = format!("error: {}: {}", self.name, self.server.rpc_error(status));
        match &self.output {
            DisplayOutput::Progress(progress) => progress.fail(&error),
            DisplayOutput::Json => print_error_line(error),
        }
    }
}

/// The state of the search while there is no task.
fn waiting_text(message: &WatchStoreImageTaskResponse) -> String {
    let mut text = "no task yet".to_owned();
    if let Some(Waiting { ec2_code, latest_start_time }) = &message.waiting {
        if !ec2_code.is_empty() {
            text = format!("{text}; EC2 refuses the image: {ec2_code}");
        }
        if latest_start_time.is_some() {
            let start = time_text(latest_start_time.as_ref());
            text = format!("{text}; another task started at {start}");
        }
    }
    if let Some(degraded) = &message.degraded {
        text = format!("{text} (EC2 cannot be asked: {})", degraded.reason);
    }
    text
}

fn waiting_json(waiting: &Waiting) -> Value {
    json!({
        "ec2Code": waiting.ec2_code,
        "latestStartTime": time_json(waiting.latest_start_time.as_ref()),
    })
}

fn message_json(message: &WatchStoreImageTaskResponse) -> Value {
    json!({
        "kind": message.kind().as_str_name(),
        "task": message.task.as_ref().map(task_json),
        "asOf": time_json(message.as_of.as_ref()),
        "waiting": message.waiting.as_ref().map(waiting_json),
        "degraded": message.degraded.as_ref().map(degraded_json),
    })
}

fn degraded_json(degraded: &Degraded) -> Value {
    json!({
        "code": degraded.code,
        "reason": degraded.reason,
        "domain": degraded.domain,
        "message": degraded.message,
        "since": time_json(degraded.since.as_ref()),
    })
}

/// Follows one task to its end. Once a task was seen, a retry names it.
async fn follow(
    mut client: StoreImageTaskServiceClient<Channel>,
    mut request: WatchStoreImageTaskRequest,
    mut display: Display,
) -> WatchEnd {
    let mut retries = 0;
    loop {
        let status = match watch_once(&mut client, &mut request, &mut display, &mut retries).await {
            Ok(task) => return WatchEnd::of(&task),
            Err(status) => status,
        };
        if is_final(&status) || retries >= MAX_RETRIES {
            display.refused(&status);
            return WatchEnd::Refused;
        }
        display.retry(&status);
        sleep(pause(&status)).await;
        retries += 1;
    }
}

/// Whether another call would end with the same status. Proxies and libraries make statuses of some
/// codes themselves: those are final only with the gateway's details.
fn is_final(status: &Status) -> bool {
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => true,
        Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
            status.get_details_error_info().is_some()
        }
        _ => false,
    }
}

/// The result of a step of a call, or an error if it takes longer than [`SILENCE`].
async fn heard<T>(step: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match timeout(SILENCE, step).await {
        Ok(result) => result,
        Err(_) => Err(Status::unavailable("no word for 60 s")),
    }
}

/// Follows one task to the end of one call. Resets `retries` when the gateway answers.
async fn watch_once(
    client: &mut StoreImageTaskServiceClient<Channel>,
    request: &mut WatchStoreImageTaskRequest,
    display: &mut Display,
    retries: &mut u32,
) -> Result<StoreImageTask, Status> {
    let call = client.watch_store_image_task(request.clone());
    let mut messages = heard(call).await?.into_inner();
    let mut last = None;
    while let Some(message) = heard(messages.message()).await? {
        *retries = 0;
        display.message(&message);
        if let Some(task) = message.task {
            request.task_id.clone_from(&task.task_id);
            last = Some(task);
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn only_a_refusal_of_the_gateway_itself_is_final() {
        for code in (0..=16).map(Code::from_i32) {
            let of_a_proxy = Status::new(code, "x");
            let details = ErrorDetails::with_error_info("DENIED", "amistore", HashMap::new());
            let of_the_gateway = Status::with_error_details(code, "x", details);
            let (alone, with_details) = (is_final(&of_a_proxy), is_final(&of_the_gateway));
            match code {
                Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => {
                    assert!(alone && with_details, "{code:?}");
                }
                Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
                    assert!(!alone && with_details, "{code:?}");
                }
                _ => assert!(!alone && !with_details, "{code:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_error_after_a_minute() {
        let status = heard::<()>(std::future::pending()).await.expect_err("no word");
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "no word for 60 s"));
        let late = async {
            sleep(Duration::from_secs(59)).await;
            Ok(())
        };
        assert!(heard(late).await.is_ok());
    }
}
