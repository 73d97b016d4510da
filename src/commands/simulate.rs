//! `simulate`: the simulator alone.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;

use super::{
    listen::{SIMULATOR_ADDRESS, listen},
    output::{Failure, print_line},
    signals::ShutdownSignal,
    values::{duration, positive_duration, positive_number, share},
};
use crate::{
    domain::{Region, wall_clock},
    simulator::{self, FaultKind, Quota, Settings, Simulator, Story},
};

/// Runs a simulator of EC2's Query API (DescribeStoreImageTasks, CreateStoreImageTask) and prints
/// the environment that points the AWS CLI, boto3 or the gateway at it.
#[derive(Debug, Args)]
pub(super) struct Simulate {
    /// Where to listen; port 0 takes a free one.
    #[arg(
        long,
        env = "AMISTORE_SIMULATE_LISTEN",
        value_name = "HOST:PORT",
        default_value = SIMULATOR_ADDRESS
    )]
    listen: String,

    #[command(flatten)]
    world: WorldArgs,
}

/// All that can be set of a simulator.
#[derive(Debug, Args)]
pub(super) struct WorldArgs {
    /// Same seed, same story.
    #[arg(long, env = "AMISTORE_SIMULATE_SEED", value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// The regions that there are; separate several with commas.
    #[arg(long, env = "AMISTORE_SIMULATE_REGIONS", value_name = "REGIONS", value_delimiter = ',', default_values = ["us-east-1", "eu-west-1"])]
    regions: Vec<Region>,

    /// Finished tasks in each region.
    #[arg(long, env = "AMISTORE_SIMULATE_TASKS", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(..=1_000_000), default_value_t = 36)]
    tasks: u32,

    /// Running tasks in each region; the last of several fails.
    #[arg(long, env = "AMISTORE_SIMULATE_RUNNING", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(..=100_000), default_value_t = 4)]
    running: u32,

    /// How much faster than usual tasks run: at 1, one takes 45 seconds to 2 minutes.
    #[arg(long, env = "AMISTORE_SIMULATE_SPEED", value_name = "FACTOR", value_parser = positive_number, default_value = "1")]
    speed: f64,

    /// How long each answer takes.
    #[arg(long, env = "AMISTORE_SIMULATE_LATENCY", value_name = "DURATION", value_parser = duration, default_value = "50ms")]
    latency: Duration,

    /// DescribeStoreImageTasks calls in a burst, per access key and region.
    #[arg(long, env = "AMISTORE_SIMULATE_BURST", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..), default_value_t = 50)]
    burst: u32,

    /// DescribeStoreImageTasks calls a second in the long run, per access key and region.
    #[arg(long, env = "AMISTORE_SIMULATE_RATE", value_name = "PER SECOND", value_parser = positive_number, default_value = "0.5")]
    rate: f64,

    /// How long a new task is not yet shown: EC2 is eventually consistent.
    #[arg(long, env = "AMISTORE_SIMULATE_APPEAR_AFTER", value_name = "DURATION", value_parser = duration, default_value = "0s")]
    appear_after: Duration,

    /// How long a pagination token is taken.
    #[arg(long, env = "AMISTORE_SIMULATE_TOKEN_TTL", value_name = "DURATION", value_parser = positive_duration, default_value = "1h")]
    token_ttl: Duration,

    /// The share of calls that fail, 0 to 1.
    #[arg(long, env = "AMISTORE_SIMULATE_FAULT_RATE", value_name = "SHARE", value_parser = share, default_value = "0")]
    fault_rate: f64,

    /// How they fail; separate several with commas. Default: all that can heal.
    #[arg(long, env = "AMISTORE_SIMULATE_FAULTS", value_name = "KINDS", value_delimiter = ',')]
    faults: Vec<FaultKind>,
}

impl WorldArgs {
    fn settings(&self) -> Settings {
        let defaults = Settings::starting_at(wall_clock());
        Settings {
            seed: self.seed,
            regions: self.regions.iter().map(ToString::to_string).collect(),
            story: Story {
                finished: self.tasks as usize,
                running: self.running as usize,
                ..Story::default()
            },
            speed: self.speed,
            latency: self.latency,
            describe_quota: Quota { burst: self.burst, per_second: self.rate },
            appear_after: self.appear_after,
            token_ttl: self.token_ttl,
            fault_rate: self.fault_rate,
            faults: if self.faults.is_empty() { defaults.faults } else { self.faults.clone() },
            ..defaults
        }
    }
}

impl Simulate {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let simulator = Arc::new(Simulator::new(self.world.settings()));
        let listener = listen(&self.listen, "--listen").await?;
        let stop = ShutdownSignal::listen()?;
        println!("# EC2 is simulated at {}; Ctrl-C ends it.", listener.local_addr()?);
        for (key, value) in environment(listener.local_addr()?, &self.world.regions) {
            print_line(format_args!("export {key}={value}"));
        }
        for region in &self.world.regions {
            let images = simulator.images_without_task(region.as_str());
            print_line(format_args!("# images without a task in {region}: {}", images.join(" ")));
        }
        simulator::serve(simulator.clone(), listener, stop.requested()).await;
        print_line(format_args!("# {} calls came", simulator.calls()));
        Ok(ExitCode::SUCCESS)
    }
}

/// What points an AWS client at a simulator.
pub(super) fn environment(
    address: std::net::SocketAddr,
    regions: &[Region],
) -> Vec<(&'static str, String)> {
    let region = regions.first().map_or("us-east-1", Region::as_str);
    vec![
        ("AWS_ENDPOINT_URL_EC2", format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", "simulated".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "simulated".to_owned()),
        ("AWS_REGION", region.to_owned()),
        ("AWS_DEFAULT_REGION", region.to_owned()),
    ]
}
