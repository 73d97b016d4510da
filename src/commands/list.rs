//! `list`: a table of tasks.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use comfy_table::{Table, TableStyle};
use serde_json::json;

use super::{
    Failure, Output,
    client::{ScopeArgs, rpc_error, state_name, task_json, time_json, time_text},
    values::duration,
};
use crate::proto::{
    ListStoreImageTasksRequest, StoreImageTask, StoreImageTaskState,
    store_image_task_service_client::StoreImageTaskServiceClient,
};

/// Lists store-image tasks, newest first, from a gateway.
///
/// Exit codes: 0 when the tasks were listed and none of them failed, 1 when one of them is in the
/// state failed, 2 on a usage or RPC error.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    scope: ScopeArgs,

    /// Only these images; give it several times, or separate with commas. Without --state and
    /// --bucket: the latest task of each.
    #[arg(long, env = "AMISTORE_LIST_IMAGE", value_name = "AMI", value_delimiter = ',')]
    image: Vec<String>,

    /// Only tasks in these states.
    #[arg(long, env = "AMISTORE_LIST_STATE", value_name = "STATE", value_delimiter = ',')]
    state: Vec<StateArg>,

    /// Only tasks into these buckets.
    #[arg(long, env = "AMISTORE_LIST_BUCKET", value_name = "BUCKET", value_delimiter = ',')]
    bucket: Vec<String>,

    /// At most so many tasks. Default: all.
    #[arg(long, env = "AMISTORE_LIST_LIMIT", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// How old the answer may be. Default: what the gateway finds right; 0s asks EC2 anew.
    #[arg(long, env = "AMISTORE_LIST_MAX_STALENESS", value_name = "DURATION", value_parser = duration)]
    max_staleness: Option<std::time::Duration>,

    /// A table for people, or one JSON object for programs.
    #[arg(long, env = "AMISTORE_LIST_OUTPUT", value_name = "FORMAT", default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateArg {
    InProgress,
    Completed,
    Failed,
}

impl From<StateArg> for StoreImageTaskState {
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
        let mut client = StoreImageTaskServiceClient::new(self.scope.server.channel()?);
        let mut request = self.request();
        let mut tasks = Vec::new();
        let as_of = loop {
            let left = self.limit.map(|limit| limit as usize - tasks.len());
            request.page_size =
                left.map_or(1000, |left| i32::try_from(left.min(1000)).unwrap_or(1000));
            let answer = client.list_store_image_tasks(request.clone()).await;
            let page = answer.map_err(|status| Failure::message(rpc_error(&status)))?.into_inner();
            tasks.extend(page.tasks);
            let enough = self.limit.is_some_and(|limit| tasks.len() >= limit as usize);
            if page.next_page_token.is_empty() || enough {
                break page.as_of;
            }
            request.page_token = page.next_page_token;
        };
        match self.output {
            Output::Table => super::print_line(table(&tasks)),
            Output::Json => {
                let tasks: Vec<_> = tasks.iter().map(task_json).collect();
                super::print_line(json!({ "tasks": tasks, "asOf": time_json(as_of.as_ref()) }));
            }
        }
        let failed = tasks.iter().any(super::client::has_failed);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn request(&self) -> ListStoreImageTasksRequest {
        let max_staleness = self.max_staleness.map(|limit| prost_types::Duration {
            seconds: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(limit.subsec_nanos()).unwrap_or_default(),
        });
        ListStoreImageTasksRequest {
            account: self.scope.account.clone(),
            region: self.scope.region.clone(),
            image_ids: self.image.clone(),
            states: self
                .state
                .iter()
                .map(|state| StoreImageTaskState::from(*state).into())
                .collect(),
            buckets: self.bucket.clone(),
            max_staleness,
            ..ListStoreImageTasksRequest::default()
        }
    }
}

fn table(tasks: &[StoreImageTask]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["IMAGE", "BUCKET", "STATE", "PROGRESS", "STARTED", "EXPECTED", "REASON"]);
    for task in tasks {
        table.add_row([
            task.image_id.clone(),
            task.bucket.clone(),
            state_name(task).to_owned(),
            format!("{} %", task.progress_percentage),
            time_text(task.start_time.as_ref()),
            time_text(task.estimated_completion_time.as_ref()),
            task.failure_reason.clone(),
        ]);
    }
    table
}
