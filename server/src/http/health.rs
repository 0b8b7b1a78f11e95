//! Probes: `/health` (advancing or explained), `/ready` (caught up), `/metrics`.
//!
//! A server that stands still without a reason is unhealthy; one that is busy says with what.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use metrics::gauge;
use reprise_engine::engine::Tail;
use reprise_projections::Status;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::{
    hub::{Hub, archive::Backlog},
    telemetry,
};

/// `GET /health`: 200 while the log is whole, takes more, and the projections advance or say why not. What is not as it should be
/// and stops nothing yet is told under `degraded`.
pub async fn health(State(hub): State<Arc<Hub>>) -> Response {
    let status = hub.projections.status();
    let (problem, degraded) = (problem(&hub, &status), degraded(&hub));
    let code = if problem.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = json!({
        "ok": problem.is_none(),
        "detail": detail(problem, degraded.as_deref()),
        "degraded": degraded,
        "durable": hub.engine.durable().position.0,
        "projections": status,
    });
    (code, Json(body)).into_response()
}

/// `GET /ready`: 503 with the progress until the projections are caught up.
pub async fn ready(State(hub): State<Arc<Hub>>) -> Response {
    let status = hub.projections.status();
    let ready = is_ready(&status);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ready": ready,
        "detail": if ready { "ready".to_owned() } else { waiting_for(&status) },
        "position": status.position,
        "durable": status.durable,
        "rebuild_done": status.rebuild_done,
        "rebuild_total": status.rebuild_total,
    });
    let mut response = (code, Json(body)).into_response();
    if !ready {
        response.headers_mut().insert(header::RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
    }
    response
}

/// `GET /metrics`: Prometheus text.
pub async fn metrics(State(hub): State<Arc<Hub>>) -> Response {
    let (status, lag) = (hub.projections.status(), hub.projections.lag());
    // A gauge is a float; positions beyond 2^53 lose their last digits here and nowhere else.
    #[allow(clippy::cast_precision_loss)]
    let float = |count: u64| count as f64;
    gauge!("reprise_log_position").set(float(status.durable));
    gauge!("reprise_projections_position").set(float(status.position));
    gauge!("reprise_projections_lag_events").set(float(lag.events));
    gauge!("reprise_projections_lag_seconds").set(lag.seconds);
    gauge!("reprise_projections_parked_repositories").set(float(status.parked));
    gauge!("reprise_projections_possible_loss").set(f64::from(u8::from(status.possible_loss)));
    if let Some(unarchived) = hub.unarchived() {
        gauge!("reprise_log_unarchived_events").set(float(unarchived.events));
        gauge!("reprise_log_unarchived_bytes").set(float(unarchived.bytes));
        gauge!("reprise_log_unarchived_seconds").set(unarchived.age.as_secs_f64());
    }
    let text = telemetry::metrics().render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Everything about the log and the projections, for `reprise status`.
pub fn describe(hub: &Hub) -> Value {
    let (status, lag) = (hub.projections.status(), hub.projections.lag());
    let durable = hub.engine.durable();
    let (problem, degraded) = (problem(hub, &status), degraded(hub));
    let unarchived = hub.unarchived().map(|unarchived| {
        json!({"events": unarchived.events, "bytes": unarchived.bytes, "seconds": unarchived.age.as_secs()})
    });
    let opened = hub.opened.as_ref().map(|report| {
        json!({
            "log": report.log.to_string(),
            "tail": tail_text(&report.tail),
            "unclean": report.unclean,
            "bytes_read": report.bytes_read,
        })
    });
    json!({
        "ok": problem.is_none(),
        "detail": detail(problem, degraded.as_deref()),
        "degraded": degraded,
        "ready": is_ready(&status),
        "durable": durable.position.0,
        "archived": hub.archiving.then(|| hub.engine.archived().0),
        "unarchived": unarchived,
        "chain": durable.chain.to_string(),
        "lag_events": lag.events,
        "lag_seconds": lag.seconds,
        "projections": status,
        "opened": opened,
    })
}

/// Reads are answered, and from all of the log. A rebuild beside a generation that is at the end takes nothing away; one
/// without any has nothing to answer from, and neither has an opening, even of an empty log.
fn is_ready(status: &Status) -> bool {
    let behind_nothing = status.position >= status.durable && !status.generation.is_empty();
    status.state == "ready" || (status.state == "rebuilding" && behind_nothing)
}

fn waiting_for(status: &Status) -> String {
    let progress = match (status.rebuild_done, status.rebuild_total) {
        (Some(done), Some(total)) => format!("{done} of {total} events"),
        _ => format!("{} of {} events", status.position, status.durable),
    };
    let because = if status.reason.is_empty() { String::new() } else { format!(": {}", status.reason) };
    format!("{} ({progress}){because}", status.state)
}

/// What is wrong, if something is.
fn problem(hub: &Hub, status: &Status) -> Option<String> {
    if let Some(why) = hub.read_only() {
        return Some(why);
    }
    if status.possible_loss {
        return Some(format!("the log may have lost events that an index had: {}", status.reason));
    }
    if status.state == "stopped" {
        return Some(format!("the projections have stopped: {}", status.reason));
    }
    if let Backlog::Full(why) = hub.backlog() {
        return Some(why);
    }
    stalled(hub, status).then(|| format!("the projections do not advance beyond {}", status.position))
}

/// What is not as it should be, though nothing is refused for it.
fn degraded(hub: &Hub) -> Option<String> {
    match hub.backlog() {
        Backlog::Late(why) => Some(why),
        Backlog::Usual | Backlog::Full(_) => None,
    }
}

fn detail(problem: Option<String>, degraded: Option<&str>) -> String {
    problem.unwrap_or_else(|| degraded.unwrap_or("well").to_owned())
}

/// Behind, without a reason, and where they were [`STALL`] ago.
fn stalled(hub: &Hub, status: &Status) -> bool {
    // A reason with state "ready" is a note about the last opening, no explanation.
    hub.advance.stalled(status.position, status.durable, status.state == "ready")
}

/// The position at which the projections were first seen behind the log, and when.
#[derive(Default)]
pub struct Advance(Mutex<Option<(u64, Instant)>>);

impl Advance {
    fn stalled(&self, position: u64, durable: u64, unexplained: bool) -> bool {
        let mut behind = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if position >= durable {
            // Whatever comes next has only just come.
            *behind = None;
            return false;
        }
        match *behind {
            Some((at, since)) if at == position => unexplained && since.elapsed() > STALL,
            _ => {
                *behind = Some((position, Instant::now()));
                false
            }
        }
    }
}

fn tail_text(tail: &Tail) -> String {
    match tail {
        Tail::Clean => "clean".to_owned(),
        Tail::Torn { file, offset, bytes } => {
            format!("torn: {bytes} bytes of an unfinished group were cut from {file} at {offset}")
        }
        Tail::Damaged { file, offset, message } => format!("damaged: {file} at byte {offset}: {message}"),
    }
}

/// How long projections may stand still with work before them.
const STALL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, generation: &str, position: u64) -> Status {
        Status {
            generation: generation.to_owned(),
            position,
            durable: 5,
            state: state.to_owned(),
            reason: String::new(),
            parked: 0,
            possible_loss: false,
            rebuild_done: None,
            rebuild_total: None,
        }
    }

    /// A server on an empty directory said that it was ready, then answered 503: the projections were being opened.
    #[test]
    fn nothing_is_ready_before_a_generation_is_open_even_of_an_empty_log() {
        for state in ["catching-up", "rebuilding", "stopped"] {
            assert!(!is_ready(&Status { durable: 0, ..status(state, "", 0) }), "{state}");
        }
        assert!(is_ready(&status("ready", "one", 5)));
        assert!(is_ready(&status("rebuilding", "one", 5)), "the old generation answers");
        assert!(!is_ready(&status("rebuilding", "one", 4)) && !is_ready(&status("stopped", "one", 5)));
    }

    #[tokio::test(start_paused = true)]
    async fn standing_still_behind_the_log_is_a_stall_only_after_a_while_and_without_a_reason() {
        let advance = Advance::default();
        assert!(!advance.stalled(1, 5, true));
        tokio::time::advance(STALL + Duration::from_secs(1)).await;
        assert!(!advance.stalled(1, 5, false), "explained");
        assert!(advance.stalled(1, 5, true));
        assert!(!advance.stalled(2, 5, true), "advancing");
        assert!(!advance.stalled(2, 2, true), "at the end");
        tokio::time::advance(STALL * 2).await;
        assert!(!advance.stalled(2, 3, true), "an event that has only just come, after a quiet hour");
        tokio::time::advance(STALL * 2).await;
        assert!(advance.stalled(2, 3, true));
    }
}
