//! Writers that push small commits until the server dies under them, each on a branch of its own.
//!
//! Invariants: the oracle knows of a push before its first byte leaves; a writer stops at its first failure that is not an
//! answer; after a restart it goes on from the head that the oracle settled.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::{RngExt, rngs::StdRng};

use crate::{
    client::{PushFailure, Remote, Repository, push},
    oracle::Oracle,
    seeds,
};

/// Paths that a writer changes in turn: trees stay small, history grows.
const PATHS: u64 = 24;

/// One writer: a local repository and the branch that it pushes.
pub struct Writer {
    /// `owner/slug`.
    pub repo: String,
    /// Its branch; no other writer touches it.
    pub branch: String,
    /// Every commit that it ever made.
    pub local: Repository,
    random: StdRng,
}

impl Writer {
    /// A writer with nothing pushed yet. `stream` tells writers of one seed apart.
    pub fn new(repo: &str, branch: &str, seed: u64, stream: u64) -> Writer {
        let mut local = Repository::init();
        local.set_ticks(stream * 1_000);
        Writer { repo: repo.to_owned(), branch: branch.to_owned(), local, random: seeds::random(seed, stream) }
    }

    /// Pushes commit after commit until the server stops answering; how many were acknowledged.
    pub fn run(&mut self, remote: Remote, oracle: &Mutex<Oracle>) -> u64 {
        self.local.remotes.insert("origin".to_owned(), remote);
        let mut acked = 0;
        loop {
            let head = self.make_commits();
            lock(oracle).sent(&self.repo, &self.branch, &head);
            match push(&mut self.local, "origin", &self.branch) {
                Ok(_) => lock(oracle).acked(&self.repo, &self.branch, &head),
                Err(PushFailure::Failed(failure)) if failure.code().is_none_or(|code| code >= 500) => return acked,
                Err(failure) => panic!("{} {}: {failure:?}", self.repo, self.branch),
            }
            acked += 1;
        }
    }

    /// Goes back to the settled head after a restart, tracking ref included.
    pub fn settle(&mut self, head: Option<String>) {
        let key = ("origin".to_owned(), self.branch.clone());
        match head {
            Some(head) => {
                self.local.set_branch(&self.branch, &head);
                self.local.tracking.insert(key, head);
            }
            None => {
                self.local.heads.remove(&self.branch);
                self.local.tracking.remove(&key);
            }
        }
    }

    fn make_commits(&mut self) -> String {
        let mut head = String::new();
        for _ in 0..self.random.random_range(1..=3) {
            let path = format!("part-{}/bar.txt", self.random.random_range(0..PATHS));
            let length = self.random.random_range(1..2_000);
            let content = seeds::bytes(&mut self.random, length);
            head = self.local.commit(&self.branch, "a bar", &[(&path, Some(&content))]);
        }
        head
    }
}

/// The oracle, also after a writer panicked.
pub fn lock(oracle: &Mutex<Oracle>) -> MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}
