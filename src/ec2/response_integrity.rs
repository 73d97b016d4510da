//! Makes sure that an answer is whole.
//!
//! The SDK's XML reader takes a document that breaks off, or is no XML at all, for one that ends
//! there. An account with 300 tasks would then look like one with a few, or with none, and as if
//! listed to its end. So each answer is read once more: an XML document from its root to the end.

use aws_sdk_ec2::{
    config::{ConfigBag, Intercept, RuntimeComponents},
    error::BoxError,
};
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use quick_xml::{Reader, events::Event};

/// The answer is not a whole XML document of the action.
#[derive(Debug, thiserror::Error)]
#[error("the answer is not a whole XML document of DescribeStoreImageTasks")]
pub(super) struct IncompleteResponse;

/// The root of an answer (EC2 service model, DescribeStoreImageTasks).
const ROOT: &str = "DescribeStoreImageTasksResponse";

/// The check, as a part of each call.
#[derive(Debug)]
pub(super) struct ResponseIntegrity;

// === impl ResponseIntegrity ===

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for ResponseIntegrity {
    fn name(&self) -> &'static str {
        "WholeAnswer"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        // Errors are told apart by their status where their body says nothing.
        let whole = !response.status().is_success()
            || response.body().bytes().is_some_and(|body| is_complete(body).unwrap_or(false));
        if whole { Ok(()) } else { Err(IncompleteResponse.into()) }
    }
}

fn is_complete(body: &[u8]) -> Result<bool, quick_xml::Error> {
    let mut reader = Reader::from_reader(body);
    let mut depth = 0_usize;
    let mut closed = false;
    loop {
        match reader.read_event()? {
            Event::Start(tag) if depth == 0 && (closed || tag.local_name().as_ref() != ROOT) => {
                return Ok(false);
            }
            Event::Start(_) => depth += 1,
            // The reader checks that names match.
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                closed = depth == 0;
            }
            Event::Eof => return Ok(closed && depth == 0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &str) -> bool {
        is_complete(body.as_bytes()).unwrap_or(false)
    }

    #[test]
    fn only_a_document_from_its_root_to_the_end_is_whole() {
        let good = "<?xml version=\"1.0\"?>\n<DescribeStoreImageTasksResponse xmlns=\"x\">\
            <requestId>1</requestId><storeImageTaskResultSet/></DescribeStoreImageTasksResponse>\n";
        assert!(whole(good));
        for end in 0..good.trim_end().len() {
            assert!(!whole(&good[..end]), "{}", &good[..end]);
        }
        for bad in [
            "",
            "{}",
            "<html></html>",
            "<DescribeStoreImageTasksResponse><a></b></DescribeStoreImageTasksResponse>",
            "<DescribeStoreImageTasksResponse/>",
            "<DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse><more></more>",
        ] {
            assert!(!whole(bad), "{bad}");
        }
    }
}
