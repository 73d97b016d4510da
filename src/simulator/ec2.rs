//! One simulated EC2: its clock, its state, and the changes that tests make to it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    fault::Fault,
    journal::Journal,
    page_token::TokenFault,
    query::Call,
    reply::{Reply, State},
    settings::Settings,
    task::TaskPlan,
    world::World,
};

/// One simulated EC2.
#[derive(Debug)]
pub struct Simulator {
    settings: Settings,
    started: Instant,
    state: Mutex<State>,
}

impl Simulator {
    /// A simulator that starts now.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let state = Mutex::new(State::new(&settings));
        Self { settings, started: Instant::now(), state }
    }

    /// The current time of the simulator's wall clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.settings.start + self.started.elapsed()
    }

    /// Adds a task.
    pub fn add_task(&self, region: &str, task: TaskPlan) {
        self.change(region, |world| world.add_task(task));
    }

    /// Starts a task of a new image in each region in which fewer than `running` tasks run, so that the
    /// story goes on for as long as this is called. Tasks that EC2 no longer lists are dropped.
    pub fn keep_running(&self, running: usize) {
        let now = self.now();
        self.state().keep_running(running, now, &self.settings);
    }

    /// Adds an image that has no task. EC2 knows it after [`Settings::image_appear_after`].
    pub fn add_image(&self, region: &str, image_id: &str) {
        let known_from = self.now() + self.settings.image_appear_after;
        self.change(region, |world| world.add_image(image_id, known_from));
    }

    /// Makes EC2 refuse look-ups and `CreateStoreImageTask` of an image with this error code. None
    /// ends the refusal.
    pub fn refuse_image(&self, region: &str, image_id: &str, code: Option<&str>) {
        self.change(region, |world| world.refuse_image(image_id, code));
    }

    /// Deregisters an image. EC2 no longer knows it, but lists its tasks until they are 31 days old.
    pub fn deregister_image(&self, region: &str, image_id: &str) {
        self.change(region, |world| world.deregister(image_id));
    }

    /// Makes EC2 forget the tasks of an image: it no longer lists them. It still knows the image.
    pub fn forget_tasks(&self, region: &str, image_id: &str) {
        self.change(region, |world| world.forget_tasks(image_id));
    }

    /// The plans of a region's tasks, newest first.
    #[must_use]
    pub fn tasks(&self, region: &str) -> Vec<TaskPlan> {
        match self.state().worlds.get(region) {
            Some(world) => world.tasks(),
            None => Vec::new(),
        }
    }

    /// The images of a region that have no task.
    #[must_use]
    pub fn images_without_task(&self, region: &str) -> Vec<String> {
        match self.state().worlds.get(region) {
            Some(world) => world.images_without_task(),
            None => Vec::new(),
        }
    }

    /// Makes the next calls fail with these faults, one each.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().script.extend(faults);
    }

    /// Makes all calls fail with this fault until the next change. None ends the fault.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().standing_fault = fault;
    }

    /// Sets the fault of all pagination tokens. None ends the fault.
    pub fn set_token_fault(&self, fault: Option<TokenFault>) {
        self.state().token_fault = fault;
    }

    /// Sets whether error messages leave out the image ID that EC2 refuses.
    pub fn set_mute_about_images(&self, mute: bool) {
        self.state().mute_about_images = mute;
    }

    /// A copy of the journal.
    #[must_use]
    pub fn journal(&self) -> Journal {
        self.state().journal.clone()
    }

    /// The number of calls so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state().journal.calls()
    }

    /// The reply to a call, from the state at the call's arrival.
    pub(super) fn reply(&self, call: &Call) -> Reply {
        self.state().reply(call, self.started.elapsed(), &self.settings)
    }

    /// The time that each answer takes.
    pub(super) fn latency(&self) -> Duration {
        self.settings.latency
    }

    /// Changes a region. Does nothing for a region that the simulator does not answer for.
    fn change(&self, region: &str, change: impl FnOnce(&mut World)) {
        if let Some(world) = self.state().worlds.get_mut(region) {
            change(world);
        }
    }

    /// Locks the state. The state stays valid if a holder of the lock panics, so poisoning is
    /// ignored.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
