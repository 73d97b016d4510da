//! The tasks and images of one region, and what EC2 says of them at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    Settings,
    answer::{Item, Page, Refusal},
    query::{Create, Describe},
    story,
};

/// EC2 lists tasks of the last 31 days.
const LISTED_FOR: Duration = Duration::from_hours(744);

/// The most that a page has.
const PAGE: usize = 200;

/// A task from its beginning to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskPlan {
    /// The image.
    pub image_id: String,
    /// The bucket.
    pub bucket: String,
    /// When it starts.
    pub start: SystemTime,
    /// When it begins to be listed.
    pub listed_from: SystemTime,
    /// How long it waits before there is progress.
    pub queued_for: Duration,
    /// How long it then takes from 0 to 100 percent.
    pub runs_for: Duration,
    /// How it ends.
    pub outcome: Outcome,
}

/// How a task ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored.
    Completes,
    /// It fails.
    Fails {
        /// At this progress, in percent.
        at: u8,
        /// For this reason.
        reason: String,
    },
}

impl TaskPlan {
    /// A task that runs for this long and is completed.
    #[must_use]
    pub fn new(image_id: &str, bucket: &str, start: SystemTime, runs_for: Duration) -> Self {
        Self {
            image_id: image_id.to_owned(),
            bucket: bucket.to_owned(),
            start,
            listed_from: start,
            queued_for: Duration::ZERO,
            runs_for,
            outcome: Outcome::Completes,
        }
    }

    /// Fails at this progress, for this reason.
    #[must_use]
    pub fn failing(mut self, at: u8, reason: &str) -> Self {
        self.outcome = Outcome::Fails { at, reason: reason.to_owned() };
        self
    }

    /// Whether it is still to end.
    #[must_use]
    pub fn is_running(&self, now: SystemTime) -> bool {
        self.at(now).store_task_state == "InProgress"
    }

    fn at(&self, now: SystemTime) -> Item {
        let ran = now.duration_since(self.start + self.queued_for).unwrap_or_default();
        let done = ran.as_secs_f64() / self.runs_for.as_secs_f64().max(f64::MIN_POSITIVE);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        let percent = (done * 100.0).clamp(0.0, 100.0) as u8;
        let (state, progress, reason) = match &self.outcome {
            Outcome::Fails { at, reason } if percent >= *at => {
                ("Failed", *at, Some(reason.clone()))
            }
            _ if percent == 100 => ("Completed", 100, None),
            _ => ("InProgress", percent, None),
        };
        Item {
            ami_id: self.image_id.clone(),
            task_start_time: self.start,
            bucket: self.bucket.clone(),
            s3_object_key: format!("{}.bin", self.image_id),
            progress_percentage: progress,
            store_task_state: state,
            store_task_failure_reason: reason,
        }
    }
}

/// Newest first, then by image and bucket.
type Place = (std::cmp::Reverse<SystemTime>, String, String);

#[derive(Debug, Default)]
pub(super) struct World {
    tasks: BTreeMap<Place, TaskPlan>,
    images: BTreeSet<String>,
}

impl World {
    pub(super) fn add_task(&mut self, task: TaskPlan) {
        self.images.insert(task.image_id.clone());
        let place = (std::cmp::Reverse(task.start), task.image_id.clone(), task.bucket.clone());
        self.tasks.insert(place, task);
    }

    pub(super) fn add_image(&mut self, image_id: &str) {
        self.images.insert(image_id.to_owned());
    }

    pub(super) fn deregister(&mut self, image_id: &str) {
        self.images.remove(image_id);
        self.tasks.retain(|_, task| task.image_id != image_id);
    }

    pub(super) fn tasks(&self) -> Vec<TaskPlan> {
        self.tasks.values().cloned().collect()
    }

    pub(super) fn images_without_task(&self) -> Vec<String> {
        let with: BTreeSet<_> = self.tasks.values().map(|task| &task.image_id).collect();
        self.images.iter().filter(|image| !with.contains(image)).cloned().collect()
    }

    pub(super) fn describe(
        &self,
        describe: &Describe,
        now: SystemTime,
        settings: &Settings,
    ) -> Result<Page, Refusal> {
        if describe.image_ids.is_empty() {
            self.list(describe, now, settings)
        } else {
            self.look_up(&describe.image_ids, now)
        }
    }

    fn listed(&self, now: SystemTime) -> impl Iterator<Item = (&Place, &TaskPlan)> {
        self.tasks.iter().filter(move |(_, task)| {
            task.listed_from <= now
                && task.start <= now
                && now.duration_since(task.start).is_ok_and(|age| age <= LISTED_FOR)
        })
    }

    /// The latest task of each image; filters are silently ignored (aws/aws-sdk issue 601).
    fn look_up(&self, image_ids: &[String], now: SystemTime) -> Result<Page, Refusal> {
        for image_id in image_ids {
            self.check_image(image_id)?;
        }
        let mut seen = BTreeSet::new();
        let items = self
            .listed(now)
            .filter(|(_, task)| image_ids.contains(&task.image_id) && seen.insert(&task.image_id))
            .map(|(_, task)| task.at(now))
            .collect();
        Ok(Page { items, next_token: None })
    }

    fn list(
        &self,
        describe: &Describe,
        now: SystemTime,
        settings: &Settings,
    ) -> Result<Page, Refusal> {
        let after = match &describe.next_token {
            Some(token) => Some(read_token(token, now, settings).ok_or_else(|| {
                Refusal::new(400, "InvalidNextToken", "The token is not valid or has expired")
            })?),
            None => None,
        };
        let size = describe.max_results.unwrap_or(PAGE);
        let passes = |allowed: &[String], value: &str| {
            allowed.is_empty() || allowed.iter().any(|one| one == value)
        };
        let mut items = self
            .listed(now)
            .filter(|(place, _)| after.as_ref().is_none_or(|after| *place > after))
            .map(|(_, task)| task.at(now))
            .filter(|item| {
                passes(&describe.states, item.store_task_state)
                    && passes(&describe.buckets, &item.bucket)
            });
        let page: Vec<_> = items.by_ref().take(size).collect();
        let more = items.next().is_some();
        let next_token = page.last().filter(|_| more).map(|last| write_token(last, now));
        Ok(Page { items: page, next_token })
    }

    pub(super) fn create(
        &mut self,
        create: &Create,
        now: SystemTime,
        settings: &Settings,
        rng: &mut fastrand::Rng,
    ) -> Result<String, Refusal> {
        self.check_image(&create.image_id)?;
        let bucket_ok = (3..=63).contains(&create.bucket.len())
            && create
                .bucket
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
        if !bucket_ok {
            return Err(Refusal::new(
                400,
                "InvalidBucketName",
                "The specified bucket is not valid.",
            ));
        }
        let runs_for = story::runs_for(rng, settings);
        // EC2 says the start to the millisecond.
        let start = story::whole_millis(now);
        let mut task = TaskPlan::new(&create.image_id, &create.bucket, start, runs_for);
        task.listed_from = now + settings.appear_after;
        self.add_task(task);
        Ok(format!("{}.bin", create.image_id))
    }

    fn check_image(&self, image_id: &str) -> Result<(), Refusal> {
        let digits = image_id.strip_prefix("ami-").unwrap_or_default();
        if !matches!(digits.len(), 8 | 17) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Refusal::new(
                400,
                "InvalidAMIID.Malformed",
                format!("Invalid id: \"{image_id}\" (expecting \"ami-...\")"),
            ));
        }
        if !self.images.contains(image_id) {
            return Err(Refusal::new(
                400,
                "InvalidAMIID.NotFound",
                format!("The image id '[{image_id}]' does not exist"),
            ));
        }
        Ok(())
    }
}

/// A token is the place of the last task and the time of issue.
fn write_token(last: &Item, now: SystemTime) -> String {
    let millis = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
    };
    let Item { task_start_time, ami_id, bucket, .. } = last;
    let text = format!("{}/{}/{ami_id}/{bucket}", millis(now), millis(*task_start_time));
    URL_SAFE_NO_PAD.encode(text)
}

fn read_token(token: &str, now: SystemTime, settings: &Settings) -> Option<Place> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let mut parts = text.splitn(4, '/');
    let mut time = || {
        let millis = parts.next()?.parse().ok()?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    };
    let (issued, start) = (time()?, time()?);
    if now.duration_since(issued).unwrap_or_default() > settings.token_ttl {
        return None;
    }
    Some((std::cmp::Reverse(start), parts.next()?.to_owned(), parts.next()?.to_owned()))
}
