//! `probe`: the readiness of a gateway.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    admin_address::{self, ADMIN_ADDRESS, AdminAddress},
    client::{no_answer_at, rpc_error_at},
    client_tls::ClientTlsArgs,
    listen::GATEWAY_ADDRESS,
    output::{Failure, print_error_line, print_line},
    readyz,
    server_address::ServerAddress,
    values::positive_duration,
};
use crate::server::ListenAddress;

/// Checks whether a gateway is ready, for a Dockerfile's HEALTHCHECK and for Kubernetes.
///
/// Asks the admin listener for /readyz. With --server or --service, or if there is no admin listener,
/// asks gRPC's health service.
///
/// Exit codes: 0 if the gateway is ready, 1 if it is not or does not answer, 2 on a usage error.
#[derive(Debug, Args)]
pub(super) struct Probe {
    /// Address of the gateway, whose health service is asked: HOST:PORT, unix:PATH, or a URL with http
    /// or https.
    #[arg(long, env = "AMISTORE_SERVER", value_name = "ADDRESS")]
    server: Option<ServerAddress>,

    #[arg(long, env = "AMISTORE_ADMIN_LISTEN", value_name = "ADDRESS", help = admin_help())]
    admin_listen: Option<AdminAddress>,

    /// Addresses on which the gateway listens, as `serve` has them. Without an admin listener, the
    /// first one is asked, and all addresses by the loopback.
    #[arg(
        long,
        env = "AMISTORE_LISTEN",
        value_name = "ADDRESSES",
        value_delimiter = ',',
        default_value = GATEWAY_ADDRESS
    )]
    listen: Vec<ListenAddress>,

    #[command(flatten)]
    tls: ClientTlsArgs,

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

fn admin_help() -> String {
    format!(
        "Address of the admin listener, as `serve` has it, or none; without this flag, \
         {ADMIN_ADDRESS}. All addresses are asked by the loopback"
    )
}

/// What a probe asks.
enum Target {
    Admin(ListenAddress),
    Health(ServerAddress),
}

impl Probe {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let answer = match self.target()? {
            Target::Admin(address) => {
                let ask = timeout(self.timeout, readyz::ask(&address));
                ask.await.map_err(|_| address.to_string())
            }
            Target::Health(server) => {
                let client = HealthClient::new(server.channel(&self.tls)?);
                let ask =
                    timeout(self.timeout, ask_health(client, &server, &self.tls, self.service));
                ask.await.map_err(|_| server.to_string())
            }
        };
        let problem = match answer {
            Ok(Ok(text)) => {
                print_line(text);
                return Ok(ExitCode::SUCCESS);
            }
            Ok(Err(problem)) => problem,
            Err(asked) => no_answer_at(asked, self.timeout),
        };
        print_error_line(problem);
        Ok(ExitCode::FAILURE)
    }

    fn target(&self) -> Result<Target, Failure> {
        if let Some(server) = &self.server {
            return Ok(Target::Health(server.clone()));
        }
        if self.service.is_empty() {
            match &self.admin_listen {
                Some(AdminAddress::At(address)) => return Ok(Target::Admin(address.clone())),
                Some(AdminAddress::None) => {}
                None => return Ok(Target::Admin(admin_address::default_address())),
            }
        }
        let Some(listen) = self.listen.first() else {
            return Err(Failure::message("--listen: expected at least one address"));
        };
        match ServerAddress::of_listener(listen) {
            Ok(server) => Ok(Target::Health(server)),
            Err(error) => Err(Failure::message(format_args!("--listen {listen}: {error}"))),
        }
    }
}

/// The answer of gRPC's health service. An error unless it is SERVING.
async fn ask_health(
    mut client: HealthClient<Channel>,
    server: &ServerAddress,
    tls: &ClientTlsArgs,
    service: String,
) -> Result<String, String> {
    match client.check(HealthCheckRequest { service }).await {
        Ok(response) => match response.get_ref().status() {
            status @ ServingStatus::Serving => Ok(status.as_str_name().to_owned()),
            status => Err(status.as_str_name().to_owned()),
        },
        Err(status) => Err(rpc_error_at(server, tls, &status)),
    }
}
