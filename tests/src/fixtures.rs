//! The repositories made with the real client, as local repositories of the model.
//!
//! Invariants: read only from this crate's own `fixtures/`; every record keeps the form it has in the bundle.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use crate::client::{Repository, Tree, Value, ids::sha256_hex};

/// `fixtures/etude.json`: what a complete clone must hold.
pub struct Expected {
    /// Branch → head.
    pub heads: BTreeMap<String, String>,
    /// Branch → files of its head.
    pub trees: BTreeMap<String, Tree>,
    /// Commits in all.
    pub commits: usize,
    /// Objects in all, the empty one included.
    pub objects: usize,
    /// Snapshots in all.
    pub snapshots: usize,
}

/// The expectations that belong to [`etude`].
pub fn expected() -> Expected {
    let json: serde_json::Value = serde_json::from_slice(&read("etude.json")).expect("etude.json");
    let count = |key: &str| usize::try_from(json[key].as_u64().expect("a count")).expect("fits");
    Expected {
        heads: serde_json::from_value(json["branch_heads"].clone()).expect("branch_heads"),
        trees: serde_json::from_value(json["trees"].clone()).expect("trees"),
        commits: count("commits"),
        objects: count("objects"),
        snapshots: count("snapshots"),
    }
}

/// Three branches, a merge, an empty file, large files.
pub fn etude() -> Repository {
    load("etude.bundle")
}

/// `main` again, as an increment on "Movement 12".
pub fn etude_since_movement_12() -> Repository {
    load("etude-since-movement-12.bundle")
}

/// The `.muse` directory of the same repository, read through `tar`: records there are JSON, objects raw files.
pub fn etude_muse_directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let status = Command::new("tar").arg("-xzf").arg(path("etude.muse.tar.gz")).arg("-C").arg(dir.path()).status();
    assert!(status.expect("tar runs").success());
    let muse = dir.path().join(".muse");
    (dir, muse)
}

fn load(name: &str) -> Repository {
    let bundle = Value::decode(&read(name)).expect("a bundle is one msgpack value");
    let mut repository = Repository::init();
    for object in bundle.items("objects") {
        let Some(Value::Bin(content)) = object.get("content") else { panic!("object without content in {name}") };
        let id = object.text("object_id").to_owned();
        assert_eq!(sha256_hex(content), id, "{name}");
        repository.objects.insert(id, content.as_slice().into());
    }
    for snapshot in bundle.items("snapshots") {
        repository.snapshots.insert(snapshot.text("snapshot_id").to_owned(), snapshot.clone());
    }
    for commit in bundle.items("commits") {
        repository.commits.insert(commit.text("commit_id").to_owned(), commit.clone());
    }
    repository.heads = bundle.str_map("branch_heads").into_iter().collect();
    repository
}

fn read(name: &str) -> Vec<u8> {
    let path = path(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

#[cfg(test)]
mod tests {
    use super::{etude, etude_since_movement_12, expected};

    #[test]
    fn the_fixtures_are_what_their_description_says() {
        let (repository, expected) = (etude(), expected());
        assert_eq!(repository.heads, expected.heads);
        assert_eq!(repository.commits.len(), expected.commits);
        assert_eq!(repository.snapshots.len(), expected.snapshots);
        assert_eq!(repository.objects.len(), expected.objects);
        for (branch, tree) in expected.trees {
            assert_eq!(repository.tree(repository.head(&branch)), tree, "{branch}");
        }
        assert!(!etude_since_movement_12().commits.is_empty());
    }
}
