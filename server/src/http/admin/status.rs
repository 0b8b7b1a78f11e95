//! How the whole server is: status, verification.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    http::{
        admin::{ndjson, operator_only},
        extract::Query,
        health,
    },
    hub::{Caller, Hub, HubError, verify},
};

/// `GET /api/v1/status`
pub async fn status(State(hub): State<Arc<Hub>>, caller: Caller) -> Result<Json<Value>, HubError> {
    operator_only(&caller)?;
    Ok(Json(health::describe(&hub)))
}

/// How thorough.
#[derive(Deserialize)]
pub struct VerifyQuery {
    /// Read every byte of every pack.
    #[serde(default)]
    deep: bool,
}

/// `POST /api/v1/verify`: progress lines, a line per damage, and the result last.
pub async fn verify(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(query): Query<VerifyQuery>,
) -> Result<Response, HubError> {
    operator_only(&caller)?;
    Ok(ndjson::stream(move |lines| verify::run(&hub, query.deep, &mut |line| lines.send(&line).is_ok())))
}
