//! The packs of one request: opened when needed, closed at their caps, taken back when the request is refused; or uploaded ones,
//! stored as they came.
//!
//! Invariants: every object's event row comes from a pack that is durable before the event is proposed; one objects event
//! per pack, and none larger than a frame; packs that were written for a request that was refused or never proposed are removed,
//! those whose proposal may stand in the log never are, whoever goes away while it is decided.
//!
//! An adopted pack is never removed. Its name is the client's: another server may adopt the same file and have it named at any
//! moment, and a removal whose answer was lost is sent again (F7). It lies in the store unnamed until the sweep retires its name.

use std::sync::Arc;

use bytes::Bytes;
use reprise_engine::{
    clock::{Random, random16},
    engine::Condition,
    event::{CommitFacts, EventBody, ObjectsReceived, SnapshotFacts},
    id::{Kind, ObjectId, Position, PushId, RepoId},
    limits::{FRAME_BYTES_MAX, PACK_BYTES_MAX, PACK_BYTES_TARGET, PACK_ROWS_MAX},
    object::{Commit, Snapshot},
    pack::{PackOrigin, PackWriter, StoredPack},
    store::{Created, ObjectStore, StoreKey},
};

use crate::hub::{Hub, HubError, body::Body, delivery::OpenPack, facts, mpack::upload::Upload};
use crate::wire::requests::ObjectSpan;

/// Writes the packs of one request.
pub struct Packing {
    store: Arc<dyn ObjectStore>,
    random: Arc<dyn Random>,
    repo: RepoId,
    push: PushId,
    /// Where the log ended before anything was stored.
    since: Position,
    open: Option<Open>,
    finished: Vec<Finished>,
    /// Every object lies in one of these already: nothing is written, only what the events say of records is collected.
    adopted: Vec<Adopted>,
}

/// An uploaded pack that becomes a stored one.
struct Adopted {
    upload: Arc<Upload>,
    finished: Finished,
}

struct Open {
    writer: PackWriter,
    facts: Facts,
}

#[derive(Default)]
struct Facts {
    snapshots: Vec<SnapshotFacts>,
    commits: Vec<CommitFacts>,
    /// What the event will take, from above.
    event_bytes: u64,
}

struct Finished {
    pack: StoredPack,
    facts: Facts,
    is_adopted: bool,
}

/// Durable packs that no event names yet. Dropped, those that were written here are removed from the store.
pub struct StoredPacks {
    store: Arc<dyn ObjectStore>,
    /// Of those that were written here: their names have a nonce and come only once.
    keys: Vec<StoreKey>,
    since: Position,
}

/// Packs that an event was proposed for. Dropped, they stay: an event may name them.
pub struct ProposedPacks {
    store: Arc<dyn ObjectStore>,
    /// Of those that were written here.
    keys: Vec<StoreKey>,
}

impl Packing {
    /// No packs yet.
    pub fn new(hub: &Hub, repo: RepoId, push: PushId) -> Packing {
        let (store, random) = (Arc::clone(hub.engine.store()), Arc::clone(hub.engine.random()));
        let since = hub.engine.durable().position;
        Packing { store, random, repo, push, since, open: None, finished: Vec::new(), adopted: Vec::new() }
    }

    /// Uploaded packs, to be stored as they came. That the log does not name them was seen at `since`.
    pub fn adopting(hub: &Hub, repo: RepoId, push: PushId, packs: &[OpenPack], since: Position) -> Packing {
        let adopted = |open: &OpenPack| Adopted {
            upload: Arc::clone(&open.upload),
            finished: Finished { pack: open.stored.clone(), facts: Facts::default(), is_adopted: true },
        };
        let mut packing = Packing::new(hub, repo, push);
        packing.since = since;
        packing.adopted = packs.iter().map(adopted).collect();
        packing
    }

    /// Packs a blob; refuses bytes that are not the id's.
    pub fn blob(&mut self, body: &Body, object: &ObjectSpan) -> Result<(), HubError> {
        let len = u64::from(object.content.len);
        let open = self.room_for(len, 0)?;
        if open.writer.contains(Kind::Blob, object.id) {
            return Ok(());
        }
        if len <= BLOB_WHOLE_BYTES_MAX {
            let bytes = body.slice(object.content).map_err(spool_error)?;
            return Ok(open.writer.add_blob(object.id, &bytes)?);
        }
        let mut blob = open.writer.begin_blob(len)?;
        body.pieces(object.content, |piece| Ok::<_, PieceError>(blob.write(piece)?))?;
        Ok(blob.finish(object.id)?)
    }

    /// Packs a blob that was read from a pack.
    pub fn blob_whole(&mut self, id: ObjectId, bytes: &[u8]) -> Result<(), HubError> {
        if !self.adopted.is_empty() {
            return Ok(());
        }
        Ok(self.room_for(bytes.len() as u64, 0)?.writer.add_blob(id, bytes)?)
    }

    /// Packs a blob of `len` bytes that is being read from a pack.
    pub fn blob_in_pieces(
        &mut self,
        id: ObjectId,
        len: u64,
        pieces: impl Iterator<Item = reprise_engine::Result<Bytes>>,
    ) -> Result<(), HubError> {
        if !self.adopted.is_empty() {
            return Ok(());
        }
        let mut blob = self.room_for(len, 0)?.writer.begin_blob(len)?;
        for piece in pieces {
            blob.write(&piece?)?;
        }
        Ok(blob.finish(id)?)
    }

    /// Packs a snapshot.
    pub fn snapshot(&mut self, snapshot: &Snapshot) -> Result<(), HubError> {
        let facts = facts::of_snapshot(snapshot)?;
        if let Some(of) = self.adopted_facts(Kind::Snapshot, snapshot.id)? {
            of.snapshots.push(facts);
            return Ok(());
        }
        let open = self.room_for(snapshot.payload.len() as u64, 0)?;
        open.writer.add_record(Kind::Snapshot, snapshot.id, snapshot.record_hash, &snapshot.payload)?;
        open.facts.snapshots.push(facts);
        Ok(())
    }

    /// Packs a commit with the blobs that it adds (ascending, distinct).
    pub fn commit(&mut self, commit: &Commit, adds: Vec<ObjectId>) -> Result<(), HubError> {
        let facts = facts::of_commit(commit, adds)?;
        let texts = facts.message.len() + facts.author.len() + facts.branch.len() + facts.committed_at.len();
        let event_bytes = (facts.adds.len() * 32 + texts) as u64;
        if let Some(of) = self.adopted_facts(Kind::Commit, commit.id)? {
            of.event_bytes += event_bytes;
            of.commits.push(facts);
            return Ok(());
        }
        let open = self.room_for(commit.payload.len() as u64, event_bytes)?;
        open.writer.add_record(Kind::Commit, commit.id, commit.record_hash, &commit.payload)?;
        open.facts.event_bytes += event_bytes;
        open.facts.commits.push(facts);
        Ok(())
    }

    /// The facts of the adopted pack that a record lies in; `None` if nothing is adopted.
    fn adopted_facts(&mut self, kind: Kind, id: ObjectId) -> Result<Option<&mut Facts>, HubError> {
        if self.adopted.is_empty() {
            return Ok(None);
        }
        let holds = |adopted: &Adopted| {
            let rows = &adopted.finished.pack.rows;
            rows.binary_search_by_key(&(kind, id), |row| (row.kind, row.id)).is_ok()
        };
        let found = self.adopted.iter_mut().find(|adopted| holds(adopted));
        let found = found.ok_or_else(|| HubError::Internal(format!("{kind} {id} lies in no pack")))?;
        Ok(Some(&mut found.finished.facts))
    }

    /// Whether the events of adopted packs fit a frame each; those of packs that are written always do.
    pub fn fits(&self) -> bool {
        let fits = |adopted: &Adopted| {
            let Finished { pack, facts, .. } = &adopted.finished;
            (pack.rows.len() * EVENT_ROW_BYTES) as u64 + facts.event_bytes <= EVENT_BYTES_TARGET
        };
        self.adopted.iter().all(fits)
    }

    /// Makes adopted packs durable.
    fn adopt(&mut self) -> Result<(), HubError> {
        for Adopted { upload, mut finished } in std::mem::take(&mut self.adopted) {
            finished.facts.sort();
            // One of this name that came in between is another request's. It may be under a name that was retired meanwhile.
            if upload.adopt()? != Created::New {
                let text = "another server took the same pack in at the same time: upload it again".to_owned();
                return Err(HubError::Unavailable(text));
            }
            self.finished.push(finished);
        }
        Ok(())
    }

    /// Makes the last pack durable; the events that name all of them, and the guard that takes them back.
    pub fn finish(mut self) -> Result<(Vec<EventBody>, StoredPacks), HubError> {
        self.adopt()?;
        self.close()?;
        let stored = self.stored();
        let finished = std::mem::take(&mut self.finished);
        Ok((finished.into_iter().map(|finished| finished.event(self.repo)).collect(), stored))
    }

    /// What the store has of this request.
    fn stored(&self) -> StoredPacks {
        let written = self.finished.iter().filter(|finished| !finished.is_adopted);
        let keys = written.map(|finished| StoreKey::pack(finished.pack.pack)).collect();
        StoredPacks { store: Arc::clone(&self.store), keys, since: self.since }
    }

    /// The open pack, with room for a payload of `bytes` and `event_bytes` more in its event.
    fn room_for(&mut self, bytes: u64, event_bytes: u64) -> Result<&mut Open, HubError> {
        let full = self.open.as_ref().is_some_and(|open| {
            let body = open.writer.body_bytes();
            let event = open.facts.event_bytes + (open.writer.rows() * EVENT_ROW_BYTES) as u64 + event_bytes;
            open.writer.rows() >= PACK_ROWS_MAX
                || body >= PACK_BYTES_TARGET
                || body + bytes > PACK_BYTES_MAX - PACK_SLACK_BYTES
                || event > EVENT_BYTES_TARGET
        });
        if full {
            self.close()?;
        }
        if self.open.is_none() {
            let nonce = random16(self.random.as_ref())?;
            let origin = PackOrigin { repo: self.repo, push: self.push, nonce };
            let writer = PackWriter::new(self.store.stage()?, origin)?;
            self.open = Some(Open { writer, facts: Facts::default() });
        }
        self.open.as_mut().ok_or_else(|| HubError::Internal("no open pack".to_owned()))
    }

    fn close(&mut self) -> Result<(), HubError> {
        if let Some(Open { writer, mut facts }) = self.open.take() {
            facts.sort();
            if writer.rows() > 0 {
                let pack = writer.finish()?;
                self.finished.push(Finished { pack, facts, is_adopted: false });
            }
        }
        Ok(())
    }
}

impl Facts {
    fn sort(&mut self) {
        self.snapshots.sort_by_key(|facts| facts.id);
        self.commits.sort_by_key(|facts| facts.id);
    }
}

impl Drop for Packing {
    fn drop(&mut self) {
        drop(self.stored());
    }
}

impl Finished {
    fn event(self, repo: RepoId) -> EventBody {
        EventBody::ObjectsReceived(ObjectsReceived {
            repo,
            pack: self.pack.pack,
            pack_bytes: self.pack.bytes,
            table_hash: self.pack.table_hash,
            rows: self.pack.rows,
            snapshots: self.facts.snapshots,
            commits: self.facts.commits,
        })
    }
}

impl StoredPacks {
    /// To be called before an event that names them is proposed.
    pub fn proposed(mut self) -> ProposedPacks {
        let keys = std::mem::take(&mut self.keys);
        ProposedPacks { store: Arc::clone(&self.store), keys }
    }

    /// What must hold when they are named: nothing was swept since before they were stored.
    pub fn condition(&self) -> Condition {
        Condition::NoSweepSince(self.since)
    }
}

impl ProposedPacks {
    /// No event names them, and none will: those that were written here are removed. Blocking.
    pub fn remove(self) {
        drop(StoredPacks { store: self.store, keys: self.keys, since: Position::ZERO });
    }
}

impl Drop for StoredPacks {
    fn drop(&mut self) {
        for key in self.keys.drain(..) {
            // What cannot be removed is garbage that no event names: harmless, but worth a line.
            if let Err(error) = self.store.delete(&key) {
                tracing::warn!(%key, %error, "a pack of a refused push could not be removed");
            }
        }
    }
}

/// A failing spool or a failing pack.
struct PieceError(HubError);

impl From<std::io::Error> for PieceError {
    fn from(error: std::io::Error) -> PieceError {
        PieceError(spool_error(error))
    }
}

impl From<reprise_engine::Error> for PieceError {
    fn from(error: reprise_engine::Error) -> PieceError {
        PieceError(error.into())
    }
}

impl From<PieceError> for HubError {
    fn from(error: PieceError) -> HubError {
        error.0
    }
}

/// The spool failed.
pub fn spool_error(error: std::io::Error) -> HubError {
    HubError::Unavailable(format!("the request's spool failed: {error}"))
}

/// Blobs up to this many bytes are taken whole: they may compress. Larger ones stream into the pack.
pub const BLOB_WHOLE_BYTES_MAX: u64 = 4 << 20;
/// What a row takes in an event, from above (two hashes, six numbers).
const EVENT_ROW_BYTES: usize = 112;
/// An event is closed beyond this; the largest commit on top still fits a frame.
const EVENT_BYTES_TARGET: u64 = FRAME_BYTES_MAX / 2;
/// Left for a pack's header and table.
const PACK_SLACK_BYTES: u64 = 16 << 20;

const _: () = assert!(PACK_ROWS_MAX * EVENT_ROW_BYTES <= 8 << 20);
