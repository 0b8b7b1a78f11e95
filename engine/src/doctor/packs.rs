//! Packs as the log knows them: each is read whole when its event is met, and what happened to it later is counted.
//!
//! Invariants: memory grows with the damage, not with the log; rows that were condemned and delivered again to the same
//! repository are healed, and so is what belonged to a repository that is gone or a pack that was retired.

use std::collections::BTreeSet;

use super::{FINDINGS_MAX, Finding, Remedy};
use crate::{
    error::Result,
    event::{Event, EventBody, ObjectsReceived},
    id::{Kind, ObjectId, PackId, Position, RepoId},
    pack,
    store::{ObjectStore, StoreKey},
};

/// The packs that have something.
pub(super) struct Ward<'a> {
    store: &'a dyn ObjectStore,
    sick: Vec<Sick>,
    /// Packs looked at.
    pub(super) packs: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Damaged packs that found no place here.
    beyond: u64,
}

struct Sick {
    pack: PackId,
    repo: RepoId,
    position: Position,
    rows: BTreeSet<(Kind, ObjectId)>,
    condemned: BTreeSet<(Kind, ObjectId)>,
    problem: String,
    offset: u64,
}

impl Ward<'_> {
    pub(super) fn new(store: &dyn ObjectStore) -> Ward<'_> {
        Ward { store, sick: Vec::new(), packs: 0, bytes: 0, beyond: 0 }
    }

    /// Takes in the next event of the log.
    pub(super) fn take(&mut self, event: &Event) -> Result<()> {
        match &event.body {
            EventBody::ObjectsReceived(received) => {
                self.heal(received);
                self.examine(event.position, received)?;
            }
            EventBody::RowsCondemned(condemned) => {
                for sick in self.sick.iter_mut().filter(|sick| sick.pack == condemned.pack) {
                    sick.condemned.extend(&condemned.rows);
                }
            }
            EventBody::PacksRelocated(moved) => {
                let retired = |pack| moved.packs.iter().any(|(moved, to)| *moved == pack && to.is_none());
                self.sick.retain(|sick| !retired(sick.pack));
            }
            EventBody::RepoDeleted(gone) => self.sick.retain(|sick| sick.repo != gone.repo),
            _ => {}
        }
        Ok(())
    }

    fn heal(&mut self, received: &ObjectsReceived) {
        for sick in self.sick.iter_mut().filter(|sick| sick.repo == received.repo) {
            for row in &received.rows {
                if sick.condemned.contains(&(row.kind, row.id)) {
                    sick.rows.remove(&(row.kind, row.id));
                }
            }
        }
        self.sick.retain(|sick| !sick.rows.is_empty());
    }

    fn examine(&mut self, position: Position, received: &ObjectsReceived) -> Result<()> {
        self.packs += 1;
        let mut rows = BTreeSet::new();
        let mut first: Option<String> = None;
        let verified = pack::verify(self.store, received.pack, &mut |kind, id, what| {
            rows.insert((kind, id));
            first.get_or_insert(what);
        });
        let (problem, offset) = match verified {
            Ok(found) => {
                self.bytes += found.stored.bytes;
                let same = found.stored.table_hash == received.table_hash;
                match (first, same) {
                    (None, true) => return Ok(()),
                    (Some(what), _) => (what, 0),
                    (None, false) => ("its table is not the one that the log knows".to_owned(), 0),
                }
            }
            Err(error) if error.is_corrupt() || error.is_not_found() => {
                rows = received.rows.iter().map(|row| (row.kind, row.id)).collect();
                (error.to_string(), error.offset().unwrap_or(0))
            }
            Err(error) => return Err(error),
        };
        if self.sick.len() >= FINDINGS_MAX {
            self.beyond += 1;
            return Ok(());
        }
        let (pack, repo, condemned) = (received.pack, received.repo, BTreeSet::new());
        self.sick.push(Sick { pack, repo, position, rows, condemned, problem, offset });
        Ok(())
    }

    /// What is still damaged.
    pub(super) fn findings(self) -> impl Iterator<Item = Finding> {
        let beyond = (self.beyond > 0).then(|| Finding {
            file: "packs".to_owned(),
            offset: 0,
            bytes: None,
            problem: format!("{} more damaged packs", self.beyond),
            events: None,
            remedy: Remedy::CopyOrPush,
        });
        let of = |sick: Sick| {
            let condemned = if sick.condemned.is_empty() { "" } else { "; condemned, it waits for a push" };
            let affected = format!("{} objects of repository {}", sick.rows.len(), sick.repo);
            Finding {
                file: StoreKey::pack(sick.pack).as_str().to_owned(),
                offset: sick.offset,
                bytes: None,
                problem: format!("{} ({affected}, delivered by event {}{condemned})", sick.problem, sick.position),
                events: None,
                remedy: Remedy::CopyOrPush,
            }
        };
        self.sick.into_iter().map(of).chain(beyond)
    }
}
