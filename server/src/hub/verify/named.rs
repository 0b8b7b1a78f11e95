//! What the log says about packs, and whether damage in one still meets anyone.
//!
//! Invariant: a row counts as healed only if it is condemned and its object is found in another place, or its repository is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use reprise_engine::{
    event::{Event, EventBody},
    id::{Kind, ObjectId, PackId, Position, RepoId, TableHash},
};
use reprise_projections::View;
use serde_json::{Value, json};

use crate::hub::{Hub, HubError};

/// All packs that are not retired, and all rows that were condemned.
#[derive(Default)]
pub(super) struct Named {
    /// The last event that was read.
    pub(super) read: Position,
    pub(super) packs: BTreeMap<PackId, NamedPack>,
    condemned: BTreeSet<(RepoId, PackId, Kind, ObjectId)>,
}

/// One pack.
#[derive(Clone, Copy)]
pub(super) struct NamedPack {
    /// The event that names it.
    pub(super) position: Position,
    pub(super) repo: RepoId,
    /// Rows that the event gives it.
    pub(super) objects: usize,
    pub(super) bytes: u64,
    pub(super) table_hash: TableHash,
}

impl Named {
    /// Takes in the next event.
    pub(super) fn take(&mut self, event: &Event) {
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

/// Whether damage in a pack still meets anyone.
pub(super) struct Judge<'a> {
    pub(super) view: &'a View,
    pub(super) named: &'a Named,
    pub(super) repo: RepoId,
    pub(super) pack: PackId,
}

impl Judge<'_> {
    /// Readers are not sent to this row any more and find the object in another place, or its repository is gone.
    pub(super) fn healed(&self, kind: Kind, id: ObjectId) -> Result<bool, HubError> {
        let Some(row) = self.view.repo(self.repo)? else { return Ok(true) };
        let condemned = self.named.condemned.contains(&(self.repo, self.pack, kind, id));
        // Condemned rows are skipped: what is found here is another copy.
        Ok(condemned && self.view.locate(row.scope(), kind, id)?.is_some())
    }

    /// The same of every row of the pack.
    pub(super) fn all_healed(&self, rows: &[(Kind, ObjectId)]) -> Result<bool, HubError> {
        for (kind, id) in rows {
            if !self.healed(*kind, *id)? {
                return Ok(false);
            }
        }
        Ok(!rows.is_empty())
    }

    /// Condemned rows of the pack.
    pub(super) fn condemned(&self) -> impl Iterator<Item = (Kind, ObjectId)> {
        let from = (self.repo, self.pack, Kind::Blob, ObjectId([0; 32]));
        let rows = self.named.condemned.range((Bound::Included(from), Bound::Unbounded));
        let of = (self.repo, self.pack);
        rows.take_while(move |(repo, pack, ..)| (*repo, *pack) == of).map(|(_, _, kind, id)| (*kind, *id))
    }

    /// An object of the pack, for people.
    pub(super) fn object(&self, kind: Kind, id: ObjectId, detail: &str) -> Value {
        json!({
            "what": "object", "kind": kind.name(), "object": id.to_string(),
            "pack": self.pack.to_string(), "repo_id": self.repo.to_string(), "detail": detail,
        })
    }
}

/// The rows that the event at `position` gave a pack.
pub(super) fn rows_of(hub: &Hub, pack: PackId, position: Position) -> Result<Vec<(Kind, ObjectId)>, HubError> {
    let group = hub.engine.follow(position)?.next(STEP)?;
    for event in group.iter().flat_map(|group| group.events.iter()) {
        if let EventBody::ObjectsReceived(received) = &event.body
            && received.pack == pack
        {
            return Ok(received.rows.iter().map(|row| (row.kind, row.id)).collect());
        }
    }
    Ok(Vec::new())
}

const STEP: Duration = Duration::from_secs(5);
