//! `serve`: the gateway.

use std::process::ExitCode;

use clap::Args;

use super::{
    gateway_args::GatewayArgs,
    listen::{GATEWAY_ADDRESS, listen},
    output::Failure,
    signals::ShutdownSignal,
};
use crate::{domain::Region, ec2::Ec2, server};

/// Runs the gateway until SIGTERM or Ctrl-C, then drains it.
///
/// The AWS SDK's standard configuration decides where EC2 is and which credentials sign the calls:
/// AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_EC2, profile files, roles and the
/// rest of its chain.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Address to listen on; port 0 takes a free port.
    #[arg(
        long,
        env = "AMISTORE_LISTEN",
        value_name = "HOST:PORT",
        default_value = GATEWAY_ADDRESS
    )]
    pub(super) listen: String,

    #[command(flatten)]
    pub(super) gateway: GatewayArgs,
}

impl Serve {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let mut settings = self.gateway.settings().map_err(Failure::message)?;
        let ec2 = Ec2::from_environment(settings.ec2.clone()).await;
        if settings.default_region.is_none() {
            settings.default_region = ec2.default_region();
        }
        let listener = listen(&self.listen, "--listen").await?;
        let stop = ShutdownSignal::listen()?;
        tracing::info!(
            listen = %listener.local_addr()?,
            default_region = default_region_text(&settings),
            other_regions = regions_text(&settings),
            "serving amistore.v1.StoreImageTaskService, health and reflection"
        );
        server::serve(listener, settings, ec2.make_upstream(), stop.requested()).await?;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    }
}

fn default_region_text(settings: &server::Settings) -> &str {
    match &settings.default_region {
        Some(region) => region.as_str(),
        None => "none",
    }
}

fn regions_text(settings: &server::Settings) -> String {
    if settings.allowed_regions.is_empty() {
        return "none".to_owned();
    }
    let regions: Vec<_> = settings.allowed_regions.iter().map(Region::as_str).collect();
    regions.join(",")
}
