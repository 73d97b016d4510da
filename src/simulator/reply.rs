//! The reply to each call: a fault, EC2's answer, or EC2's refusal.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, SystemTime},
};

use super::{
    action::Action,
    answer,
    fault::{Fault, Wire},
    journal::{Entry, Journal},
    page_token::{TokenFault, TokenRules},
    query::Call,
    quota::Buckets,
    refusal::Refusal,
    settings::Settings,
    story,
    world::World,
};

/// The reply to one call.
#[derive(Debug)]
pub(super) enum Reply {
    /// An HTTP response with XML.
    Body { status: u16, request_id: String, body: String },
    /// No response, or a response that EC2 never sends.
    Broken(Wire),
}

/// The changing state of a simulator.
#[derive(Debug)]
pub(super) struct State {
    pub(super) worlds: HashMap<String, World>,
    pub(super) journal: Journal,
    pub(super) script: VecDeque<Fault>,
    pub(super) standing_fault: Option<Fault>,
    pub(super) token_fault: Option<TokenFault>,
    pub(super) mute_about_images: bool,
    rng: fastrand::Rng,
    buckets: Buckets,
}

impl State {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut rng = fastrand::Rng::with_seed(settings.seed);
        let mut worlds = HashMap::new();
        for region in &settings.regions {
            worlds.insert(region.clone(), story::make_world(&mut rng, settings));
        }
        Self {
            worlds,
            journal: Journal::default(),
            script: VecDeque::new(),
            standing_fault: None,
            token_fault: settings.token_fault,
            mute_about_images: false,
            rng,
            buckets: Buckets::default(),
        }
    }

    /// Starts a task in each region in which fewer than `running` tasks run.
    pub(super) fn keep_running(&mut self, running: usize, now: SystemTime, settings: &Settings) {
        for region in &settings.regions {
            let Some(world) = self.worlds.get_mut(region) else { continue };
            world.drop_unlisted(now);
            if world.running(now) < running {
                world.add_task(story::new_task(&mut self.rng, settings, now));
            }
        }
    }

    /// Replies to a call that arrives this long after the start, and records the call and the
    /// reply.
    pub(super) fn reply(&mut self, call: &Call, at: Duration, settings: &Settings) -> Reply {
        let request_id = request_id(&mut self.rng);
        let (reply, answer) = match self.next_fault(settings, at) {
            Some(Fault::Wire(wire)) => (Reply::Broken(wire), format!("({wire:?})")),
            Some(Fault::Error { status, code, message }) => {
                refused(&Refusal::new(status, &code, message), &request_id)
            }
            None => match self.answer(call, settings.start + at, settings, &request_id) {
                Ok(body) => {
                    let request_id = request_id.clone();
                    (Reply::Body { status: 200, request_id, body }, "OK".to_owned())
                }
                Err(refusal) if self.mute_about_images => refused(&refusal.muted(), &request_id),
                Err(refusal) => refused(&refusal, &request_id),
            },
        };
        self.journal.record(Entry {
            at,
            region: call.region.clone(),
            action: call.action.clone(),
            parameters: call.parameters_in_short(),
            answer,
            request_id,
        });
        reply
    }

    /// The fault of the next call, if it has one.
    fn next_fault(&mut self, settings: &Settings, at: Duration) -> Option<Fault> {
        if let Some(fault) = self.script.pop_front() {
            return Some(fault);
        }
        if let Some(fault) = &self.standing_fault {
            return Some(fault.clone());
        }
        if let Some(trouble) = settings.troubles.iter().find(|one| one.window.contains(at)) {
            return Some(trouble.kind.fault());
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
                let rules = token_rules(settings, self.token_fault);
                let page = world.describe(&describe, now, &rules)?;
                Ok(page.xml(request_id))
            }
            Action::Create(create) => {
                let key = world.create(&create, now, settings, &mut self.rng)?;
                Ok(answer::created(&key, request_id))
            }
        }
    }
}

fn token_rules(settings: &Settings, fault: Option<TokenFault>) -> TokenRules<'_> {
    let Settings { token_ttl, token_refusal_code, .. } = settings;
    TokenRules { ttl: *token_ttl, refusal_code: token_refusal_code, fault }
}

/// The reply to a refused call, and the code for the journal.
fn refused(refusal: &Refusal, request_id: &str) -> (Reply, String) {
    let Refusal { status, code, message, .. } = refusal;
    let body = answer::error(code, message, request_id);
    let reply = Reply::Body { status: *status, request_id: request_id.to_owned(), body };
    (reply, code.clone())
}

/// A random request ID in EC2's form.
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
