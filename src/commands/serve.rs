//! `serve`: the gateway.

use std::{collections::BTreeSet, process::ExitCode};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{
    admin_address::{self, ADMIN_ADDRESS, AdminAddress},
    check,
    config::UnknownVariable,
    gateway_args::GatewayArgs,
    listen::{GATEWAY_ADDRESS, addresses_text, listen_on_all},
    output::Failure,
    signals::ShutdownSignal,
};
use crate::{
    domain::{DefaultRegion, EndSearch, MakeUpstream, Region},
    ec2::{Ec2, StartError},
    server::{self, BindError, HandedOver, ListenAddress, Listeners, Ports},
};

/// Runs the gateway until SIGTERM or Ctrl-C, then drains it.
///
/// The AWS SDK's standard configuration decides where EC2 is and which credentials sign the calls:
/// AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_EC2, HTTPS_PROXY, NO_PROXY,
/// AWS_CA_BUNDLE, profile files, roles and the rest of its chain.
///
/// Exit codes: 0 if --check finds nothing wrong, or after a shutdown in which each unary call was
/// answered and each watch got its status, or was cut because its client did not read; 2 if the
/// configuration is wrong; 3 if the shutdown cut other calls off at --drain-timeout, or was ended by a
/// second signal.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Addresses to listen on, separated by commas: HOST:PORT, where port 0 takes a free port, or
    /// unix:PATH for a Unix socket. Sockets that a service manager hands over (LISTEN_FDS) are used
    /// instead.
    #[arg(
        long,
        env = "AMISTORE_LISTEN",
        value_name = "ADDRESSES",
        value_delimiter = ',',
        default_value = GATEWAY_ADDRESS
    )]
    pub(super) listen: Vec<ListenAddress>,

    #[arg(long, env = "AMISTORE_ADMIN_LISTEN", value_name = "ADDRESS", help = admin_help())]
    admin_listen: Option<AdminAddress>,

    /// Check the configuration, the credentials and the permission with one dry run, and exit.
    #[arg(long, env = "AMISTORE_CHECK")]
    check: bool,

    #[command(flatten)]
    pub(super) gateway: GatewayArgs,
}

impl Serve {
    pub(super) async fn run(
        self,
        unknown: &[UnknownVariable],
        handed_over: HandedOver,
    ) -> Result<ExitCode, Failure> {
        let settings = self.gateway.settings().map_err(Failure::message)?;
        let ec2 = Ec2::from_environment(settings.ec2.clone()).await?;
        let named = match self.gateway.default_region() {
            Some(region) => Some(region.clone()),
            None => Ec2::region_of_environment()?,
        };
        if self.check {
            return check::run(&ec2, named, &settings.allowed_regions, unknown).await;
        }
        match named {
            Some(region) => self.serve_region(ec2, settings, region, handed_over).await?,
            None => Box::pin(self.serve_and_search(ec2, settings, handed_over)).await?,
        }
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    }

    /// Serves with a region that is known before the first request.
    async fn serve_region(
        &self,
        ec2: Ec2,
        mut settings: server::Settings,
        region: Region,
        handed_over: HandedOver,
    ) -> Result<(), Failure> {
        ec2.load(&region, &settings.allowed_regions).await?;
        let (ports, stop) = self.begin(&settings, region.as_str(), handed_over).await?;
        settings.default_region = Some(region).into();
        serve_until_stopped(ports, settings, ec2.make_upstream(), stop).await
    }

    /// Serves, and searches for the default region meanwhile.
    async fn serve_and_search(
        &self,
        ec2: Ec2,
        mut settings: server::Settings,
        handed_over: HandedOver,
    ) -> Result<(), Failure> {
        let (search, searched) = DefaultRegion::searched();
        settings.default_region = searched;
        let (ports, stop) = self.begin(&settings, "unknown yet", handed_over).await?;
        let allowed = settings.allowed_regions.clone();
        let upstream = ec2.clone().make_upstream();
        let serving = serve_until_stopped(ports, settings, upstream, stop);
        tokio::pin!(serving);
        tokio::select! {
            served = &mut serving => return served,
            found = find_region(&ec2, search, &allowed) => found?,
        }
        serving.await
    }

    /// Listens for connections and for signals.
    async fn begin(
        &self,
        settings: &server::Settings,
        default_region: &str,
        handed_over: HandedOver,
    ) -> Result<(Ports, ShutdownSignal), Failure> {
        let grpc = match handed_over.listeners().map_err(Failure::message)? {
            Some(listeners) => listeners,
            None => listen_on_all(&self.listen, "--listen").await?,
        };
        let (admin, unbound) = self.listen_for_admin().await?;
        let stop = ShutdownSignal::listen()?;
        let admin_listen = match &admin {
            Some(listeners) => addresses_text(listeners)?,
            None => AdminAddress::None.to_string(),
        };
        tracing::info!(
            listen = %addresses_text(&grpc)?,
            %admin_listen,
            default_region,
            other_regions = regions_text(settings),
            "serving amistore.v1.StoreImageTaskService, health and reflection"
        );
        if let Some(BindError { address, error }) = unbound {
            tracing::warn!(%address, %error, "there is no admin listener; choose its address with --admin-listen");
        }
        Ok((Ports { grpc, admin }, stop))
    }

    /// The admin listener, and the error if it has no address by default.
    async fn listen_for_admin(&self) -> Result<(Option<Listeners>, Option<BindError>), Failure> {
        if let Some(address) = &self.admin_listen {
            return Ok((admin_address::listen(address, "--admin-listen").await?, None));
        }
        match admin_address::listen_by_default().await {
            Ok(listeners) => Ok((Some(listeners), None)),
            Err(error) => Ok((None, Some(error))),
        }
    }
}

/// Serves until the first signal, and drains. A second signal ends the drain at once.
async fn serve_until_stopped(
    ports: Ports,
    settings: server::Settings,
    make_upstream: MakeUpstream,
    mut stop: ShutdownSignal,
) -> Result<(), Failure> {
    let stopping = CancellationToken::new();
    let stopped = stopping.clone().cancelled_owned();
    let second_signal = async {
        stop.requested().await;
        stopping.cancel();
        stop.requested().await;
    };
    tokio::select! {
        served = server::serve(ports, settings, make_upstream, stopped) => Ok(served?),
        () = second_signal => Err(Failure::SecondSignal),
    }
}

/// Searches for the default region while the gateway already serves.
async fn find_region(
    ec2: &Ec2,
    search: EndSearch,
    allowed: &BTreeSet<Region>,
) -> Result<(), Failure> {
    // Requests that name one of these regions need not wait for the search.
    if let Some(region) = allowed.first() {
        ec2.load(region, allowed).await?;
    }
    let found = ec2.search_region().await?;
    match &found {
        Some(region) => ec2.load(region, allowed).await?,
        None if allowed.is_empty() => return Err(StartError::NoRegion.into()),
        None => {}
    }
    let default_region = found.as_ref().map_or("none", Region::as_str);
    tracing::info!(default_region, "the search for a region has ended");
    search.end(found);
    Ok(())
}

fn admin_help() -> String {
    format!(
        "Address of the admin listener, which answers /livez and /readyz over HTTP/1.1: HOST:PORT, \
         unix:PATH, or none; without this flag, {ADMIN_ADDRESS}, or none if that is taken"
    )
}

fn regions_text(settings: &server::Settings) -> String {
    if settings.allowed_regions.is_empty() {
        return "none".to_owned();
    }
    let regions: Vec<_> = settings.allowed_regions.iter().map(Region::as_str).collect();
    regions.join(",")
}
