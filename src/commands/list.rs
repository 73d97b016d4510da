//! `list`: a table of tasks.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum, value_parser};
use comfy_table::{Table, TableStyle};
use prost_types::Timestamp;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    client::ScopeArgs,
    output::{Failure, Output, print_error_line, print_line},
    printable::one_line,
    task_format::{has_failed, progress_text, task_json, time_json, time_text},
    values::{duration, past_time, positive_duration, protobuf_duration},
};
use crate::proto::{
    ListStoreImageTasksRequest, MissingImage, StoreImageTask, store_image_task::State,
    store_image_task_service_client::StoreImageTaskServiceClient,
};

/// Number of tasks per page: the maximum that a gateway sends.
const PAGE_SIZE: i32 = 1000;

/// Lists store-image tasks from a gateway, newest first.
///
/// Exit codes: 0 if the tasks are listed and none has failed, 1 if a listed task has failed, 2 on a
/// usage or RPC error.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    scope: ScopeArgs,

    /// Images of each of which the latest task is listed, separated by commas or given several times;
    /// --state removes some of these tasks.
    #[arg(long, env = "AMISTORE_LIST_IMAGE", value_name = "AMI", value_delimiter = ',')]
    image: Vec<String>,

    /// States of the tasks to list, separated by commas; without this flag, all states.
    #[arg(long, env = "AMISTORE_LIST_STATE", value_name = "STATE", value_delimiter = ',')]
    state: Vec<StateArg>,

    /// Buckets of the tasks to list, separated by commas; without this flag, all buckets.
    #[arg(long, env = "AMISTORE_LIST_BUCKET", value_name = "BUCKET", value_delimiter = ',')]
    bucket: Vec<String>,

    /// Lists only tasks that started later: a time, or how long ago it was, such as 2h.
    #[arg(long, env = "AMISTORE_LIST_STARTED_AFTER", value_name = "TIME", value_parser = past_time)]
    started_after: Option<SystemTime>,

    /// Maximum number of tasks to list; without this flag, no maximum.
    #[arg(long, env = "AMISTORE_LIST_LIMIT", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Maximum age of the answer, 0s to ask EC2 again; without this flag, the gateway decides.
    #[arg(long, env = "AMISTORE_LIST_MAX_STALENESS", value_name = "DURATION", value_parser = duration)]
    max_staleness: Option<Duration>,

    /// Time limit of the answer to each request; a long list takes several.
    #[arg(long, env = "AMISTORE_LIST_TIMEOUT", value_name = "DURATION", value_parser = positive_duration, default_value = "1m")]
    timeout: Duration,

    /// Format of the output.
    #[arg(long, env = "AMISTORE_LIST_OUTPUT", value_name = "FORMAT", default_value_t = Output::Table, value_enum)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateArg {
    InProgress,
    Completed,
    Failed,
}

impl From<StateArg> for State {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::InProgress => Self::InProgress,
            StateArg::Completed => Self::Completed,
            StateArg::Failed => Self::Failed,
        }
    }
}

impl List {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let Listed { tasks, missing, as_of } = self.fetch().await?;
        match self.output {
            Output::Table => {
                print_line(table(&tasks));
                for missing in &missing {
                    print_error_line(missing_text(missing));
                }
            }
            Output::Json => {
                let tasks: Vec<_> = tasks.iter().map(task_json).collect();
                let missing: Vec<_> = missing.iter().map(missing_json).collect();
                let as_of = time_json(as_of.as_ref());
                print_line(json!({ "tasks": tasks, "missingImages": missing, "asOf": as_of }));
            }
        }
        if tasks.iter().any(has_failed) { Ok(ExitCode::FAILURE) } else { Ok(ExitCode::SUCCESS) }
    }

    /// The tasks of all pages up to the limit.
    async fn fetch(&self) -> Result<Listed, Failure> {
        let server = &self.scope.server;
        let mut client = StoreImageTaskServiceClient::new(server.channel()?);
        let mut request = self.request();
        let mut listed = Listed::default();
        loop {
            request.page_size = self.page_size(listed.tasks.len());
            let call = client.list_store_image_tasks(request.clone());
            let page = match timeout(self.timeout, call).await {
                Ok(Ok(page)) => page.into_inner(),
                Ok(Err(status)) => return Err(Failure::Message(server.rpc_error(&status))),
                Err(_) => return Err(Failure::Message(server.no_answer(self.timeout))),
            };
            listed.tasks.extend(page.tasks);
            listed.missing.extend(page.missing_images);
            listed.as_of = page.as_of;
            if page.next_page_token.is_empty() || self.page_size(listed.tasks.len()) == 0 {
                return Ok(listed);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Size of the next page after this many tasks: 0 once the limit is reached.
    fn page_size(&self, listed: usize) -> i32 {
        let Some(limit) = self.limit else { return PAGE_SIZE };
        let left = (limit as usize).saturating_sub(listed);
        match i32::try_from(left) {
            Ok(left) => left.min(PAGE_SIZE),
            Err(_) => PAGE_SIZE,
        }
    }

    fn request(&self) -> ListStoreImageTasksRequest {
        let mut request = ListStoreImageTasksRequest {
            account: self.scope.account.clone(),
            region: self.scope.region.clone(),
            image_ids: self.image.clone(),
            buckets: self.bucket.clone(),
            started_after: self.started_after.map(Into::into),
            ..ListStoreImageTasksRequest::default()
        };
        for state in &self.state {
            request.states.push(State::from(*state).into());
        }
        if let Some(limit) = self.max_staleness {
            request.max_staleness = Some(protobuf_duration(limit));
        }
        request
    }
}

/// The content of all pages.
#[derive(Default)]
struct Listed {
    tasks: Vec<StoreImageTask>,
    /// The images of the request without a task.
    missing: Vec<MissingImage>,
    /// The `as_of` of the last page.
    as_of: Option<Timestamp>,
}

fn missing_text(missing: &MissingImage) -> String {
    let MissingImage { image_id, ec2_code, known_since } = missing;
    let refusal = match ec2_code.as_str() {
        "" => String::new(),
        code => format!(" (EC2 refuses the image: {code})"),
    };
    if known_since.is_none() {
        return format!("{image_id}: no task of the last 31 days{refusal}");
    }
    let since = time_text(known_since.as_ref());
    format!("{image_id}: no task since {since}; older ones are not known yet{refusal}")
}

fn missing_json(missing: &MissingImage) -> Value {
    json!({
        "imageId": missing.image_id,
        "ec2Code": missing.ec2_code,
        "knownSince": time_json(missing.known_since.as_ref()),
    })
}

fn table(tasks: &[StoreImageTask]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["IMAGE", "BUCKET", "STATE", "PROGRESS", "STARTED", "EXPECTED", "REASON"]);
    for task in tasks {
        table.add_row([
            one_line(&task.image_id).into_owned(),
            one_line(&task.bucket).into_owned(),
            one_line(&task.state_text).into_owned(),
            progress_text(task),
            time_text(task.start_time.as_ref()),
            time_text(task.estimated_completion_time.as_ref()),
            one_line(&task.failure_reason).into_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_with_line_ends_and_control_characters_is_one_row() {
        let task = StoreImageTask {
            failure_reason: "no\nspace \x1b[2J".to_owned(),
            bucket: "a\rb".to_owned(),
            state_text: "Failed\n".to_owned(),
            ..StoreImageTask::default()
        };
        let text = table(&[task]).to_string();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains(['\x1b', '\r']), "{text}");
        assert!(text.contains("no\\nspace \\u001b[2J"), "{text}");
    }
}
