//! Flags of the connections of the gateway's port, and their conversion to settings.

use std::time::Duration;

use clap::{Args, value_parser};

use super::values::{byte_size, byte_size_text, duration, duration_text, positive_duration};
use crate::server::{ConnectionSettings, DrainSettings};

/// 16 MiB: a quarter of it, which is what one connection gets, holds the largest answer.
const LEAST_BYTES: u64 = 16 << 20;

/// Time that a drain needs after its watches have ended.
const AFTER_SPREAD: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection options")]
pub(super) struct ConnectionArgs {
    /// Maximum number of open connections; fewer if the limit of open files is lower.
    #[arg(long, env = "AMISTORE_MAX_CONNECTIONS", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..), default_value = ConnectionSettings::default().max_connections.to_string())]
    max_connections: u32,

    /// Time after which a connection without calls is closed.
    #[arg(long, env = "AMISTORE_CONNECTION_IDLE", value_name = "DURATION", value_parser = positive_duration, default_value = duration_text(ConnectionSettings::default().idle))]
    connection_idle: Duration,

    /// Age at which a client is told to open another connection, give or take 10 percent, so that
    /// its next calls may reach other replicas.
    #[arg(long, env = "AMISTORE_MAX_CONNECTION_AGE", value_name = "DURATION", value_parser = positive_duration, default_value = duration_text(ConnectionSettings::default().max_age))]
    max_connection_age: Duration,

    /// Time after that for calls in progress, before they end as in a shutdown.
    #[arg(long, env = "AMISTORE_MAX_CONNECTION_AGE_GRACE", value_name = "DURATION", value_parser = duration, default_value = duration_text(ConnectionSettings::default().max_age_grace))]
    max_connection_age_grace: Duration,

    /// Maximum size of all requests that are not answered yet; one connection gets a quarter.
    #[arg(long, env = "AMISTORE_MAX_INBOUND_BYTES", value_name = "SIZE", value_parser = bound_of_bytes, default_value = byte_size_text(ConnectionSettings::default().max_inbound_bytes))]
    max_inbound_bytes: u64,

    /// Maximum size of all answers that their clients have not taken yet; one connection gets a
    /// quarter.
    #[arg(long, env = "AMISTORE_MAX_OUTBOUND_BYTES", value_name = "SIZE", value_parser = bound_of_bytes, default_value = byte_size_text(ConnectionSettings::default().max_outbound_bytes))]
    max_outbound_bytes: u64,

    /// Time for which a gateway that is asked to stop still accepts connections.
    #[arg(long, env = "AMISTORE_DRAIN_DELAY", value_name = "DURATION", value_parser = duration, default_value = duration_text(DrainSettings::default().delay))]
    drain_delay: Duration,

    /// Time within which the watches of a gateway that stops end, one after the other.
    #[arg(long, env = "AMISTORE_DRAIN_SPREAD", value_name = "DURATION", value_parser = duration, default_value = duration_text(DrainSettings::default().spread))]
    drain_spread: Duration,

    /// Time limit of a shutdown, for calls in progress to finish; at least 2 seconds more than
    /// --drain-delay and --drain-spread.
    #[arg(long, env = "AMISTORE_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = duration_text(DrainSettings::default().timeout))]
    drain_timeout: Duration,
}

impl ConnectionArgs {
    pub(super) fn settings(&self) -> ConnectionSettings {
        ConnectionSettings {
            max_connections: self.max_connections as usize,
            idle: self.connection_idle,
            max_age: self.max_connection_age,
            max_age_grace: self.max_connection_age_grace,
            max_inbound_bytes: self.max_inbound_bytes,
            max_outbound_bytes: self.max_outbound_bytes,
            drain: DrainSettings {
                delay: self.drain_delay,
                spread: self.drain_spread,
                timeout: self.drain_timeout,
            },
        }
    }

    /// A conflict between flags, if there is one.
    pub(super) fn conflict(&self) -> Option<String> {
        let least = self.drain_delay + self.drain_spread + AFTER_SPREAD;
        if self.drain_timeout >= least {
            return None;
        }
        let (least, timeout) = (duration_text(least), duration_text(self.drain_timeout));
        Some(format!(
            "--drain-timeout: expected at least {least} (--drain-delay, --drain-spread and 2s), got {timeout}"
        ))
    }
}

/// Parses a bound of bytes.
fn bound_of_bytes(text: &str) -> Result<u64, String> {
    match byte_size(text)? {
        bytes if bytes >= LEAST_BYTES => Ok(bytes),
        _ => Err(format!("expected at least {}", byte_size_text(LEAST_BYTES))),
    }
}
