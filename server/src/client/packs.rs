//! What a push has to send, as packs (engine/FORMAT.md §3), one after another.
//!
//! Invariants: the order of objects follows from what is to be sent alone, so that an interrupted push can tell what it has sent by
//! a count; every object is verified when it is read; one pack stands on the disk at a time.

use std::{path::PathBuf, sync::Arc};

use reprise_engine::{
    clock::{SystemRandom, random16},
    disk::real::RealDisk,
    id::{Kind, ObjectId, PackId, PushId, RepoId},
    limits::PACK_ROWS_MAX,
    pack::{PackOrigin, PackWriter, WHOLE_BYTES_MAX},
    store::{ObjectStore, StoreKey, directory::DirectoryStore},
};

use super::{
    ClientError, Repository,
    files::{self, Found},
    incoming::DIRECTORY,
    outgoing::{Outgoing, read_blob},
};

/// An object to be sent, and about how many bytes it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: ObjectId,
    /// Bytes: of a blob exactly.
    pub bytes: u64,
}

/// Everything that a push has to send, in the order in which it is sent: records before blobs.
pub fn items(
    repository: &Repository,
    outgoing: &Outgoing,
    blobs: &[(ObjectId, u64)],
) -> Result<Vec<Item>, ClientError> {
    let record = |kind: Kind, id: ObjectId| match files::look(&repository.path(kind, id))? {
        Found::File(bytes) => Ok(Item { kind, id, bytes }),
        _ => Err(ClientError::Refused(format!("{kind} {id} is missing in {}", repository.root().display()))),
    };
    let commits = outgoing.commits.iter().map(|commit| record(Kind::Commit, commit.id));
    let snapshots = outgoing.snapshots.iter().map(|id| record(Kind::Snapshot, *id));
    let blobs = blobs.iter().map(|(id, bytes)| Ok(Item { kind: Kind::Blob, id: *id, bytes: *bytes }));
    commits.chain(snapshots).chain(blobs).collect()
}

/// How many of `items`, from the first on, make one pack.
pub fn first_pack(items: &[Item]) -> usize {
    let mut bytes = 0;
    let fits = items.iter().take(PACK_ROWS_MAX).take_while(|item| {
        bytes += item.bytes + ROW_BYTES;
        bytes <= PACK_BYTES
    });
    fits.count().max(1).min(items.len())
}

/// How many packs `items` make.
pub fn count(items: &[Item]) -> usize {
    let (mut rest, mut count) = (items, 0);
    while !rest.is_empty() {
        rest = &rest[first_pack(rest)..];
        count += 1;
    }
    count
}

/// A pack in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackFile {
    /// Its id: the SHA-256 of the file.
    pub pack: PackId,
    /// Bytes of the file.
    pub bytes: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// Writes `items` into one pack.
pub fn build(repository: &Repository, items: &[Item], repo: RepoId, push: PushId) -> Result<PackFile, ClientError> {
    let root = repository.muse(DIRECTORY).join("packs");
    files::remove_all(&root)?;
    let random = Arc::new(SystemRandom);
    let nonce = random16(&*random).map_err(failed)?;
    let store = DirectoryStore::new(Arc::new(RealDisk::new(root.clone())), random);
    let staged = store.stage().map_err(failed)?;
    let mut writer = PackWriter::new(staged, PackOrigin { repo, push, nonce }).map_err(failed)?;
    for item in items {
        add(repository, item, &mut writer)?;
    }
    let stored = writer.finish().map_err(failed)?;
    let path = root.join(StoreKey::pack(stored.pack).as_str());
    Ok(PackFile { pack: stored.pack, bytes: stored.bytes, path })
}

fn add(repository: &Repository, item: &Item, writer: &mut PackWriter) -> Result<(), ClientError> {
    let Item { kind, id, bytes } = *item;
    match kind {
        Kind::Commit => {
            let commit = repository.commit(id)?;
            writer.add_record(kind, id, commit.record_hash, &commit.payload).map_err(failed)
        }
        Kind::Snapshot => {
            let (snapshot, _) = repository.snapshot(id)?;
            writer.add_record(kind, id, snapshot.record_hash, &snapshot.payload).map_err(failed)
        }
        Kind::Blob if bytes <= WHOLE_BYTES_MAX => {
            let mut blob = Vec::new();
            read_blob(repository, id, |piece| {
                blob.extend_from_slice(piece);
                Ok(())
            })?;
            writer.add_blob(id, &blob).map_err(failed)
        }
        Kind::Blob => {
            let mut blob = writer.begin_blob(bytes).map_err(failed)?;
            read_blob(repository, id, |piece| blob.write(piece).map_err(std::io::Error::other))?;
            blob.finish(id).map_err(failed)
        }
    }
}

fn failed(error: reprise_engine::Error) -> ClientError {
    ClientError::Refused(error.to_string())
}

/// Bytes of objects in one pack: below the 256 MiB that a server takes, so that no object is too much. A blob that has more has
/// a pack of its own.
const PACK_BYTES: u64 = 192 << 20;
/// What an object takes beside its bytes.
const ROW_BYTES: u64 = 256;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use reprise_engine::object::ids;

    use super::*;

    fn blob(bytes: u64) -> Item {
        Item { kind: Kind::Blob, id: ObjectId([1; 32]), bytes }
    }

    #[test]
    fn packs_are_bounded_in_rows_and_bytes_and_a_large_blob_has_its_own() {
        assert_eq!(first_pack(&vec![blob(1); PACK_ROWS_MAX + 5]), PACK_ROWS_MAX);
        assert_eq!(first_pack(&[blob(PACK_BYTES / 2), blob(PACK_BYTES / 3), blob(PACK_BYTES / 2)]), 2);
        assert_eq!(first_pack(&[blob(PACK_BYTES + 1), blob(1)]), 1);
        assert_eq!(count(&[blob(1), blob(PACK_BYTES + 1), blob(1), blob(2)]), 3);
        assert_eq!(count(&[]), 0);
    }

    #[test]
    fn a_pack_holds_what_it_was_made_of_and_a_damaged_blob_is_not_packed() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::at(dir.path());
        let put = |bytes: &[u8]| {
            let id = ids::blob_id(bytes);
            files::write(&repository.path(Kind::Blob, id), bytes).unwrap();
            Item { kind: Kind::Blob, id, bytes: bytes.len() as u64 }
        };
        let items = [put(b"small"), put(&vec![7; usize::try_from(WHOLE_BYTES_MAX).unwrap() + 9])];
        let pack = build(&repository, &items, RepoId([1; 16]), PushId([2; 16])).unwrap();
        assert_eq!(files::hash(&pack.path, |_| Ok(())).unwrap(), (ObjectId(pack.pack.0), pack.bytes));
        for item in &items {
            files::write(&repository.path(Kind::Blob, item.id), &vec![8; usize::try_from(item.bytes).unwrap()])
                .unwrap();
            let error = build(&repository, &[*item], RepoId([1; 16]), PushId([2; 16])).unwrap_err().to_string();
            assert!(error.contains("damaged"), "{error}");
        }
    }
}
