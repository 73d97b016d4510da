//! EC2's answers as XML. The names are from botocore's service model 2016-11-15.

use std::time::SystemTime;

use serde::Serialize;

const XMLNS: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// A page of tasks.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    pub(super) next_token: Option<String>,
}

/// One task as EC2 describes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    pub(super) ami_id: String,
    #[serde(serialize_with = "iso8601")]
    pub(super) task_start_time: SystemTime,
    pub(super) bucket: String,
    #[serde(rename = "s3objectKey")]
    pub(super) s3_object_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) progress_percentage: Option<u8>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) store_task_state: String,
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
    /// The answer to `DescribeStoreImageTasks`.
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

/// The answer to `CreateStoreImageTask`.
pub(super) fn created(object_key: &str, request_id: &str) -> String {
    xml("CreateStoreImageTaskResponse", &Created { xmlns: XMLNS, request_id, object_key })
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

/// An EC2 error.
pub(super) fn error(code: &str, message: &str, request_id: &str) -> String {
    let error = ErrorItem { code, message };
    xml("Response", &Response { errors: Errors { error }, request_id })
}

fn xml(root: &str, value: &impl Serialize) -> String {
    let body = quick_xml::se::to_string_with_root(root, value)
        .expect("plain structures of texts and numbers");
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}")
}

fn iso8601<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}
