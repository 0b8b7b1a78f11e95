//! Events from a position on, as NDJSON; with `follow` until the client goes away.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use reprise_engine::id::Position;
use serde::Deserialize;

use crate::{
    http::{
        admin::{event_json, ndjson, operator_only},
        extract::Query,
    },
    hub::{Caller, Hub, HubError},
};

/// What is asked.
#[derive(Deserialize)]
pub struct LogQuery {
    /// First position wanted; 1 if absent.
    from: Option<u64>,
    /// Go on when the end is reached.
    #[serde(default)]
    follow: bool,
}

/// `GET /api/v1/log`
pub async fn log(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(query): Query<LogQuery>,
) -> Result<Response, HubError> {
    operator_only(&caller)?;
    let from = Position(query.from.unwrap_or(1).max(1));
    let end = hub.engine.durable().position;
    Ok(ndjson::stream(move |lines| {
        if !query.follow && from > end {
            return Ok(());
        }
        let mut follower = hub.engine.follow(from)?;
        loop {
            let group = follower.next(STEP)?;
            let Some(group) = group else {
                if !query.follow || lines.is_gone() || hub.is_closing() {
                    return Ok(());
                }
                continue;
            };
            for event in group.events.iter().filter(|event| event.position >= from) {
                if !query.follow && event.position > end {
                    return Ok(());
                }
                if lines.send(&event_json::event(event)).is_err() {
                    return Ok(());
                }
            }
            if !query.follow && group.events.last().is_none_or(|last| last.position >= end) {
                return Ok(());
            }
        }
    }))
}

/// How soon a follower notices that nobody listens any more.
const STEP: Duration = Duration::from_millis(500);
