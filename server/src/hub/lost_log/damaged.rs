//! What a damaged pack still proves, and the list of what it does not.
//!
//! Invariants: nothing is invented: an entry goes on only if a blob hashes to its id, a record to its hash and its fields to its
//! id; what goes on stands in a new pack of the same repository, whose bytes follow from the old one's, so that a repeated
//! recovery makes the same pack; everything else is listed by name where a name can be read. Lists are bounded, counts are not.

use reprise_engine::{
    Error, ErrorKind, Result,
    event::ObjectRow,
    id::{Kind, ObjectId, PackId, RepoId},
    object::{Commit, Snapshot},
    pack::{PackOrigin, PackWriter, describe, is_large, location_of, open_blob_stream, read_object, salvage},
    store::{ObjectStore, StoreKey},
};

use super::{Report, derived};

/// A pack that is not what its name says.
pub struct DamagedPack {
    /// Its name.
    pub pack: PackId,
    /// Whose it is; `None` if its header cannot be read: then nothing of it goes on.
    pub repo: Option<RepoId>,
    /// What is wrong with it.
    pub problem: String,
    /// Entries that prove themselves.
    pub proven: u64,
    /// The pack in which they go on, if there are any.
    pub rescued: Option<PackId>,
    /// Entries that do not, as far as they can be named.
    pub lost: Vec<String>,
    /// More of them.
    pub lost_more: u64,
    /// Whether no entry is missing but those above.
    pub complete: bool,
}

/// A record that stands in two packs of a repository with different fields that its id does not cover.
pub struct Differing {
    /// Whose.
    pub repo: RepoId,
    /// Which.
    pub kind: Kind,
    /// Its id.
    pub id: ObjectId,
    /// The pack whose record is not served.
    pub pack: PackId,
}

/// Bounded lists of what is worth saying.
#[derive(Default)]
pub struct Said {
    /// Damaged packs.
    pub damaged: Vec<DamagedPack>,
    /// More of them.
    pub damaged_more: u64,
    /// Names below `packs/` that are no pack's.
    pub not_packs: Vec<String>,
    /// Records that differ.
    pub differing: Vec<Differing>,
    /// More of them.
    pub differing_more: u64,
    /// Good packs whose event the log could not take, and why.
    pub not_taken: Vec<(PackId, String)>,
}

impl Said {
    /// Something that is no pack lies among them.
    pub fn not_a_pack(&mut self, key: &StoreKey) {
        if self.not_packs.len() < LISTED_MAX {
            self.not_packs.push(key.to_string());
        }
    }

    /// A record differs.
    pub fn differs(&mut self, differing: Differing) {
        match self.differing.len() < LISTED_MAX {
            true => self.differing.push(differing),
            false => self.differing_more += 1,
        }
    }

    fn is_damaged(&mut self, damaged: DamagedPack) {
        match self.damaged.len() < LISTED_MAX {
            true => self.damaged.push(damaged),
            false => self.damaged_more += 1,
        }
    }
}

/// Puts what a damaged pack proves into a new one, and says what it does not. The new pack, if there is anything to put.
pub fn rescue(
    (from, to): (&dyn ObjectStore, &dyn ObjectStore),
    pack: PackId,
    problem: String,
    report: &mut Report,
) -> Result<Option<PackId>> {
    let mut found = DamagedPack {
        pack,
        repo: None,
        problem,
        proven: 0,
        rescued: None,
        lost: Vec::new(),
        lost_more: 0,
        complete: false,
    };
    if let Some((origin, rows)) = what_it_names(from, &mut found)? {
        found.repo = Some(origin.repo);
        let nonce = derived("reprise rescued entries", pack);
        let mut writer = PackWriter::new(to.stage()?, PackOrigin { nonce, ..origin })?;
        for index in by_place(&rows) {
            match copy(from, (pack, &rows, index), &mut writer) {
                Ok(()) => found.proven += 1,
                Err(error) if error.is_corrupt() => found.lose(format!("{} {}", rows[index].kind, rows[index].id)),
                Err(error) => return Err(error),
            }
        }
        if found.proven > 0 {
            found.rescued = Some(writer.finish()?.pack);
        }
    }
    let rescued = found.rescued;
    report.said.is_damaged(found);
    Ok(rescued)
}

/// Its rows, by its table or, if that is damaged, by a walk over its entries; `None` if not even its header can be read.
fn what_it_names(from: &dyn ObjectStore, found: &mut DamagedPack) -> Result<Option<(PackOrigin, Vec<ObjectRow>)>> {
    match describe(from, found.pack) {
        Ok(described) => {
            found.complete = true;
            return Ok(Some((described.origin, described.stored.rows)));
        }
        Err(error) if error.is_corrupt() || error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    match salvage(from, found.pack, &mut |at, why| found.lose(format!("an entry at byte {at}: {why}"))) {
        Ok(salvaged) => {
            found.complete = salvaged.complete;
            Ok(Some((salvaged.origin, salvaged.rows)))
        }
        Err(error) if error.is_corrupt() || error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Indexes of rows in the order of their bytes: bases are held as they come.
fn by_place(rows: &[ObjectRow]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_unstable_by_key(|index| rows[*index].offset);
    order
}

/// Copies one entry; `Corrupt` if it is not what its row says.
fn copy(
    from: &dyn ObjectStore,
    (pack, rows, index): (PackId, &[ObjectRow], usize),
    writer: &mut PackWriter,
) -> Result<()> {
    let (row, location) = (&rows[index], location_of(pack, rows, index));
    if is_large(row.kind, &location) {
        // Twice: an entry that was begun cannot be taken back.
        open_blob_stream(from, row.id, &location)?.try_for_each(|piece| piece.map(drop))?;
        let mut blob = writer.begin_blob(row.real_len)?;
        for piece in open_blob_stream(from, row.id, &location)? {
            blob.write(&piece?)?;
        }
        return blob.finish(row.id);
    }
    let payload = read_object(from, row.kind, row.id, &location)?;
    let (id, hash) = match row.kind {
        Kind::Blob => return writer.add_blob(row.id, &payload),
        Kind::Snapshot => Snapshot::from_payload(&payload).map(|snapshot| (snapshot.id, snapshot.record_hash))?,
        Kind::Commit => Commit::from_payload(&payload).map(|commit| (commit.id, commit.record_hash))?,
    };
    if id != row.id {
        return Err(Error::new(ErrorKind::Corrupt, format!("the record gives the id {id}")));
    }
    writer.add_record(row.kind, id, hash, &payload)
}

impl DamagedPack {
    fn lose(&mut self, what: String) {
        match self.lost.len() < LOST_LISTED_MAX {
            true => self.lost.push(what),
            false => self.lost_more += 1,
        }
    }
}

const LISTED_MAX: usize = 1_000;
/// Lost entries of one pack that are named.
const LOST_LISTED_MAX: usize = 20;
