//! The HTTP surface: all routes on one screen.

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, Uri},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::hub::{Hub, HubError};

pub mod admin;
pub mod body;
pub mod error;
pub mod extract;
pub mod gate;
pub mod health;
pub mod heartbeat;
pub mod intake;
#[cfg(test)]
mod interrupted_tests;
pub mod limits;
pub mod mwp;
#[cfg(test)]
mod mwp_tests;
pub mod patience;
pub mod range;
pub mod serve;
pub mod track;
pub mod transfer;

/// All routes over one hub.
pub fn router(hub: Arc<Hub>) -> Router {
    crate::telemetry::metrics();
    let admission = Arc::new(limits::Admission::new(&hub.limits));
    let tracked = track::Tracked { hub: Arc::clone(&hub), admission };
    Router::new()
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .nest("/api/v1", admin::routes())
        .merge(mwp::routes())
        .merge(transfer::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(tracked, track::track))
        .with_state(hub)
}

async fn no_route(uri: Uri) -> HubError {
    let path: String = uri.path().chars().take(200).collect();
    HubError::NotFound(format!("there is nothing at {path}"))
}

async fn no_method(method: Method) -> Response {
    let body = serde_json::json!({"detail": format!("{method} is not answered here")});
    (axum::http::StatusCode::METHOD_NOT_ALLOWED, axum::Json(body)).into_response()
}

/// A panic is a fault of the server: its text goes to the log, not to the client.
fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("of unknown kind"), "a handler panicked");
    HubError::Internal("the server failed while it answered; the request id names the log line".to_owned())
        .into_response()
}

#[cfg(test)]
mod access_tests;
#[cfg(test)]
mod adoption_tests;
#[cfg(test)]
mod fleet_tests;
#[cfg(test)]
mod presign_tests;
#[cfg(test)]
mod surface_tests;
#[cfg(test)]
mod transfer_tests;
#[cfg(test)]
mod unpack_tests;
#[cfg(test)]
mod upload_tests;
