//! The tasks and images at the start. They are random, but the same seed gives the same ones.

use std::time::{Duration, SystemTime};

use super::{
    settings::Settings,
    task::{Outcome, TaskPlan, whole_millis},
    world::World,
};

const BUCKETS: [&str; 3] = ["golden-images", "backup-images", "team-a-images"];
const REASONS: [&str; 3] = [
    "The bucket policy does not allow EC2 to write the object",
    "A snapshot of the image is not available",
    "Internal error while the object was written",
];

/// 1 hour: a finished task has ended at least this long ago, so that it does not look like a
/// running one.
const MIN_AGE_SECS: u64 = 3600;
/// 2 hours: the longest run time of a finished task.
const MAX_RUN_SECS: u64 = 2 * 3600;
/// 30 days: a finished task started at most this long ago. EC2 lists it for one more day.
const MAX_AGE_SECS: u64 = 30 * 24 * 3600;

/// Makes the tasks and images of one region.
pub(super) fn make_world(rng: &mut fastrand::Rng, settings: &Settings) -> World {
    let story = &settings.story;
    let mut world = World::default();
    for _ in 0..story.finished {
        world.add_task(finished_task(rng, settings));
    }
    for number in 0..story.running {
        let fails = number > 0 && number == story.running - 1;
        world.add_task(running_task(rng, settings, fails));
    }
    for _ in 0..story.idle_images {
        world.add_image(&image_id(rng), settings.start + settings.image_appear_after);
    }
    for (image_id, code) in &settings.refused_images {
        world.refuse_image(image_id, Some(code));
    }
    world
}

/// A task of a new image that starts now. One of four fails.
pub(super) fn new_task(rng: &mut fastrand::Rng, settings: &Settings, now: SystemTime) -> TaskPlan {
    let mut task = task(rng, settings, now);
    if rng.u8(..4) == 0 {
        task.outcome = failure(rng);
    }
    task
}

fn finished_task(rng: &mut fastrand::Rng, settings: &Settings) -> TaskPlan {
    let age = Duration::from_secs(rng.u64(MIN_AGE_SECS + MAX_RUN_SECS..MAX_AGE_SECS));
    let mut task = task(rng, settings, before(settings.start, age));
    task.runs_for = Duration::from_secs(rng.u64(60..MAX_RUN_SECS));
    if rng.u8(..12) == 0 {
        task.outcome = failure(rng);
    }
    task
}

fn running_task(rng: &mut fastrand::Rng, settings: &Settings, fails: bool) -> TaskPlan {
    let (shortest, _) = settings.story.runs_for;
    let age = shortest.mul_f64(rng.f64() / 3.0 / settings.speed);
    let mut task = task(rng, settings, before(settings.start, age));
    if fails {
        task.outcome = failure(rng);
    }
    task
}

fn before(time: SystemTime, age: Duration) -> SystemTime {
    time.checked_sub(age).unwrap_or(time)
}

fn task(rng: &mut fastrand::Rng, settings: &Settings, start: SystemTime) -> TaskPlan {
    let image_id = image_id(rng);
    let bucket = BUCKETS[rng.usize(..BUCKETS.len())];
    TaskPlan::new(&image_id, bucket, whole_millis(start), settings.draw_run_time(rng))
}

fn failure(rng: &mut fastrand::Rng) -> Outcome {
    let reason = REASONS[rng.usize(..REASONS.len())].to_owned();
    Outcome::Fails { at: rng.u8(40..80), reason }
}

fn image_id(rng: &mut fastrand::Rng) -> String {
    format!("ami-{:017x}", rng.u128(..1 << 68))
}
