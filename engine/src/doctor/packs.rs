//! Packs as the log knows them: each is read whole when its event is met, and what happened to it later is counted.
//!
//! Invariants: memory grows with the damage, not with the log; rows that were condemned and delivered again to the same
//! repository are healed, and so is what belonged to a repository that is gone or a pack that was retired; rows that were condemned
//! and not delivered again are missed by readers, also when the pack is sound again.

use std::collections::{BTreeMap, BTreeSet};

use super::{FINDINGS_MAX, Files, Finding, Remedy};
use crate::{
    error::Result,
    event::{Event, EventBody, ObjectsReceived},
    id::{Kind, ObjectId, PackId, Position, RepoId},
    pack,
    store::{ObjectStore, StoreKey},
};

type Rows = BTreeSet<(Kind, ObjectId)>;

/// The packs that have something.
pub(super) struct DamagedPacks<'a> {
    store: &'a dyn ObjectStore,
    files: &'a Files,
    damaged: Vec<Damaged>,
    /// Rows that readers skip until they are delivered again.
    condemned: BTreeMap<(PackId, RepoId), Rows>,
    /// Packs looked at.
    pub(super) packs: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Damaged packs that found no place here.
    beyond: u64,
}

struct Damaged {
    pack: PackId,
    repo: RepoId,
    position: Position,
    rows: Rows,
    problem: String,
    offset: u64,
}

impl DamagedPacks<'_> {
    pub(super) fn new<'a>(store: &'a dyn ObjectStore, files: &'a Files) -> DamagedPacks<'a> {
        let (damaged, condemned) = (Vec::new(), BTreeMap::new());
        DamagedPacks { store, files, damaged, condemned, packs: 0, bytes: 0, beyond: 0 }
    }

    /// Takes in the next event of the log.
    pub(super) fn take(&mut self, event: &Event) -> Result<()> {
        match &event.body {
            EventBody::ObjectsReceived(received) => {
                self.heal(received);
                self.examine(event.position, received)?;
            }
            EventBody::RowsCondemned(condemned) => {
                let rows = self.condemned.entry((condemned.pack, condemned.repo)).or_default();
                rows.extend(&condemned.rows);
            }
            EventBody::PacksRelocated(moved) => {
                let retired = |pack| moved.packs.iter().any(|(moved, to)| *moved == pack && to.is_none());
                self.damaged.retain(|damaged| !retired(damaged.pack));
                self.condemned.retain(|(pack, _), _| !retired(*pack));
            }
            EventBody::RepoDeleted(gone) => {
                self.damaged.retain(|damaged| damaged.repo != gone.repo);
                self.condemned.retain(|(_, repo), _| *repo != gone.repo);
            }
            _ => {}
        }
        Ok(())
    }

    /// What was condemned and is delivered again is where it was delivered to now.
    fn heal(&mut self, received: &ObjectsReceived) {
        for ((pack, repo), condemned) in self.condemned.iter_mut().filter(|((_, repo), _)| *repo == received.repo) {
            for row in received.rows.iter().map(|row| (row.kind, row.id)) {
                if condemned.remove(&row) {
                    let same = |damaged: &&mut Damaged| (damaged.pack, damaged.repo) == (*pack, *repo);
                    for damaged in self.damaged.iter_mut().filter(same) {
                        damaged.rows.remove(&row);
                    }
                }
            }
        }
        self.condemned.retain(|_, rows| !rows.is_empty());
        self.damaged.retain(|damaged| !damaged.rows.is_empty());
    }

    fn examine(&mut self, position: Position, received: &ObjectsReceived) -> Result<()> {
        self.packs += 1;
        let key = StoreKey::pack(received.pack);
        let mut rows = Rows::new();
        let mut first: Option<String> = None;
        let verified = pack::verify(self.store, received.pack, &mut |kind, id, what| {
            rows.insert((kind, id));
            first.get_or_insert(what);
        });
        let all = || received.rows.iter().map(|row| (row.kind, row.id)).collect();
        let (problem, offset) = match verified {
            Ok(found) => {
                self.bytes += found.stored.bytes;
                let unreadable = self.files.unreadable_packs.of(key.as_str());
                if found.stored.table_hash != received.table_hash {
                    rows = all();
                    ("its table is not the one that the log knows".to_owned(), 0)
                } else if let Some(what) = first {
                    (what, 0)
                } else if let Some((offset, _)) = unreadable {
                    rows = all();
                    ("the disk cannot read a part of it".to_owned(), offset)
                } else {
                    return Ok(());
                }
            }
            Err(error) if error.is_corrupt() || error.is_not_found() => {
                rows = all();
                (error.to_string(), error.offset().unwrap_or(0))
            }
            Err(error) => return Err(error),
        };
        if self.damaged.len() >= FINDINGS_MAX {
            self.beyond += 1;
            return Ok(());
        }
        let (pack, repo) = (received.pack, received.repo);
        self.damaged.push(Damaged { pack, repo, position, rows, problem, offset });
        Ok(())
    }

    /// What is still damaged, and what is condemned though its pack is sound.
    pub(super) fn findings(self) -> impl Iterator<Item = Finding> {
        let DamagedPacks { files, damaged, mut condemned, beyond, .. } = self;
        let root = files.pack_root();
        let finding = |file: String, offset, problem, remedy| Finding {
            file: format!("{root}{file}"),
            offset,
            bytes: None,
            problem,
            events: None,
            remedy,
        };
        let mut findings = Vec::new();
        for damaged in damaged {
            let waits = condemned.remove(&(damaged.pack, damaged.repo)).is_some();
            let waits = if waits { "; condemned, it waits for a push" } else { "" };
            let affected = format!("{} objects of repository {}", damaged.rows.len(), damaged.repo);
            let text = format!("{} ({affected}, delivered by event {}{waits})", damaged.problem, damaged.position);
            findings.push(finding(key_of(damaged.pack), damaged.offset, text, Remedy::CopyOrPush));
        }
        for ((pack, repo), rows) in condemned {
            let text = format!(
                "the pack is sound, but {} objects of repository {repo} were condemned in it and not pushed again since",
                rows.len()
            );
            findings.push(finding(key_of(pack), 0, text, Remedy::Push));
        }
        if beyond > 0 {
            let text = format!("{beyond} more damaged packs");
            findings.push(finding("packs".to_owned(), 0, text, Remedy::CopyOrPush));
        }
        findings.into_iter()
    }
}

fn key_of(pack: PackId) -> String {
    StoreKey::pack(pack).as_str().to_owned()
}
