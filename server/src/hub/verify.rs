//! Verification: the log from its first byte, then every pack that it names.
//!
//! Without `deep`: the log, each pack's presence, size and table. With `deep`: every byte of every entry. Damage is named
//! (file, pack, object), never repaired here. Damaged rows that are condemned already and were pushed again since are
//! reported as healed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use reprise_engine::{
    Error, ErrorKind,
    event::EventBody,
    id::{Kind, ObjectId, PackId, Position, RepoId, TableHash},
    pack,
    store::StoreKey,
};
use reprise_projections::View;
use serde_json::{Value, json};

use crate::hub::{Hub, HubError};

/// Verifies everything; `say` takes each line and answers false when nobody listens. Blocking.
pub fn run(hub: &Hub, deep: bool, say: &mut dyn FnMut(Value) -> bool) -> Result<(), HubError> {
    let mut found = Found::default();
    let end = hub.engine.durable().position;
    match scan_log(hub, end, say) {
        Ok(Some(named)) => verify_packs(hub, &named, deep, &mut found, say)?,
        Ok(None) => return Ok(()),
        Err(error) if error.is_corrupt() => {
            found.damaged += 1;
            say(
                json!({"damaged": {"what": "log", "file": error.file(), "offset": error.offset(), "detail": error.to_string()}}),
            );
        }
        Err(error) => return Err(error.into()),
    }
    say(json!({"result": {
        "ok": found.damaged == 0,
        "deep": deep,
        "events": end.0,
        "packs": found.packs,
        "bytes": found.bytes,
        "damaged": found.damaged,
        "healed": found.healed,
    }}));
    Ok(())
}

/// What was met.
#[derive(Default)]
struct Found {
    packs: u64,
    bytes: u64,
    damaged: u64,
    healed: u64,
}

/// What the log says about packs.
#[derive(Default)]
struct Named {
    packs: BTreeMap<PackId, NamedPack>,
    condemned: BTreeSet<(RepoId, PackId, Kind, ObjectId)>,
}

struct NamedPack {
    repo: RepoId,
    bytes: u64,
    table_hash: TableHash,
}

/// Reads every event (the follower checks every frame and the chain); `None` when nobody listens any more.
fn scan_log(hub: &Hub, end: Position, say: &mut dyn FnMut(Value) -> bool) -> reprise_engine::Result<Option<Named>> {
    let mut named = Named::default();
    if end == Position::ZERO {
        return Ok(Some(named));
    }
    let mut follower = hub.engine.follow(Position(1))?;
    let mut said = 0;
    let mut at = Position::ZERO;
    while at < end {
        let Some(group) = follower.next(STEP)? else {
            let text = format!("the log gives no event after {at}, its end is {end}");
            return Err(Error::new(ErrorKind::Unavailable, text));
        };
        for event in group.events.iter() {
            named.take(&event.body);
            at = event.position;
        }
        if at.0 - said >= EVENTS_PER_LINE || at >= end {
            said = at.0;
            if !say(json!({"progress": {"what": "log", "done": at.0, "total": end.0}})) {
                return Ok(None);
            }
        }
    }
    Ok(Some(named))
}

impl Named {
    fn take(&mut self, body: &EventBody) {
        match body {
            EventBody::ObjectsReceived(received) => {
                let pack =
                    NamedPack { repo: received.repo, bytes: received.pack_bytes, table_hash: received.table_hash };
                self.packs.insert(received.pack, pack);
            }
            EventBody::RowsCondemned(condemned) => {
                let rows = condemned.rows.iter();
                self.condemned.extend(rows.map(|(kind, id)| (condemned.repo, condemned.pack, *kind, *id)));
            }
            EventBody::PacksRelocated(moved) => {
                for (pack, _) in moved.packs.iter().filter(|(_, uri)| uri.is_none()) {
                    self.packs.remove(pack);
                }
            }
            _ => {}
        }
    }
}

fn verify_packs(
    hub: &Hub,
    named: &Named,
    deep: bool,
    found: &mut Found,
    say: &mut dyn FnMut(Value) -> bool,
) -> Result<(), HubError> {
    let view = hub.projections.view();
    let total = named.packs.len();
    for (pack, expected) in &named.packs {
        let mut bad: Vec<(Kind, ObjectId, String)> = Vec::new();
        if let Err(error) = verify_pack(hub, *pack, expected, deep, &mut bad) {
            found.damaged += 1;
            say(json!({"damaged": {"what": "pack", "pack": pack.to_string(), "detail": error.to_string()}}));
        }
        for (kind, id, detail) in bad {
            let healed = named.condemned.contains(&(expected.repo, *pack, kind, id))
                && is_elsewhere(&view, expected.repo, kind, id)?;
            let what = if healed { "healed" } else { "damaged" };
            *(if healed { &mut found.healed } else { &mut found.damaged }) += 1;
            say(json!({what: {
                "what": "object", "kind": kind.name(), "object": id.to_string(),
                "pack": pack.to_string(), "repo_id": expected.repo.to_string(), "detail": detail,
            }}));
        }
        found.packs += 1;
        found.bytes += expected.bytes;
        if !say(json!({"progress": {"what": "packs", "done": found.packs, "total": total, "bytes": found.bytes}})) {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether readers find the object in another place, or its repository is gone.
fn is_elsewhere(view: &View, repo: RepoId, kind: Kind, id: ObjectId) -> Result<bool, HubError> {
    let Some(row) = view.repo(repo)? else { return Ok(true) };
    // Condemned rows are skipped: what is found here is another copy.
    Ok(view.locate(row.scope(), kind, id)?.is_some())
}

fn verify_pack(
    hub: &Hub,
    pack: PackId,
    expected: &NamedPack,
    deep: bool,
    bad: &mut Vec<(Kind, ObjectId, String)>,
) -> Result<(), HubError> {
    let store = hub.engine.store().as_ref();
    let size = store.size(&StoreKey::pack(pack))?;
    if size != expected.bytes {
        return Err(HubError::Internal(format!("{size} bytes, the log says {}", expected.bytes)));
    }
    let described = match deep {
        true => pack::verify(store, pack, &mut |kind, id, detail| bad.push((kind, id, detail)))?,
        false => pack::describe(store, pack)?,
    };
    if described.stored.table_hash != expected.table_hash {
        return Err(HubError::Internal("its table is not the one that was accepted".to_owned()));
    }
    Ok(())
}

const STEP: Duration = Duration::from_secs(5);
/// Events between two progress lines.
const EVENTS_PER_LINE: u64 = 10_000;
