//! Who is asking: [`Caller`] from the `Authorization` header.
//!
//! A token is read from the header and nowhere else. A bad, expired or revoked one is 401 even where none is needed, so
//! that a client with a stale token learns of it. The text of a token is hashed at once and never kept or logged.

use std::sync::Arc;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::{
    http::intake,
    hub::{Caller, Hub, HubError, Secret},
};

impl FromRequestParts<Arc<Hub>> for Caller {
    type Rejection = HubError;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Caller, HubError> {
        let mut headers = parts.headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = headers.next() else { return Ok(Caller::Anonymous) };
        let text = value.to_str().ok().filter(|_| headers.next().is_none());
        let token = text.and_then(bearer).ok_or_else(|| {
            HubError::Unauthorized("the Authorization header is not of the form 'Bearer TOKEN'".to_owned())
        })?;
        hub.caller_of(Secret::new(token)).await
    }
}

/// Whether the request carries the operator's secret. Costs nothing but a comparison.
pub fn is_operator(headers: &HeaderMap, hub: &Hub) -> bool {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
    token.is_some_and(|token| hub.operator.matches(token))
}

/// The parts of a path that a route names; what does not decode is 400 in words.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = HubError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<T>, HubError> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(path)| Path(path)).map_err(|error| HubError::BadRequest(error.body_text()))
    }
}

/// A query; what does not decode is 400 in words.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = HubError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Query<T>, HubError> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|axum::extract::Query(query)| Query(query)).map_err(|error| HubError::BadRequest(error.body_text()))
    }
}

/// The JSON body of somebody; what does not decode is 400, what decodes to something else is 422, both in words. Without a
/// token it is refused before a byte of it is read.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Hub>> for JsonBody<T> {
    type Rejection = HubError;

    async fn from_request(request: Request, hub: &Arc<Hub>) -> Result<JsonBody<T>, HubError> {
        let (mut parts, body) = request.into_parts();
        if let Caller::Anonymous = Caller::from_request_parts(&mut parts, hub).await? {
            return Err(HubError::Unauthorized("a token is required".to_owned()));
        }
        intake::check_coding(&parts.headers)?;
        let max = usize::try_from(hub.limits.admin_body_bytes_max).unwrap_or(usize::MAX);
        let body = http_body_util::Limited::new(body, max);
        let bytes = match http_body_util::BodyExt::collect(body).await {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(HubError::TooLarge(format!("the body is larger than the limit of {max} bytes")));
            }
            Err(error) => return Err(HubError::BadRequest(format!("the body ended early: {error}"))),
        };
        serde_json::from_slice(&bytes).map(JsonBody).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => HubError::Invalid(format!("the body says something else: {error}")),
            _ => HubError::BadRequest(format!("the body is not JSON: {error}")),
        })
    }
}

/// The token of a `Bearer` credential; the scheme's case does not matter.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= TOKEN_BYTES_MAX).then_some(token)
}

/// No longer text is hashed.
const TOKEN_BYTES_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_credential_gives_a_token() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for value in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
            assert_eq!(bearer(value), None, "{value}");
        }
    }
}
