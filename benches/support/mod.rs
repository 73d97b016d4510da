//! A gateway in front of a simulated EC2, for benches over a real socket.

use std::{error::Error, net::SocketAddr, sync::Arc};

use amistore_gateway::{
    domain::Region,
    ec2::Ec2,
    server,
    simulator::{self, Simulator},
};
use tokio::net::TcpListener;

/// The region of the gateway and of all tasks.
pub(crate) const REGION: &str = "us-east-1";

/// Serves a gateway and its EC2 on free loopback ports until the process ends. Returns the simulator,
/// its endpoint, and the address of the gateway.
pub(crate) async fn start(
    simulator: Simulator,
    gateway: server::Settings,
) -> Result<(Arc<Simulator>, String, SocketAddr), Box<dyn Error + Send + Sync>> {
    let simulator = Arc::new(simulator);
    let ec2 = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", ec2.local_addr()?);
    tokio::spawn(simulator::serve(simulator.clone(), ec2, std::future::pending()));
    let settings =
        server::Settings { default_region: Some(Region::parse(REGION)?).into(), ..gateway };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let make_upstream = Ec2::at_endpoint(&endpoint, settings.ec2.clone()).make_upstream();
    tokio::spawn(server::serve(listener, settings, make_upstream, std::future::pending()));
    Ok((simulator, endpoint, address))
}
