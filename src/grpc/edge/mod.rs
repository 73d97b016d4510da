//! The edge: a tower layer around all services of the port. It refuses what is no gRPC request,
//! collects the request, answers hits, ends a call at its caller's deadline, and gives each status
//! its place in the error table.
//!
//! A call goes through these steps:
//!
//! 1. [`admission`] looks at the headers.
//! 2. [`collect`] reads the body. It must arrive within the caller's deadline and the request timeout.
//!    No service is called before, so a call that is being served waits for nothing of its caller's.
//! 3. [`Hits`] answers a List whose response is cached.
//! 4. The service is called, until the caller's deadline.
//!
//! Nearly every call is a hit whose body is there at once. It takes no timer and no future beside the
//! one that [`EdgeFuture`] is; all others go on in a boxed one.
//!
//! Handlers make their statuses from the table. Others do not: tonic refuses what it cannot read or
//! route, before any handler runs, and health and reflection know no table. Only a layer outside all
//! of them sees every status, so the gaps are filled in here ([`super::foreign_status`]). Two facts keep
//! that cheap:
//!
//! - A status without a message has its `grpc-status` among the response's *headers*. So a response
//!   that carries messages costs one look into its headers.
//! - Messages of the contract's own service end with a status from a handler, which has its details.
//!   So only bodies of health and reflection are wrapped to see their trailers.
//!
//! A panic in a handler is caught here, too. It is a bug, so it is logged at `error` and answered with
//! `INTERNAL`; without the layer the caller would see a reset stream, and call again.

mod admission;
mod call;
mod collect;

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body;
use tonic::body::Body;
use tower::{BoxError, Layer, Service};

pub use self::call::EdgeFuture;
use self::call::{Call, Target};
use super::{hits::Hits, method::Method};

/// Puts [`Edge`] around all services.
#[derive(Clone)]
pub struct EdgeLayer {
    hits: Arc<Hits>,
    request_timeout: Duration,
}

/// The services of the port, with the edge around them.
#[derive(Clone)]
pub struct Edge<S> {
    inner: S,
    layer: EdgeLayer,
}

impl EdgeLayer {
    /// A layer that answers these hits, and waits so long for the rest of a request.
    pub(super) fn new(hits: Arc<Hits>, request_timeout: Duration) -> Self {
        Self { hits, request_timeout }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner, layer: self.clone() }
    }
}

impl<S, B> Service<Request<B>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = EdgeFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let method = Method::of(head.uri.path());
        // The clone stays here. The service that is ready goes into the call.
        let clone = self.inner.clone();
        let service = mem::replace(&mut self.inner, clone);
        let target = Target { service, head, method, deadline: None };
        EdgeFuture::new(Call {
            hits: self.layer.hits.clone(),
            request_timeout: self.layer.request_timeout,
            body,
            target,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        io::{self, Write},
        pin::Pin,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    use http::header::CONTENT_TYPE;
    use http_body_util::{BodyExt as _, Empty, Full};
    use tonic::{Status, service::Routes};
    use tower::{ServiceExt as _, util::BoxCloneSyncService};

    use super::*;
    use crate::{
        api::ScopePolicy,
        cache::{self, Cache},
        domain::{Answer, DescribeRequest, DescribeResponse, Region, Scope, UpstreamError},
        grpc,
        proto::framing::frame,
        watch::{self, Watches},
    };

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Handler = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    #[tokio::test]
    async fn a_panic_in_a_handler_is_internal_and_logged_at_error() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _capture = tracing::subscriber::set_default(subscriber);
        let service = tower::service_fn(|_: Request<Body>| -> Handler {
            Box::pin(async { panic!("a bug of this test's") })
        });
        let request = Request::builder().header(CONTENT_TYPE, "application/grpc");
        let request = request.body(Empty::new()).expect("valid");
        let hits = Arc::new(Hits::new(Duration::ZERO, 0));
        let edge = EdgeLayer::new(hits, Duration::ZERO);
        let Ok(response) = edge.layer(service).oneshot(request).await;
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(status.code(), tonic::Code::Internal);
        let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("UTF-8");
        assert!(log.contains("ERROR") && log.contains("panicked"), "{log}");
    }

    /// The services of a gateway whose EC2 has no tasks, and the edge around them.
    fn gateway() -> (EdgeLayer, Routes) {
        let upstream = tower::service_fn(|_: DescribeRequest| async {
            Ok::<_, UpstreamError>(DescribeResponse::Tasks(Answer::default()))
        });
        let make_upstream = Arc::new(move |_: &Scope| BoxCloneSyncService::new(upstream));
        let cache = Arc::new(Cache::new(cache::Settings::default(), make_upstream));
        let watches = Watches::new(cache.clone(), watch::Settings::default());
        let region = Region::parse("us-east-1").expect("valid");
        let policy = ScopePolicy { default_region: Some(region).into(), ..ScopePolicy::default() };
        let service = grpc::Service::new(cache, watches, policy, grpc::Settings::default());
        (service.edge(), Routes::new(service.into_server()))
    }

    #[tokio::test]
    async fn a_hit_calls_no_service() {
        let (edge, mut services) = gateway();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let edge = edge.layer(tower::service_fn(move |request: Request<Body>| {
            counted.fetch_add(1, Relaxed);
            services.call(request)
        }));
        let mut answers = Vec::new();
        for _ in 0..3 {
            let request = Request::builder()
                .uri("/amistore.v1.StoreImageTaskService/ListStoreImageTasks")
                .header(CONTENT_TYPE, "application/grpc")
                .body(Full::new(frame(b"")))
                .expect("valid");
            let Ok(response) = edge.clone().oneshot(request).await;
            let body = response.into_body().collect().await.expect("a body");
            assert_eq!(body.trailers().expect("trailers")[Status::GRPC_STATUS], "0");
            answers.push(body.to_bytes());
        }
        assert_eq!(calls.load(Relaxed), 1, "the first List is no hit");
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
}
