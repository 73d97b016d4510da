//! The simulated EC2 of the demo.

use std::{sync::Arc, time::Duration};

use tokio::time::interval;

use crate::{
    domain::{Region, wall_clock},
    simulator::{Settings, Simulator},
};

/// A simulated EC2, and the regions and tasks that the demo shows.
pub(super) struct Simulation {
    pub(super) ec2: Arc<Simulator>,
    pub(super) regions: Vec<Region>,
    /// The tasks that run at the start.
    pub(super) running: Vec<RunningTask>,
}

pub(super) struct RunningTask {
    pub(super) region: Region,
    pub(super) image_id: String,
}

/// Number of tasks that run in each region at any time, so that a tour can begin at any time.
const RUNNING: usize = 2;

/// Time between two looks at the running tasks. At most one task starts in a region in this time.
const TICK: Duration = Duration::from_secs(5);

impl Simulation {
    /// Starts new tasks for as long as the demo runs.
    pub(super) async fn go_on(&self) {
        let mut tick = interval(TICK);
        loop {
            tick.tick().await;
            self.ec2.keep_running(RUNNING);
        }
    }

    pub(super) fn new(seed: u64, speed: f64) -> Self {
        let settings = Settings { seed, speed, ..Settings::starting_at(wall_clock()) };
        let mut regions = Vec::new();
        for name in &settings.regions {
            regions.push(Region::parse(name).expect("the simulator's default regions are valid"));
        }
        let ec2 = Arc::new(Simulator::new(settings));
        let running = running_tasks(&ec2, &regions);
        Self { ec2, regions, running }
    }
}

fn running_tasks(ec2: &Simulator, regions: &[Region]) -> Vec<RunningTask> {
    let now = ec2.now();
    let mut running = Vec::new();
    for region in regions {
        for task in ec2.tasks(region.as_str()) {
            if task.is_running(now) {
                running.push(RunningTask { region: region.clone(), image_id: task.image_id });
            }
        }
    }
    running
}
