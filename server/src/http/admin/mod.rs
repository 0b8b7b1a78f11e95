//! The JSON admin API under `/api/v1`: what the command line is a client of (server/API.md).
//!
//! Repositories and tokens follow the caller's rights; what concerns the whole server (status, log, verification,
//! projections) is for the operator. Streams are NDJSON: one JSON value per line, an `{"error": …}` line if one breaks off.

use std::sync::Arc;

use axum::{
    Router,
    routing::{delete, get, post},
};

use crate::hub::{Caller, Hub, HubError};

pub mod adopt;
pub mod event_json;
pub mod log;
pub mod ndjson;
pub mod projections;
pub mod repos;
pub mod status;
pub mod tokens;

/// The routes.
pub fn routes() -> Router<Arc<Hub>> {
    Router::new()
        .route("/status", get(status::status))
        .route("/log", get(log::log))
        .route("/verify", post(status::verify))
        .route("/scrub", post(status::scrub))
        .route("/sweep", post(status::sweep))
        .route("/projections", get(projections::status))
        .route("/projections/rebuild", post(projections::rebuild))
        .route("/projections/digest", get(projections::digest))
        .route("/projections/compare", post(projections::compare))
        .route("/projections/dump/{name}", get(projections::dump))
        .route("/repos", get(repos::list).post(repos::create))
        .route("/repos/{owner}/{slug}", get(repos::show).patch(repos::update).delete(repos::delete))
        .route("/repos/{owner}/{slug}/locate/{object}", get(repos::locate))
        .route("/repos/{owner}/{slug}/heads", get(adopt::heads))
        .route("/repos/{owner}/{slug}/adopt", post(adopt::adopt))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{token}", delete(tokens::revoke))
}

/// Refuses everyone but the operator.
fn operator_only(caller: &Caller) -> Result<(), HubError> {
    match caller {
        Caller::Operator => Ok(()),
        Caller::Anonymous => Err(HubError::Unauthorized("the operator's secret is required".to_owned())),
        Caller::Token(_) => Err(HubError::Forbidden("this is for the operator of the server".to_owned())),
    }
}
