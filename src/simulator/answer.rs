//! Answers in EC2's XML (names from botocore's service model 2016-11-15).

use std::time::SystemTime;

use serde::Serialize;

use super::Reply;

const XMLNS: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// A page of tasks.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    pub(super) next_token: Option<String>,
}

/// One task on the wire.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    pub(super) ami_id: String,
    #[serde(serialize_with = "iso8601")]
    pub(super) task_start_time: SystemTime,
    pub(super) bucket: String,
    #[serde(rename = "s3objectKey")]
    pub(super) s3_object_key: String,
    pub(super) progress_percentage: u8,
    pub(super) store_task_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) store_task_failure_reason: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described<'a> {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    request_id: &'a str,
    store_image_task_result_set: ItemSet<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<&'a str>,
}

#[derive(Serialize)]
struct ItemSet<'a> {
    item: &'a [Item],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    request_id: &'a str,
    object_key: &'a str,
}

impl Page {
    pub(super) fn xml(&self, request_id: &str) -> String {
        let described = Described {
            xmlns: XMLNS,
            request_id,
            store_image_task_result_set: ItemSet { item: &self.items },
            next_token: self.next_token.as_deref(),
        };
        xml("DescribeStoreImageTasksResponse", &described)
    }
}

pub(super) fn created(object_key: &str, request_id: &str) -> String {
    xml("CreateStoreImageTaskResponse", &Created { xmlns: XMLNS, request_id, object_key })
}

/// Why EC2 does not do what was asked.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    code: String,
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response<'a> {
    errors: Errors<'a>,
    #[serde(rename = "RequestID")]
    request_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Errors<'a> {
    error: ErrorItem<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorItem<'a> {
    code: &'a str,
    message: &'a str,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into() }
    }

    pub(super) fn invalid_value(message: &str) -> Self {
        Self::new(400, "InvalidParameterValue", message)
    }

    pub(super) fn missing_authentication() -> Self {
        Self::new(
            403,
            "MissingAuthenticationToken",
            "The request must contain either a valid (registered) AWS access key ID or X.509 certificate.",
        )
    }

    pub(super) fn region_not_enabled(region: &str) -> Self {
        Self::new(
            401,
            "AuthFailure",
            format!("The simulator does not answer for the region '{region}'"),
        )
    }

    pub(super) fn dry_run() -> Self {
        Self::new(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    }

    /// Without a word on which image is at fault.
    pub(super) fn muted(mut self, mute: bool) -> Self {
        if mute && self.code.starts_with("InvalidAMIID.") {
            "An image ID is not right".clone_into(&mut self.message);
        }
        self
    }

    pub(super) fn code(&self) -> &str {
        &self.code
    }

    pub(super) fn reply(&self, request_id: &str) -> Reply {
        let error = ErrorItem { code: &self.code, message: &self.message };
        let body = xml("Response", &Response { errors: Errors { error }, request_id });
        Reply::Body { status: self.status, request_id: request_id.to_owned(), body }
    }
}

fn xml(root: &str, value: &impl Serialize) -> String {
    let body = quick_xml::se::to_string_with_root(root, value)
        .expect("these are plain structures of texts and numbers");
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}")
}

fn iso8601<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}
