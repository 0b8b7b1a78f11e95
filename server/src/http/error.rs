//! Every refusal to HTTP: one exhaustive match.
//!
//! The body is JSON, `{"detail": "..."}` first, because the client shows the first 400 characters; further fields are
//! for machines. A 5xx is logged here, once.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use reprise_engine::engine::{Condition, Reason};
use serde_json::{Map, Value};

use crate::hub::HubError;

impl IntoResponse for HubError {
    fn into_response(self) -> Response {
        let answer = answer(&self);
        if answer.status.is_server_error() {
            tracing::error!(status = answer.status.as_u16(), error = %self, "request failed");
        }
        answer.into_response()
    }
}

struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    fields: Vec<(&'static str, Value)>,
    detail: String,
}

fn answer(error: &HubError) -> Answer {
    let detail = error.to_string();
    let plain = |status| Answer { status, retry_after: None, fields: Vec::new(), detail: detail.clone() };
    let later = |status, after| Answer { retry_after: Some(after), ..plain(status) };
    match error {
        HubError::Unauthorized(_) => plain(StatusCode::UNAUTHORIZED),
        HubError::Forbidden(_) => plain(StatusCode::FORBIDDEN),
        HubError::NotFound(_) => plain(StatusCode::NOT_FOUND),
        HubError::BadRequest(_) => plain(StatusCode::BAD_REQUEST),
        HubError::Invalid(_) => plain(StatusCode::UNPROCESSABLE_ENTITY),
        HubError::TooLarge(_) => plain(StatusCode::PAYLOAD_TOO_LARGE),
        HubError::Coded(_) => plain(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        HubError::Changed(_) => plain(StatusCode::PRECONDITION_FAILED),
        HubError::Conflict(_) => plain(StatusCode::CONFLICT),
        HubError::Busy { retry_after, .. } => later(StatusCode::TOO_MANY_REQUESTS, *retry_after),
        HubError::Unavailable(_) => later(StatusCode::SERVICE_UNAVAILABLE, RETRY_SOON),
        HubError::Unknown(push) => Answer {
            fields: vec![
                ("push_id", Value::String(push.to_string())),
                ("outcome", Value::String("unknown".to_owned())),
            ],
            ..later(StatusCode::SERVICE_UNAVAILABLE, RETRY_SOON)
        },
        HubError::NotAppended(reason) => match reason_status(reason) {
            (status, Some(after)) => later(status, after),
            (status, None) => plain(status),
        },
        HubError::Damaged { object, pack } => Answer {
            fields: vec![("object", Value::String(object.to_string())), ("pack", Value::String(pack.to_string()))],
            ..plain(StatusCode::INTERNAL_SERVER_ERROR)
        },
        HubError::Internal(_) => plain(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn reason_status(reason: &Reason) -> (StatusCode, Option<Duration>) {
    match reason {
        Reason::Condition(Condition::RepoLive(_)) => (StatusCode::NOT_FOUND, None),
        Reason::Condition(Condition::ReleaseExists { exists: true, .. }) => (StatusCode::NOT_FOUND, None),
        Reason::Condition(
            Condition::NameFree { .. }
            | Condition::RepoAt(..)
            | Condition::RefIs { .. }
            | Condition::NoRefs(_)
            | Condition::NoRecordsSince(..)
            | Condition::ReleaseExists { exists: false, .. },
        ) => (StatusCode::CONFLICT, None),
        Reason::Condition(Condition::NoSweepSince(_)) => (StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_SOON)),
        Reason::RefNameClash { .. } | Reason::PushIdReused | Reason::Invalid(_) => {
            (StatusCode::UNPROCESSABLE_ENTITY, None)
        }
        Reason::Busy(after) => (StatusCode::TOO_MANY_REQUESTS, Some(*after)),
        Reason::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, None),
        Reason::Full | Reason::ReadOnly(_) | Reason::Unavailable(_) | Reason::Closed => {
            (StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_SOON))
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut fields = Map::new();
        fields.insert("detail".to_owned(), Value::String(self.detail));
        fields.extend(self.fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let mut response = (self.status, axum::Json(Value::Object(fields))).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// When a temporary failure is worth another try.
const RETRY_SOON: Duration = Duration::from_secs(2);
