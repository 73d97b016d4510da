//! A whole gateway over a real socket, with the real SDK, against the simulator, on a clock that
//! the test moves.
//!
//! Everything of a test runs on one thread. tokio's paused clock would leap to the next timer
//! whenever all tasks wait, also when they wait for a socket; so it is kept from leaping by itself,
//! and [`Rig::run_for`] moves it in small steps, with all sockets drained between them.

use std::{
    cell::Cell,
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::{Duration, SystemTime},
};

use amistore_gateway::{
    domain::Region,
    ec2::{self, Ec2, RetrySettings},
    proto::{
        ListStoreImageTasksRequest, ListStoreImageTasksResponse, StoreImageTask,
        WatchStoreImageTaskRequest, WatchStoreImageTaskResponse,
        store_image_task_service_client::StoreImageTaskServiceClient,
    },
    server,
    simulator::{self, Simulator, Story, TaskPlan},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    Code, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

pub(crate) const REGION: &str = "us-east-1";
pub(crate) const BUCKET: &str = "golden-images";

/// How far the clock moves in one step: well below any timer that matters.
const STEP: Duration = Duration::from_millis(50);

/// A gateway and its EC2.
pub(crate) struct Rig {
    pub(crate) simulator: Arc<Simulator>,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) served: Option<JoinHandle<Result<(), server::ServeError>>>,
    _end: DropGuard,
    _clock: NoLeaps,
}

/// What can be set of both.
pub(crate) struct Setup {
    pub(crate) simulator: simulator::Settings,
    pub(crate) gateway: server::Settings,
}

impl Default for Setup {
    /// An empty account, and the defaults of a gateway, with seeded jitter.
    fn default() -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let story = Story { finished: 0, running: 0, idle_images: 0, ..Story::default() };
        Self {
            simulator: simulator::Settings { story, ..simulator::Settings::starting_at(start) },
            gateway: server::Settings {
                default_region: Some(Region::parse(REGION).expect("valid")),
                ec2: ec2::Settings {
                    retry: RetrySettings { seed: Some(1), ..RetrySettings::default() },
                    ..ec2::Settings::default()
                },
                ..server::Settings::default()
            },
        }
    }
}

impl Setup {
    pub(crate) async fn start(self) -> Rig {
        let clock = NoLeaps::new();
        // The gateway's wall clock is the system's; the simulator tells its story at that time.
        let simulator =
            simulator::Settings { start: amistore_gateway::domain::wall_clock(), ..self.simulator };
        let simulator = Arc::new(Simulator::new(simulator));
        let end = CancellationToken::new();
        let ec2 = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", ec2.local_addr().expect("bound"));
        tokio::spawn(simulator::serve(simulator.clone(), ec2, end.clone().cancelled_owned()));

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let make_upstream = Ec2::at_endpoint(&endpoint, self.gateway.ec2.clone()).make_upstream();
        let serving =
            server::serve(listener, self.gateway, make_upstream, stop.clone().cancelled_owned());
        let served = Some(tokio::spawn(serving));
        Rig { simulator, address, stop, served, _end: end.drop_guard(), _clock: clock }
    }
}

impl Rig {
    /// A gateway with the defaults before an account with these tasks.
    pub(crate) async fn with_tasks(tasks: impl IntoIterator<Item = Task>) -> Self {
        let rig = Setup::default().start().await;
        rig.add(tasks);
        rig
    }

    pub(crate) fn add(&self, tasks: impl IntoIterator<Item = Task>) {
        for task in tasks {
            self.simulator.add_task(REGION, task.plan(self.simulator.now()));
        }
    }

    /// A client with a connection of its own.
    pub(crate) fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("valid");
        Client(
            StoreImageTaskServiceClient::new(endpoint.connect_lazy())
                .max_encoding_message_size(8 << 20),
        )
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).expect("valid").connect_lazy()
    }

    /// EC2 calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.simulator.calls()
    }

    /// The questions that EC2 was asked so far, in short.
    pub(crate) fn questions(&self) -> Vec<String> {
        self.simulator.journal().entries().map(|entry| entry.question.clone()).collect()
    }

    /// Lets this much time pass.
    pub(crate) async fn run_for(&self, duration: Duration) {
        let end = tokio::time::Instant::now() + duration;
        while tokio::time::Instant::now() < end {
            drain_sockets().await;
            let left = end - tokio::time::Instant::now();
            tokio::time::advance(left.min(STEP)).await;
        }
        drain_sockets().await;
    }

    /// Lets time pass until the work is done. Panics when it takes more than an hour.
    pub(crate) async fn until<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = work => done,
            () = self.run_for(Duration::from_secs(3600)) => panic!("not done within an hour"),
        }
    }
}

/// Lets everything happen that can without the clock. On one thread a loopback socket has its data
/// when the writer's turn is over, so some rounds through the driver without news are the end.
async fn drain_sockets() {
    for _ in 0..60 {
        tokio::task::yield_now().await;
    }
}

thread_local! {
    /// How many rigs of this test's thread need the clock paused.
    static PAUSES: Cell<usize> = const { Cell::new(0) };
}

/// Pauses the clock, and holds a blocking task meanwhile, which keeps tokio from moving it.
struct NoLeaps(
    #[expect(dead_code, reason = "ends the blocking task when dropped")] mpsc::Sender<()>,
);

impl NoLeaps {
    fn new() -> Self {
        let (hold, held) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || held.recv());
        if PAUSES.replace(PAUSES.get() + 1) == 0 {
            tokio::time::pause();
        }
        Self(hold)
    }
}

impl Drop for NoLeaps {
    fn drop(&mut self) {
        PAUSES.set(PAUSES.get() - 1);
        if PAUSES.get() == 0 {
            tokio::time::resume();
        }
    }
}

/// A task in the making.
#[derive(Clone)]
pub(crate) struct Task {
    pub(crate) image: String,
    pub(crate) bucket: String,
    /// How long ago it started.
    pub(crate) age: Duration,
    /// From 0 to 100 percent.
    pub(crate) runs_for: Duration,
    pub(crate) fails: Option<u8>,
}

impl Task {
    pub(crate) fn running(image: &str, runs_for: Duration) -> Self {
        Self {
            image: image.to_owned(),
            bucket: BUCKET.to_owned(),
            age: Duration::ZERO,
            runs_for,
            fails: None,
        }
    }

    pub(crate) fn done(image: &str, age: Duration) -> Self {
        Self { age, ..Self::running(image, Duration::from_secs(1)) }
    }

    pub(crate) fn into(self, bucket: &str) -> Self {
        Self { bucket: bucket.to_owned(), ..self }
    }

    pub(crate) fn aged(self, age: Duration) -> Self {
        Self { age, ..self }
    }

    pub(crate) fn failing(self, at: u8) -> Self {
        Self { fails: Some(at), ..self }
    }

    fn plan(self, now: SystemTime) -> TaskPlan {
        // EC2 says times to the millisecond.
        let start = now - self.age;
        let since = start.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let start = SystemTime::UNIX_EPOCH
            + Duration::from_millis(u64::try_from(since.as_millis()).expect("fits"));
        let plan = TaskPlan::new(&self.image, &self.bucket, start, self.runs_for);
        match self.fails {
            Some(at) => plan.failing(at, "a snapshot is gone"),
            None => plan,
        }
    }
}

/// So many finished tasks, a minute apart, the newest an hour old.
pub(crate) fn finished(count: u64) -> impl Iterator<Item = Task> {
    (0..count).map(|number| Task::done(&image(number), Duration::from_secs(3600 + 60 * number)))
}

/// An image ID by its number.
pub(crate) fn image(number: u64) -> String {
    format!("ami-{number:017x}")
}

/// A gRPC client.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) StoreImageTaskServiceClient<Channel>);

impl Client {
    pub(crate) async fn list(
        &self,
        request: ListStoreImageTasksRequest,
    ) -> Result<Response<ListStoreImageTasksResponse>, Status> {
        self.0.clone().list_store_image_tasks(request).await
    }

    pub(crate) async fn watch(
        &self,
        request: WatchStoreImageTaskRequest,
    ) -> Result<Streaming<WatchStoreImageTaskResponse>, Status> {
        self.0.clone().watch_store_image_task(request).await.map(Response::into_inner)
    }

    /// All messages of a watch, and how it ended.
    pub(crate) async fn watch_to_end(
        &self,
        request: WatchStoreImageTaskRequest,
    ) -> (Vec<WatchStoreImageTaskResponse>, Result<(), Status>) {
        let mut messages = Vec::new();
        let mut stream = match self.watch(request).await {
            Ok(stream) => stream,
            Err(status) => return (messages, Err(status)),
        };
        loop {
            match stream.message().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return (messages, Ok(())),
                Err(status) => return (messages, Err(status)),
            }
        }
    }

    /// All pages of a List.
    pub(crate) async fn walk(
        &self,
        mut request: ListStoreImageTasksRequest,
    ) -> Vec<StoreImageTask> {
        let mut tasks = Vec::new();
        loop {
            let page = self.list(request.clone()).await.expect("a page").into_inner();
            tasks.extend(page.tasks);
            if page.next_page_token.is_empty() {
                return tasks;
            }
            request.page_token = page.next_page_token;
        }
    }
}

pub(crate) fn all() -> ListStoreImageTasksRequest {
    ListStoreImageTasksRequest::default()
}

pub(crate) fn of_images<I: Into<String>>(
    images: impl IntoIterator<Item = I>,
) -> ListStoreImageTasksRequest {
    ListStoreImageTasksRequest { image_ids: images.into_iter().map(Into::into).collect(), ..all() }
}

/// With this bound on staleness.
pub(crate) fn at_most(
    seconds: i64,
    request: ListStoreImageTasksRequest,
) -> ListStoreImageTasksRequest {
    let max_staleness = Some(prost_types::Duration { seconds, nanos: 0 });
    ListStoreImageTasksRequest { max_staleness, ..request }
}

pub(crate) fn watch_of(image: &str) -> WatchStoreImageTaskRequest {
    WatchStoreImageTaskRequest {
        image_id: image.to_owned(),
        ..WatchStoreImageTaskRequest::default()
    }
}

pub(crate) fn cache_status<T>(response: &Response<T>) -> String {
    let value = response.metadata().get("cache-status").expect("a cache-status");
    value.to_str().expect("ASCII").to_owned()
}

pub(crate) fn images_of(tasks: &[StoreImageTask]) -> Vec<&str> {
    tasks.iter().map(|task| task.image_id.as_str()).collect()
}

/// The fields that an INVALID_ARGUMENT names.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let wrong = status.get_details_bad_request().expect("a BadRequest");
    wrong.field_violations.into_iter().map(|violation| violation.field).collect()
}

/// Domain and reason of the one ErrorInfo.
pub(crate) fn reason(status: &Status) -> (String, String) {
    let details = status.check_error_details_vec().expect("details that can be read");
    let infos =
        details.iter().filter(|detail| matches!(detail, tonic_types::ErrorDetail::ErrorInfo(_)));
    assert_eq!(infos.count(), 1, "exactly one ErrorInfo: {details:?}");
    let info = status.get_details_error_info().expect("an ErrorInfo");
    (info.domain, info.reason)
}

pub(crate) fn pushback(status: &Status) -> Option<u64> {
    status.metadata().get("grpc-retry-pushback-ms")?.to_str().ok()?.parse().ok()
}
