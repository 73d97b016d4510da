//! `demo`: the main job on an embedded simulator, in one process.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use tokio::{task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::{
    listen::{GATEWAY_ADDRESS, SIMULATOR_ADDRESS, listen},
    output::{Failure, print_line},
    progress::Progress,
    signals::ShutdownSignal,
    simulate,
    values::positive_number,
};
use crate::{
    domain::{Region, wall_clock},
    ec2::Ec2,
    proto::{
        ListStoreImageTasksRequest, WatchStoreImageTaskRequest,
        store_image_task_service_client::StoreImageTaskServiceClient,
    },
    server,
    simulator::{self, Simulator},
};

/// Shows the main job on an embedded EC2 simulator: tasks in two regions, watched by a crowd, with
/// the number of answers against the number of EC2 calls.
///
/// Needs no AWS account. Serves until Ctrl-C, so that the printed grpcurl lines work meanwhile.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Where the gateway listens; port 0 takes a free one.
    #[arg(
        long,
        env = "AMISTORE_DEMO_LISTEN",
        value_name = "HOST:PORT",
        default_value = GATEWAY_ADDRESS
    )]
    listen: String,

    /// Where the simulator listens; port 0 takes a free one.
    #[arg(
        long,
        env = "AMISTORE_DEMO_SIMULATOR_LISTEN",
        value_name = "HOST:PORT",
        default_value = SIMULATOR_ADDRESS
    )]
    simulator_listen: String,

    /// Same seed, same story.
    #[arg(long, env = "AMISTORE_DEMO_SEED", value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// How much faster than usual tasks run: at 1, one takes 45 seconds to 2 minutes.
    #[arg(long, env = "AMISTORE_DEMO_SPEED", value_name = "FACTOR", value_parser = positive_number, default_value = "1")]
    speed: f64,

    /// So many clients watch, and as many list once a second.
    #[arg(long, env = "AMISTORE_DEMO_CLIENTS", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=2000), default_value_t = 100)]
    clients: u32,

    /// Exit when the watched tasks are over, instead of serving on.
    #[arg(long, env = "AMISTORE_DEMO_EXIT")]
    exit: bool,
}

/// What the crowd was told.
#[derive(Default)]
struct Count {
    lists: AtomicU64,
    messages: AtomicU64,
}

impl Demo {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let gateway = listen(&self.listen, "--listen").await?;
        let ec2 = listen(&self.simulator_listen, "--simulator-listen").await?;
        let signal = ShutdownSignal::listen()?;
        let (address, ec2_address) = (gateway.local_addr()?, ec2.local_addr()?);
        let settings = simulator::Settings {
            seed: self.seed,
            speed: self.speed,
            ..simulator::Settings::starting_at(wall_clock())
        };
        let regions: Vec<Region> =
            settings.regions.iter().filter_map(|region| Region::parse(region).ok()).collect();
        let simulator = Arc::new(Simulator::new(settings));
        let running = running(&simulator, &regions);
        introduce(address, ec2_address, &simulator, &regions, &running);

        let stop = CancellationToken::new();
        // Goes with the process: the gateway may have calls under way when it drains.
        tokio::spawn(simulator::serve(simulator.clone(), ec2, std::future::pending()));
        let settings = server::Settings {
            default_region: regions.first().cloned(),
            ..server::Settings::default()
        };
        let make_upstream =
            Ec2::at_endpoint(&format!("http://{ec2_address}"), settings.ec2.clone())
                .make_upstream();
        let serving =
            server::serve(gateway, settings, make_upstream, stop.clone().cancelled_owned());
        let serving = tokio::spawn(serving);

        let count = Arc::new(Count::default());
        let show = show(&self, address, &simulator, &running, &count);
        tokio::select! {
            shown = show => shown?,
            () = signal.requested() => {}
        }
        stop.cancel();
        serving.await.map_err(Failure::message)??;
        print_line(summary(&simulator, &count));
        Ok(ExitCode::SUCCESS)
    }
}

/// Region and image of each task that runs.
fn running(simulator: &Simulator, regions: &[Region]) -> Vec<(Region, String)> {
    let now = simulator.now();
    regions
        .iter()
        .flat_map(|region| {
            let tasks = simulator.tasks(region.as_str());
            let running = tasks.into_iter().filter(|task| task.is_running(now));
            running.map(|task| (region.clone(), task.image_id))
        })
        .collect()
}

fn introduce(
    address: SocketAddr,
    ec2: SocketAddr,
    simulator: &Simulator,
    regions: &[Region],
    running: &[(Region, String)],
) {
    print_line(format_args!(
        "The gateway serves at {address}, EC2 is simulated at {ec2}. In another terminal:"
    ));
    print_line("");
    print_line(format_args!("  grpcurl -plaintext {address} list"));
    print_line(format_args!(
        "  grpcurl -plaintext {address} describe amistore.v1.StoreImageTaskService"
    ));
    let service = "amistore.v1.StoreImageTaskService";
    print_line(format_args!(
        "  grpcurl -plaintext -d '{{\"page_size\": 5}}' {address} {service}/ListStoreImageTasks"
    ));
    if let Some((region, image)) = running.first() {
        print_line(format_args!(
            "  grpcurl -plaintext -d '{{\"region\": \"{region}\", \"image_id\": \"{image}\"}}' {address} {service}/WatchStoreImageTask"
        ));
    }
    print_line("");
    print_line("Start a task of your own with the AWS CLI, and watch it with the same gateway:");
    print_line("");
    for (key, value) in simulate::environment(ec2, regions) {
        print_line(format_args!("  export {key}={value}"));
    }
    let idle =
        regions.first().and_then(|region| simulator.images_without_task(region.as_str()).pop());
    if let Some(image) = idle {
        print_line(format_args!(
            "  aws ec2 create-store-image-task --image-id {image} --bucket golden-images"
        ));
    }
    print_line("");
}

/// Shows the running tasks, and lets the crowd ask, until Ctrl-C or as long as `--exit` says.
async fn show(
    demo: &Demo,
    address: SocketAddr,
    simulator: &Simulator,
    running: &[(Region, String)],
    count: &Arc<Count>,
) -> Result<(), Failure> {
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(Failure::message)?
        .connect_lazy();
    let progress = Progress::new();
    let mut bars = JoinSet::new();
    for (region, image) in running {
        let mut shown = progress.task(format!("{region:<10} {image}"));
        let request = watch_request(region, image);
        let (channel, count) = (channel.clone(), count.clone());
        bars.spawn(watch(channel, request, count, move |message| {
            if let Some(task) = &message.task {
                shown.update(task, message.degraded.as_ref());
            }
        }));
    }
    let footer = progress.footer();
    // The crowd goes home when it is dropped.
    let mut crowd = JoinSet::new();
    for (region, image) in running.iter().cycle().take(demo.clients as usize) {
        let request = watch_request(region, image);
        crowd.spawn(watch(channel.clone(), request, count.clone(), |_| {}));
        crowd.spawn(list_each_second(channel.clone(), region.clone(), count.clone()));
    }
    let mut tick = interval(Duration::from_secs(1));
    let mut seconds: u64 = 0;
    loop {
        tokio::select! {
            ended = bars.join_next() => match ended {
                Some(ended) => ended.map_err(Failure::message)?,
                None => break,
            },
            _ = tick.tick() => {
                seconds += 1;
                match &footer {
                    Some(footer) => footer.set_message(summary(simulator, count)),
                    None if seconds.is_multiple_of(10) => print_line(summary(simulator, count)),
                    None => {}
                }
            }
        }
    }
    drop(crowd);
    if let Some(footer) = &footer {
        footer.finish_with_message(summary(simulator, count));
    }
    if !demo.exit {
        progress.print_line("All watched tasks are over. The gateway serves on until Ctrl-C.");
        std::future::pending::<()>().await;
    }
    Ok(())
}

fn watch_request(region: &Region, image: &str) -> WatchStoreImageTaskRequest {
    WatchStoreImageTaskRequest {
        region: region.to_string(),
        image_id: image.to_owned(),
        ..WatchStoreImageTaskRequest::default()
    }
}

async fn watch(
    channel: Channel,
    request: WatchStoreImageTaskRequest,
    count: Arc<Count>,
    mut each: impl FnMut(&crate::proto::WatchStoreImageTaskResponse) + Send + 'static,
) {
    let mut client = StoreImageTaskServiceClient::new(channel);
    let ended = async {
        let mut messages = client.watch_store_image_task(request).await?.into_inner();
        while let Some(message) = messages.message().await? {
            count.messages.fetch_add(1, Ordering::Relaxed);
            each(&message);
        }
        Ok::<_, tonic::Status>(())
    };
    if let Err(status) = ended.await {
        tracing::warn!(code = ?status.code(), "a watch ended: {}", status.message());
    }
}

async fn list_each_second(channel: Channel, region: Region, count: Arc<Count>) {
    let mut client = StoreImageTaskServiceClient::new(channel);
    let mut tick = interval(Duration::from_secs(1));
    let request = ListStoreImageTasksRequest {
        region: region.to_string(),
        ..ListStoreImageTasksRequest::default()
    };
    loop {
        tick.tick().await;
        match client.list_store_image_tasks(request.clone()).await {
            Ok(_) => _ = count.lists.fetch_add(1, Ordering::Relaxed),
            Err(status) => {
                tracing::warn!(code = ?status.code(), "a List failed: {}", status.message());
            }
        }
    }
}

fn summary(simulator: &Simulator, count: &Count) -> String {
    let lists = count.lists.load(Ordering::Relaxed);
    let messages = count.messages.load(Ordering::Relaxed);
    format!(
        "{lists} Lists answered and {messages} watch messages sent, for {} EC2 calls",
        simulator.calls()
    )
}
