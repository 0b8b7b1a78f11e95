//! A stopped hub with a log of several segments, for damage at rest: one repository per segment, pushed by the client model.
//!
//! Invariants: everything about a repository stands in its own segment (the last thing before each kill is a token, which the
//! next opening moves on); copies are independent directories; packs and segments are told by what the log says.
#![allow(clippy::disallowed_methods, reason = "it prepares and damages files as an operator would meet them")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    client::{Repository, clone, push},
    server_process::{DataDir, ServerProcess},
};

/// Repositories in the order of their segments.
pub const REPOS: [&str; 3] = ["alice/one", "alice/two", "bob/three"];

/// The hub and what was pushed to it.
pub struct StoppedHub {
    /// Its directory.
    pub data: DataDir,
    /// What each of [`REPOS`] holds.
    pub pushed: Vec<Repository>,
    /// A token of each of their owners.
    pub tokens: Vec<String>,
}

impl StoppedHub {
    /// Pushes everything, then stops cleanly.
    pub fn new() -> StoppedHub {
        let data = DataDir::new();
        let (mut pushed, mut tokens) = (Vec::new(), Vec::new());
        for (number, name) in REPOS.iter().enumerate() {
            let server = data.serve();
            server.wait_ready();
            data.create_repo(name, &[]);
            let owner = name.split('/').next().expect("an owner");
            let token = data.token(owner);
            let mut local = Repository::init();
            local.remote("origin", &server.url(name), Some(&token));
            for round in 0..3u8 {
                let content = vec![round * 16 + u8::try_from(number).expect("few"); 3_000];
                let path = format!("part-{round}");
                local.commit("main", &format!("{name} {round}"), &[(path.as_str(), Some(content.as_slice()))]);
                push(&mut local, "origin", "main").unwrap_or_else(|error| panic!("{name}: {error:?}"));
            }
            data.token(owner);
            if number + 1 == REPOS.len() {
                server.stop()
            } else {
                server.kill()
            }
            pushed.push(local);
            tokens.push(token);
        }
        StoppedHub { data, pushed, tokens }
    }

    /// The same files in another directory.
    pub fn copy(&self) -> DataDir {
        let copy = DataDir::new();
        copy_all(&self.data.path(), &copy.path());
        copy
    }

    /// A clone of repository `number` is what was pushed.
    pub fn check_clone(&self, server: &ServerProcess, number: usize) {
        let cloned = clone(&server.url(REPOS[number])).unwrap_or_else(|error| panic!("{}: {error:?}", REPOS[number]));
        assert_eq!(cloned.heads, self.pushed[number].heads, "{}", REPOS[number]);
        for head in cloned.heads.values() {
            cloned.check_complete(head).unwrap_or_else(|error| panic!("{}: {error:?}", REPOS[number]));
        }
    }

    /// One more commit of repository `number`, pushed to `server`.
    pub fn push_more(&self, server: &ServerProcess, number: usize) -> Result<(), crate::client::PushFailure> {
        let mut local = self.pushed[number].clone();
        local.remote("origin", &server.url(REPOS[number]), Some(&self.tokens[number]));
        local.commit("main", "more", &[("more", Some(b"more of it"))]);
        push(&mut local, "origin", "main").map(drop)
    }
}

impl Default for StoppedHub {
    fn default() -> StoppedHub {
        StoppedHub::new()
    }
}

/// The log's segment files, in order.
pub fn segments(data: &DataDir) -> Vec<PathBuf> {
    let mut found = files(&data.path().join("log"));
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg-")));
    found
}

/// The packs, by name.
pub fn packs(data: &DataDir) -> Vec<PathBuf> {
    files(&data.path().join("objects").join("packs"))
}

/// The pack that holds the one blob of `REPOS[number]` that was pushed in `round`.
pub fn pack_of(hub: &StoppedHub, data: &DataDir, number: usize, round: u8) -> PathBuf {
    let content = vec![round * 16 + u8::try_from(number).expect("few"); 3_000];
    let id = crate::client::ids::sha256_hex(&content);
    assert!(hub.pushed[number].objects.contains_key(&id));
    let place = data.json(&["locate", REPOS[number], &id]);
    let pack = place["found"][0]["pack"].as_str().expect("a pack").to_owned();
    packs(data).into_iter().find(|path| path.to_string_lossy().contains(&pack)).expect("its file")
}

/// Changes a file's bytes in place.
pub fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    change(&mut bytes);
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Every file below `dir`, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Copies a directory with everything in it.
pub fn copy_all(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("below it"));
        fs::create_dir_all(target.parent().expect("a directory")).expect("made");
        fs::copy(&file, &target).expect("copied");
    }
}
