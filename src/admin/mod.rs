//! The answers of the admin listener: whether the process lives, and whether it should get requests.
//!
//! The listener speaks plaintext HTTP/1.1, for checks that cannot present a client certificate.

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::sync::watch;

use crate::domain::Readiness;

/// The pages of the admin listener: `/livez` and `/readyz`.
pub fn router(readiness: watch::Receiver<Readiness>) -> Router {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).with_state(readiness)
}

/// Says that the process lives: that it answers is enough.
async fn livez() -> &'static str {
    "ok\n"
}

/// Says whether the gateway should get requests, and if not, why.
async fn readyz(State(readiness): State<watch::Receiver<Readiness>>) -> (StatusCode, &'static str) {
    match *readiness.borrow() {
        Readiness::Starting => {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: the default region is searched for\n")
        }
        Readiness::Serving => (StatusCode::OK, "ready\n"),
        Readiness::Draining => {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: the gateway shuts down\n")
        }
    }
}
