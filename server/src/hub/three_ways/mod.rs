//! The projections three ways: as they are served, folded again from the log, and folded from what the packs say that the log
//! names. All three must be equal, row for row.
//!
//! Follow one comparison: the log is folded into a generation of its own beside the live one; then it is folded once more, and
//! each objects event is replaced by what its pack says when every byte of it is read (`packs`). What a pack cannot say comes
//! from the event: repository, position, push, actor and time. Where a pack is follows from its id, and from relocations.
//!
//! Invariants: nothing is served or kept of it; memory is bounded as in a rebuild; what differs is named by projection,
//! repository and pack; a pack that cannot be read now ends the comparison with that error.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reprise_engine::{
    Error, ErrorKind, Result,
    clock::random16,
    disk::{Disk, real::RealDisk},
};
use reprise_projections::{
    Checkpoint, Difference, Digest, RebuildOptions, View,
    difference::What,
    rebuild::{self, RebuildProgress, Target},
    source::Source,
    store::{
        Batch, Store,
        fjall::{FjallStore, Memory},
    },
};
use serde_json::{Map, Value, json};

use crate::hub::{Hub, HubError};

mod packs;

use packs::FromPacks;

/// Takes one line; false when nobody listens.
pub type Say<'a> = &'a (dyn Fn(Value) -> bool + Sync);

/// Compares. `stop` is asked several times a second. Blocking.
pub fn run(hub: &Arc<Hub>, say: Say<'_>, stop: &(dyn Fn() -> bool + Sync)) -> std::result::Result<(), HubError> {
    let live = view_at_end(hub)?;
    let at = live.checkpoint();
    let beside = Beside::new(hub)?;
    let (log, view) = beside.fold_log(hub, at, &Work { say, stop, part: 0 })?;
    let packs = FromPacks::new(hub, view.clone());
    let heard = packs.findings();
    let told = beside.fold(&packs, at, None, &Work { say, stop, part: 1 })?;
    let served = live.digest()?;
    let differing = differences(&live, &view, (&served, &log), say)?;
    let heard = heard.say_all(say);
    let equal = served == log && log == told;
    let ok = equal && heard.damaged == 0;
    say(json!({"result": {
        "ok": ok,
        "detail": detail(equal, differing + heard.differing, heard.damaged),
        "position": at.position.0,
        "digests": {"live": served.overall(), "log": log.overall(), "packs": told.overall()},
        "projections": side_by_side(&served, &log, &told),
        "packs_read": heard.read,
        "differing": differing + heard.differing,
        "damaged": heard.damaged,
    }}));
    Ok(())
}

fn detail(equal: bool, differing: u64, damaged: u64) -> String {
    match (equal, damaged) {
        (true, 0) => "live = from the log = from the packs".to_owned(),
        (true, _) => format!("equal where packs can be read; {damaged} objects or packs are damaged"),
        (false, _) => format!("not equal: {differing} differences, {damaged} damaged"),
    }
}

fn side_by_side(served: &Digest, log: &Digest, packs: &Digest) -> Map<String, Value> {
    let ways = served.models.iter().zip(&log.models).zip(&packs.models);
    let one = ways.map(|((live, log), packs)| {
        let value = json!({"rows": live.rows, "live": live.hex(), "log": log.hex(), "packs": packs.hex(),
            "equal": live == log && log == packs});
        (live.model.name().to_owned(), value)
    });
    one.collect()
}

/// The rows in which what is served is not what the log gives; says the first of each projection.
fn differences(
    live: &View,
    log: &View,
    (served, folded): (&Digest, &Digest),
    say: Say<'_>,
) -> std::result::Result<u64, HubError> {
    let mut count = 0;
    let unequal = served.models.iter().zip(&folded.models).filter(|(one, other)| one != other);
    for model in unequal.map(|(one, _)| one.model) {
        let mut said = 0;
        live.difference(log, model, &mut |found| {
            count += 1;
            said += 1;
            // The others are counted.
            said > SAID_MAX || say(json!({"difference": of_row(live, log, &found)}))
        })?;
    }
    Ok(count)
}

fn of_row(live: &View, log: &View, found: &Difference) -> Value {
    let detail = match found.what {
        What::OnlyFirst => "a row that the log does not give",
        What::OnlySecond => "the log gives a row that is not there",
        What::Unequal => "the log gives another row",
    };
    let named = found.repo.and_then(|repo| live.repo(repo).ok().flatten().or(log.repo(repo).ok().flatten()));
    json!({
        "projection": found.model.name(),
        "repository": named.map(|row| format!("{}/{}", row.record.owner, row.record.slug)),
        "repo_id": found.repo.map(|repo| repo.to_string()),
        "pack": found.pack.map(|pack| pack.to_string()),
        "key": found.key,
        "detail": format!("live: {detail}: key {}", found.key),
    })
}

/// The live projections, with everything that is durable now.
fn view_at_end(hub: &Hub) -> std::result::Result<View, HubError> {
    let end = hub.engine.durable().position;
    match hub.projections.wait_folded(end, FOLD_WAIT_MAX) {
        true => Ok(hub.projections.view()),
        false => Err(HubError::Unavailable("the index is behind the log: try again later".to_owned())),
    }
}

/// What one of the two folds needs to say how far it is.
struct Work<'a> {
    say: Say<'a>,
    stop: &'a (dyn Fn() -> bool + Sync),
    /// Which of them it is.
    part: u64,
}

/// A directory in the spool for runs and for one generation; gone when this is dropped.
struct Beside {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Beside {
    fn new(hub: &Hub) -> Result<Beside> {
        let name = format!("compare-{}", hex::encode(random16(hub.engine.random().as_ref())?));
        let root = hub.spool_dir.join(name);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.clone()));
        disk.create_dir("")?;
        Ok(Beside { root, disk })
    }

    /// The log into a generation, which answers where objects are.
    fn fold_log(&self, hub: &Hub, at: Checkpoint, work: &Work<'_>) -> Result<(Digest, View)> {
        let memory = Memory { cache_bytes: CACHE_BYTES, memtable_bytes: MEMTABLE_BYTES };
        let store = FjallStore::create(&self.root.join("log"), memory)?;
        store.remove_when_unused();
        let digest = self.fold(&hub.engine, at, Some(&store), work)?;
        store.apply(&Batch::new(), Some(at))?;
        Ok((digest, View::of_snapshot(store.snapshot()?)?))
    }

    fn fold(&self, source: &dyn Source, at: Checkpoint, store: Option<&dyn Store>, work: &Work<'_>) -> Result<Digest> {
        let spill = Some((Arc::clone(&self.disk), format!("runs-{}-", work.part)));
        let target = Target { store, spill, stop: work.stop };
        let said = AtomicU64::new(0);
        let progress = |told: RebuildProgress| {
            // Ten times a second at most; a listener that is gone is seen by `stop`.
            let (done, total) = (work.part * told.events_total + told.events_done, 2 * told.events_total);
            if said.swap(done, Ordering::Relaxed) != done {
                (work.say)(json!({"progress": {"what": "events", "done": done, "total": total}}));
            }
        };
        rebuild::build(source, at, &target, &RebuildOptions::default(), &progress)
    }
}

#[allow(clippy::disallowed_methods, reason = "the index's directory is not the disk's business")]
impl Drop for Beside {
    fn drop(&mut self) {
        // What stays goes with the spool at the next start.
        if let Err(error) = std::fs::remove_dir_all(&self.root) {
            tracing::warn!(%error, "the files of a comparison stay until the next start");
        }
    }
}

/// A pack cannot be read now.
fn not_now(error: &Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("a pack cannot be read now: {error}"))
}

const FOLD_WAIT_MAX: Duration = Duration::from_secs(60);
/// Differences of one projection that are said.
const SAID_MAX: u64 = 100;
const CACHE_BYTES: u64 = 16 << 20;
const MEMTABLE_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::hub::{Caller, Limits, lifecycle::Directory, repos::NewRepo};

    fn open(dir: &tempfile::TempDir) -> Hub {
        let (data, limits) = (dir.path().join("data"), Limits::default());
        Hub::open(Directory { data, limits, create_on_push: None, holder: "a test".to_owned(), bucket: None }).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_difference_is_counted_and_the_first_hundred_of_a_projection_are_said() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [full, empty] = dirs.each_ref().map(open);
        for number in 0..=SAID_MAX {
            full.create_repo(&Caller::Operator, NewRepo::named("alice", &format!("r{number}"))).await.unwrap();
        }
        let (live, log) = (view_at_end(&full).unwrap(), view_at_end(&empty).unwrap());
        let (served, folded) = (live.digest().unwrap(), log.digest().unwrap());
        let said = AtomicU64::new(0);
        let say = |_| {
            said.fetch_add(1, Ordering::Relaxed);
            true
        };
        let rows: u64 = served.models.iter().map(|model| model.rows).sum();
        assert_eq!(differences(&live, &log, (&served, &folded), &say).unwrap(), rows);
        let said_of: u64 = served.models.iter().map(|model| model.rows.min(SAID_MAX)).sum();
        assert!(said.into_inner() == said_of && said_of < rows, "{said_of} of {rows}");
        full.close().unwrap();
        empty.close().unwrap();
    }
}
