//! Repositories over JSON.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use reprise_engine::{
    event::{Codec, Scope, Visibility},
    id::{Kind, ObjectId, PackId},
    store::StoreKey,
};
use reprise_projections::View;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    http::{
        admin::event_json,
        extract::{JsonBody, Path, Query},
    },
    hub::{
        Caller, Hub, HubError,
        repos::{NewRepo, RepoChange},
    },
};

/// A page of a listing.
#[derive(Deserialize)]
pub struct ListQuery {
    /// `OWNER/SLUG` of the last repository of the page before.
    after: Option<String>,
    /// Repositories per page.
    limit: Option<usize>,
}

/// `GET /api/v1/repos`
pub async fn list(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Value>, HubError> {
    let after = match query.after.as_deref().map(|name| name.split_once('/').ok_or(name)) {
        None => None,
        Some(Ok((owner, slug))) => Some((owner.to_owned(), slug.to_owned())),
        Some(Err(_)) => return Err(HubError::BadRequest("after: OWNER/SLUG is expected".to_owned())),
    };
    let limit = query.limit.unwrap_or(LIST_MAX).clamp(1, LIST_MAX);
    let rows = hub.list_repos(&caller, after, limit).await?;
    let next =
        rows.last().filter(|_| rows.len() == limit).map(|row| format!("{}/{}", row.record.owner, row.record.slug));
    let repos: Vec<Value> = rows.iter().map(|row| event_json::repo(&row.record)).collect();
    Ok(Json(json!({"repos": repos, "next": next})))
}

/// What a new repository is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    owner: String,
    slug: String,
    domain: Option<String>,
    default_branch: Option<String>,
    visibility: Option<String>,
}

/// `POST /api/v1/repos`
pub async fn create(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    JsonBody(body): JsonBody<CreateBody>,
) -> Result<(StatusCode, Json<Value>), HubError> {
    match &caller {
        Caller::Anonymous => {
            return Err(HubError::Unauthorized("a token is required to create a repository".to_owned()));
        }
        caller if caller.allows(&body.owner, &body.slug, Scope::Admin) => {}
        _ => return Err(HubError::Forbidden(format!("this token may not create repositories of '{}'", body.owner))),
    }
    let plain = NewRepo::named(&body.owner, &body.slug);
    let new = NewRepo {
        domain: body.domain.unwrap_or(plain.domain),
        default_branch: body.default_branch.unwrap_or_default(),
        visibility: body.visibility.as_deref().map_or(Ok(Visibility::Public), visibility)?,
        owner: body.owner,
        slug: body.slug,
    };
    let record = hub.create_repo(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(event_json::repo(&record))))
}

/// `GET /api/v1/repos/{owner}/{slug}`: settings and branches.
pub async fn show(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((owner, slug)): Path<(String, String)>,
) -> Result<Json<Value>, HubError> {
    let (repo, view) = hub.readable(&caller, &owner, &slug).await?;
    let refs = hub.read(move || Ok(view.refs(repo.scope)?)).await?;
    let mut shown = event_json::repo(&repo.row.record);
    let branches = refs.iter().map(|row| (row.name.clone(), Value::String(row.head.to_string())));
    shown["branches"] = Value::Object(branches.collect());
    shown["position"] = Value::from(repo.row.position.0);
    Ok(Json(shown))
}

/// What changes; absent stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    owner: Option<String>,
    slug: Option<String>,
    domain: Option<String>,
    default_branch: Option<String>,
    visibility: Option<String>,
}

/// `PATCH /api/v1/repos/{owner}/{slug}`
pub async fn update(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((owner, slug)): Path<(String, String)>,
    JsonBody(body): JsonBody<UpdateBody>,
) -> Result<Json<Value>, HubError> {
    let visibility = body.visibility.as_deref().map(visibility).transpose()?;
    let UpdateBody { owner: new_owner, slug: new_slug, domain, default_branch, .. } = body;
    let change = RepoChange { owner: new_owner, slug: new_slug, domain, default_branch, visibility };
    let record = hub.update_repo(&caller, &owner, &slug, change).await?;
    Ok(Json(event_json::repo(&record)))
}

/// `DELETE /api/v1/repos/{owner}/{slug}`
pub async fn delete(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((owner, slug)): Path<(String, String)>,
) -> Result<Json<Value>, HubError> {
    let record = hub.delete_repo(&caller, &owner, &slug).await?;
    let mut shown = event_json::repo(&record);
    shown["deleted"] = Value::Bool(true);
    Ok(Json(shown))
}

/// `GET /api/v1/repos/{owner}/{slug}/locate/{object}`: which event proves the object, which pack, which bytes.
pub async fn locate(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((owner, slug, object)): Path<(String, String, String)>,
) -> Result<Json<Value>, HubError> {
    let object: ObjectId = object.parse()?;
    let (repo, view) = hub.readable(&caller, &owner, &slug).await?;
    let job = Arc::clone(&hub);
    hub.read(move || {
        let mut found = Vec::new();
        for kind in [Kind::Blob, Kind::Snapshot, Kind::Commit] {
            let Some(proof) = view.proof(repo.scope, kind, object)? else { continue };
            let location = view.locate(repo.scope, kind, object)?;
            let uri = match &location {
                Some(location) => place_for(&caller, &job, &view, location.pack)?,
                None => None,
            };
            found.push(json!({
                "kind": kind.name(),
                "object": object.to_string(),
                "position": proof.0,
                "condemned": location.is_none(),
                "pack": location.as_ref().map(|at| at.pack.to_string()),
                "offset": location.as_ref().map(|at| at.offset),
                "stored_bytes": location.as_ref().map(|at| at.stored_len),
                "real_bytes": location.as_ref().map(|at| at.real_len),
                "codec": location.as_ref().map(|at| codec(at.codec)),
                "uri": uri,
            }));
        }
        if found.is_empty() {
            return Err(HubError::NotFound(format!("{owner}/{slug} has no object {object}")));
        }
        Ok(Json(json!({"found": found})))
    })
    .await
}

/// Where a pack is. The rows know its key in the store; where the store is, only the operator is told.
fn place_for(caller: &Caller, hub: &Hub, view: &View, pack: PackId) -> Result<Option<String>, HubError> {
    let (place, key) = (view.storage_uri(pack)?, StoreKey::pack(pack));
    Ok(match caller {
        Caller::Operator if place.as_deref() == Some(key.as_str()) => Some(hub.engine.store().uri(&key)),
        _ => place,
    })
}

fn codec(codec: Codec) -> &'static str {
    match codec {
        Codec::Raw => "raw",
        Codec::Zstd => "zstd",
        Codec::ZstdPrefix => "zstd-prefix",
    }
}

fn visibility(text: &str) -> Result<Visibility, HubError> {
    match text {
        "public" => Ok(Visibility::Public),
        "private" => Ok(Visibility::Private),
        _ => Err(HubError::Invalid("visibility is 'public' or 'private'".to_owned())),
    }
}

/// Repositories in one answer.
const LIST_MAX: usize = 1_000;
