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
    hub::{
        Caller, Hub, HubError, sweep,
        verify::{self, Orders, Scrub},
    },
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
    let orders = Orders { deep: query.deep, scrub: None };
    Ok(ndjson::stream(move |lines| verify::run(&hub, orders, &mut |line| lines.send(&line).is_ok())))
}

/// How to sweep.
#[derive(Deserialize)]
pub struct SweepQuery {
    /// Only say what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// `POST /api/v1/sweep`: a line for each thing, and the result last.
pub async fn sweep(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(query): Query<SweepQuery>,
) -> Result<Response, HubError> {
    operator_only(&caller)?;
    Ok(ndjson::stream(move |lines| sweep::run(&hub, query.dry_run, &mut |line| lines.send(&line).is_ok())))
}

/// How to scrub.
#[derive(Deserialize)]
pub struct ScrubQuery {
    /// Bytes per second.
    rate: Option<u64>,
    /// Replace damaged keys of a bucket.
    #[serde(default)]
    repair: bool,
    /// Begin anew.
    #[serde(default)]
    restart: bool,
}

/// `POST /api/v1/scrub`: as a verification; what was repaired has lines too.
pub async fn scrub(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(query): Query<ScrubQuery>,
) -> Result<Response, HubError> {
    operator_only(&caller)?;
    let turn = Arc::clone(&hub.scrubbing).try_lock_owned();
    let turn = turn.map_err(|_| HubError::Conflict("a scrub is under way: one at a time".to_owned()))?;
    let ScrubQuery { rate, repair, restart } = query;
    if rate == Some(0) {
        return Err(HubError::Invalid("a rate of 0 bytes per second never ends".to_owned()));
    }
    let orders = Orders { deep: true, scrub: Some(Scrub { rate, repair, restart }) };
    Ok(ndjson::stream(move |lines| {
        let _turn = turn;
        verify::run(&hub, orders, &mut |line| lines.send(&line).is_ok())
    }))
}
