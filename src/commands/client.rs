//! Connection of the client commands to a gateway: its flags, its channel and its errors.

use std::{error::Error, fmt, time::Duration};

use clap::Args;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    causes::joined, client_tls::ClientTlsArgs, listen::GATEWAY_ADDRESS, output::Failure,
    server_address::ServerAddress, tls_remedy::remedy, values::duration_text,
};

/// Flags that choose a gateway.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerArgs {
    /// Address of the gateway: HOST:PORT, unix:PATH, or a URL with http or https.
    #[arg(long, env = "AMISTORE_SERVER", value_name = "ADDRESS", default_value = GATEWAY_ADDRESS)]
    pub(super) server: ServerAddress,

    #[command(flatten)]
    pub(super) tls: ClientTlsArgs,
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
        self.server.channel(&self.tls)
    }

    /// Text of an RPC error, with the address of the gateway if it gave no answer.
    pub(super) fn rpc_error(&self, status: &Status) -> String {
        rpc_error_at(&self.server, &self.tls, status)
    }

    /// Text of the error that the gateway gave no answer in time.
    pub(super) fn no_answer(&self, limit: Duration) -> String {
        no_answer_at(&self.server, limit)
    }
}

/// Text of the error that the gateway gave no answer in time.
pub(super) fn no_answer_at(server: impl fmt::Display, limit: Duration) -> String {
    format!("{server}: no answer within {}", duration_text(limit))
}

/// Text of an RPC error, with the address of the gateway and what to do if it gave no answer.
pub(super) fn rpc_error_at(server: &ServerAddress, tls: &ClientTlsArgs, status: &Status) -> String {
    let text = rpc_error(status);
    let Some(source) = status.source() else { return text };
    match remedy(server, tls, source, &text) {
        Some(remedy) => format!("{server}: {text}; {remedy}"),
        None => format!("{server}: {text}"),
    }
}

/// Text of an RPC error: its causes, and EC2's request ID if the error comes from EC2.
pub(super) fn rpc_error(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    if let Some(source) = status.source() {
        text = joined(text, source);
    }
    let Some(info) = status.get_details_error_info() else { return text };
    match info.metadata.get("requestId") {
        Some(id) => format!("{text} (EC2 request ID {id})"),
        None => text,
    }
}
