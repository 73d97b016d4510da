//! Checks that each answer is a complete XML document.
//!
//! The SDK's XML reader treats a truncated document, or one that is not XML, as if it ended there.
//! A truncated listing of 300 tasks would then look like a complete one with a few tasks, or none.
//! So this check reads each answer again, from the root element to the end of the document.

use aws_sdk_ec2::{
    config::{ConfigBag, Intercept, RuntimeComponents},
    error::BoxError,
};
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use quick_xml::{Reader, events::Event};

/// An answer that is not a complete XML document of the action.
#[derive(Debug, thiserror::Error)]
#[error("expected a complete XML document of DescribeStoreImageTasks")]
pub(super) struct IncompleteResponse;

/// The root element of an answer (EC2 service model, DescribeStoreImageTasks).
const ROOT: &str = "DescribeStoreImageTasksResponse";

/// The interceptor that checks each answer.
#[derive(Debug)]
pub(super) struct ResponseIntegrity;

// === impl ResponseIntegrity ===

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for ResponseIntegrity {
    fn name(&self) -> &'static str {
        "ResponseIntegrity"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        // The status of an error says enough, so its body is not checked. A body that could not be read
        // has an error that says why.
        if !response.status().is_success() || context.output_or_error().is_err() {
            return Ok(());
        }
        match response.body().bytes().map(is_complete) {
            Some(Ok(true)) => Ok(()),
            _ => Err(IncompleteResponse.into()),
        }
    }
}

/// Only an XML declaration may precede the root element, and only blanks may follow it. The SDK's reader
/// would take what follows for a part of the answer.
fn is_complete(body: &[u8]) -> Result<bool, quick_xml::Error> {
    let mut reader = Reader::from_reader(body);
    let mut depth = 0_usize;
    let mut closed = false;
    loop {
        let event = reader.read_event()?;
        let outside = depth == 0;
        match event {
            Event::Start(tag) if outside && (closed || tag.local_name().as_ref() != ROOT) => {
                return Ok(false);
            }
            Event::Start(_) => depth += 1,
            // The reader checks that the names of start and end tags match.
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                closed = depth == 0;
            }
            Event::Eof => return Ok(closed && outside),
            Event::Decl(_) if outside && !closed => {}
            Event::Text(text) if outside && is_blank(text.as_ref()) => {}
            Event::Empty(_) | Event::Text(_) | Event::GeneralRef(_) if !outside => {}
            // EC2 sends neither CDATA nor comments, and the SDK's reader skips their content.
            _ => return Ok(false),
        }
    }
}

fn is_blank(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(body: &str) -> bool {
        is_complete(body.as_bytes()).unwrap_or(false)
    }

    #[test]
    fn only_a_document_from_its_root_to_the_end_is_complete() {
        let good = "<?xml version=\"1.0\"?>\n<DescribeStoreImageTasksResponse xmlns=\"x\">\
            <requestId>1</requestId><storeImageTaskResultSet/></DescribeStoreImageTasksResponse>\n";
        assert!(complete(good));
        for end in 0..good.trim_end().len() {
            assert!(!complete(&good[..end]), "{}", &good[..end]);
        }
        for bad in [
            "",
            "{}",
            "<html></html>",
            "<DescribeStoreImageTasksResponse><a></b></DescribeStoreImageTasksResponse>",
            "<DescribeStoreImageTasksResponse/>",
            "<DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse><more></more>",
            "<DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse><more/>",
            "<DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse>text",
            "<DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse>&amp;",
            "<DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse><![CDATA[<item/>]]>",
            "<DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse><!-- <item/> -->",
            "<DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse><?pi x?>",
            "text<DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse>",
            "<!-- x --><DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse>",
            "<!DOCTYPE x><DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse>",
            "<DescribeStoreImageTasksResponse><![CDATA[<item/>]]></DescribeStoreImageTasksResponse>",
            "<DescribeStoreImageTasksResponse><!-- <item/> --></DescribeStoreImageTasksResponse>",
            "<DescribeStoreImageTasksResponse></DescribeStoreImageTasksResponse>\0",
        ] {
            assert!(!complete(bad), "{bad}");
        }
    }
}
