//! Flags of a gateway, and the settings that they make.

use std::time::Duration;

use clap::Args;

use super::values::{duration, positive_duration, positive_number};
use crate::{
    cache,
    domain::Region,
    ec2::{self, RateSettings, RetrySettings},
    grpc, server,
    watch::{self, Bounds},
};

/// All that can be set of a gateway.
#[derive(Debug, Args)]
pub(super) struct GatewayArgs {
    /// The region of requests that name none. Default: the AWS SDK's.
    #[arg(long, env = "AMISTORE_DEFAULT_REGION", value_name = "REGION")]
    default_region: Option<Region>,

    /// The only regions that may be asked for; separate several with commas. Default: all.
    #[arg(long, env = "AMISTORE_ALLOWED_REGIONS", value_name = "REGIONS", value_delimiter = ',')]
    allowed_regions: Vec<Region>,

    /// How old an answer may be when a request does not say (max_staleness).
    #[arg(long, env = "AMISTORE_TTL", value_name = "DURATION", value_parser = duration, default_value = "5s")]
    ttl: Duration,

    /// For this long past the TTL, the old answer is given at once and refreshed behind it; 0s
    /// switches it off.
    #[arg(long, env = "AMISTORE_STALE_WHILE_REVALIDATE", value_name = "DURATION", value_parser = duration, default_value = "5s")]
    stale_while_revalidate: Duration,

    /// For this long past the TTL, the old answer is given when EC2 cannot be asked or takes longer
    /// than two seconds; 0s switches it off.
    #[arg(long, env = "AMISTORE_STALE_IF_ERROR", value_name = "DURATION", value_parser = duration, default_value = "5m")]
    stale_if_error: Duration,

    /// How long a refusal (denied, bad ID) is remembered; 0s switches it off.
    #[arg(long, env = "AMISTORE_REFUSAL_TTL", value_name = "DURATION", value_parser = duration, default_value = "1s")]
    refusal_ttl: Duration,

    /// Most accounts and regions that are kept at once; twice as many may be in use.
    #[arg(long, env = "AMISTORE_MAX_SCOPES", value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..), default_value_t = 64)]
    max_scopes: u64,

    /// A scope that nobody asked about for this long is forgotten.
    #[arg(long, env = "AMISTORE_SCOPE_IDLE", value_name = "DURATION", value_parser = positive_duration, default_value = "1h")]
    scope_idle: Duration,

    /// Most requests that may wait for EC2 at once, in each scope.
    #[arg(long, env = "AMISTORE_MAX_WAITING", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..), default_value_t = 100_000)]
    max_waiting: u32,

    /// Most different questions that may wait for EC2 at once, in each scope.
    #[arg(long, env = "AMISTORE_MAX_QUERIES", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..), default_value_t = 10_000)]
    max_queries: u32,

    /// Most tasks that are kept of each scope; about 400 bytes each.
    #[arg(long, env = "AMISTORE_MAX_TASKS", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1_000..), default_value_t = 200_000)]
    max_tasks: u32,

    /// Most bytes of encoded answers that are kept to be sent again, all scopes together; 0
    /// switches it off.
    #[arg(long, env = "AMISTORE_MAX_ANSWER_BYTES", value_name = "NUMBER", default_value_t = 64 << 20)]
    max_answer_bytes: u64,

    /// EC2 is asked for a watched task no more often than this.
    #[arg(long, env = "AMISTORE_WATCH_MIN_INTERVAL", value_name = "DURATION", value_parser = positive_duration, default_value = "2500ms")]
    watch_min_interval: Duration,

    /// EC2 is asked for a watched task at least this often.
    #[arg(long, env = "AMISTORE_WATCH_MAX_INTERVAL", value_name = "DURATION", value_parser = positive_duration, default_value = "30s")]
    watch_max_interval: Duration,

    /// Most watches that may be open at once.
    #[arg(long, env = "AMISTORE_MAX_WATCHES", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..), default_value_t = 50_000)]
    max_watches: u32,

    /// How long one attempt of an EC2 call may take.
    #[arg(long, env = "AMISTORE_ATTEMPT_TIMEOUT", value_name = "DURATION", value_parser = positive_duration, default_value = "10s")]
    attempt_timeout: Duration,

    /// Most attempts of an EC2 call that fails transiently, the first included.
    #[arg(long, env = "AMISTORE_MAX_ATTEMPTS", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10), default_value_t = 3)]
    max_attempts: u32,

    /// EC2 calls of a scope in a burst. EC2 grants an account 50 per region, to all callers
    /// together.
    #[arg(long, env = "AMISTORE_CALL_BURST", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..), default_value_t = 40)]
    call_burst: u32,

    /// EC2 calls of a scope a second, in the long run. EC2 grants an account 0.5 per region, to
    /// all callers together.
    #[arg(long, env = "AMISTORE_CALL_RATE", value_name = "PER SECOND", value_parser = positive_number, default_value = "0.4")]
    call_rate: f64,

    /// How long a List, or the beginning of a Watch, may take when the client sets no deadline.
    #[arg(long, env = "AMISTORE_REQUEST_TIMEOUT", value_name = "DURATION", value_parser = positive_duration, default_value = "30s")]
    request_timeout: Duration,

    /// How long a shutdown waits for requests that are under way.
    #[arg(long, env = "AMISTORE_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = "35s")]
    drain_timeout: Duration,
}

impl GatewayArgs {
    /// The settings, or all that does not go together.
    pub(super) fn settings(&self) -> Result<server::Settings, String> {
        let mut wrong = Vec::new();
        if self.watch_min_interval > self.watch_max_interval {
            wrong.push(format!(
                "--watch-min-interval {} is longer than --watch-max-interval {}",
                humantime::format_duration(self.watch_min_interval),
                humantime::format_duration(self.watch_max_interval),
            ));
        }
        if let Some(region) = &self.default_region
            && !self.allowed_regions.is_empty()
            && !self.allowed_regions.contains(region)
        {
            wrong.push(format!("--default-region {region} is not among --allowed-regions"));
        }
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        Ok(server::Settings {
            cache: cache::Settings {
                ttl: self.ttl,
                stale_while_revalidate: self.stale_while_revalidate,
                stale_if_error: self.stale_if_error,
                refusal_ttl: self.refusal_ttl,
                max_scopes: self.max_scopes,
                scope_idle: self.scope_idle,
                max_waiting: self.max_waiting as usize,
                max_queries: self.max_queries as usize,
                max_tasks: self.max_tasks as usize,
            },
            watch: watch::Settings {
                interval: Bounds { min: self.watch_min_interval, max: self.watch_max_interval },
                max_watches: self.max_watches as usize,
            },
            ec2: ec2::Settings {
                attempt_timeout: self.attempt_timeout,
                retry: RetrySettings {
                    max_attempts: self.max_attempts,
                    ..RetrySettings::default()
                },
                rate: RateSettings { burst: self.call_burst, per_second: self.call_rate },
            },
            default_region: self.default_region.clone(),
            allowed_regions: self.allowed_regions.iter().cloned().collect(),
            grpc: grpc::Settings {
                request_timeout: self.request_timeout,
                max_answer_bytes: self.max_answer_bytes,
            },
            drain_timeout: self.drain_timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;

    fn settings(flags: &[&str]) -> Result<server::Settings, String> {
        let command = GatewayArgs::augment_args(Command::new("gateway"));
        let args = [&["gateway"], flags].concat();
        let matches = command.try_get_matches_from(args).expect("valid one by one");
        GatewayArgs::from_arg_matches(&matches).expect("all flags").settings()
    }

    #[test]
    fn all_conflicts_are_reported_together() {
        let error = settings(&[
            "--watch-min-interval",
            "1m",
            "--watch-max-interval",
            "1s",
            "--default-region",
            "us-east-1",
            "--allowed-regions",
            "eu-west-1",
        ])
        .expect_err("wrong together");
        assert!(
            error.contains("--watch-min-interval") && error.contains("--default-region"),
            "{error}"
        );
    }
}
