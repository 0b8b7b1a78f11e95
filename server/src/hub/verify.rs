//! Verification: the log from its first byte, then every pack that it names.
//!
//! Without `deep`: the log, each pack's presence, size and table. With `deep`: every byte of every entry. Damage is named
//! (file, pack, object), never repaired here. Damage that nobody meets any more (its rows are condemned and the objects are
//! elsewhere, or their repository is gone) is reported as healed; rows that are condemned and nowhere else are damage,
//! whatever their bytes are now. What only could not be read ends the verification with that error.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use reprise_engine::{
    Error, ErrorKind,
    engine::{ReadOnly, Tail},
    event::{Event, EventBody},
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
    let mut named = Named::default();
    let at_opening = damaged_at_opening(hub);
    if let Some(damage) = &at_opening {
        found.say(false, damage.clone(), say);
    }
    match scan_log(hub, end, &mut named, say) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(error) if error.is_corrupt() => {
            let met = damage_of(&error);
            let place = |damage: &Value| (damage["file"].clone(), damage["offset"].clone());
            if at_opening.as_ref().map(place) != Some(place(&met)) {
                found.say(false, met, say);
            }
        }
        Err(error) => return Err(error.into()),
    }
    // What somebody else met, and is not one of these: by now the file may read as it should.
    if let Some(ReadOnly::Damaged(why)) = hub.engine.read_only()
        && found.damaged == 0
    {
        found.say(false, json!({"what": "log", "detail": why}), say);
    }
    // What stands behind damage names packs too, but nobody can read which.
    verify_packs(hub, &named, deep, &mut found, say)?;
    say(json!({"result": {
        "ok": found.damaged == 0,
        "deep": deep,
        "events": named.read.0,
        "packs": found.packs,
        "bytes": found.bytes,
        "damaged": found.damaged,
        "healed": found.healed,
    }}));
    Ok(())
}

/// What opening found wrong with the log: behind that point nothing can be scanned.
fn damaged_at_opening(hub: &Hub) -> Option<Value> {
    let Tail::Damaged { file, offset, message } = &hub.opened.as_ref()?.tail else { return None };
    Some(
        json!({"what": "log", "file": file, "offset": offset, "detail": format!("{file} at byte {offset}: {message}; ask `reprise doctor`")}),
    )
}

fn damage_of(error: &Error) -> Value {
    let detail = format!("{error}; ask `reprise doctor`");
    json!({"what": "log", "file": error.file(), "offset": error.offset(), "detail": detail})
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
    /// The last event that was read.
    read: Position,
    packs: BTreeMap<PackId, NamedPack>,
    condemned: BTreeSet<(RepoId, PackId, Kind, ObjectId)>,
}

struct NamedPack {
    /// The event that names it.
    position: Position,
    repo: RepoId,
    /// Rows that the event gives it.
    objects: usize,
    bytes: u64,
    table_hash: TableHash,
}

/// Reads every event (the follower checks every frame and the chain); false when nobody listens any more.
fn scan_log(
    hub: &Hub,
    end: Position,
    named: &mut Named,
    say: &mut dyn FnMut(Value) -> bool,
) -> reprise_engine::Result<bool> {
    if end == Position::ZERO {
        return Ok(true);
    }
    let mut follower = hub.engine.follow(Position(1))?;
    let mut said = 0;
    while named.read < end {
        let Some(group) = follower.next(STEP)? else {
            let text = format!("the log gives no event after {}, its end is {end}", named.read);
            return Err(Error::new(ErrorKind::Unavailable, text));
        };
        for event in group.events.iter() {
            named.take(event);
        }
        let at = named.read;
        if at.0 - said >= EVENTS_PER_LINE || at >= end {
            said = at.0;
            if !say(json!({"progress": {"what": "log", "done": at.0, "total": end.0}})) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

impl Named {
    fn take(&mut self, event: &Event) {
        self.read = event.position;
        match &event.body {
            EventBody::ObjectsReceived(received) => {
                let pack = NamedPack {
                    position: event.position,
                    repo: received.repo,
                    objects: received.rows.len(),
                    bytes: received.pack_bytes,
                    table_hash: received.table_hash,
                };
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
    if !hub.projections.wait_folded(named.read, FOLD_WAIT_MAX) {
        return Err(HubError::Unavailable(
            "the index does not catch up with the log: try again when it has".to_owned(),
        ));
    }
    let view = hub.projections.view();
    let total = named.packs.len();
    for (pack, expected) in &named.packs {
        let mut bad: Vec<(Kind, ObjectId, String)> = Vec::new();
        let judge = Judge { view: &view, named, repo: expected.repo, pack: *pack };
        match verify_pack(hub, *pack, expected, deep, &mut bad) {
            Ok(()) => {}
            Err(Wrong::NotRead(error)) => return Err(error),
            Err(Wrong::Damaged(detail)) => {
                let healed = judge.all_healed(hub, expected.position)?;
                let repo = view.repo(expected.repo)?.map(|row| format!("{}/{}", row.record.owner, row.record.slug));
                let what = json!({
                    "what": "pack", "pack": pack.to_string(), "repo": repo, "repo_id": expected.repo.to_string(),
                    "position": expected.position.0, "objects": expected.objects, "detail": detail,
                });
                found.say(healed, what, say);
            }
        }
        for (kind, id, detail) in &bad {
            found.say(judge.healed(*kind, *id)?, judge.object(*kind, *id, detail), say);
        }
        for (kind, id) in judge.condemned().filter(|at| !bad.iter().any(|(kind, id, _)| (*kind, *id) == *at)) {
            if !judge.healed(kind, id)? {
                let detail = "condemned, and not pushed again since";
                found.say(false, judge.object(kind, id, detail), say);
            }
        }
        found.packs += 1;
        found.bytes += expected.bytes;
        if !say(json!({"progress": {"what": "packs", "done": found.packs, "total": total, "bytes": found.bytes}})) {
            return Ok(());
        }
    }
    Ok(())
}

impl Found {
    /// Counts a finding and says it.
    fn say(&mut self, healed: bool, what: Value, say: &mut dyn FnMut(Value) -> bool) {
        let (count, name) = if healed { (&mut self.healed, "healed") } else { (&mut self.damaged, "damaged") };
        *count += 1;
        say(json!({name: what}));
    }
}

/// Whether damage in a pack still meets anyone.
struct Judge<'a> {
    view: &'a View,
    named: &'a Named,
    repo: RepoId,
    pack: PackId,
}

impl Judge<'_> {
    /// Readers are not sent to this row any more and find the object in another place, or its repository is gone.
    fn healed(&self, kind: Kind, id: ObjectId) -> Result<bool, HubError> {
        let Some(row) = self.view.repo(self.repo)? else { return Ok(true) };
        let condemned = self.named.condemned.contains(&(self.repo, self.pack, kind, id));
        // Condemned rows are skipped: what is found here is another copy.
        Ok(condemned && self.view.locate(row.scope(), kind, id)?.is_some())
    }

    /// The same of every row that the event at `position` gave the pack.
    fn all_healed(&self, hub: &Hub, position: Position) -> Result<bool, HubError> {
        let group = hub.engine.follow(position)?.next(STEP)?;
        for event in group.iter().flat_map(|group| group.events.iter()) {
            let EventBody::ObjectsReceived(received) = &event.body else { continue };
            if received.pack != self.pack {
                continue;
            }
            for row in &received.rows {
                if !self.healed(row.kind, row.id)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Condemned rows of the pack.
    fn condemned(&self) -> impl Iterator<Item = (Kind, ObjectId)> {
        let from = (self.repo, self.pack, Kind::Blob, ObjectId([0; 32]));
        let rows = self.named.condemned.range((Bound::Included(from), Bound::Unbounded));
        let of = (self.repo, self.pack);
        rows.take_while(move |(repo, pack, ..)| (*repo, *pack) == of).map(|(_, _, kind, id)| (*kind, *id))
    }

    fn object(&self, kind: Kind, id: ObjectId, detail: &str) -> Value {
        json!({
            "what": "object", "kind": kind.name(), "object": id.to_string(),
            "pack": self.pack.to_string(), "repo_id": self.repo.to_string(), "detail": detail,
        })
    }
}

/// Why a pack does not verify.
enum Wrong {
    /// Its bytes are gone or not what was accepted.
    Damaged(String),
    /// It could not be read now.
    NotRead(HubError),
}

fn verify_pack(
    hub: &Hub,
    pack: PackId,
    expected: &NamedPack,
    deep: bool,
    bad: &mut Vec<(Kind, ObjectId, String)>,
) -> Result<(), Wrong> {
    let wrong = |error: Error| match hub.is_damage(&error) {
        true => Wrong::Damaged(error.to_string()),
        false => Wrong::NotRead(error.into()),
    };
    let store = &*hub.engine.store_itself();
    let size = store.size(&StoreKey::pack(pack)).map_err(wrong)?;
    if size != expected.bytes {
        return Err(Wrong::Damaged(format!("{size} bytes, the log says {}", expected.bytes)));
    }
    let described = match deep {
        true => pack::verify(store, pack, &mut |kind, id, detail| bad.push((kind, id, detail))),
        false => pack::describe(store, pack),
    };
    if described.map_err(wrong)?.stored.table_hash != expected.table_hash {
        return Err(Wrong::Damaged("its table is not the one that was accepted".to_owned()));
    }
    Ok(())
}

const STEP: Duration = Duration::from_secs(5);
/// How long the index may take to show the end of the log.
const FOLD_WAIT_MAX: Duration = Duration::from_secs(60);
/// Events between two progress lines.
const EVENTS_PER_LINE: u64 = 10_000;
