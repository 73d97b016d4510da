//! Whether the gateway should get requests, as gRPC health and the admin listener both say.

/// The state of the gateway that decides whether it should get requests. EC2 and credentials have no part
/// in it: otherwise trouble with EC2 would take all replicas out of service at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The gateway listens, and searches for its default region.
    Starting,
    /// The gateway serves.
    Serving,
    /// The gateway shuts down.
    Draining,
}
