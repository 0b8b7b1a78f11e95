//! Logical rows as JSON for people and golden files, in key order.
//!
//! Invariants: nothing secret is printed (a token's hash is not its secret); one JSON value per logical row; internal
//! keys (names of repositories, condemnations, chunks of added ids) are shown as what they mean.

use reprise_engine::{
    Result,
    event::{Codec, Scope, Visibility},
    id::{PackId, TokenHash},
};
use serde_json::{Value, json};

use crate::{
    digest::scan_logical,
    encoding::RowReader,
    models::{
        Model, commits, mpack_index, object_refs, parked, refs, releases, repos, snapshots, storage_uri, tags, tokens,
    },
    store::Snapshot,
};

/// Calls `each` with every logical row of a model.
pub fn dump(snapshot: &dyn Snapshot, model: Model, each: &mut dyn FnMut(Value) -> Result<()>) -> Result<()> {
    let live = repos::live_ids(snapshot)?;
    scan_logical(snapshot, model, &live, &mut |key, row| {
        let value = value_of(model, key, row)?;
        value.map_or(Ok(()), &mut *each)
    })
}

fn value_of(model: Model, key: &[u8], row: &[u8]) -> Result<Option<Value>> {
    let value = match model {
        Model::Repos => return repo(key, row),
        Model::Refs => {
            let (repo, name) = named(model, key)?;
            let row = refs::decode(name, row)?;
            json!({"repo": repo, "name": row.name, "head": row.head.to_string(), "position": row.position.0})
        }
        Model::StorageUri => {
            let place = storage_uri::decode(row)?;
            let retired = place.uri.is_none();
            json!({"pack": hex::encode(key), "uri": place.uri, "position": place.position.0, "retired": retired})
        }
        Model::Tags => tag(key, row)?,
        Model::Releases => release(key, row)?,
        Model::Tokens => token(key, row)?,
        Model::Parked => {
            let (repo, position, reason) = parked::decode(key, row)?;
            json!({"repo": repo.to_string(), "position": position.0, "reason": reason})
        }
        Model::Commits => commit(key, row)?,
        Model::Snapshots => {
            let (repo, id) = named(model, key)?;
            let row = snapshots::decode(row)?;
            json!({"repo": repo, "id": hex::encode(id), "entries": row.entries, "directories": row.directories,
                "wire_len": row.wire_len, "position": row.position.0})
        }
        Model::ObjectRefs => object_ref(key, row)?,
        Model::MpackIndex => place(key, row)?,
    };
    Ok(Some(value))
}

fn repo(key: &[u8], row: &[u8]) -> Result<Option<Value>> {
    let Some((repo, _)) = repos::liveness(key, row) else { return Ok(None) };
    let Some(found) = repos::decode(repo, row)? else { return Ok(None) };
    let record = found.record;
    let visibility = match record.visibility {
        Visibility::Public => "public",
        Visibility::Private => "private",
    };
    Ok(Some(json!({"repo": repo.to_string(), "owner": record.owner, "slug": record.slug, "domain": record.domain,
        "default_branch": record.default_branch, "visibility": visibility, "created_ms": record.created_ms,
        "position": found.position.0})))
}

fn tag(key: &[u8], row: &[u8]) -> Result<Value> {
    let (repo, label) = named(Model::Tags, key)?;
    let (tag, position) = tags::decode(label, row)?;
    Ok(json!({"repo": repo, "tag": tag.tag, "tag_id": tag.tag_id, "commit": tag.commit.to_string(),
        "created_at": tag.created_at, "position": position.0}))
}

fn release(key: &[u8], row: &[u8]) -> Result<Value> {
    let (repo, name) = named(Model::Releases, key)?;
    let release = releases::decode(name, row)?;
    Ok(json!({"repo": repo, "tag": release.tag, "channel": release.channel, "is_draft": release.is_draft,
        "record": String::from_utf8_lossy(&release.record), "position": release.position.0}))
}

fn token(key: &[u8], row: &[u8]) -> Result<Value> {
    let hash = key.try_into().map_err(|_| malformed(Model::Tokens))?;
    let token = tokens::decode(TokenHash(hash), row)?;
    let record = token.record;
    let scope = match record.scope {
        Scope::Read => "read",
        Scope::Write => "write",
        Scope::Admin => "admin",
    };
    Ok(json!({"hash": record.hash.to_string(), "token": record.token.to_string(), "owner": record.owner,
        "repo": record.repo, "scope": scope, "issued_ms": record.issued_ms, "expires_ms": record.expires_ms,
        "revoked": token.revoked}))
}

fn commit(key: &[u8], row: &[u8]) -> Result<Value> {
    match commits::decode_key(key).ok_or_else(|| malformed(Model::Commits))? {
        commits::CommitKey::Facts(repo, id) => {
            let row = commits::decode(row)?;
            let parents: Vec<String> = row.parents.iter().map(ToString::to_string).collect();
            Ok(json!({"repo": repo.to_string(), "id": id.to_string(), "parents": parents,
                "snapshot": row.snapshot.to_string(), "committed_at": row.committed_at, "branch": row.branch,
                "author": row.author, "message": row.message, "adds": row.adds, "wire_len": row.wire_len,
                "position": row.position.0}))
        }
        commits::CommitKey::Chunk(repo, id, chunk) => {
            let mut ids = Vec::new();
            commits::decode_chunk(row, &mut ids)?;
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            Ok(json!({"repo": repo.to_string(), "id": id.to_string(), "chunk": chunk, "adds_ids": ids}))
        }
    }
}

fn object_ref(key: &[u8], row: &[u8]) -> Result<Value> {
    let (repo, rest) = named(Model::ObjectRefs, key)?;
    let (kind, id) = rest.split_first().ok_or_else(|| malformed(Model::ObjectRefs))?;
    let kind = reprise_engine::id::Kind::from_byte(*kind).ok_or_else(|| malformed(Model::ObjectRefs))?;
    Ok(json!({"repo": repo, "kind": kind.name(), "id": hex::encode(id), "position": object_refs::decode(row)?.0}))
}

fn place(key: &[u8], row: &[u8]) -> Result<Value> {
    let key = mpack_index::decode_key(key).ok_or_else(|| malformed(Model::MpackIndex))?;
    let (repo, kind, id, pack) = (key.repo.to_string(), key.kind.name(), key.id.to_string(), key.pack.to_string());
    if key.condemns {
        let position = mpack_index::decode_condemned(row)?;
        return Ok(json!({"repo": repo, "kind": kind, "id": id, "pack": pack, "condemned_at": position.0}));
    }
    let (location, position) = mpack_index::decode(PackId(key.pack.0), row)?;
    let base = location.base.map(|base| {
        json!({"offset": base.offset, "stored_len": base.stored_len, "real_len": base.real_len,
            "codec": codec(base.codec)})
    });
    Ok(json!({"repo": repo, "kind": kind, "id": id, "pack": pack, "offset": location.offset,
        "stored_len": location.stored_len, "real_len": location.real_len, "codec": codec(location.codec), "base": base,
        "record_hash": location.record_hash.map(|hash| hash.to_string()), "position": position.0}))
}

fn codec(codec: Codec) -> &'static str {
    match codec {
        Codec::Raw => "raw",
        Codec::Zstd => "zstd",
        Codec::ZstdPrefix => "zstd-prefix",
    }
}

fn named(model: Model, key: &[u8]) -> Result<(String, &[u8])> {
    let (repo, name) = key.split_first_chunk::<16>().ok_or_else(|| malformed(model))?;
    Ok((reprise_engine::id::RepoId(*repo).to_string(), name))
}

fn malformed(model: Model) -> reprise_engine::Error {
    RowReader::new(model.name(), &[]).damaged("its key is malformed")
}
