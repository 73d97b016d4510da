//! Clients that keep to HTTP/2, but do what no gRPC library does.

use amistore_gateway::proto::ListStoreImageTasksResponse;
use http::{Method, Request, StatusCode};
use prost::Message as _;

use crate::{
    connections::{Raw, read},
    support::{Rig, all, finished},
    wire::LIST,
};

#[tokio::test]
async fn a_method_other_than_post_is_refused_and_opens_no_tunnel() {
    let rig = Rig::with_tasks(finished(3)).await;
    let mut raw = Raw::connect(&rig, 65_535).await;
    let tunnel = Request::builder().method(Method::CONNECT).uri("gateway:443");
    let get = Request::builder().method(Method::GET).uri(format!("http://gateway{LIST}"));
    for request in [tunnel, get] {
        let request = request.header("content-type", "application/grpc").body(()).expect("valid");
        let (response, _body) = raw.sender.send_request(request, false).expect("open");
        let response = rig.until(response).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "POST");
        assert!(response.body().is_end_stream());
    }
    let list = raw.ask(LIST, &all());
    let response = rig.until(list.response).await.expect("answered");
    let (message, _) = rig.until(read(response.into_body())).await.expect("whole");
    let message = ListStoreImageTasksResponse::decode(&message[5..]).expect("a message");
    assert_eq!(message.tasks.len(), 3);
}
