//! The client's id formulas (MWP §3), written apart from the engine's so that each checks the other.

use sha2::{Digest, Sha256};

/// SHA-256 as 64 lower-case hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Id of the empty blob, and of the snapshot without entries.
pub const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Id of a snapshot with these (path, object id) pairs, in any order.
pub fn snapshot_id<'a>(manifest: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut pairs: Vec<String> = manifest.into_iter().map(|(path, object)| format!("{path}\0{object}")).collect();
    pairs.sort_unstable();
    sha256_hex(pairs.join("\0").as_bytes())
}

/// Id of a commit.
pub fn commit_id(parents: &[&str], snapshot: &str, message: &str, committed_at: &str) -> String {
    let mut parents = parents.to_vec();
    parents.sort_unstable();
    sha256_hex([&parents.join("\0"), snapshot, message, committed_at].join("\0").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{EMPTY, commit_id, sha256_hex, snapshot_id};

    #[test]
    fn the_vectors_of_the_protocol_hold() {
        let hello = sha256_hex(b"hello\n");
        assert_eq!(snapshot_id([]), EMPTY);
        let snapshot = snapshot_id([("b.txt", hello.as_str()), ("a/ünï.txt", EMPTY), ("a.txt", hello.as_str())]);
        assert_eq!(snapshot, "f527b0222c10378aac0eff1845f4a4e9ae278ac86a1c6ec473853677fbf7959a");
        let root = commit_id(&[], &snapshot, "first", "2026-03-16T12:00:00+00:00");
        assert_eq!(root, "364b73737d62d8245d7130315afe32129ff3c8212246f4313b32ce383cc6f71b");
        let child = commit_id(&[&root], &snapshot, "zweite ✓", "2026-03-16T12:00:00.000123+00:00");
        assert_eq!(child, "c056a696126d91ea748586f3ff6e48cad9ff98962acf574937d6c43abcc9d2f8");
        for parents in [[root.as_str(), child.as_str()], [child.as_str(), root.as_str()]] {
            let merge = commit_id(&parents, &snapshot, "merge", "2026-03-17T00:00:00+00:00");
            assert_eq!(merge, "fc89fe2f8989c68579b668b1dd24cacf79fa088c96dc865f8e86ad15abcea79a");
        }
    }
}
