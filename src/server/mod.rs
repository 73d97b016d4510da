//! The process of the gateway: wires the modules together, listens, and drains.

mod accept;
mod admin;
mod bind;
mod connection;
mod connection_limit;
mod drain;
mod handed_over;
mod health;
mod listen_address;
mod listener;
mod once_a_minute;
mod ports;
mod serve;
mod settings;
mod socket;
pub mod tls;
mod wiring;

pub use accept::{BindError, Listeners};
pub use bind::bind_tcp;
pub use connection_limit::{ConnectionLimit, ConnectionPermit};
pub use handed_over::{HandedOver, NoListener};
pub use listen_address::{ListenAddress, NoListenAddress};
pub use ports::Ports;
pub use serve::{ServeError, serve};
pub use settings::{ConnectionSettings, DrainSettings, Settings};
pub use socket::{PeerAddress, Socket};
