//! What the client commands share: the way to a gateway, and how its tasks are shown.

use std::time::SystemTime;

use clap::Args;
use prost_types::Timestamp;
use serde_json::{Value, json};
use tonic::{
    Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt as _;

use super::Failure;
use crate::proto::{StoreImageTask, StoreImageTaskState};

/// The way to a gateway.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerArgs {
    /// The gateway: HOST:PORT, or a URL with http or https.
    #[arg(
        long,
        env = "AMISTORE_SERVER",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:50051"
    )]
    pub(super) server: String,
}

/// Whose tasks.
#[derive(Clone, Debug, Args)]
pub(super) struct ScopeArgs {
    #[command(flatten)]
    pub(super) server: ServerArgs,

    /// The account, by the gateway's name for it. Default: the gateway's.
    #[arg(long, env = "AMISTORE_ACCOUNT", value_name = "NAME", default_value = "")]
    pub(super) account: String,

    /// The region. Default: the gateway's.
    #[arg(long, env = "AMISTORE_REGION", value_name = "REGION", default_value = "")]
    pub(super) region: String,
}

impl ServerArgs {
    /// A channel that connects when it is used.
    pub(super) fn channel(&self) -> Result<Channel, Failure> {
        let url = if self.server.contains("://") {
            self.server.clone()
        } else {
            format!("http://{}", self.server)
        };
        let wrong = |error: tonic::transport::Error| {
            Failure::message(format!(
                "--server {:?} is not HOST:PORT, such as 127.0.0.1:50051, or a URL: {error}",
                self.server
            ))
        };
        let mut endpoint = Endpoint::from_shared(url.clone()).map_err(wrong)?;
        if url.starts_with("https://") {
            endpoint =
                endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(wrong)?;
        }
        Ok(endpoint.connect_lazy())
    }
}

/// An RPC error as a person reads it, with the cause where there is one.
pub(super) fn rpc_error(status: &Status) -> String {
    let request_id = status
        .get_details_error_info()
        .and_then(|info| info.metadata.get("request_id").cloned())
        .map(|id| format!(" (EC2 request ID {id})"));
    format!("{:?}: {}{}", status.code(), status.message(), request_id.unwrap_or_default())
}

pub(super) fn state_name(task: &StoreImageTask) -> &str {
    &task.state_text
}

pub(super) fn time(timestamp: Option<&Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(*timestamp?).ok()
}

pub(super) fn time_text(timestamp: Option<&Timestamp>) -> String {
    time(timestamp)
        .map_or(String::new(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// A timestamp in the JSON form of protobuf.
pub(super) fn time_json(timestamp: Option<&Timestamp>) -> Value {
    time(timestamp)
        .map_or(Value::Null, |time| humantime::format_rfc3339_millis(time).to_string().into())
}

/// A task in the JSON form of protobuf.
pub(super) fn task_json(task: &StoreImageTask) -> Value {
    json!({
        "account": task.account,
        "region": task.region,
        "imageId": task.image_id,
        "bucket": task.bucket,
        "objectKey": task.object_key,
        "startTime": time_json(task.start_time.as_ref()),
        "state": task.state().as_str_name(),
        "stateText": task.state_text,
        "progressPercentage": task.progress_percentage,
        "failureReason": task.failure_reason,
        "estimatedCompletionTime": time_json(task.estimated_completion_time.as_ref()),
    })
}

pub(super) fn has_failed(task: &StoreImageTask) -> bool {
    task.state() == StoreImageTaskState::Failed
}

pub(super) fn is_terminal(task: &StoreImageTask) -> bool {
    matches!(task.state(), StoreImageTaskState::Completed | StoreImageTaskState::Failed)
}
