//! The tasks and images of one region, and EC2's answers about them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::SystemTime,
};

use super::{
    action::{Create, Describe},
    answer::{Item, Page},
    page_token::{PageToken, Position, TokenFault, TokenRules},
    refusal::Refusal,
    settings::Settings,
    task::{TaskPlan, whole_millis},
};
use crate::domain::{MAX_TASKS_PER_CALL, TASK_LISTED_FOR};

/// The tasks and images of one region.
#[derive(Debug, Default)]
pub(super) struct World {
    tasks: BTreeMap<Position, TaskPlan>,
    /// The time from which EC2 knows each image.
    images: BTreeMap<String, SystemTime>,
    /// The code with which EC2 refuses an image.
    refused: BTreeMap<String, String>,
}

impl World {
    /// Adds a task. If its image is new, EC2 knows it at once.
    pub(super) fn add_task(&mut self, task: TaskPlan) {
        self.images.entry(task.image_id.clone()).or_insert(SystemTime::UNIX_EPOCH);
        let position = (Reverse(task.start), task.image_id.clone(), task.bucket.clone());
        self.tasks.insert(position, task);
    }

    /// Adds an image that EC2 knows from this time on.
    pub(super) fn add_image(&mut self, image_id: &str, known_from: SystemTime) {
        self.images.insert(image_id.to_owned(), known_from);
    }

    /// Makes EC2 refuse an image with this code. None ends the refusal.
    pub(super) fn refuse_image(&mut self, image_id: &str, code: Option<&str>) {
        match code {
            Some(code) => self.refused.insert(image_id.to_owned(), code.to_owned()),
            None => self.refused.remove(image_id),
        };
    }

    /// Removes an image. Its tasks stay.
    pub(super) fn deregister(&mut self, image_id: &str) {
        self.images.remove(image_id);
    }

    /// Removes the tasks of an image. The image stays.
    pub(super) fn forget_tasks(&mut self, image_id: &str) {
        self.tasks.retain(|_, task| task.image_id != image_id);
    }

    /// The number of tasks in progress.
    pub(super) fn running(&self, now: SystemTime) -> usize {
        self.tasks.values().filter(|task| task.is_running(now)).count()
    }

    /// Removes the tasks that are too old to be listed, and their images.
    pub(super) fn drop_unlisted(&mut self, now: SystemTime) {
        while let Some(oldest) = self.tasks.last_entry()
            && now.duration_since(oldest.get().start).is_ok_and(|age| age > TASK_LISTED_FOR)
        {
            let task = oldest.remove();
            self.images.remove(&task.image_id);
        }
    }

    pub(super) fn tasks(&self) -> Vec<TaskPlan> {
        self.tasks.values().cloned().collect()
    }

    pub(super) fn images_without_task(&self) -> Vec<String> {
        let mut images = self.images.clone();
        for task in self.tasks.values() {
            images.remove(&task.image_id);
        }
        images.into_keys().collect()
    }

    pub(super) fn describe(
        &self,
        describe: &Describe,
        now: SystemTime,
        rules: &TokenRules<'_>,
    ) -> Result<Page, Refusal> {
        if describe.image_ids.is_empty() {
            self.list(describe, now, rules)
        } else {
            self.look_up(&describe.image_ids, now)
        }
    }

    /// The latest task of each image. Like EC2, it silently ignores filters (aws/aws-sdk issue 601).
    fn look_up(&self, image_ids: &[String], now: SystemTime) -> Result<Page, Refusal> {
        for image_id in image_ids {
            self.check_image(image_id, now)?;
        }
        // The tasks are in the order of their start, newest first.
        let mut left: BTreeSet<&String> = image_ids.iter().collect();
        let mut items = Vec::new();
        for task in self.tasks.values() {
            if is_listed(task, now) && left.remove(&task.image_id) {
                items.push(task.at(now));
            }
        }
        Ok(Page { items, next_token: None })
    }

    fn list(
        &self,
        describe: &Describe,
        now: SystemTime,
        rules: &TokenRules<'_>,
    ) -> Result<Page, Refusal> {
        let Some(text) = &describe.next_token else {
            return Ok(self.page(describe, now, 1, Bound::Unbounded));
        };
        let token = rules.read(text, now)?;
        let mut page = self.page(describe, now, token.page, Bound::Excluded(token.after));
        if rules.fault == Some(TokenFault::Repeated) {
            page.next_token = Some(text.clone());
        }
        Ok(page)
    }

    /// The page with this number, which begins at this position.
    fn page(
        &self,
        describe: &Describe,
        now: SystemTime,
        number: u32,
        from: Bound<Position>,
    ) -> Page {
        let size = usize::from(describe.max_results.unwrap_or(MAX_TASKS_PER_CALL));
        let mut items = Vec::new();
        let mut last = None;
        for (position, task) in self.tasks.range((from, Bound::Unbounded)) {
            let item = task.at(now);
            if !is_listed(task, now) || !matches_filters(&item, describe) {
                continue;
            }
            // There is one more task than the page holds, so there is a next page.
            if items.len() == size
                && let Some(after) = last
            {
                let token =
                    PageToken { issued: now, page: number + 1, after: Position::clone(after) };
                return Page { items, next_token: Some(token.encode()) };
            }
            items.push(item);
            last = Some(position);
        }
        Page { items, next_token: None }
    }

    pub(super) fn create(
        &mut self,
        create: &Create,
        now: SystemTime,
        settings: &Settings,
        rng: &mut fastrand::Rng,
    ) -> Result<String, Refusal> {
        self.check_image(&create.image_id, now)?;
        create.check_bucket()?;
        let runs_for = settings.draw_run_time(rng);
        let start = whole_millis(now);
        let mut task = TaskPlan::new(&create.image_id, &create.bucket, start, runs_for);
        task.listed_from = now + settings.appear_after;
        let since_start = now.duration_since(settings.start).unwrap_or_default();
        if let Some(bucket) = settings.failing_buckets.get(&create.bucket)
            && bucket.fails_at(since_start)
        {
            task = task.failing_after(bucket.after);
        }
        self.add_task(task);
        Ok(format!("{}.bin", create.image_id))
    }

    fn check_image(&self, image_id: &str, now: SystemTime) -> Result<(), Refusal> {
        if !is_image_id(image_id) {
            return Err(Refusal::of_image("InvalidAMIID.Malformed", image_id));
        }
        if let Some(code) = self.refused.get(image_id) {
            return Err(Refusal::of_image(code, image_id));
        }
        match self.images.get(image_id) {
            Some(known_from) if *known_from <= now => Ok(()),
            _ => Err(Refusal::of_image("InvalidAMIID.NotFound", image_id)),
        }
    }
}

fn is_image_id(text: &str) -> bool {
    let digits = text.strip_prefix("ami-").unwrap_or_default();
    matches!(digits.len(), 8 | 17) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_listed(task: &TaskPlan, now: SystemTime) -> bool {
    let Ok(age) = now.duration_since(task.start) else {
        return false;
    };
    task.listed_from <= now && age <= TASK_LISTED_FOR
}

fn matches_filters(item: &Item, describe: &Describe) -> bool {
    let Describe { states, buckets, .. } = describe;
    (states.is_empty() || states.contains(&item.store_task_state))
        && (buckets.is_empty() || buckets.contains(&item.bucket))
}
