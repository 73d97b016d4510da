//! Flags of a gateway, and their conversion to settings. `Settings::default()` has their defaults.

use std::time::Duration;

use clap::{Args, value_parser};

use super::connection_args::ConnectionArgs;
use super::tls_args::TlsArgs;
use super::values::{
    byte_size, byte_size_text, duration, duration_text, interval, positive_duration, rate,
};
use crate::{
    cache,
    domain::Region,
    ec2::{self, RateSettings, RetrySettings},
    grpc, server,
    watch::{self, Bounds},
};

#[derive(Debug, Args)]
pub(super) struct GatewayArgs {
    /// Region of requests that name none; without this flag, the AWS SDK's region.
    #[arg(long, env = "AMISTORE_DEFAULT_REGION", value_name = "REGION")]
    default_region: Option<Region>,

    /// Regions that requests may name beside the default region, separated by commas.
    #[arg(long, env = "AMISTORE_ALLOWED_REGIONS", value_name = "REGIONS", value_delimiter = ',')]
    allowed_regions: Vec<Region>,

    /// Time limit for a request to arrive, and for a List to be answered, unless the client's deadline
    /// is earlier.
    #[arg(long, env = "AMISTORE_REQUEST_TIMEOUT", value_name = "DURATION", value_parser = positive_duration, default_value = duration_text(grpc::Settings::default().request_timeout))]
    request_timeout: Duration,

    /// Maximum number of Lists that wait for EC2 at once, all scopes together. Those whose answer is
    /// known do not count.
    #[arg(long, env = "AMISTORE_MAX_REQUESTS", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..), default_value = grpc::Settings::default().max_requests.to_string())]
    max_requests: u32,

    #[command(flatten)]
    connections: ConnectionArgs,

    #[command(flatten)]
    cache: CacheArgs,

    #[command(flatten)]
    watch: WatchArgs,

    #[command(flatten)]
    ec2: Ec2Args,

    #[command(flatten)]
    tls: TlsArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache options")]
struct CacheArgs {
    /// Maximum age of an answer, if the request does not set max_staleness.
    #[arg(long, env = "AMISTORE_TTL", value_name = "DURATION", value_parser = duration, default_value = duration_text(cache::Settings::default().ttl))]
    ttl: Duration,

    /// Time past the TTL during which a stale answer is served while it is refreshed in the
    /// background; 0s disables this.
    #[arg(long, env = "AMISTORE_STALE_WHILE_REVALIDATE", value_name = "DURATION", value_parser = duration, default_value = duration_text(cache::Settings::default().stale_while_revalidate))]
    stale_while_revalidate: Duration,

    /// Time past the TTL during which a stale answer is served if EC2 fails transiently or takes
    /// longer than two seconds, or the call budget is spent; 0s disables this.
    #[arg(long, env = "AMISTORE_STALE_IF_ERROR", value_name = "DURATION", value_parser = duration, default_value = duration_text(cache::Settings::default().stale_if_error))]
    stale_if_error: Duration,

    /// Time for which a refusal by EC2 (access denied, bad image ID) is remembered; 0s disables
    /// this.
    #[arg(long, env = "AMISTORE_REFUSAL_TTL", value_name = "DURATION", value_parser = duration, default_value = duration_text(cache::Settings::default().refusal_ttl))]
    refusal_ttl: Duration,

    /// Maximum number of requests per scope that wait for EC2 at once.
    #[arg(long, env = "AMISTORE_MAX_WAITING", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..), default_value = cache::Settings::default().max_waiting.to_string())]
    max_waiting: u32,

    /// Maximum number of different queries per scope that wait for EC2 at once.
    #[arg(long, env = "AMISTORE_MAX_QUERIES", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..), default_value = cache::Settings::default().max_queries.to_string())]
    max_queries: u32,

    /// Maximum number of tasks per scope that are kept, at about 400 bytes each.
    #[arg(long, env = "AMISTORE_MAX_TASKS", value_name = "NUMBER", value_parser = value_parser!(u32).range(1_000..), default_value = cache::Settings::default().max_tasks.to_string())]
    max_tasks: u32,

    /// Maximum size of all encoded answers that are kept to be sent again, in bytes or with a unit;
    /// 0 disables this.
    #[arg(long, env = "AMISTORE_MAX_ANSWER_BYTES", value_name = "SIZE", value_parser = byte_size, default_value = byte_size_text(grpc::Settings::default().max_answer_bytes))]
    max_answer_bytes: u64,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Watch options")]
struct WatchArgs {
    /// Shortest interval between EC2 calls for a watched task.
    #[arg(long, env = "AMISTORE_WATCH_MIN_INTERVAL", value_name = "DURATION", value_parser = interval, default_value = duration_text(Bounds::default().min))]
    watch_min_interval: Duration,

    /// Longest interval between EC2 calls for a watched task.
    #[arg(long, env = "AMISTORE_WATCH_MAX_INTERVAL", value_name = "DURATION", value_parser = interval, default_value = duration_text(Bounds::default().max))]
    watch_max_interval: Duration,

    /// Maximum number of watches that are open at once.
    #[arg(long, env = "AMISTORE_MAX_WATCHES", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..), default_value = watch::Settings::default().max_watches.to_string())]
    max_watches: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "EC2 options")]
struct Ec2Args {
    /// Time limit of one attempt of an EC2 call.
    #[arg(long, env = "AMISTORE_ATTEMPT_TIMEOUT", value_name = "DURATION", value_parser = positive_duration, default_value = duration_text(ec2::Settings::default().attempt_timeout))]
    attempt_timeout: Duration,

    /// Maximum number of attempts of an EC2 call that fails transiently, including the first.
    #[arg(long, env = "AMISTORE_MAX_ATTEMPTS", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..=10), default_value_t = RetrySettings::default().max_attempts)]
    max_attempts: u32,

    /// EC2 calls per scope in a burst; EC2 grants 50 per account and region to all callers
    /// together.
    #[arg(long, env = "AMISTORE_CALL_BURST", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..), default_value_t = RateSettings::default().burst)]
    call_burst: u32,

    /// EC2 calls per scope and second in the long run; EC2 grants 0.5 per account and region to all
    /// callers together.
    #[arg(long, env = "AMISTORE_CALL_RATE", value_name = "RATE", value_parser = rate, default_value_t = RateSettings::default().per_second)]
    call_rate: f64,

    /// Number of gateways that ask EC2 for the same accounts; each takes its share of --call-burst and
    /// --call-rate.
    #[arg(long, env = "AMISTORE_EXPECTED_REPLICAS", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..=1_000), default_value_t = 1)]
    expected_replicas: u32,
}

impl GatewayArgs {
    /// The default region of the flag.
    pub(super) fn default_region(&self) -> Option<&Region> {
        self.default_region.as_ref()
    }

    /// The gateway's settings, with the files of TLS read; or all conflicts between flags, or else the
    /// fault of these files.
    pub(super) fn settings(&self) -> Result<server::Settings, String> {
        let conflicts = self.conflicts();
        if !conflicts.is_empty() {
            return Err(conflicts.join("; "));
        }
        Ok(server::Settings {
            cache: self.cache.settings(self.watch.max_watches as usize),
            watch: self.watch.settings(),
            ec2: self.ec2.settings(),
            default_region: self.default_region.clone().into(),
            allowed_regions: self.allowed_regions.iter().cloned().collect(),
            grpc: grpc::Settings {
                request_timeout: self.request_timeout,
                max_requests: self.max_requests as usize,
                max_answer_bytes: self.cache.max_answer_bytes,
            },
            connections: self.connections.settings(),
            tls: self.tls.acceptor()?,
        })
    }

    fn conflicts(&self) -> Vec<String> {
        let mut conflicts = self.tls.conflicts();
        let WatchArgs { watch_min_interval: min, watch_max_interval: max, .. } = self.watch;
        if min > max {
            let (min, max) = (duration_text(min), duration_text(max));
            conflicts.push(format!(
                "--watch-min-interval: expected at most {max} (--watch-max-interval), got {min}"
            ));
        }
        conflicts.extend(self.connections.conflict());
        conflicts
    }
}

impl CacheArgs {
    /// Watches have as many places among the pending queries of a scope as may be open.
    fn settings(&self, max_watches: usize) -> cache::Settings {
        cache::Settings {
            ttl: self.ttl,
            stale_while_revalidate: self.stale_while_revalidate,
            stale_if_error: self.stale_if_error,
            refusal_ttl: self.refusal_ttl,
            max_waiting: self.max_waiting as usize,
            max_queries: self.max_queries as usize,
            max_refreshes: max_watches,
            max_tasks: self.max_tasks as usize,
        }
    }
}

impl WatchArgs {
    fn settings(&self) -> watch::Settings {
        watch::Settings {
            interval: Bounds { min: self.watch_min_interval, max: self.watch_max_interval },
            max_watches: self.max_watches as usize,
        }
    }
}

impl Ec2Args {
    fn rate(&self) -> RateSettings {
        let together = RateSettings {
            burst: self.call_burst,
            per_second: self.call_rate,
            ..RateSettings::default()
        };
        together.shared_by(self.expected_replicas)
    }

    fn settings(&self) -> ec2::Settings {
        ec2::Settings {
            attempt_timeout: self.attempt_timeout,
            retry: RetrySettings { max_attempts: self.max_attempts, ..RetrySettings::default() },
            rate: self.rate(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;
    use crate::domain::RegionSearch;

    fn settings(flags: &[&str]) -> Result<server::Settings, String> {
        let command = GatewayArgs::augment_args(Command::new("gateway"));
        let args = [&["gateway"], flags].concat();
        let matches = command.try_get_matches_from(args).expect("valid one by one");
        GatewayArgs::from_arg_matches(&matches).expect("all flags").settings()
    }

    #[test]
    fn without_flags_all_settings_are_the_defaults() {
        let settings = settings(&[]).expect("valid");
        assert_eq!(format!("{settings:?}"), format!("{:?}", server::Settings::default()));
    }

    #[test]
    fn a_shortest_interval_above_the_longest_is_reported_with_both() {
        let error = settings(&["--watch-min-interval", "1m", "--watch-max-interval", "1s"])
            .expect_err("wrong together");
        assert!(error.contains("--watch-min-interval") && error.contains("1s"), "{error}");
    }

    #[test]
    fn the_list_of_regions_names_the_others() {
        let flags = ["--default-region", "us-east-1", "--allowed-regions", "eu-west-1"];
        let settings = settings(&flags).expect("valid");
        let region = Region::parse("us-east-1").expect("valid");
        assert_eq!(settings.default_region.get(), RegionSearch::Ended(Some(region)));
        assert_eq!(settings.allowed_regions.len(), 1);
    }
}
