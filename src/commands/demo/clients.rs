//! Clients of the demo's gateway, and the count of their answers.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::interval};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::simulation::{RunningTask, Simulation};
use crate::{
    commands::{
        client::rpc_error,
        output::Failure,
        progress::{Progress, TaskProgress},
    },
    domain::Region,
    proto::{
        ListStoreImageTasksRequest, WatchStoreImageTaskRequest,
        store_image_task_service_client::StoreImageTaskServiceClient,
    },
};

/// Clients that share one connection to the gateway.
pub(super) struct Clients {
    channel: Channel,
    simulation: Arc<Simulation>,
    counts: Arc<Counts>,
}

/// Answers that the clients have received.
#[derive(Default)]
struct Counts {
    lists: AtomicU64,
    messages: AtomicU64,
}

impl Clients {
    /// Clients of the gateway at `address`, which connect with their first call.
    pub(super) fn new(address: SocketAddr, simulation: Arc<Simulation>) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let channel = endpoint.map_err(Failure::message)?.connect_lazy();
        Ok(Self { channel, simulation, counts: Arc::default() })
    }

    /// Starts a watch of each running task, and shows its progress.
    pub(super) fn watch_all(&self, progress: &Progress) -> JoinSet<()> {
        let mut watches = JoinSet::new();
        for task in &self.simulation.running {
            let task_progress = progress.task(format!("{:<10} {}", task.region, task.image_id));
            watches.spawn(self.watch(task, Some(task_progress)));
        }
        watches
    }

    /// Starts this many clients that watch, and as many that list. They end when the caller drops
    /// the set.
    pub(super) fn start_background(&self, number: usize) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for task in self.simulation.running.iter().cycle().take(number) {
            clients.spawn(self.watch(task, None));
            clients.spawn(self.list_each_second(&task.region));
        }
        clients
    }

    /// The count of answers and the count of EC2 calls.
    pub(super) fn summary(&self) -> String {
        let lists = self.counts.lists.load(Ordering::Relaxed);
        let messages = self.counts.messages.load(Ordering::Relaxed);
        let calls = self.simulation.ec2.calls();
        format!("{lists} Lists answered and {messages} watch messages sent, for {calls} EC2 calls")
    }

    fn watch(
        &self,
        task: &RunningTask,
        progress: Option<TaskProgress>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let request = WatchStoreImageTaskRequest {
            region: task.region.to_string(),
            image_id: task.image_id.clone(),
            ..WatchStoreImageTaskRequest::default()
        };
        let (channel, counts) = (self.channel.clone(), self.counts.clone());
        watch(channel, request, counts, progress)
    }

    fn list_each_second(&self, region: &Region) -> impl Future<Output = ()> + Send + use<> {
        let request = ListStoreImageTasksRequest {
            region: region.to_string(),
            ..ListStoreImageTasksRequest::default()
        };
        list_each_second(self.channel.clone(), request, self.counts.clone())
    }
}

/// Follows a task, and says so if that is refused.
async fn watch(
    channel: Channel,
    request: WatchStoreImageTaskRequest,
    counts: Arc<Counts>,
    mut progress: Option<TaskProgress>,
) {
    let image = request.image_id.clone();
    let Err(status) = follow(channel, request, &counts, &mut progress).await else { return };
    if let Some(progress) = progress {
        progress.fail(&format!("error: {image}: {}", rpc_error(&status)));
    } else {
        tracing::warn!(code = ?status.code(), "a watch ended: {}", status.message());
    }
}

async fn follow(
    channel: Channel,
    request: WatchStoreImageTaskRequest,
    counts: &Counts,
    progress: &mut Option<TaskProgress>,
) -> Result<(), Status> {
    let mut client = StoreImageTaskServiceClient::new(channel);
    let mut messages = client.watch_store_image_task(request).await?.into_inner();
    while let Some(message) = messages.message().await? {
        counts.messages.fetch_add(1, Ordering::Relaxed);
        if let Some(progress) = progress
            && let Some(task) = &message.task
        {
            progress.update(task, message.degraded.as_ref());
        }
    }
    Ok(())
}

async fn list_each_second(
    channel: Channel,
    request: ListStoreImageTasksRequest,
    counts: Arc<Counts>,
) {
    let mut client = StoreImageTaskServiceClient::new(channel);
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        match client.list_store_image_tasks(request.clone()).await {
            Ok(_) => _ = counts.lists.fetch_add(1, Ordering::Relaxed),
            Err(status) => {
                tracing::warn!(code = ?status.code(), "a List failed: {}", status.message());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bars::Bars;

    #[tokio::test]
    async fn a_watch_that_is_refused_leaves_no_bar() {
        let bars = Bars::new();
        let task = TaskProgress::Bar(bars.add("a task"));
        assert!(bars.summary().starts_with("1 of 1 tasks unfinished"), "{}", bars.summary());
        let nowhere = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let request = WatchStoreImageTaskRequest::default();
        watch(nowhere, request, Arc::default(), Some(task)).await;
        let summary = bars.summary();
        let expected = "0 of 1 tasks unfinished, 0 completed, 0 failed, 1 not followed to the end";
        assert_eq!(summary, expected);
    }
}
