//! Projections over JSON: status, rebuild with its progress, digest, dump.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Json, extract::State, response::Response};
use reprise_engine::id::Position;
use reprise_projections::{Digest, Model, RebuildOptions, RebuildProgress, RebuildReport, View};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{
    http::{
        admin::{
            ndjson::{self, Lines},
            operator_only,
        },
        extract::{Path, Query},
        health,
    },
    hub::{Caller, Hub, HubError, three_ways},
};

/// A position of the past; absent: now.
#[derive(Deserialize)]
pub struct AtQuery {
    at: Option<u64>,
}

/// `GET /api/v1/projections`
pub async fn status(State(hub): State<Arc<Hub>>, caller: Caller) -> Result<Json<Value>, HubError> {
    operator_only(&caller)?;
    Ok(Json(health::describe(&hub)["projections"].take()))
}

/// `POST /api/v1/projections/rebuild`: progress lines, then the result. With `at` a copy is built and judged, not served.
pub async fn rebuild(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(query): Query<AtQuery>,
) -> Result<Response, HubError> {
    operator_only(&caller)?;
    Ok(ndjson::stream(move |lines| {
        let result = match query.at {
            Some(at) => built_at(&hub, Position(at))?,
            None => {
                // A rebuild may be called from several threads; lines are paced.
                let said = Mutex::new(None::<Instant>);
                let report = hub.projections.rebuild(&RebuildOptions::default(), &|at| say(lines, &said, &at))?;
                rebuilt(&report)
            }
        };
        _ = lines.send(&json!({"result": result})).is_ok();
        Ok(())
    }))
}

fn say(lines: &Lines, said: &Mutex<Option<Instant>>, at: &RebuildProgress) {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    if said.is_some_and(|last| last.elapsed() < PACE) {
        return;
    }
    *said = Some(Instant::now());
    drop(said);
    // A rebuild goes on when nobody listens any more; a slow listener misses lines.
    lines.offer(&json!({"progress": {
        "done": at.events_done, "total": at.events_total, "rows": at.rows, "bytes": at.bytes,
        "per_second": at.rate, "eta_seconds": at.eta_seconds,
    }}));
}

fn rebuilt(report: &RebuildReport) -> Value {
    let equal = report.live_digest.as_ref().map(|live| live == &report.digest);
    let detail = match (report.switched, equal) {
        (true, Some(true)) => "rebuilt: its digest equals the live one's, and it serves now",
        (true, _) => "rebuilt: it serves now",
        (false, Some(false)) => "rebuilt, but its digest differs from the live one's: it does not serve",
        (false, _) => "rebuilt, but it does not serve",
    };
    json!({
        "ok": report.switched,
        "detail": format!("{detail} ({} events, {} rows, {:.2} s)", report.events, report.rows, report.seconds),
        "generation": report.generation,
        "position": report.position.0,
        "events": report.events,
        "rows": report.rows,
        "digest": report.digest.overall(),
        "live_digest": report.live_digest.as_ref().map(Digest::overall),
        "switched": report.switched,
        "build_seconds": report.build_seconds,
        "seconds": report.seconds,
    })
}

fn built_at(hub: &Hub, at: Position) -> Result<Value, HubError> {
    let digest = hub.projections.build_at(at)?.digest()?;
    let mut result = described(&digest);
    result["ok"] = Value::Bool(true);
    result["detail"] = Value::String(format!("at {at}: {} rows, digest {}", digest.rows(), digest.overall()));
    Ok(result)
}

/// `GET /api/v1/projections/digest`
pub async fn digest(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(query): Query<AtQuery>,
) -> Result<Json<Value>, HubError> {
    operator_only(&caller)?;
    let view = view(&hub, query.at).await?;
    Ok(Json(described(&hub.blocking(move || Ok(view.digest()?)).await?)))
}

/// `POST /api/v1/projections/compare`: the live projections, the same from the log, and the same from the packs that the log
/// names. Progress lines, a line per difference or damage, and the result last.
pub async fn compare(State(hub): State<Arc<Hub>>, caller: Caller) -> Result<Response, HubError> {
    operator_only(&caller)?;
    Ok(ndjson::stream(move |lines| {
        three_ways::run(&hub, &|line| lines.send(&line).is_ok(), &|| lines.is_gone() || hub.is_closing())
    }))
}

/// `GET /api/v1/projections/dump/{name}`: every row, one per line, in key order.
pub async fn dump(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<AtQuery>,
) -> Result<Response, HubError> {
    operator_only(&caller)?;
    let model = Model::by_name(&name).ok_or_else(|| {
        let names: Vec<&str> = Model::ALL.into_iter().map(Model::name).collect();
        let shown: String = name.chars().take(80).collect();
        HubError::Invalid(format!("there is no projection '{shown}'; there are: {}", names.join(", ")))
    })?;
    let view = view(&hub, query.at).await?;
    Ok(ndjson::stream(move |lines| {
        let mut gone = false;
        let dumped = view.dump(model, &mut |row| {
            gone = lines.send(&row).is_err();
            // Any error ends the scan; this one is not told to anybody.
            if gone { Err(reprise_engine::Error::invalid("nobody listens")) } else { Ok(()) }
        });
        if gone { Ok(()) } else { Ok(dumped?) }
    }))
}

/// The projections at the log's end, or a copy of the past.
async fn view(hub: &Arc<Hub>, at: Option<u64>) -> Result<View, HubError> {
    match at {
        None => hub.view_at(hub.engine.durable().position).await,
        Some(at) => {
            let built = Arc::clone(hub);
            hub.blocking(move || Ok(built.projections.build_at(Position(at))?)).await
        }
    }
}

fn described(digest: &Digest) -> Value {
    let one = |one: &reprise_projections::digest::ModelDigest| {
        (one.model.name().to_owned(), json!({"rows": one.rows, "digest": format!("{:032x}", one.sum)}))
    };
    let models: Map<String, Value> = digest.models.iter().map(one).collect();
    json!({
        "position": digest.position.0,
        "digest": digest.overall(),
        "rows": digest.rows(),
        "projections": models,
    })
}

/// Between two progress lines.
const PACE: Duration = Duration::from_millis(200);
