//! The settings of the simulator. The same settings give the same tasks and the same faults.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{
    fault::FaultKind,
    page_token::TokenFault,
    quota::Quota,
    schedule::{FailingBucket, Trouble},
};

/// All settings of a simulator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The seed of all random values.
    pub seed: u64,
    /// The wall clock's time at the start.
    pub start: SystemTime,
    /// The regions that the simulator answers for.
    pub regions: Vec<String>,
    /// The tasks and images at the start.
    pub story: Story,
    /// The factor by which tasks run faster than the story's durations.
    pub speed: f64,
    /// The time that each answer takes.
    pub latency: Duration,
    /// The quota of `DescribeStoreImageTasks`, per access key and region.
    pub describe_quota: Quota,
    /// The quota of `CreateStoreImageTask`, per access key and region.
    pub create_quota: Quota,
    /// The time for which a new task stays unlisted.
    pub appear_after: Duration,
    /// The time for which a new image stays unknown: look-ups and CreateStoreImageTask refuse it.
    pub image_appear_after: Duration,
    /// The images that every region refuses, each with EC2's error code.
    pub refused_images: BTreeMap<String, String>,
    /// The time for which a pagination token is valid.
    pub token_ttl: Duration,
    /// EC2's error code for a pagination token that it refuses.
    pub token_refusal_code: String,
    /// The fault of all pagination tokens.
    pub token_fault: Option<TokenFault>,
    /// The share of calls that fail, from 0 to 1.
    pub fault_rate: f64,
    /// The kinds of fault that these calls fail with.
    pub faults: Vec<FaultKind>,
    /// The trouble by the clock: all calls fail.
    pub troubles: Vec<Trouble>,
    /// The buckets into which stores fail.
    pub failing_buckets: BTreeMap<String, FailingBucket>,
}

/// The tasks and images at the start, in each region.
#[derive(Clone, Debug)]
pub struct Story {
    /// The number of finished tasks, spread over the last 30 days.
    pub finished: usize,
    /// The number of running tasks. If there are at least two, the last one fails.
    pub running: usize,
    /// The shortest and the longest run time of tasks, including those that callers create later.
    pub runs_for: (Duration, Duration),
    /// The number of images without a task.
    pub idle_images: usize,
}

impl Settings {
    /// The defaults, with this time as the start.
    #[must_use]
    pub fn starting_at(start: SystemTime) -> Self {
        Self {
            seed: 1,
            start,
            regions: vec!["us-east-1".to_owned(), "eu-west-1".to_owned()],
            story: Story::default(),
            speed: 1.0,
            latency: Duration::from_millis(50),
            describe_quota: Quota { burst: 50, per_second: 0.5 },
            create_quota: Quota { burst: 50, per_second: 0.1 },
            appear_after: Duration::ZERO,
            image_appear_after: Duration::ZERO,
            refused_images: BTreeMap::new(),
            token_ttl: Duration::from_hours(1),
            token_refusal_code: "InvalidNextToken".to_owned(),
            token_fault: None,
            fault_rate: 0.0,
            faults: FaultKind::transient(),
            troubles: Vec::new(),
            failing_buckets: BTreeMap::new(),
        }
    }

    /// A random run time for a task.
    pub(super) fn draw_run_time(&self, rng: &mut fastrand::Rng) -> Duration {
        let (shortest, longest) = self.story.runs_for;
        let extra = longest.saturating_sub(shortest).mul_f64(rng.f64());
        (shortest + extra).div_f64(self.speed)
    }
}

impl Default for Story {
    fn default() -> Self {
        Self {
            finished: 36,
            running: 4,
            runs_for: (Duration::from_secs(45), Duration::from_mins(2)),
            idle_images: 3,
        }
    }
}
