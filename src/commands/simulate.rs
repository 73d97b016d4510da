//! `simulate`: the simulator alone.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::{Args, value_parser};

use super::{
    listen::{SIMULATOR_ADDRESS, listen, reachable},
    output::{Failure, print_line},
    signals::ShutdownSignal,
    values::{duration, duration_text, positive_duration, rate, share, speed},
};
use crate::{
    domain::{ImageId, Region, wall_clock},
    simulator::{
        self, FailingBucket, FaultKind, Quota, Settings, Simulator, Story, TokenFault, Trouble,
    },
};

/// Runs a simulator of EC2's Query API: DescribeStoreImageTasks and CreateStoreImageTask.
///
/// Prints the environment variables that point the AWS CLI, boto3 or the gateway at the simulator.
#[derive(Debug, Args)]
pub(super) struct Simulate {
    /// Address to listen on; port 0 takes a free port.
    #[arg(
        long,
        env = "AMISTORE_SIMULATE_LISTEN",
        value_name = "HOST:PORT",
        default_value = SIMULATOR_ADDRESS
    )]
    listen: String,

    #[command(flatten)]
    simulator: SimulatorArgs,
}

#[derive(Debug, Args)]
struct SimulatorArgs {
    /// Seed of the simulation; the same seed gives the same tasks.
    #[arg(long, env = "AMISTORE_SIMULATE_SEED", value_name = "NUMBER", default_value_t = defaults().seed)]
    seed: u64,

    /// Regions of the simulated EC2, separated by commas.
    #[arg(long, env = "AMISTORE_SIMULATE_REGIONS", value_name = "REGIONS", value_delimiter = ',', default_values = defaults().regions)]
    regions: Vec<Region>,

    /// Number of finished tasks in each region at the start.
    #[arg(long, env = "AMISTORE_SIMULATE_TASKS", value_name = "NUMBER", value_parser = value_parser!(u32).range(..=1_000_000), default_value = Story::default().finished.to_string())]
    tasks: u32,

    /// Number of running tasks in each region at the start; if there are several, the last one
    /// fails.
    #[arg(long, env = "AMISTORE_SIMULATE_RUNNING", value_name = "NUMBER", value_parser = value_parser!(u32).range(..=100_000), default_value = Story::default().running.to_string())]
    running: u32,

    /// Number of images without a task in each region at the start.
    #[arg(long, env = "AMISTORE_SIMULATE_IDLE_IMAGES", value_name = "NUMBER", value_parser = value_parser!(u32).range(..=1_000_000), default_value = Story::default().idle_images.to_string())]
    idle_images: u32,

    #[arg(long, env = "AMISTORE_SIMULATE_SPEED", value_name = "FACTOR", value_parser = speed, default_value_t = defaults().speed, help = speed_help())]
    speed: f64,

    /// Time that each answer takes.
    #[arg(long, env = "AMISTORE_SIMULATE_LATENCY", value_name = "DURATION", value_parser = duration, default_value = duration_text(defaults().latency))]
    latency: Duration,

    /// DescribeStoreImageTasks calls in a burst, per access key and region.
    #[arg(long, env = "AMISTORE_SIMULATE_BURST", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..), default_value_t = defaults().describe_quota.burst)]
    burst: u32,

    /// DescribeStoreImageTasks calls per second in the long run, per access key and region.
    #[arg(long, env = "AMISTORE_SIMULATE_RATE", value_name = "RATE", value_parser = rate, default_value_t = defaults().describe_quota.per_second)]
    rate: f64,

    /// Time for which a new task is not yet visible, since EC2 is eventually consistent.
    #[arg(long, env = "AMISTORE_SIMULATE_APPEAR_AFTER", value_name = "DURATION", value_parser = duration, default_value = duration_text(defaults().appear_after))]
    appear_after: Duration,

    /// Time for which a new image is not yet known, since EC2 is eventually consistent.
    #[arg(long, env = "AMISTORE_SIMULATE_IMAGE_APPEAR_AFTER", value_name = "DURATION", value_parser = duration, default_value = duration_text(defaults().image_appear_after))]
    image_appear_after: Duration,

    /// Images that EC2 refuses, each with an error code, such as
    /// ami-0123456789abcdef0=AuthFailure, separated by commas.
    #[arg(long, env = "AMISTORE_SIMULATE_REFUSE_IMAGES", value_name = "IMAGE=CODE", value_delimiter = ',', value_parser = refused_image)]
    refuse_images: Vec<(ImageId, String)>,

    /// EC2's error code for a pagination token that it refuses.
    #[arg(long, env = "AMISTORE_SIMULATE_TOKEN_REFUSAL_CODE", value_name = "CODE", default_value_t = defaults().token_refusal_code)]
    token_refusal_code: String,

    /// Number of the first page whose pagination token EC2 refuses; 2 refuses every token.
    #[arg(long, env = "AMISTORE_SIMULATE_REFUSE_TOKENS_FROM_PAGE", value_name = "NUMBER", value_parser = value_parser!(u32).range(2..))]
    refuse_tokens_from_page: Option<u32>,

    /// Answer each call that has a pagination token with that same token, without end.
    #[arg(long, env = "AMISTORE_SIMULATE_REPEAT_TOKENS")]
    repeat_tokens: bool,

    /// Time for which a pagination token is valid.
    #[arg(long, env = "AMISTORE_SIMULATE_TOKEN_TTL", value_name = "DURATION", value_parser = positive_duration, default_value = duration_text(defaults().token_ttl))]
    token_ttl: Duration,

    /// Share of the calls that fail, from 0 to 1.
    #[arg(long, env = "AMISTORE_SIMULATE_FAULT_RATE", value_name = "SHARE", value_parser = share, default_value_t = defaults().fault_rate)]
    fault_rate: f64,

    /// Kinds of failures, separated by commas; without this flag, all transient ones.
    #[arg(long, env = "AMISTORE_SIMULATE_FAULTS", value_name = "KINDS", value_delimiter = ',')]
    faults: Vec<FaultKind>,

    /// Trouble by the clock, in which all calls fail: a kind of failures, the time since the start at
    /// which it begins, and its length, such as throttling@60s+30s, separated by commas.
    #[arg(
        long,
        env = "AMISTORE_SIMULATE_TROUBLE",
        value_name = "KIND@BEGIN+LENGTH",
        value_delimiter = ','
    )]
    trouble: Vec<Trouble>,

    /// Buckets into which stores fail, each with the time after which they do, such as
    /// golden-images=5s, separated by commas. With a beginning and a length, such as
    /// golden-images=5s@0s+30s, only stores that start within that time fail.
    #[arg(long, env = "AMISTORE_SIMULATE_FAILING_BUCKETS", value_name = "BUCKET=AFTER", value_delimiter = ',', value_parser = failing_bucket)]
    failing_buckets: Vec<(String, FailingBucket)>,
}

/// The settings that give the flags their defaults. No flag sets the start time.
pub(super) fn defaults() -> Settings {
    Settings::starting_at(SystemTime::UNIX_EPOCH)
}

/// Help text of the flags for the speed.
pub(super) fn speed_help() -> String {
    let (shortest, longest) = Story::default().runs_for;
    format!(
        "Factor by which tasks run faster; at 1, a task takes {} to {}",
        duration_text(shortest),
        duration_text(longest)
    )
}

impl SimulatorArgs {
    /// The simulator's settings.
    ///
    /// # Errors
    /// If two flags exclude each other.
    fn settings(&self, start: SystemTime) -> Result<Settings, String> {
        let mut settings = Settings {
            seed: self.seed,
            regions: self.regions.iter().map(Region::to_string).collect(),
            story: Story {
                finished: self.tasks as usize,
                running: self.running as usize,
                idle_images: self.idle_images as usize,
                ..Story::default()
            },
            speed: self.speed,
            latency: self.latency,
            describe_quota: Quota { burst: self.burst, per_second: self.rate },
            appear_after: self.appear_after,
            image_appear_after: self.image_appear_after,
            refused_images: self.refused_images(),
            token_refusal_code: self.token_refusal_code.clone(),
            token_fault: self.token_fault()?,
            token_ttl: self.token_ttl,
            fault_rate: self.fault_rate,
            troubles: self.trouble.clone(),
            failing_buckets: self.failing_buckets.iter().cloned().collect(),
            ..Settings::starting_at(start)
        };
        if !self.faults.is_empty() {
            settings.faults.clone_from(&self.faults);
        }
        Ok(settings)
    }

    fn refused_images(&self) -> BTreeMap<String, String> {
        let mut refused = BTreeMap::new();
        for (image_id, code) in &self.refuse_images {
            refused.insert(image_id.to_string(), code.clone());
        }
        refused
    }

    // clap's own check of conflicts would not see values of the environment and the file.
    fn token_fault(&self) -> Result<Option<TokenFault>, String> {
        match (self.refuse_tokens_from_page, self.repeat_tokens) {
            (Some(_), true) => {
                Err("expected --refuse-tokens-from-page or --repeat-tokens, got both".to_owned())
            }
            (Some(number), false) => Ok(Some(TokenFault::RefusedFromPage(number))),
            (None, true) => Ok(Some(TokenFault::Repeated)),
            (None, false) => Ok(None),
        }
    }
}

/// Parses an image and the code with which EC2 refuses it.
fn refused_image(text: &str) -> Result<(ImageId, String), String> {
    let Some((image_id, code)) = text.split_once('=') else {
        return Err(format!(
            "expected IMAGE=CODE, such as ami-0123456789abcdef0=AuthFailure, found {text:?}"
        ));
    };
    let image_id = ImageId::parse(image_id).map_err(|error| error.to_string())?;
    if code.is_empty() {
        return Err(format!("expected an error code after {image_id}=, such as AuthFailure"));
    }
    Ok((image_id, code.to_owned()))
}

/// Parses a bucket and the time after which stores into it fail.
fn failing_bucket(text: &str) -> Result<(String, FailingBucket), String> {
    let Some((bucket, failing)) = text.split_once('=') else {
        return Err(format!("expected BUCKET=AFTER, such as golden-images=5s, found {text:?}"));
    };
    Ok((bucket.to_owned(), failing.parse()?))
}

impl Simulate {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let regions = &self.simulator.regions;
        let settings = self.simulator.settings(wall_clock()).map_err(Failure::message)?;
        let simulator = Arc::new(Simulator::new(settings));
        let listener = listen(&self.listen, "--listen").await?;
        let mut stop = ShutdownSignal::listen()?;
        let address = reachable(listener.local_addr()?);
        print_line(format_args!("# EC2 is simulated at {address}; Ctrl-C ends it."));
        for (variable, value) in environment(address, regions) {
            print_line(format_args!("export {variable}={value}"));
        }
        for region in regions {
            let images = simulator.images_without_task(region.as_str()).join(" ");
            print_line(format_args!("# images without a task in {region}: {images}"));
        }
        simulator::serve(simulator.clone(), listener, async move { stop.requested().await }).await;
        print_line(format_args!("# EC2 calls: {}", simulator.calls()));
        Ok(ExitCode::SUCCESS)
    }
}

/// Environment variables that point an AWS client at a simulator.
pub(super) fn environment(address: SocketAddr, regions: &[Region]) -> Vec<(&'static str, String)> {
    let region = match regions.first() {
        Some(region) => region.as_str(),
        None => "us-east-1",
    };
    vec![
        ("AWS_ENDPOINT_URL_EC2", format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", "simulated".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "simulated".to_owned()),
        ("AWS_REGION", region.to_owned()),
        ("AWS_DEFAULT_REGION", region.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;

    fn settings(args: &[&str]) -> Result<Settings, String> {
        let command = SimulatorArgs::augment_args(Command::new("simulator"));
        let args = ["simulator"].iter().chain(args);
        let matches = command.try_get_matches_from(args).map_err(|error| error.to_string())?;
        let args = SimulatorArgs::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        args.settings(SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn without_flags_all_settings_are_the_defaults() {
        let settings = settings(&[]).expect("valid");
        assert_eq!(format!("{settings:?}"), format!("{:?}", defaults()));
    }

    #[test]
    fn the_flags_about_images_and_tokens_are_settings() {
        let settings = settings(&[
            "--idle-images=7",
            "--image-appear-after=30s",
            "--refuse-images=ami-00000001=AuthFailure,ami-00000002=InvalidAMIID.NotFound",
            "--token-refusal-code=InvalidParameterValue",
            "--refuse-tokens-from-page=3",
        ])
        .expect("valid");
        assert_eq!(settings.story.idle_images, 7);
        assert_eq!(settings.image_appear_after, Duration::from_secs(30));
        assert_eq!(
            settings.refused_images,
            BTreeMap::from([
                ("ami-00000001".to_owned(), "AuthFailure".to_owned()),
                ("ami-00000002".to_owned(), "InvalidAMIID.NotFound".to_owned()),
            ])
        );
        assert_eq!(settings.token_refusal_code, "InvalidParameterValue");
        assert_eq!(settings.token_fault, Some(TokenFault::RefusedFromPage(3)));
    }

    #[test]
    fn the_flags_about_trouble_and_buckets_are_settings() {
        let settings = settings(&[
            "--trouble=throttling@60s+60s,AuthFailure@5m+30s",
            "--failing-buckets=golden-images=5s@0s+30s,backup-images=1m",
        ])
        .expect("valid");
        assert_eq!(
            settings.troubles,
            ["throttling@60s+60s", "AuthFailure@5m+30s"]
                .map(|text| text.parse::<Trouble>().expect("valid"))
        );
        let after = |bucket: &str| settings.failing_buckets[bucket].after;
        assert_eq!(after("golden-images"), Duration::from_secs(5));
        assert_eq!(after("backup-images"), Duration::from_mins(1));
        assert!(super::tests::settings(&["--trouble=hunger@1s+1s"]).is_err());
        assert!(super::tests::settings(&["--failing-buckets=golden-images"]).is_err());
    }

    #[test]
    fn tokens_are_refused_or_repeated_but_not_both() {
        let repeated = settings(&["--repeat-tokens"]).expect("valid");
        assert_eq!(repeated.token_fault, Some(TokenFault::Repeated));
        assert!(settings(&["--repeat-tokens", "--refuse-tokens-from-page=2"]).is_err());
        assert!(settings(&["--refuse-tokens-from-page=1"]).is_err());
    }

    #[test]
    fn a_refused_image_has_an_id_and_a_code() {
        for bad in ["ami-00000001", "ami-00000001=", "x=AuthFailure"] {
            let error = settings(&["--refuse-images", bad]).expect_err(bad);
            assert!(error.contains("ami-"), "{error}");
        }
    }
}
