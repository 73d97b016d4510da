//! Health, reflection, deadlines, and how the server drains.

use std::time::Duration;

use amistore_gateway::{
    domain::{DefaultRegion, Region},
    proto::{FILE_DESCRIPTOR_SET, ListStoreImageTasksRequest},
};
use prost::Message as _;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{
    OTHER_REGION, REGION, Rig, Setup, Task, all, finished, image, pushback, reason, watch_of,
};

const SERVICE: &str = "amistore.v1.StoreImageTaskService";
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn health_answers_for_the_server_and_for_each_service() {
    let rig = Rig::with_tasks([]).await;
    let mut health = HealthClient::new(rig.channel());
    for service in ["", SERVICE] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = rig.until(health.check(request)).await.expect("answered").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let other = HealthCheckRequest { service: "no.such.Service".to_owned() };
    assert_eq!(rig.until(health.check(other)).await.expect_err("unknown").code(), Code::NotFound);
}

#[tokio::test]
async fn while_the_region_is_searched_health_is_not_serving_and_requests_that_need_it_wait() {
    let mut setup = Setup::default();
    let (search, searched) = DefaultRegion::searched();
    setup.gateway.default_region = searched;
    let rig = setup.start().await;
    let client = rig.client();
    let mut health = HealthClient::new(rig.channel());
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let mut watching = rig.until(health.watch(request)).await.expect("open").into_inner();
    let status = rig.until(watching.message()).await.expect("ok").expect("a status").status();
    assert_eq!(status, ServingStatus::NotServing);

    for region in ["", REGION, "ap-south-1"] {
        let request = ListStoreImageTasksRequest { region: region.to_owned(), ..all() };
        let status = rig.until(client.list(request)).await.expect_err("unknown yet");
        assert_eq!(status.code(), Code::Unavailable, "{region}: {status:?}");
        assert_eq!(reason(&status).1, "REGION_UNKNOWN");
        assert!((1_000..=2_000).contains(&pushback(&status).expect("a pushback")));
    }
    let status = rig.until(client.watch(watch_of(&image(1)))).await.expect_err("unknown yet");
    assert_eq!(reason(&status).1, "REGION_UNKNOWN");
    assert_eq!(rig.calls(), 0);
    let named = ListStoreImageTasksRequest { region: OTHER_REGION.to_owned(), ..all() };
    assert!(rig.until(client.list(named)).await.is_ok(), "a region of the list needs no search");

    search.end(Some(Region::parse(REGION).expect("valid")));
    let status = rig.until(watching.message()).await.expect("ok").expect("a status").status();
    assert_eq!(status, ServingStatus::Serving);
    assert!(rig.until(client.list(all())).await.is_ok());
}

#[tokio::test]
async fn a_gateway_that_searches_for_its_region_drains() {
    let mut setup = Setup::default();
    let (_search, searched) = DefaultRegion::searched();
    setup.gateway.default_region = searched;
    let mut rig = setup.start().await;
    rig.until(rig.client().list(all())).await.expect_err("unknown yet");
    rig.stop.cancel();
    let served = rig.served.take().expect("not yet taken");
    rig.until(served).await.expect("no panic").expect("drained");
}

#[tokio::test]
async fn reflection_v1_lists_the_services() {
    use v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let rig = Rig::with_tasks([]).await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(rig.channel());
    let answer = rig.until(client.server_reflection_info(tokio_stream::once(request))).await;
    let mut answers = answer.expect("answered").into_inner();
    let answer = rig.until(answers.message()).await.expect("no error").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!()
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(
        names.contains(&SERVICE.to_owned()) && names.contains(&"grpc.health.v1.Health".to_owned()),
        "{names:?}"
    );
}

#[tokio::test]
async fn reflection_v1alpha_describes_the_contract_with_its_comments() {
    use v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let rig = Rig::with_tasks([]).await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(SERVICE.to_owned())),
    };
    let mut client = ServerReflectionClient::new(rig.channel());
    let answer = rig.until(client.server_reflection_info(tokio_stream::once(request))).await;
    let mut answers = answer.expect("answered").into_inner();
    let answer = rig.until(answers.message()).await.expect("no error").expect("an answer");
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
        panic!()
    };
    let file =
        prost_types::FileDescriptorProto::decode(&*files.file_descriptor_proto[0]).expect("a file");
    assert_eq!(file.package(), "amistore.v1");
    assert!(file.source_code_info.is_some(), "the comments are included");
}

#[test]
fn the_descriptor_set_has_the_whole_contract() {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("a set");
    let names: Vec<_> = set.file.iter().map(prost_types::FileDescriptorProto::name).collect();
    assert!(names.contains(&"amistore/v1/store_image_task_service.proto"), "{names:?}");
    assert!(names.contains(&"google/protobuf/timestamp.proto"), "{names:?}");
}

/// Invariant 10 (docs/invariants.md): drain
#[tokio::test]
async fn a_drain_loses_no_accepted_request() {
    let mut setup = Setup::default();
    setup.simulator.latency = 2 * SECOND;
    let mut rig = setup.start().await;
    rig.add(finished(3));
    rig.add([Task::running(&image(50), HOUR)]);
    let client = rig.client();
    let mut stream = rig.until(client.watch(watch_of(&image(50)))).await.expect("open");
    rig.until(stream.message()).await.expect("no error").expect("the state");
    let mut health = HealthClient::new(rig.channel());
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let watching = rig.until(health.watch(request)).await.expect("open");
    let mut watching = watching.into_inner();
    assert_eq!(
        rig.until(watching.message()).await.expect("ok").expect("a status").status(),
        ServingStatus::Serving
    );
    rig.run_for(60 * SECOND).await;

    let unary = tokio::spawn({
        let client = client.clone();
        async move { client.list(crate::support::at_most(0, all())).await }
    });
    rig.run_for(SECOND).await;
    rig.stop.cancel();

    let health = rig.until(watching.message()).await.expect("no error").expect("a status");
    assert_eq!(health.status(), ServingStatus::NotServing);
    let ended = rig.until(async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended with OK"),
                Err(status) => return status,
            }
        }
    });
    let ended = ended.await;
    assert_eq!((ended.code(), reason(&ended).1.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert!((1_000..=2_000).contains(&pushback(&ended).expect("a pushback")));
    let answer = rig.until(unary).await.expect("not cancelled").expect("finished");
    assert_eq!(answer.into_inner().tasks.len(), 4);
    let served = rig.served.take().expect("not yet taken");
    rig.until(served).await.expect("no panic").expect("drained");
    let refused = rig.until(rig.client().list(all())).await.expect_err("the listener is closed");
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_drain_ends_although_a_request_never_ends() {
    let mut setup = Setup::default();
    setup.simulator.latency = HOUR;
    setup.gateway.grpc.request_timeout = HOUR;
    setup.gateway.ec2.attempt_timeout = HOUR;
    let mut rig = setup.start().await;
    let client = rig.client();
    let stuck = tokio::spawn(async move { client.list(all()).await });
    rig.run_for(SECOND).await;
    rig.stop.cancel();
    let began = tokio::time::Instant::now();
    let served = rig.served.take().expect("not yet taken");
    let ended = rig.until(served).await.expect("no panic");
    ended.expect("the request was answered");
    assert_eq!(began.elapsed().as_secs(), 24, "{:?}", began.elapsed());
    let refused = rig.until(stuck).await.expect("no panic").expect_err("EC2 has not answered");
    assert_eq!((refused.code(), reason(&refused).1.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
}

#[tokio::test]
async fn the_request_timeout_is_unavailable_and_the_callers_deadline_deadline_exceeded() {
    let mut setup = Setup::default();
    setup.simulator.latency = HOUR;
    setup.gateway.ec2.attempt_timeout = HOUR;
    let rig = setup.start().await;
    let status =
        rig.until(rig.client().list(all())).await.expect_err("the request timeout is 30 s");
    assert_eq!(
        (status.code(), reason(&status).1.as_str()),
        (Code::Unavailable, "REQUEST_TIMED_OUT")
    );
    assert!((2_000..=4_000).contains(&pushback(&status).expect("a pushback")));
    let mut request = tonic::Request::new(all());
    request.metadata_mut().insert("grpc-timeout", "1S".parse().expect("ASCII"));
    let status = rig
        .until(rig.client().0.list_store_image_tasks(request))
        .await
        .expect_err("the deadline is 1 s");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}
