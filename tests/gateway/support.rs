//! A rig for tests: a whole gateway over a real socket, with the real SDK, against the simulator,
//! on a clock that the test advances.
//!
//! A test runs on one thread with its gateway and simulator. tokio's paused clock advances to the
//! next timer by itself when all tasks wait, even if they wait for a socket. [`ManualClock`]
//! prevents that, and [`Rig::run_for`] advances the clock in small steps, with all sockets drained
//! between them.

use std::{
    cell::Cell,
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::{Duration, SystemTime},
};

use amistore_gateway::{
    domain::{MakeUpstream, Region},
    ec2::{self, Ec2, RateSettings, RetrySettings},
    proto::{
        ListStoreImageTasksRequest, ListStoreImageTasksResponse, StoreImageTask,
        WatchStoreImageTaskRequest, WatchStoreImageTaskResponse,
        store_image_task_service_client::StoreImageTaskServiceClient,
    },
    server::{self, Listeners, Ports},
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
/// Another region that the gateway serves.
pub(crate) const OTHER_REGION: &str = "eu-west-1";
pub(crate) const BUCKET: &str = "golden-images";

/// Length of one step of the clock: well below the shortest timer that a test depends on.
const STEP: Duration = Duration::from_millis(50);

/// A gateway in front of a simulated EC2.
pub(crate) struct Rig {
    pub(crate) simulator: Arc<Simulator>,
    /// The URL of the simulator.
    pub(crate) endpoint: String,
    pub(crate) address: SocketAddr,
    /// The address of the admin listener.
    pub(crate) admin: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) served: Served,
    /// None for another gateway of the same simulator.
    _stop_simulator: Option<DropGuard>,
    _clock: ManualClock,
}

/// The settings of a rig.
pub(crate) struct Setup {
    pub(crate) simulator: simulator::Settings,
    pub(crate) gateway: server::Settings,
}

impl Default for Setup {
    /// An empty account, and a gateway with default settings but seeded jitter.
    fn default() -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let story = Story { finished: 0, running: 0, idle_images: 0, ..Story::default() };
        Self {
            simulator: simulator::Settings { story, ..simulator::Settings::starting_at(start) },
            gateway: server::Settings {
                default_region: Some(Region::parse(REGION).expect("valid")).into(),
                allowed_regions: [Region::parse(OTHER_REGION).expect("valid")].into(),
                ec2: ec2::Settings {
                    // Tests that count calls begin with a full bucket.
                    rate: RateSettings { starts_full: true, ..RateSettings::default() },
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
        self.start_with(None).await
    }

    /// Starts a gateway that makes its calls by this upstream, or else asks the simulator.
    pub(crate) async fn start_with(self, upstream: Option<MakeUpstream>) -> Rig {
        let clock = ManualClock::new();
        // The gateway reads the wall clock of the system, so the simulator starts at that time.
        let simulator =
            simulator::Settings { start: amistore_gateway::domain::wall_clock(), ..self.simulator };
        let simulator = Arc::new(Simulator::new(simulator));
        let stop_simulator = CancellationToken::new();
        let ec2 = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", ec2.local_addr().expect("bound"));
        tokio::spawn(simulator::serve(
            simulator.clone(),
            ec2,
            stop_simulator.clone().cancelled_owned(),
        ));

        let make_upstream = match upstream {
            Some(upstream) => upstream,
            None => Ec2::at_endpoint(&endpoint, self.gateway.ec2.clone()).make_upstream(),
        };
        let (address, admin, stop, served) = serve(self.gateway, make_upstream).await;
        Rig {
            simulator,
            endpoint,
            address,
            admin,
            stop,
            served,
            _stop_simulator: Some(stop_simulator.drop_guard()),
            _clock: clock,
        }
    }
}

type Served = Option<JoinHandle<Result<(), server::ServeError>>>;

/// Serves a gateway and its admin listener on free ports.
async fn serve(
    settings: server::Settings,
    make_upstream: MakeUpstream,
) -> (SocketAddr, SocketAddr, CancellationToken, Served) {
    let (grpc, address) = listen().await;
    let (admin, admin_address) = listen().await;
    let ports = Ports { grpc, admin: Some(admin) };
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let served = tokio::spawn(server::serve(ports, settings, make_upstream, stopped));
    (address, admin_address, stop, Some(served))
}

async fn listen() -> (Listeners, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener.into(), address)
}

impl Rig {
    /// Starts a gateway with default settings in front of an account with these tasks.
    pub(crate) async fn with_tasks(tasks: impl IntoIterator<Item = Task>) -> Self {
        let rig = Setup::default().start().await;
        rig.add(tasks);
        rig
    }

    /// Another gateway with default settings in front of the same simulator, as after a restart.
    pub(crate) async fn another_gateway(&self) -> Self {
        let settings = Setup::default().gateway;
        let make_upstream = Ec2::at_endpoint(&self.endpoint, settings.ec2.clone()).make_upstream();
        let (address, admin, stop, served) = serve(settings, make_upstream).await;
        Self {
            simulator: self.simulator.clone(),
            endpoint: self.endpoint.clone(),
            address,
            admin,
            stop,
            served,
            _stop_simulator: None,
            _clock: ManualClock::new(),
        }
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

    /// A client with a connection from this address. All of 127.0.0.0/8 is this host.
    pub(crate) fn client_from(&self, address: [u8; 4]) -> Client {
        Client(StoreImageTaskServiceClient::new(self.channel_from(address)))
    }

    /// A connection from this address.
    pub(crate) fn channel_from(&self, address: [u8; 4]) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("valid");
        endpoint.local_address(Some(address.into())).connect_lazy()
    }

    /// A client whose streams take this many bytes before they are read.
    pub(crate) fn narrow_client(&self, bytes: u32) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("valid");
        let channel = endpoint.initial_stream_window_size(bytes).connect_lazy();
        Client(StoreImageTaskServiceClient::new(channel))
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).expect("valid").connect_lazy()
    }

    /// Number of EC2 calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.simulator.calls()
    }

    /// The parameters of each EC2 call so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.simulator.journal().entries().map(|entry| entry.parameters.clone()).collect()
    }

    /// Advances the clock by this duration, and lets the gateway work meanwhile.
    pub(crate) async fn run_for(&self, duration: Duration) {
        let end = tokio::time::Instant::now() + duration;
        while tokio::time::Instant::now() < end {
            drain_sockets().await;
            let left = end - tokio::time::Instant::now();
            tokio::time::advance(left.min(STEP)).await;
        }
        drain_sockets().await;
    }

    /// Does the work without a step of the clock. Panics if it waits for one.
    pub(crate) async fn at_once<T>(&self, work: impl Future<Output = T>) -> T {
        let steps = async {
            for _ in 0..20 {
                drain_sockets().await;
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = steps => panic!("it waits for the clock"),
        }
    }

    /// Advances the clock until the work is done. Panics if that takes more than an hour.
    pub(crate) async fn until<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = work => done,
            () = self.run_for(Duration::from_secs(3600)) => panic!("not done within an hour"),
        }
    }
}

/// Runs all tasks until they wait for the clock. On one thread, a loopback socket has its data as
/// soon as the writer yields, so a fixed number of rounds through the I/O driver is enough.
async fn drain_sockets() {
    for _ in 0..60 {
        tokio::task::yield_now().await;
    }
}

thread_local! {
    /// Number of rigs on this thread that need the clock paused.
    static PAUSES: Cell<usize> = const { Cell::new(0) };
}

/// Pauses the clock while it lives. It also keeps a blocking task running, because tokio does not
/// advance a paused clock by itself while there is one.
struct ManualClock(
    #[expect(dead_code, reason = "ends the blocking task when dropped")] mpsc::Sender<()>,
);

impl ManualClock {
    fn new() -> Self {
        let (hold, held) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || held.recv());
        if PAUSES.replace(PAUSES.get() + 1) == 0 {
            tokio::time::pause();
        }
        Self(hold)
    }
}

impl Drop for ManualClock {
    fn drop(&mut self) {
        PAUSES.set(PAUSES.get() - 1);
        if PAUSES.get() == 0 {
            tokio::time::resume();
        }
    }
}

/// A task to add to the simulator.
#[derive(Clone)]
pub(crate) struct Task {
    pub(crate) image: String,
    pub(crate) bucket: String,
    /// Time since the task's start.
    pub(crate) age: Duration,
    /// Time that the task takes from 0 to 100 percent.
    pub(crate) runs_for: Duration,
    /// Progress in percent at which the task fails.
    pub(crate) fails: Option<u8>,
    /// EC2's word for the state while the task runs.
    pub(crate) word: Option<String>,
    /// Progress in percent from which on EC2 leaves it out.
    pub(crate) omits_progress_from: Option<u8>,
}

impl Task {
    pub(crate) fn running(image: &str, runs_for: Duration) -> Self {
        Self {
            image: image.to_owned(),
            bucket: BUCKET.to_owned(),
            age: Duration::ZERO,
            runs_for,
            fails: None,
            word: None,
            omits_progress_from: None,
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

    pub(crate) fn saying(self, word: &str) -> Self {
        Self { word: Some(word.to_owned()), ..self }
    }

    pub(crate) fn without_progress_from(self, percent: u8) -> Self {
        Self { omits_progress_from: Some(percent), ..self }
    }

    pub(crate) fn plan(self, now: SystemTime) -> TaskPlan {
        // EC2 gives times in milliseconds.
        let start = now - self.age;
        let since = start.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let start = SystemTime::UNIX_EPOCH
            + Duration::from_millis(u64::try_from(since.as_millis()).expect("fits"));
        let mut plan = TaskPlan::new(&self.image, &self.bucket, start, self.runs_for);
        if let Some(word) = self.word {
            plan.running_state = word;
        }
        plan.omits_progress_from = self.omits_progress_from;
        match self.fails {
            Some(at) => plan.failing(at, "a snapshot is gone"),
            None => plan,
        }
    }
}

/// A number of finished tasks. They are a minute apart, and the newest is an hour old.
pub(crate) fn finished(count: u64) -> impl Iterator<Item = Task> {
    (0..count).map(|number| Task::done(&image(number), Duration::from_secs(3600 + 60 * number)))
}

/// The image ID that a number stands for.
pub(crate) fn image(number: u64) -> String {
    format!("ami-{number:017x}")
}

/// A gRPC client of the gateway.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) StoreImageTaskServiceClient<Channel>);

impl Client {
    /// A client over this channel.
    pub(crate) fn over(channel: Channel) -> Self {
        Self(StoreImageTaskServiceClient::new(channel))
    }

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

    /// Reads a watch to its end: its messages, and the status if it is not OK.
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

    /// Reads all pages of a List.
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

/// A List of all tasks, with default paging and staleness.
pub(crate) fn all() -> ListStoreImageTasksRequest {
    ListStoreImageTasksRequest::default()
}

pub(crate) fn of_images<I: Into<String>>(
    images: impl IntoIterator<Item = I>,
) -> ListStoreImageTasksRequest {
    ListStoreImageTasksRequest { image_ids: images.into_iter().map(Into::into).collect(), ..all() }
}

/// The request with `max_staleness` set to this number of seconds.
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

/// The fields that an INVALID_ARGUMENT status names.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let wrong = status.get_details_bad_request().expect("a BadRequest");
    wrong.field_violations.into_iter().map(|violation| violation.field).collect()
}

/// Domain and reason of the one `ErrorInfo` of a status.
pub(crate) fn reason(status: &Status) -> (String, String) {
    let details = status.check_error_details_vec().expect("details that can be read");
    let infos =
        details.iter().filter(|detail| matches!(detail, tonic_types::ErrorDetail::ErrorInfo(_)));
    assert_eq!(infos.count(), 1, "exactly one ErrorInfo: {details:?}");
    let info = status.get_details_error_info().expect("an ErrorInfo");
    (info.domain, info.reason)
}

/// The `grpc-retry-pushback-ms` of a status.
pub(crate) fn pushback(status: &Status) -> Option<u64> {
    status.metadata().get("grpc-retry-pushback-ms")?.to_str().ok()?.parse().ok()
}
