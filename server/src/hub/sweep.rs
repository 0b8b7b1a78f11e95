//! Sweeping: what lies in the store and no event names, or will.
//!
//! Invariants: the log decides, no clock (F10). What is there is listed first; then an event says that a sweep began, and from it on
//! the writer refuses every delivery whose packs were stored before ([`Condition::NoSweepSince`]): what the log names of the list
//! by then is all that it ever will. The rest is named in an event that retires it, and only when that is durable is it deleted. A
//! name that was retired is never taken again, so a deletion that comes late deletes nothing else. Interrupted anywhere, the next
//! sweep does the rest. A log that cannot be read to its end sweeps nothing.
//!
//! [`Condition::NoSweepSince`]: reprise_engine::engine::Condition::NoSweepSince

use std::collections::BTreeMap;

use reprise_engine::{
    Error, ErrorKind,
    engine::{Outcome, Proposal},
    event::{EventBody, PacksRelocated},
    id::{PackId, Position},
    store::{BegunUpload, ObjectStore, StoreKey},
};
use serde_json::{Value, json};

use crate::hub::{Hub, HubError, scrub};

/// What lay there before the sweep began.
struct Seen {
    packs: Vec<(PackId, StoreKey)>,
    slots: Vec<StoreKey>,
    uploads: Vec<BegunUpload>,
}

/// What a sweep does with something, for people.
struct Swept {
    what: &'static str,
    key: StoreKey,
    why: &'static str,
}

/// Sweeps; with `dry_run` it says what it would do. `say` takes each line. Blocking.
pub fn run(hub: &Hub, dry_run: bool, say: &mut dyn FnMut(Value) -> bool) -> Result<(), HubError> {
    hub.engine.look_and_wait()?;
    let store = hub.engine.store_itself();
    store.claim(hub.engine.log(), false)?;
    let seen = see(hub, &*store)?;
    let end = if dry_run { hub.engine.durable().position } else { append(hub, Vec::new())? };
    let named = named(hub, end, say)?;
    let unnamed = |(pack, _): &&(PackId, StoreKey)| !named.contains_key(pack);
    let retired: Vec<PackId> = seen.packs.iter().filter(unnamed).map(|(pack, _)| *pack).collect();
    if !dry_run {
        for packs in retired.chunks(PACKS_PER_EVENT) {
            append(hub, packs.to_vec())?;
        }
    }
    let mut bytes = 0;
    let mut count = 0_u64;
    for swept in garbage(&seen, &named) {
        let size = store.size(&swept.key).ok();
        bytes += size.unwrap_or(0);
        count += 1;
        say(json!({"swept": {"what": swept.what, "key": swept.key.as_str(), "bytes": size, "why": swept.why}}));
    }
    for upload in &seen.uploads {
        count += 1;
        let why = "begun before the sweep and not ended";
        say(json!({"swept": {"what": "upload", "key": upload.key.as_str(), "bytes": null, "why": why}}));
    }
    if !dry_run {
        let keys: Vec<StoreKey> = garbage(&seen, &named).map(|swept| swept.key).collect();
        hub.engine.store().delete_all(&keys)?;
        seen.uploads.iter().try_for_each(|upload| store.abort(upload))?;
    }
    let packs = named.values().filter(|live| **live).count();
    say(json!({"result": {
        "ok": true, "dry_run": dry_run, "packs_named": packs, "swept": count, "bytes": bytes, "retired": retired.len(),
    }}));
    Ok(())
}

fn see(hub: &Hub, store: &dyn ObjectStore) -> Result<Seen, HubError> {
    let packs = store.list("packs")?.into_iter().filter_map(|key| Some((key.as_pack()?, key))).collect();
    // Below the floor: their groups stand in sealed segments, or never happened.
    let slots = match hub.shared {
        true => {
            let floor = hub.engine.archiver()?.ordinal();
            let left = |key: &StoreKey| key.slot_ordinal().is_some_and(|ordinal| ordinal < floor);
            store.list("log")?.into_iter().filter(left).collect()
        }
        false => Vec::new(),
    };
    // Others belong to nobody that the event stops.
    let of_packs = store.uploads()?.into_iter().filter(|upload| upload.key.is_pack());
    Ok(Seen { packs, slots, uploads: of_packs.collect() })
}

/// Every pack that the log names up to `end`; false: the last that was said of it is that it is retired.
fn named(hub: &Hub, end: Position, say: &mut dyn FnMut(Value) -> bool) -> Result<BTreeMap<PackId, bool>, HubError> {
    let (mut named, mut read, mut said) = (BTreeMap::new(), Position::ZERO, Position::ZERO);
    for segment in hub.engine.segments() {
        scrub::segment(hub, segment.first, &mut |group| {
            for event in group.events.iter() {
                match &event.body {
                    EventBody::ObjectsReceived(received) => drop(named.insert(received.pack, true)),
                    EventBody::PacksRelocated(moved) => {
                        named.extend(moved.packs.iter().map(|(pack, place)| (*pack, place.is_some())));
                    }
                    _ => {}
                }
                read = event.position;
            }
            if read.0 - said.0 >= EVENTS_PER_LINE || read >= end {
                said = read;
                // A sweep that nobody listens to goes on: what was begun is to be ended.
                say(json!({"progress": {"what": "log", "done": read.0, "total": end.0}}));
            }
            true
        })?;
    }
    if read < end {
        let text = format!("the log gives no event after {read}, its end is {end}: nothing is swept");
        return Err(Error::new(ErrorKind::Unavailable, text).into());
    }
    Ok(named)
}

fn garbage<'a>(seen: &'a Seen, named: &'a BTreeMap<PackId, bool>) -> impl Iterator<Item = Swept> + 'a {
    let packs = seen.packs.iter().filter_map(|(pack, key)| {
        let why = match named.get(pack) {
            Some(true) => return None,
            Some(false) => "retired before, and still there",
            None => "no event names it",
        };
        Some(Swept { what: "pack", key: key.clone(), why })
    });
    let why = "its group stands in a sealed segment, or never happened";
    packs.chain(seen.slots.iter().map(move |key| Swept { what: "slot", key: key.clone(), why }))
}

/// Appends that a sweep began (no packs), or that these are retired; where that stands.
fn append(hub: &Hub, packs: Vec<PackId>) -> Result<Position, HubError> {
    let packs = packs.into_iter().map(|pack| (pack, None)).collect();
    let events = vec![EventBody::PacksRelocated(PacksRelocated { packs })];
    let (push, actor) = (hub.random_push_id()?, ACTOR.to_owned());
    match hub.engine.propose_and_wait(Proposal { push, fingerprint: 0, actor, conditions: Vec::new(), events }) {
        Outcome::Done { last, .. } => Ok(last),
        Outcome::NotDone(reason) => Err(HubError::NotAppended(reason)),
        Outcome::Unknown(push) => Err(HubError::Unknown(push)),
    }
}

const ACTOR: &str = "operator";
/// Events between two progress lines.
const EVENTS_PER_LINE: u64 = 10_000;
/// An event of this many takes half a megabyte.
const PACKS_PER_EVENT: usize = 10_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use reprise_engine::{
        engine::{Condition, Reason},
        id::{ObjectId, RepoId},
    };
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::hub::{
        Caller, Limits,
        lifecycle::Directory,
        packing::{Packing, StoredPacks},
        repos::NewRepo,
    };

    /// A pack of one blob, stored, and what names it.
    fn stored(hub: &Hub, repo: RepoId) -> (Proposal, StoredPacks) {
        let (blob, push) = (b"content", hub.random_push_id().unwrap());
        let mut packing = Packing::new(hub, repo, push);
        packing.blob_whole(ObjectId(Sha256::digest(blob).into()), blob).unwrap();
        let (events, stored) = packing.finish().unwrap();
        (Proposal { push, fingerprint: 0, actor: "a test".to_owned(), conditions: Vec::new(), events }, stored)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn packs_that_were_stored_before_a_sweep_are_not_named_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let (data, limits) = (dir.path().join("data"), Limits::default());
        let directory = Directory { data, limits, create_on_push: None, holder: "a test".to_owned(), bucket: None };
        let hub = Arc::new(Hub::open(directory).unwrap());
        hub.create_repo(&Caller::Operator, NewRepo::named("alice", "etude")).await.unwrap();
        let repo = hub.writable(&Caller::Operator, "alice", "etude", false).await.unwrap().0.row.record.repo;
        let packs = || hub.engine.store().list("packs").unwrap().len();

        let (proposal, before) = stored(&hub, repo);
        assert_eq!(packs(), 1);
        let (sweeping, end) = (Arc::clone(&hub), hub.engine.durable().position.0);
        let sweep = hub.blocking(move || {
            let mut lines = Vec::new();
            run(&sweeping, false, &mut |line| {
                lines.push(line);
                true
            })?;
            Ok(lines)
        });
        let lines = sweep.await.unwrap();
        assert_eq!(packs(), 0);
        // The log has one event more by then: that the sweep began.
        assert_eq!(lines[0], json!({"progress": {"what": "log", "done": end + 1, "total": end + 1}}));
        let refused = hub.append_packs(proposal, before).await.unwrap_err();
        let is_for_the_sweep = matches!(refused, HubError::NotAppended(Reason::Condition(Condition::NoSweepSince(_))));
        assert!(is_for_the_sweep, "{refused:?}");

        let (proposal, after) = stored(&hub, repo);
        hub.append_packs(proposal, after).await.unwrap();
        let sweeping = Arc::clone(&hub);
        hub.blocking(move || run(&sweeping, false, &mut |_| true)).await.unwrap();
        assert_eq!(packs(), 1);
        hub.close().unwrap();
    }
}
