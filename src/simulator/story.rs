//! What there is at the start: seeded, so that the same seed tells the same story.

use std::time::{Duration, SystemTime};

use super::{
    Settings,
    world::{Outcome, TaskPlan, World},
};

/// What there is at the start, in each region.
#[derive(Clone, Debug)]
pub struct Story {
    /// Tasks that are over, spread over the last 30 days.
    pub finished: usize,
    /// Tasks that run; the last of them fails on the way, where there are at least two.
    pub running: usize,
    /// How long a task runs, at least and at most; new ones too.
    pub runs_for: (Duration, Duration),
    /// Images without a task, to start one with.
    pub idle_images: usize,
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

const BUCKETS: [&str; 3] = ["golden-images", "backup-images", "team-a-images"];
const REASONS: [&str; 3] = [
    "The bucket policy does not allow EC2 to write the object",
    "A snapshot of the image is not available",
    "Internal error while the object was written",
];

impl Story {
    pub(super) fn tell(&self, rng: &mut fastrand::Rng, settings: &Settings) -> World {
        let mut world = World::default();
        for _ in 0..self.finished {
            // Over since at least an hour, so that it is not taken for a running one.
            let age = Duration::from_secs(rng.u64(3600 + 7200..30 * 24 * 3600));
            let mut task = Self::task(rng, settings, age);
            task.runs_for = Duration::from_secs(rng.u64(60..7200));
            if rng.u8(..12) == 0 {
                task.outcome = failure(rng);
            }
            world.add_task(task);
        }
        for number in 0..self.running {
            let age = self.runs_for.0.mul_f64(rng.f64() / 3.0 / settings.speed);
            let mut task = Self::task(rng, settings, age);
            if number > 0 && number == self.running - 1 {
                task.outcome = failure(rng);
            }
            world.add_task(task);
        }
        for _ in 0..self.idle_images {
            world.add_image(&image_id(rng));
        }
        world
    }

    fn task(rng: &mut fastrand::Rng, settings: &Settings, age: Duration) -> TaskPlan {
        let image_id = image_id(rng);
        let bucket = BUCKETS[rng.usize(..BUCKETS.len())];
        let start = whole_millis(settings.start.checked_sub(age).unwrap_or(settings.start));
        TaskPlan::new(&image_id, bucket, start, runs_for(rng, settings))
    }
}

pub(super) fn runs_for(rng: &mut fastrand::Rng, settings: &Settings) -> Duration {
    let (least, most) = settings.story.runs_for;
    let extra = most.saturating_sub(least).mul_f64(rng.f64());
    (least + extra).div_f64(settings.speed)
}

/// EC2 says times to the millisecond.
pub(super) fn whole_millis(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

fn failure(rng: &mut fastrand::Rng) -> Outcome {
    let reason = REASONS[rng.usize(..REASONS.len())].to_owned();
    Outcome::Fails { at: rng.u8(40..80), reason }
}

fn image_id(rng: &mut fastrand::Rng) -> String {
    format!("ami-{:017x}", rng.u128(..1 << 68))
}
