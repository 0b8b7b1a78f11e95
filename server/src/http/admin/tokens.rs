//! Tokens over JSON. The secret is in the answer to `POST` and nowhere else.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use reprise_engine::{event::Scope, id::TokenId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    http::{
        admin::event_json,
        extract::{JsonBody, Path},
    },
    hub::{Caller, Hub, HubError, tokens::NewToken},
};

/// `GET /api/v1/tokens`
pub async fn list(State(hub): State<Arc<Hub>>, caller: Caller) -> Result<Json<Value>, HubError> {
    let rows = hub.list_tokens(&caller).await?;
    let tokens = rows.iter().map(|row| {
        let mut shown = event_json::token(&row.record);
        let state = match row.revoked {
            true => "revoked",
            false if hub.is_over(&row.record) => "expired",
            false => "valid",
        };
        shown["state"] = Value::String(state.to_owned());
        shown
    });
    Ok(Json(json!({"tokens": tokens.collect::<Vec<_>>()})))
}

/// What a new token allows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    owner: String,
    repo: Option<String>,
    scope: Option<String>,
    /// How long it is valid, milliseconds.
    expires_ms: Option<u64>,
}

/// `POST /api/v1/tokens`
pub async fn create(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    JsonBody(body): JsonBody<CreateBody>,
) -> Result<Response, HubError> {
    let scope = match body.scope.as_deref() {
        Some("read") => Scope::Read,
        None | Some("write") => Scope::Write,
        Some("admin") => Scope::Admin,
        Some(_) => return Err(HubError::Invalid("scope is 'read', 'write' or 'admin'".to_owned())),
    };
    let expires_ms = body.expires_ms.map(|span| hub.now_ms().saturating_add(span));
    let new = NewToken { owner: body.owner, repo: body.repo, scope, expires_ms };
    let (record, secret) = hub.issue_token(&caller, new).await?;
    let mut shown = event_json::token(&record);
    shown["token"] = Value::String(secret.expose().to_owned());
    let mut response = (StatusCode::CREATED, Json(shown)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `DELETE /api/v1/tokens/{token}`
pub async fn revoke(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path(token): Path<String>,
) -> Result<Json<Value>, HubError> {
    let token: TokenId = token.parse()?;
    let record = hub.revoke_token(&caller, token).await?;
    let mut shown = event_json::token(&record);
    shown["state"] = Value::String("revoked".to_owned());
    Ok(Json(shown))
}
