//! Events as JSON, for people and scripts. Not a storage form. Secrets have no place in events; token hashes are left out.

use reprise_engine::{
    event::{Event, EventBody, RepoRecord, Scope, TokenRecord, Visibility},
    id::Position,
};
use serde_json::{Map, Value, json};

/// One event. `rows` of an objects event are counted, not listed.
pub fn event(event: &Event) -> Value {
    let (kind, mut fields) = body(&event.body);
    let mut all = Map::new();
    all.insert("position".to_owned(), position(event.position));
    all.insert("time".to_owned(), time(event.time_ms));
    all.insert("kind".to_owned(), Value::String(kind.to_owned()));
    all.insert("actor".to_owned(), Value::String(event.actor.clone()));
    all.insert("push_id".to_owned(), Value::String(event.push.to_string()));
    if let Some(fields) = fields.as_object_mut() {
        all.append(fields);
    }
    Value::Object(all)
}

fn body(body: &EventBody) -> (&'static str, Value) {
    match body {
        EventBody::RepoCreated(record) => ("repo_created", repo(record)),
        EventBody::RepoUpdated(record) => ("repo_updated", repo(record)),
        EventBody::RepoDeleted(gone) => {
            ("repo_deleted", json!({"repo_id": gone.repo.to_string(), "owner": gone.owner, "slug": gone.slug}))
        }
        EventBody::ObjectsReceived(received) => (
            "objects_received",
            json!({
                "repo_id": received.repo.to_string(),
                "pack": received.pack.to_string(),
                "pack_bytes": received.pack_bytes,
                "objects": received.rows.len(),
                "snapshots": received.snapshots.len(),
                "commits": received.commits.iter().map(|commit| commit.id.to_string()).collect::<Vec<_>>(),
            }),
        ),
        EventBody::RefsUpdated(updated) => {
            let update = |update: &reprise_engine::event::RefUpdate| {
                json!({
                    "name": update.name,
                    "old": update.old.map(|id| id.to_string()),
                    "new": update.new.map(|id| id.to_string()),
                    "forced": update.forced,
                })
            };
            let updates: Vec<Value> = updated.updates.iter().map(update).collect();
            ("refs_updated", json!({"repo_id": updated.repo.to_string(), "updates": updates}))
        }
        EventBody::TagsSet(set) => {
            let tag =
                |tag: &reprise_engine::event::TagRecord| json!({"tag": tag.tag, "commit": tag.commit.to_string()});
            let tags: Vec<Value> = set.tags.iter().map(tag).collect();
            ("tags_set", json!({"repo_id": set.repo.to_string(), "tags": tags}))
        }
        EventBody::TagsDeleted(gone) => ("tags_deleted", json!({"repo_id": gone.repo.to_string(), "tags": gone.tags})),
        EventBody::ReleasePublished(release) => (
            "release_published",
            json!({
                "repo_id": release.repo.to_string(), "tag": release.tag,
                "channel": release.channel, "is_draft": release.is_draft,
            }),
        ),
        EventBody::ReleaseRetracted(release) => {
            ("release_retracted", json!({"repo_id": release.repo.to_string(), "tag": release.tag}))
        }
        EventBody::TokenIssued(record) => ("token_issued", token(record)),
        EventBody::TokenRevoked(record) => ("token_revoked", token(record)),
        EventBody::RowsCondemned(condemned) => {
            let rows = condemned.rows.iter().map(|(kind, id)| json!({"kind": kind.name(), "object": id.to_string()}));
            (
                "rows_condemned",
                json!({
                    "repo_id": condemned.repo.to_string(), "pack": condemned.pack.to_string(),
                    "rows": rows.collect::<Vec<_>>(), "reason": condemned.reason,
                }),
            )
        }
        EventBody::PacksRelocated(moved) => {
            let packs = moved.packs.iter().map(|(pack, uri)| json!({"pack": pack.to_string(), "uri": uri}));
            ("packs_relocated", json!({"packs": packs.collect::<Vec<_>>()}))
        }
    }
}

/// A repository's settings.
pub fn repo(record: &RepoRecord) -> Value {
    json!({
        "repo_id": record.repo.to_string(),
        "owner": record.owner,
        "slug": record.slug,
        "domain": record.domain,
        "default_branch": record.default_branch,
        "visibility": visibility(record.visibility),
        "created_at": time(record.created_ms),
    })
}

/// A token without its secret.
pub fn token(record: &TokenRecord) -> Value {
    json!({
        "token_id": record.token.to_string(),
        "owner": record.owner,
        "repo": record.repo,
        "scope": scope(record.scope),
        "issued_at": time(record.issued_ms),
        "expires_at": record.expires_ms.map(time),
    })
}

/// `public` or `private`.
pub fn visibility(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Public => "public",
        Visibility::Private => "private",
    }
}

/// `read`, `write` or `admin`.
pub fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "read",
        Scope::Write => "write",
        Scope::Admin => "admin",
    }
}

fn position(position: Position) -> Value {
    Value::from(position.0)
}

/// RFC 3339 in UTC, or the bare number if it is no time.
fn time(milliseconds: u64) -> Value {
    let stamp = i64::try_from(milliseconds).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or(Value::from(milliseconds), |stamp| Value::String(stamp.to_string()))
}
