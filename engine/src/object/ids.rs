//! The id formulas of muse and the record hash.
//!
//! Invariants: byte for byte the client's formulas: `NUL` is one 0x00 byte, ids are hashed as 64 lower-case hex digits.
//! They are unambiguous only over texts without NUL, so whoever calls them has refused NUL before.

use sha2::{Digest, Sha256};

use crate::id::{Kind, ObjectId, RecordHash};

/// SHA-256 of the bytes: a blob's id.
pub fn blob_id(bytes: &[u8]) -> ObjectId {
    ObjectId(Sha256::digest(bytes).into())
}

/// SHA-256 of `<kind> <size>\0<payload>`.
pub fn record_hash(kind: Kind, payload: &[u8]) -> RecordHash {
    let mut hash = Sha256::new();
    hash.update(format!("{} {}\0", kind.name(), payload.len()));
    hash.update(payload);
    RecordHash(hash.finalize().into())
}

/// A commit's id: parents (sorted, joined with NUL; none: the empty text), snapshot, message, time, joined with NUL.
pub fn commit_id(parents: &[ObjectId], snapshot: ObjectId, message: &str, committed_at: &str) -> ObjectId {
    let mut sorted = parents.to_vec();
    sorted.sort_unstable();
    let sorted: Vec<String> = sorted.iter().map(ObjectId::to_string).collect();
    let mut hash = Sha256::new();
    for part in [sorted.join("\0").as_str(), &snapshot.to_string(), message] {
        hash.update(part);
        hash.update([0]);
    }
    hash.update(committed_at);
    ObjectId(hash.finalize().into())
}

/// A snapshot's id while its entries go by: `path NUL id` for each, joined with NUL, in byte order of the paths (the same
/// order as that of the joined pairs, because NUL sorts before everything that a path may contain).
#[derive(Default)]
pub struct SnapshotHasher {
    hash: Sha256,
    // Small updates cost more than the hashing itself: entries are gathered to whole blocks first.
    pending: Vec<u8>,
    begun: bool,
}

impl SnapshotHasher {
    /// Adds the next entry; `id` is the blob's 64 hex digits.
    pub fn entry(&mut self, path: &str, id: &str) {
        if self.begun {
            self.pending.push(0);
        }
        self.begun = true;
        self.pending.extend_from_slice(path.as_bytes());
        self.pending.push(0);
        self.pending.extend_from_slice(id.as_bytes());
        if self.pending.len() >= PENDING_BYTES {
            self.hash.update(&self.pending);
            self.pending.clear();
        }
    }

    /// The id of all entries so far.
    pub fn finish(mut self) -> ObjectId {
        self.hash.update(&self.pending);
        ObjectId(self.hash.finalize().into())
    }
}

const PENDING_BYTES: usize = 4 << 10;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const H: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    const E: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const S: &str = "f527b0222c10378aac0eff1845f4a4e9ae278ac86a1c6ec473853677fbf7959a";
    const R: &str = "364b73737d62d8245d7130315afe32129ff3c8212246f4313b32ce383cc6f71b";
    const C: &str = "c056a696126d91ea748586f3ff6e48cad9ff98962acf574937d6c43abcc9d2f8";

    fn id(text: &str) -> ObjectId {
        text.parse().unwrap()
    }

    #[test]
    fn blobs_hash_to_the_clients_ids() {
        assert_eq!(blob_id(b"hello\n"), id(H));
        assert_eq!(blob_id(b""), id(E));
    }

    #[test]
    fn snapshots_hash_to_the_clients_ids() {
        assert_eq!(SnapshotHasher::default().finish(), id(E));
        let mut hasher = SnapshotHasher::default();
        for (path, blob) in [("a.txt", H), ("a/ünï.txt", E), ("b.txt", H)] {
            hasher.entry(path, blob);
        }
        assert_eq!(hasher.finish(), id(S));
    }

    #[test]
    fn commits_hash_to_the_clients_ids() {
        let time = "2026-03-16T12:00:00+00:00";
        assert_eq!(commit_id(&[], id(S), "first", time), id(R));
        let unnamed = "50e48200b85e7cba8f10dbd81df2fcca478afdfe9625a84b5cdac694b9c58a56";
        assert_eq!(commit_id(&[], id(S), "", time), id(unnamed));
        assert_eq!(commit_id(&[id(R)], id(S), "zweite ✓", "2026-03-16T12:00:00.000123+00:00"), id(C));
        let merge = "fc89fe2f8989c68579b668b1dd24cacf79fa088c96dc865f8e86ad15abcea79a";
        for parents in [[id(C), id(R)], [id(R), id(C)]] {
            assert_eq!(commit_id(&parents, id(S), "merge", "2026-03-17T00:00:00+00:00"), id(merge));
        }
    }

    #[test]
    fn the_record_hash_covers_kind_size_and_payload() {
        assert_eq!(record_hash(Kind::Commit, b"{}").0, blob_id(b"commit 2\0{}").0);
        assert_ne!(record_hash(Kind::Commit, b"{}"), record_hash(Kind::Snapshot, b"{}"));
    }
}
