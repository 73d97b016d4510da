//! `probe`: the health of a gateway.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use tokio::time::timeout;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    client::{ServerArgs, rpc_error},
    output::{Failure, print_error_line, print_line},
    values::{duration_text, positive_duration},
};

/// Checks the health of a gateway, for a Dockerfile's HEALTHCHECK and for Kubernetes.
///
/// Exit codes: 0 if the gateway answers SERVING, 1 if it does not, 2 on a usage error.
#[derive(Debug, Args)]
pub(super) struct Probe {
    #[command(flatten)]
    server: ServerArgs,

    /// Service whose health to check; without this flag, the server as a whole.
    #[arg(
        long,
        env = "AMISTORE_PROBE_SERVICE",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    service: String,

    /// Time limit of the answer.
    #[arg(long, env = "AMISTORE_PROBE_TIMEOUT", value_name = "DURATION", value_parser = positive_duration, default_value = "2s")]
    timeout: Duration,
}

impl Probe {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let mut client = HealthClient::new(self.server.channel()?);
        let request = HealthCheckRequest { service: self.service };
        let problem = match timeout(self.timeout, client.check(request)).await {
            Ok(Ok(response)) => match response.get_ref().status() {
                ServingStatus::Serving => {
                    print_line("SERVING");
                    return Ok(ExitCode::SUCCESS);
                }
                status => status.as_str_name().to_owned(),
            },
            Ok(Err(status)) => rpc_error(&status),
            Err(_) => format!("no answer within {}", duration_text(self.timeout)),
        };
        print_error_line(problem);
        Ok(ExitCode::FAILURE)
    }
}
