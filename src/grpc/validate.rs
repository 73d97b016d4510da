//! Requests, parsed into what cannot be wrong. All that is wrong is reported together.

use std::{collections::BTreeSet, fmt, time::Duration};

use tonic::Status;
use tonic_types::FieldViolation;

use super::{
    page_token::{self, Fingerprint},
    status::status_of_violations,
};
use crate::{
    domain::{
        AccountName, BucketName, ImageId, NameError, Region, Scope, TaskFilter, TaskKey,
        TaskStateKind,
    },
    proto::{ListStoreImageTasksRequest, StoreImageTaskState, WatchStoreImageTaskRequest},
    watch::WatchQuery,
};

const MOST_IMAGES: usize = 1_000;
const MOST_BUCKETS: usize = 200;
const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;
/// EC2 lists the tasks of so many days; no older answer could be meant.
const LONGEST: Duration = Duration::from_hours(744);
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(1);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);

/// Which scopes may be asked for.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// The region of a request that names none.
    pub default_region: Option<Region>,
    /// The only regions that may be asked for. Empty: all.
    pub allowed_regions: BTreeSet<Region>,
}

/// A page of a List: what the answer's tasks depend on.
#[derive(Debug)]
pub(super) struct ListPage {
    pub(super) scope: Scope,
    pub(super) filter: TaskFilter,
    pub(super) page_size: usize,
    pub(super) after: Option<TaskKey>,
}

/// A List that is valid.
#[derive(Debug)]
pub(super) struct ListQuery {
    pub(super) page: ListPage,
    pub(super) max_staleness: Option<Duration>,
    pub(super) dry_run: bool,
}

impl Accounts {
    pub(super) fn list(&self, request: &ListStoreImageTasksRequest) -> Result<ListQuery, Status> {
        let mut wrong = Violations::default();
        let scope = self.scope(&request.account, &request.region, &mut wrong);
        let filter = TaskFilter {
            images: wrong.names("image_ids", &request.image_ids, MOST_IMAGES, ImageId::parse),
            states: wrong.states(&request.states),
            buckets: wrong.names("buckets", &request.buckets, MOST_BUCKETS, BucketName::parse),
        };
        let page_size = match usize::try_from(request.page_size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(LARGEST_PAGE),
            Err(_) => {
                wrong.add(
                    "page_size",
                    format!("{} is negative; 0 to 1,000 is right, 0 being 100", request.page_size),
                );
                DEFAULT_PAGE
            }
        };
        let max_staleness = request
            .max_staleness
            .and_then(|given| wrong.duration("max_staleness", given, Duration::ZERO));
        let after = match &scope {
            // A token is only judged by arguments that are right themselves.
            Some(scope) if wrong.0.is_empty() && !request.page_token.is_empty() => {
                page_token::read(Fingerprint::of(scope, &filter), &request.page_token)
                    .map_err(|error| wrong.add("page_token", error))
                    .ok()
            }
            _ => None,
        };
        match scope {
            Some(scope) if wrong.0.is_empty() => Ok(ListQuery {
                page: ListPage { scope, filter, page_size, after },
                max_staleness,
                dry_run: request.dry_run,
            }),
            _ => Err(status_of_violations(wrong.0)),
        }
    }

    pub(super) fn watch(
        &self,
        request: &WatchStoreImageTaskRequest,
    ) -> Result<(WatchQuery, Duration), Status> {
        let mut wrong = Violations::default();
        let scope = self.scope(&request.account, &request.region, &mut wrong);
        let image = wrong.name("image_id".to_owned(), &request.image_id, ImageId::parse);
        let bucket = match request.bucket.as_str() {
            "" => None,
            bucket => wrong.name("bucket".to_owned(), bucket, BucketName::parse),
        };
        let heartbeat = match request.heartbeat_interval {
            None => Some(DEFAULT_HEARTBEAT),
            Some(given) => wrong.duration("heartbeat_interval", given, SHORTEST_HEARTBEAT),
        };
        match (scope, image, heartbeat) {
            (Some(scope), Some(image), Some(heartbeat)) if wrong.0.is_empty() => {
                let wait_for_task = request.wait_for_task;
                Ok((WatchQuery { scope, image, bucket, wait_for_task }, heartbeat))
            }
            _ => Err(status_of_violations(wrong.0)),
        }
    }

    fn scope(&self, account: &str, region: &str, wrong: &mut Violations) -> Option<Scope> {
        let known = matches!(account, "" | AccountName::DEFAULT);
        if !known {
            wrong.add(
                "account",
                format_args!(
                    "{:?} is not configured; {:?} is, and an empty name means it",
                    account.chars().take(64).collect::<String>(),
                    AccountName::DEFAULT
                ),
            );
        }
        let region = match (region, &self.default_region) {
            ("", Some(default)) => Some(default.clone()),
            ("", None) => {
                wrong.add("region", "is empty, and the gateway has no default region: name one, such as \"us-east-1\"");
                None
            }
            (given, _) => wrong.name("region".to_owned(), given, Region::parse),
        }?;
        if !self.allowed_regions.is_empty() && !self.allowed_regions.contains(&region) {
            let allowed: Vec<_> = self.allowed_regions.iter().map(Region::as_str).collect();
            wrong.add(
                "region",
                format_args!("{region} is not allowed here; allowed are {}", allowed.join(", ")),
            );
            return None;
        }
        known.then(|| Scope { account: AccountName::default(), region })
    }
}

/// What is wrong, field by field.
#[derive(Debug, Default)]
struct Violations(Vec<FieldViolation>);

impl Violations {
    /// More than so many are not listed: it is the client's mistake, not a survey.
    const MOST: usize = 20;

    fn add(&mut self, field: impl Into<String>, description: impl fmt::Display) {
        if self.0.len() < Self::MOST {
            self.0.push(FieldViolation::new(field, description.to_string()));
        }
    }

    fn name<T>(
        &mut self,
        field: String,
        text: &str,
        parse: fn(&str) -> Result<T, NameError>,
    ) -> Option<T> {
        parse(text).map_err(|error| self.add(field, error)).ok()
    }

    fn names<T: Ord>(
        &mut self,
        field: &str,
        texts: &[String],
        most: usize,
        parse: fn(&str) -> Result<T, NameError>,
    ) -> BTreeSet<T> {
        if texts.len() > most {
            self.add(
                field,
                format_args!("has {} entries; at most {most} are allowed", texts.len()),
            );
            return BTreeSet::new();
        }
        let parsed = texts.iter().enumerate();
        parsed
            .filter_map(|(index, text)| self.name(format!("{field}[{index}]"), text, parse))
            .collect()
    }

    fn states(&mut self, numbers: &[i32]) -> BTreeSet<TaskStateKind> {
        let mut states = BTreeSet::new();
        for (index, number) in numbers.iter().enumerate() {
            match StoreImageTaskState::try_from(*number) {
                Ok(StoreImageTaskState::InProgress) => states.insert(TaskStateKind::InProgress),
                Ok(StoreImageTaskState::Completed) => states.insert(TaskStateKind::Completed),
                Ok(StoreImageTaskState::Failed) => states.insert(TaskStateKind::Failed),
                Ok(StoreImageTaskState::Unspecified) | Err(_) => {
                    self.add(
                        format!("states[{index}]"),
                        format_args!("{number} is not a state that can be asked for; IN_PROGRESS (1), COMPLETED (2) and FAILED (3) are"),
                    );
                    false
                }
            };
        }
        states
    }

    fn duration(
        &mut self,
        field: &str,
        given: prost_types::Duration,
        least: Duration,
    ) -> Option<Duration> {
        let (seconds, nanos) = (given.seconds, given.nanos);
        let parsed = u64::try_from(seconds)
            .ok()
            .zip(u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000))
            .map(|(seconds, nanos)| Duration::new(seconds, nanos))
            .filter(|duration| (least..=LONGEST).contains(duration));
        if parsed.is_none() {
            self.add(field, format_args!(
                "{seconds} s and {nanos} ns is out of bounds; {} s to {} s (31 days) is right, with 0 to 999,999,999 ns",
                least.as_secs(),
                LONGEST.as_secs(),
            ));
        }
        parsed
    }
}
