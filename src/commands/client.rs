//! Connection of the client commands to a gateway: its flags, its channel and its errors.

use clap::Args;
use tonic::{
    Status,
    transport::{Channel, ClientTlsConfig, Endpoint, Error},
};
use tonic_types::StatusExt as _;

use super::{listen::GATEWAY_ADDRESS, output::Failure};

/// Flags that choose a gateway.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerArgs {
    /// Address of the gateway: HOST:PORT, or a URL with http or https.
    #[arg(long, env = "AMISTORE_SERVER", value_name = "ADDRESS", default_value = GATEWAY_ADDRESS)]
    pub(super) server: String,
}

/// Flags that choose a gateway, and an account and a region there.
#[derive(Clone, Debug, Args)]
pub(super) struct ScopeArgs {
    #[command(flatten)]
    pub(super) server: ServerArgs,

    /// Account, by the gateway's name for it; without this flag, the gateway's default.
    #[arg(
        long,
        env = "AMISTORE_ACCOUNT",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) account: String,

    /// Region; without this flag, the gateway's default.
    #[arg(
        long,
        env = "AMISTORE_REGION",
        value_name = "REGION",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) region: String,
}

impl ServerArgs {
    /// A channel to the gateway, which connects at its first use.
    pub(super) fn channel(&self) -> Result<Channel, Failure> {
        match self.endpoint() {
            Ok(endpoint) => Ok(endpoint.connect_lazy()),
            Err(error) => Err(Failure::Message(format!(
                "--server: expected HOST:PORT (such as {GATEWAY_ADDRESS}) or a URL, got {:?}: \
                 {error}",
                self.server
            ))),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        if !self.server.contains("://") {
            return Endpoint::from_shared(format!("http://{}", self.server));
        }
        let endpoint = Endpoint::from_shared(self.server.clone())?;
        if self.server.starts_with("https://") {
            return endpoint.tls_config(ClientTlsConfig::new().with_native_roots());
        }
        Ok(endpoint)
    }
}

/// Text of an RPC error, with EC2's request ID if the error comes from EC2.
pub(super) fn rpc_error(status: &Status) -> String {
    let text = format!("{:?}: {}", status.code(), status.message());
    let Some(info) = status.get_details_error_info() else { return text };
    match info.metadata.get("requestId") {
        Some(id) => format!("{text} (EC2 request ID {id})"),
        None => text,
    }
}
