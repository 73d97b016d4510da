//! EC2's Query API in this process: `DescribeStoreImageTasks` and `CreateStoreImageTask` over HTTP,
//! with the behaviour that clients trip over. The real SDKs, signing and XML readers talk to it.
//!
//! It knows nothing of the gateway. It does not check signatures: it takes the access key and the
//! region from them, as quotas and tasks are per account and region.

mod answer;
mod fault;
mod http;
mod journal;
mod query;
mod quota;
mod story;
mod world;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

pub use fault::{Fault, FaultKind, Wire};
pub use http::serve;
pub use journal::{Entry, Journal};
pub use quota::Quota;
pub use story::Story;
pub use world::{Outcome, TaskPlan};

use answer::Refusal;
use query::{Action, Call};
use quota::Buckets;
use world::World;

/// How the simulator behaves. Same settings, same story.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For everything that is random.
    pub seed: u64,
    /// The wall clock's time at the start.
    pub start: SystemTime,
    /// The regions that it answers for.
    pub regions: Vec<String>,
    /// What there is at the start.
    pub story: Story,
    /// How much faster than the story's durations tasks run.
    pub speed: f64,
    /// How long each answer takes.
    pub latency: Duration,
    /// Quota of `DescribeStoreImageTasks`, per access key and region.
    pub describe_quota: Quota,
    /// Quota of `CreateStoreImageTask`, per access key and region.
    pub create_quota: Quota,
    /// How long a new task is not yet shown.
    pub appear_after: Duration,
    /// How long a pagination token is taken.
    pub token_ttl: Duration,
    /// The share of calls that fail, 0 to 1.
    pub fault_rate: f64,
    /// How they fail.
    pub faults: Vec<FaultKind>,
}

impl Settings {
    /// The defaults, from this time on.
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
            token_ttl: Duration::from_hours(1),
            fault_rate: 0.0,
            faults: FaultKind::TRANSIENT.to_vec(),
        }
    }
}

/// One simulated EC2.
#[derive(Debug)]
pub struct Simulator {
    settings: Settings,
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rng: fastrand::Rng,
    worlds: HashMap<String, World>,
    buckets: Buckets,
    journal: Journal,
    script: VecDeque<Fault>,
    standing: Option<Fault>,
    mute_about_images: bool,
}

/// What becomes of a call.
#[derive(Debug)]
enum Reply {
    Body { status: u16, request_id: String, body: String },
    Broken(Wire),
}

impl Simulator {
    /// A simulator at the beginning of its story.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut rng = fastrand::Rng::with_seed(settings.seed);
        let worlds = settings
            .regions
            .iter()
            .map(|region| (region.clone(), settings.story.tell(&mut rng, &settings)))
            .collect();
        let inner = Inner {
            rng,
            worlds,
            buckets: Buckets::default(),
            journal: Journal::default(),
            script: VecDeque::new(),
            standing: None,
            mute_about_images: false,
        };
        Self { settings, started: Instant::now(), inner: Mutex::new(inner) }
    }

    /// The simulator's wall clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.settings.start + self.started.elapsed()
    }

    /// Adds a task.
    pub fn add_task(&self, region: &str, task: TaskPlan) {
        if let Some(world) = self.inner().worlds.get_mut(region) {
            world.add_task(task);
        }
    }

    /// Adds an image that has no task.
    pub fn add_image(&self, region: &str, image_id: &str) {
        if let Some(world) = self.inner().worlds.get_mut(region) {
            world.add_image(image_id);
        }
    }

    /// Takes an image away; its tasks are not listed any more.
    pub fn deregister_image(&self, region: &str, image_id: &str) {
        if let Some(world) = self.inner().worlds.get_mut(region) {
            world.deregister(image_id);
        }
    }

    /// The tasks of a region as they are planned, newest first.
    #[must_use]
    pub fn tasks(&self, region: &str) -> Vec<TaskPlan> {
        self.inner().worlds.get(region).map(World::tasks).unwrap_or_default()
    }

    /// The images of a region that have no task.
    #[must_use]
    pub fn images_without_task(&self, region: &str) -> Vec<String> {
        self.inner().worlds.get(region).map(World::images_without_task).unwrap_or_default()
    }

    /// The next calls fail in these ways, one each.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inner().script.extend(faults);
    }

    /// All calls fail in this way until further notice.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.inner().standing = fault;
    }

    /// Whether errors leave out which image ID is at fault.
    pub fn set_mute_about_images(&self, mute: bool) {
        self.inner().mute_about_images = mute;
    }

    /// A copy of the journal.
    #[must_use]
    pub fn journal(&self) -> Journal {
        self.inner().journal.clone()
    }

    /// How many calls came so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.inner().journal.calls()
    }

    /// Answers a call. The state is that of the call's arrival.
    fn reply(&self, call: &Call) -> Reply {
        let now = self.now();
        let mut inner = self.inner();
        let request_id = request_id(&mut inner.rng);
        let (reply, answer) = match inner.fault(&self.settings) {
            Some(Fault::Error { status, code, message }) => {
                let refusal = Refusal::new(status, &code, message);
                (refusal.reply(&request_id), code)
            }
            Some(Fault::Wire(wire)) => (Reply::Broken(wire), format!("({wire:?})")),
            None => match inner.answer(call, now, &self.settings, &request_id) {
                Ok(body) => {
                    let request_id = request_id.clone();
                    (Reply::Body { status: 200, request_id, body }, "OK".to_owned())
                }
                Err(refusal) => {
                    let refusal = refusal.muted(inner.mute_about_images);
                    (refusal.reply(&request_id), refusal.code().to_owned())
                }
            },
        };
        inner.journal.record(Entry {
            at: self.started.elapsed(),
            region: call.region.clone(),
            action: call.action.clone(),
            parameters: call.parameters_in_short(),
            answer,
            request_id,
        });
        reply
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn fault(&mut self, settings: &Settings) -> Option<Fault> {
        if let Some(fault) = self.script.pop_front().or_else(|| self.standing.clone()) {
            return Some(fault);
        }
        if self.rng.f64() >= settings.fault_rate {
            return None;
        }
        let kind = self.rng.choice(&settings.faults)?;
        Some(kind.fault())
    }

    fn answer(
        &mut self,
        call: &Call,
        now: SystemTime,
        settings: &Settings,
        request_id: &str,
    ) -> Result<String, Refusal> {
        if call.access_key.is_empty() {
            return Err(Refusal::missing_authentication());
        }
        let Some(world) = self.worlds.get_mut(&call.region) else {
            return Err(Refusal::region_not_enabled(&call.region));
        };
        let action = Action::parse(call)?;
        let quota = match action {
            Action::Describe(_) => settings.describe_quota,
            Action::Create(_) => settings.create_quota,
        };
        self.buckets.take(call, quota)?;
        if call.dry_run()? {
            return Err(Refusal::dry_run());
        }
        match action {
            Action::Describe(describe) => {
                let page = world.describe(&describe, now, settings)?;
                Ok(page.xml(request_id))
            }
            Action::Create(create) => {
                let key = world.create(&create, now, settings, &mut self.rng)?;
                Ok(answer::created(&key, request_id))
            }
        }
    }
}

/// In the form that EC2's have.
fn request_id(rng: &mut fastrand::Rng) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        rng.u32(..),
        rng.u16(..),
        rng.u16(..0x1000),
        rng.u16(0x8000..0xc000),
        rng.u64(..1 << 48),
    )
}
