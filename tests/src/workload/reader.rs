//! A client that clones while others push, and believes nothing: each answer is compared with what was sent, and with what
//! had been acknowledged before the clone began.

use std::collections::BTreeSet;

use crate::{
    client::{CloneFailure, Failure, Repository, clone},
    oracle::{Kind, ReadBegun, Register},
    workload::{Client, Field, state_of},
};

/// One reader of several repositories.
pub struct Reader {
    repos: Vec<String>,
    at: usize,
}

impl Reader {
    /// A reader of these, in turn.
    pub fn new(repos: &[&str]) -> Reader {
        Reader { repos: repos.iter().map(|repo| (*repo).to_owned()).collect(), at: 0 }
    }

    /// One clone: whether it was answered with one, or `None` when the server is gone.
    fn read(&mut self, field: &Field) -> Option<bool> {
        self.at += 1;
        let repo = &self.repos[self.at % self.repos.len()];
        let begun = field.oracle().begin_read(repo);
        let mut cloned = false;
        let checked = match clone(&field.url(repo)) {
            Ok(given) => {
                cloned = true;
                check(&given, repo, &begun, field)
            }
            Err(CloneFailure::Empty) => check_state(repo, &begun, Some(&[]), field),
            Err(CloneFailure::Refs(Failure::Status { code: 404, .. })) => check_state(repo, &begun, None, field),
            // Deleted between refs and fetch, or too busy.
            Err(CloneFailure::Fetch(Failure::Status { code: 404 | 429 | 503, .. })) => Ok(()),
            Err(CloneFailure::Refs(Failure::Status { code: 429 | 503, .. })) => Ok(()),
            Err(CloneFailure::Refs(failure) | CloneFailure::Fetch(failure)) => {
                field.gone("a clone", failure.code(), &failure);
                return None;
            }
            Err(failure) => panic!("{repo}: {failure:?}"),
        };
        checked.unwrap_or_else(|error| panic!("{repo}: {error}"));
        Some(cloned)
    }
}

/// A whole clone.
fn check(given: &Repository, repo: &str, begun: &ReadBegun, field: &Field) -> Result<(), String> {
    let heads: Vec<_> = given.heads.clone().into_iter().collect();
    check_state(repo, begun, Some(&heads), field)?;
    for (branch, head) in &heads {
        let line = field.archive().compare(given, head, &BTreeSet::new())?;
        field.archive().compare_blobs(given, &line, &BTreeSet::new())?;
        let oracle = field.oracle();
        if oracle.is_race(repo, branch) {
            oracle.judge_race_read(begun, repo, branch, &line)?;
        }
    }
    Ok(())
}

/// What the refs said; `None`: there is no such repository.
fn check_state(repo: &str, begun: &ReadBegun, heads: Option<&[(String, String)]>, field: &Field) -> Result<(), String> {
    let oracle = field.oracle();
    for register in oracle.registers(repo) {
        let seen = match register.kind {
            Kind::Repo => state_of(heads),
            Kind::Branch => {
                heads.unwrap_or_default().iter().find(|(name, _)| *name == register.name).map(|(_, head)| head.clone())
            }
            Kind::Release | Kind::Tag => continue,
        };
        oracle.judge_read(begun, &register, seen.as_deref())?;
    }
    let known = |branch: &str| {
        oracle.is_race(repo, branch)
            || oracle.registers(repo).contains(&Register::new(repo, Kind::Branch, branch))
            || oracle.registers(repo).contains(&Register::new(repo, Kind::Repo, branch))
    };
    match heads.unwrap_or_default().iter().find(|(branch, _)| !known(branch)) {
        Some((branch, _)) => Err(format!("nobody made a branch {branch}")),
        None => Ok(()),
    }
}

impl Client for Reader {
    fn step(&mut self, field: &Field) -> Option<bool> {
        self.read(field)
    }

    fn ask_again(&mut self, _: &Field) {}

    fn settle(&mut self, _: &Field) {}
}
