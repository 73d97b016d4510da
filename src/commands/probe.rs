//! `probe`: is the gateway healthy?

use std::{process::ExitCode, time::Duration};

use clap::Args;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    Failure,
    client::ServerArgs,
    values::{duration_text, positive_duration},
};

/// Asks a gateway for its health: exit code 0 when it says SERVING, 1 otherwise, 2 on a usage
/// error. For Dockerfile's HEALTHCHECK and Kubernetes.
#[derive(Debug, Args)]
pub(super) struct Probe {
    #[command(flatten)]
    server: ServerArgs,

    /// The service to ask for. Default: the server as a whole.
    #[arg(long, env = "AMISTORE_PROBE_SERVICE", value_name = "NAME", default_value = "")]
    service: String,

    /// How long the answer may take.
    #[arg(long, env = "AMISTORE_PROBE_TIMEOUT", value_name = "DURATION", value_parser = positive_duration, default_value = "2s")]
    timeout: Duration,
}

impl Probe {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let channel = self.server.channel()?;
        let request = HealthCheckRequest { service: self.service };
        let check = async { HealthClient::new(channel).check(request).await };
        let said = match tokio::time::timeout(self.timeout, check).await {
            Ok(Ok(response)) if response.get_ref().status() == ServingStatus::Serving => {
                super::print_line("SERVING");
                return Ok(ExitCode::SUCCESS);
            }
            Ok(Ok(response)) => response.get_ref().status().as_str_name().to_owned(),
            Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
            Err(_) => format!("no answer within {}", duration_text(self.timeout)),
        };
        eprintln!("{said}");
        Ok(ExitCode::FAILURE)
    }
}
