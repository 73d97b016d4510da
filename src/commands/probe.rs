//! `probe`: the health of a gateway.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use tokio::time::timeout;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    client::rpc_error_at,
    listen::GATEWAY_ADDRESS,
    output::{Failure, print_error_line, print_line},
    server_address::ServerAddress,
    values::{duration_text, positive_duration},
};
use crate::server::ListenAddress;

/// Checks the health of a gateway, for a Dockerfile's HEALTHCHECK and for Kubernetes.
///
/// Exit codes: 0 if the gateway answers SERVING, 1 if it does not, 2 on a usage error.
#[derive(Debug, Args)]
pub(super) struct Probe {
    /// Address of the gateway: HOST:PORT, unix:PATH, or a URL with http or https; without this flag, the address
    /// of --listen.
    #[arg(long, env = "AMISTORE_SERVER", value_name = "ADDRESS")]
    server: Option<ServerAddress>,

    /// Addresses on which the gateway listens, as `serve` has them. The first one is asked, and all
    /// addresses by the loopback.
    #[arg(
        long,
        env = "AMISTORE_LISTEN",
        value_name = "ADDRESSES",
        value_delimiter = ',',
        default_value = GATEWAY_ADDRESS
    )]
    listen: Vec<ListenAddress>,

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
    /// The address of the gateway.
    fn address(&self) -> Result<ServerAddress, Failure> {
        if let Some(server) = &self.server {
            return Ok(server.clone());
        }
        let Some(listen) = self.listen.first() else {
            return Err(Failure::message("--listen: expected at least one address"));
        };
        match ServerAddress::of_listener(listen) {
            Ok(server) => Ok(server),
            Err(error) => Err(Failure::message(format_args!("--listen {listen}: {error}"))),
        }
    }

    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let server = self.address()?;
        let mut client = HealthClient::new(server.channel().map_err(Failure::message)?);
        let request = HealthCheckRequest { service: self.service };
        let problem = match timeout(self.timeout, client.check(request)).await {
            Ok(Ok(response)) => match response.get_ref().status() {
                ServingStatus::Serving => {
                    print_line("SERVING");
                    return Ok(ExitCode::SUCCESS);
                }
                status => status.as_str_name().to_owned(),
            },
            Ok(Err(status)) => rpc_error_at(&server, &status),
            Err(_) => format!("{server}: no answer within {}", duration_text(self.timeout)),
        };
        print_error_line(problem);
        Ok(ExitCode::FAILURE)
    }
}
