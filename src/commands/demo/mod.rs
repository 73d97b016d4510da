//! `demo`: a gateway, a simulated EC2 and many clients in one process.

mod clients;
mod display;
mod introduction;
mod simulation;

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use clap::{Args, value_parser};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    admin_address::{self, AdminAddress},
    listen::{GATEWAY_ADDRESS, SIMULATOR_ADDRESS, listen, reachable},
    output::{Failure, print_line},
    progress::Progress,
    signals::ShutdownSignal,
    simulate::{defaults, speed_help},
    values::speed,
};
use crate::{
    domain::Region,
    ec2::Ec2,
    server::{self, Ports, ServeError},
    simulator,
};
use clients::Clients;
use simulation::Simulation;

/// Shows the gateway with many clients on an embedded EC2 simulator, without an AWS account.
///
/// The clients watch and list tasks in two regions. The command counts their answers beside the EC2
/// calls, and serves until Ctrl-C, so that the grpcurl lines that it prints work meanwhile.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Address on which the gateway listens; port 0 takes a free port.
    #[arg(
        long,
        env = "AMISTORE_DEMO_LISTEN",
        value_name = "HOST:PORT",
        default_value = GATEWAY_ADDRESS
    )]
    listen: String,

    /// Address of the admin listener, which answers /livez and /readyz over HTTP/1.1: HOST:PORT,
    /// unix:PATH, or none.
    #[arg(
        long,
        env = "AMISTORE_DEMO_ADMIN_LISTEN",
        value_name = "ADDRESS",
        default_value_t = AdminAddress::None
    )]
    admin_listen: AdminAddress,

    /// Address on which the simulator listens; port 0 takes a free port.
    #[arg(
        long,
        env = "AMISTORE_DEMO_SIMULATOR_LISTEN",
        value_name = "HOST:PORT",
        default_value = SIMULATOR_ADDRESS
    )]
    simulator_listen: String,

    /// Seed of the simulation; the same seed gives the same tasks.
    #[arg(long, env = "AMISTORE_DEMO_SEED", value_name = "NUMBER", default_value_t = defaults().seed)]
    seed: u64,

    #[arg(long, env = "AMISTORE_DEMO_SPEED", value_name = "FACTOR", value_parser = speed, default_value_t = defaults().speed, help = speed_help())]
    speed: f64,

    /// Number of clients that watch; as many others list once per second.
    #[arg(long, env = "AMISTORE_DEMO_CLIENTS", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..=2000), default_value_t = 100)]
    clients: u32,

    /// Exit after the last watched task has ended.
    #[arg(long, env = "AMISTORE_DEMO_EXIT")]
    exit: bool,
}

impl Demo {
    #[cfg(test)]
    pub(super) fn exits(&self) -> bool {
        self.exit
    }

    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let gateway = listen(&self.listen, "--listen").await?;
        let admin = admin_address::listen(&self.admin_listen, "--admin-listen").await?;
        let ec2 = listen(&self.simulator_listen, "--simulator-listen").await?;
        let mut signal = ShutdownSignal::listen()?;
        let (address, ec2_address) =
            (reachable(gateway.local_addr()?), reachable(ec2.local_addr()?));
        let simulation = Arc::new(Simulation::new(self.seed, self.speed));
        introduction::print(address, ec2_address, &simulation);

        // The simulator runs until the process ends, since a draining gateway may have calls in
        // progress.
        tokio::spawn(simulator::serve(simulation.ec2.clone(), ec2, std::future::pending()));
        let stop = CancellationToken::new();
        let ports = Ports { grpc: gateway.into(), admin };
        let serving = start_gateway(ports, ec2_address, &simulation.regions, stop.clone());
        let clients = Clients::new(address, simulation.clone())?;
        tokio::select! {
            () = simulation.go_on() => {}
            shown = self.show(&clients) => shown?,
            () = signal.requested() => {}
        }
        stop.cancel();
        serving.await.map_err(Failure::message)??;
        print_line(clients.summary());
        Ok(ExitCode::SUCCESS)
    }

    /// Shows the running tasks while clients call the gateway. Returns after the last task if
    /// `--exit` is given, else never.
    async fn show(&self, clients: &Clients) -> Result<(), Failure> {
        let progress = Progress::new();
        display::show(&progress, clients, self.clients as usize).await?;
        if !self.exit {
            progress
                .print_line("All watched tasks have ended. The gateway continues until Ctrl-C.");
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

fn start_gateway(
    ports: Ports,
    ec2: SocketAddr,
    regions: &[Region],
    stop: CancellationToken,
) -> JoinHandle<Result<(), ServeError>> {
    let settings = server::Settings {
        default_region: regions.first().cloned().into(),
        allowed_regions: regions.iter().cloned().collect(),
        ..server::Settings::default()
    };
    let ec2 = Ec2::at_endpoint(&format!("http://{ec2}"), settings.ec2.clone());
    let make_upstream = ec2.make_upstream();
    tokio::spawn(
        async move { server::serve(ports, settings, make_upstream, stop.cancelled()).await },
    )
}
