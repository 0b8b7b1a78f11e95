//! Projection rows as `reprise projection dump NAME --json` prints them, and what must hold between them.
//!
//! Invariants: read through the public command line only; a set of rows compares without the positions and packs that
//! legally differ between two repositories of equal content.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::{
    client::{Repository, ids::EMPTY},
    server_process::DataDir,
};

/// All projections, by the names that the command line takes.
pub const PROJECTIONS: [&str; 10] = [
    "repos",
    "refs",
    "object_refs",
    "mpack_index",
    "storage_uri",
    "commits",
    "snapshots",
    "tags",
    "releases",
    "tokens",
];

/// (kind, id) of an object.
pub type Key = (String, String);

/// Every row of one projection.
pub fn dump(data: &DataDir, name: &str) -> Vec<Json> {
    data.json_lines(&["projection", "dump", name])
}

/// The internal id of a live repository.
pub fn repo_id(data: &DataDir, owner: &str, slug: &str) -> String {
    let rows = dump(data, "repos");
    let row = rows.iter().find(|row| row["owner"] == owner && row["slug"] == slug);
    row.and_then(|row| row["repo"].as_str()).unwrap_or_else(|| panic!("no {owner}/{slug} in {rows:?}")).to_owned()
}

/// The objects that the rows of `name` give to `repo`; panics on a duplicate.
pub fn objects(data: &DataDir, name: &str, repo: &str) -> BTreeSet<Key> {
    let mut found = BTreeSet::new();
    for row in dump(data, name).iter().filter(|row| row["repo"] == repo) {
        let text = |key: &str| row[key].as_str().unwrap_or_else(|| panic!("no {key} in {row}")).to_owned();
        assert!(found.insert((text("kind"), text("id"))), "{name}: two rows for {row}");
    }
    found
}

/// What a repository that was pushed from `local` must own: its commits, snapshots and blobs, the empty blob aside.
pub fn expected(local: &Repository) -> BTreeSet<Key> {
    let blobs = local.objects.keys().filter(|id| *id != EMPTY).map(|id| ("blob", id));
    let snapshots = local.snapshots.keys().map(|id| ("snapshot", id));
    let commits = local.commits.keys().map(|id| ("commit", id));
    let all = blobs.chain(snapshots).chain(commits);
    all.map(|(kind, id)| (kind.to_owned(), id.clone())).collect()
}

/// Complete `object_refs` and complete byte ranges, each in a pack whose place is known.
pub fn check_complete(data: &DataDir, owner: &str, slug: &str, local: &Repository) {
    let repo = repo_id(data, owner, slug);
    let without_empty = |mut keys: BTreeSet<Key>| {
        keys.retain(|(_, id)| id != EMPTY);
        keys
    };
    let expected = expected(local);
    assert_eq!(without_empty(objects(data, "object_refs", &repo)), expected, "object_refs of {owner}/{slug}");
    assert_eq!(without_empty(objects(data, "mpack_index", &repo)), expected, "mpack_index of {owner}/{slug}");
    let places: BTreeMap<String, String> = dump(data, "storage_uri")
        .iter()
        .map(|row| {
            (row["pack"].as_str().expect("pack").to_owned(), row["uri"].as_str().expect("never null").to_owned())
        })
        .collect();
    for row in dump(data, "mpack_index").iter().filter(|row| row["repo"] == repo.as_str()) {
        let pack = row["pack"].as_str().expect("pack");
        assert!(places.get(pack).is_some_and(|uri| !uri.is_empty()), "no place for pack {pack}");
    }
}
