//! Bad input is refused with an error that names the field, without an EC2 call.

use std::{collections::BTreeSet, time::Duration};

use amistore_gateway::proto::{ListStoreImageTasksRequest, WatchStoreImageTaskRequest};
use prost_types::Duration as ProtoDuration;
use tonic::Code;

use crate::support::{Rig, Setup, Task, all, fields, finished, image, of_images, reason, watch_of};

#[tokio::test]
async fn a_list_with_bad_input_names_the_field_and_costs_no_call() {
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    let staleness = |seconds, nanos| ListStoreImageTasksRequest {
        max_staleness: Some(ProtoDuration { seconds, nanos }),
        ..all()
    };
    let states = |states: &[i32]| ListStoreImageTasksRequest { states: states.to_vec(), ..all() };
    let buckets = |buckets: &[&str]| ListStoreImageTasksRequest {
        buckets: buckets.iter().map(ToString::to_string).collect(),
        ..all()
    };
    let region = |region: &str| ListStoreImageTasksRequest { region: region.to_owned(), ..all() };
    let account =
        |account: &str| ListStoreImageTasksRequest { account: account.to_owned(), ..all() };
    let token = |token: &str| ListStoreImageTasksRequest { page_token: token.to_owned(), ..all() };
    let long = "b".repeat(256);
    for (request, field) in [
        (of_images(["ami-nothex"]), "image_ids[0]"),
        (of_images([image(1), "AMI-01234567".to_owned()]), "image_ids[1]"),
        (of_images([""]), "image_ids[0]"),
        (of_images((0..1001).map(image)), "image_ids"),
        (region("evil.example/#"), "region"),
        (region("us-east-1.evil.example"), "region"),
        (region("US-EAST-1"), "region"),
        (account("nobody"), "account"),
        (ListStoreImageTasksRequest { page_size: -1, ..all() }, "page_size"),
        (token("not-a-token"), "page_token"),
        (token("AAAA"), "page_token"),
        (token("é"), "page_token"),
        (states(&[0]), "states[0]"),
        (states(&[1, 99]), "states[1]"),
        (states(&[-1]), "states[0]"),
        (buckets(&[""]), "buckets[0]"),
        (buckets(&["good-bucket", &long]), "buckets[1]"),
        (buckets(&["wild*"]), "buckets[0]"),
        (staleness(-1, 0), "max_staleness"),
        (staleness(0, -1), "max_staleness"),
        (staleness(0, 1_000_000_000), "max_staleness"),
        (staleness(i64::MAX, 0), "max_staleness"),
        (staleness(31 * 24 * 3600 + 1, 0), "max_staleness"),
    ] {
        let status = rig.until(client.list(request)).await.expect_err(field);
        assert_eq!(fields(&status), [field]);
        assert_eq!(reason(&status), ("amistore".to_owned(), "INVALID_ARGUMENT".to_owned()));
        assert!(status.message().starts_with(field), "{}", status.message());
    }
    assert_eq!(rig.calls(), 0);
}

#[tokio::test]
async fn all_invalid_fields_are_reported_together() {
    let rig = Rig::with_tasks([]).await;
    let request = ListStoreImageTasksRequest {
        region: "nowhere".to_owned(),
        page_size: -5,
        image_ids: vec!["x".to_owned()],
        ..all()
    };
    let status = rig.until(rig.client().list(request)).await.expect_err("three fields are invalid");
    assert_eq!(fields(&status), ["region", "image_ids[0]", "page_size"]);
}

#[tokio::test]
async fn a_page_token_is_valid_only_with_the_arguments_of_its_first_request() {
    let rig = Rig::with_tasks(finished(30)).await;
    let client = rig.client();
    let first = ListStoreImageTasksRequest { page_size: 10, ..all() };
    let page = rig.until(client.list(first.clone())).await.expect("a page").into_inner();
    let next = ListStoreImageTasksRequest { page_token: page.next_page_token.clone(), ..first };
    rig.until(client.list(next.clone())).await.expect("the arguments are the same");
    let other_size = ListStoreImageTasksRequest { page_size: 3, ..next.clone() };
    rig.until(client.list(other_size)).await.expect("the page size may change");
    for other in [
        ListStoreImageTasksRequest { region: "eu-west-1".to_owned(), ..next.clone() },
        ListStoreImageTasksRequest { states: vec![1], ..next.clone() },
        ListStoreImageTasksRequest { buckets: vec!["some-bucket".to_owned()], ..next.clone() },
        ListStoreImageTasksRequest { image_ids: vec![image(1)], ..next.clone() },
    ] {
        let status = rig.until(client.list(other)).await.expect_err("the arguments differ");
        assert_eq!(fields(&status), ["page_token"]);
        assert!(status.message().contains("other arguments"), "{}", status.message());
    }
    let mut truncated = page.next_page_token;
    truncated.pop();
    let status =
        rig.until(client.list(ListStoreImageTasksRequest { page_token: truncated, ..next })).await;
    assert_eq!(fields(&status.expect_err("the token is truncated")), ["page_token"]);
    assert_eq!(rig.calls(), 1);
}

#[tokio::test]
async fn a_watch_with_bad_input_names_the_field_and_costs_no_call() {
    let rig = Rig::with_tasks([Task::running(&image(1), Duration::from_secs(3600))]).await;
    let client = rig.client();
    let good = || watch_of(&image(1));
    let heartbeat = |seconds, nanos| WatchStoreImageTaskRequest {
        heartbeat_interval: Some(ProtoDuration { seconds, nanos }),
        ..good()
    };
    for (request, field) in [
        (watch_of(""), "image_id"),
        (watch_of("ami-nothex"), "image_id"),
        (WatchStoreImageTaskRequest { bucket: "no".to_owned(), ..good() }, "bucket"),
        (WatchStoreImageTaskRequest { bucket: "b".repeat(256), ..good() }, "bucket"),
        (WatchStoreImageTaskRequest { region: "evil.example/#".to_owned(), ..good() }, "region"),
        (WatchStoreImageTaskRequest { account: "nobody".to_owned(), ..good() }, "account"),
        (heartbeat(0, 0), "heartbeat_interval"),
        (heartbeat(0, 999_999_999), "heartbeat_interval"),
        (heartbeat(-5, 0), "heartbeat_interval"),
        (heartbeat(i64::MAX, 0), "heartbeat_interval"),
    ] {
        let status = rig.until(client.watch(request)).await.expect_err(field);
        assert_eq!(fields(&status), [field]);
    }
    assert_eq!(rig.calls(), 0);
}

#[tokio::test]
async fn only_configured_regions_can_be_asked_for() {
    let mut setup = Setup::default();
    setup.gateway.allowed_regions = BTreeSet::new();
    let rig = setup.start().await;
    let client = rig.client();
    let there = ListStoreImageTasksRequest { region: "eu-west-1".to_owned(), ..all() };
    let status = rig.until(client.list(there)).await.expect_err("not allowed");
    assert_eq!(fields(&status), ["region"]);
    assert!(status.message().contains("must be one of us-east-1"), "{}", status.message());
    for number in 0..200 {
        let there =
            ListStoreImageTasksRequest { region: format!("made-up-{}", number % 100), ..all() };
        let status = rig.until(client.list(there)).await.expect_err("not allowed");
        assert_eq!(fields(&status), ["region"]);
    }
    assert_eq!(rig.calls(), 0);
    rig.until(client.list(all())).await.expect("allowed");
}

#[tokio::test]
async fn a_request_must_name_a_region_if_there_is_no_default() {
    let mut setup = Setup::default();
    setup.gateway.default_region = None.into();
    let rig = setup.start().await;
    let status = rig.until(rig.client().list(all())).await.expect_err("no region is named");
    assert_eq!(fields(&status), ["region"]);
}

#[tokio::test]
async fn a_request_of_5_mib_is_refused_and_others_on_its_connection_are_answered() {
    let rig = Rig::with_tasks(finished(3)).await;
    let client = rig.client();
    let huge = of_images(["x".repeat(5 << 20)]);
    let (huge, small) =
        rig.until(futures_util::future::join(client.list(huge), client.list(all()))).await;
    let huge = huge.expect_err("too large");
    assert_eq!(
        (huge.code(), reason(&huge).1.as_str()),
        (Code::InvalidArgument, "REQUEST_TOO_LARGE")
    );
    assert_eq!(small.expect("answered on the same connection").into_inner().tasks.len(), 3);
}
