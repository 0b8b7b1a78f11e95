//! What must be true of a branch after a crash: the head is one of what was acknowledged last and what was in flight.
//!
//! Invariants: the oracle lives outside the server; an entry has at most one push in flight; what was once observed
//! after a crash counts as acknowledged from then on (the server must not change its mind).

use std::collections::{BTreeMap, BTreeSet};

/// Knowledge about one branch.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Branch {
    /// Head that the client saw succeed, or that was seen after a restart.
    pub acked: Option<String>,
    /// Head whose push got no answer.
    pub unknown: Option<String>,
}

/// Knowledge about all branches, by (repository, branch).
#[derive(Clone, Default, Debug)]
pub struct Oracle {
    branches: BTreeMap<(String, String), Branch>,
    acked: BTreeSet<String>,
    /// Pushes without an answer that turned out to have happened, and not to have happened.
    pub unknown_happened: u64,
    /// See above.
    pub unknown_did_not: u64,
}

impl Oracle {
    /// A push of `head` is about to be sent.
    pub fn sent(&mut self, repo: &str, branch: &str, head: &str) {
        self.entry(repo, branch).unknown = Some(head.to_owned());
    }

    /// Its success was seen.
    pub fn acked(&mut self, repo: &str, branch: &str, head: &str) {
        let entry = self.entry(repo, branch);
        entry.acked = Some(head.to_owned());
        entry.unknown = None;
        self.acked.insert(head.to_owned());
    }

    /// Its refusal was seen: it must never appear.
    pub fn refused(&mut self, repo: &str, branch: &str) {
        self.entry(repo, branch).unknown = None;
    }

    /// Judges the refs that the server shows after a restart, and settles what was unknown.
    pub fn judge(&mut self, repo: &str, seen: &BTreeMap<String, String>) -> Result<(), String> {
        for ((_, branch), entry) in self.branches.iter_mut().filter(|((known, _), _)| known == repo) {
            let head = seen.get(branch);
            if head == entry.acked.as_ref() {
                self.unknown_did_not += u64::from(entry.unknown.take().is_some());
            } else if head.is_some() && head == entry.unknown.as_ref() {
                entry.acked = entry.unknown.take();
                self.acked.extend(entry.acked.clone());
                self.unknown_happened += 1;
            } else {
                return Err(format!("{repo} {branch}: {head:?} after {entry:?}"));
            }
        }
        let known = |branch: &String| self.branches.contains_key(&(repo.to_owned(), branch.clone()));
        match seen.keys().find(|branch| !known(branch)) {
            Some(branch) => Err(format!("{repo}: nobody made a branch {branch}")),
            None => Ok(()),
        }
    }

    /// The head that is certain now.
    pub fn head(&self, repo: &str, branch: &str) -> Option<String> {
        self.branches.get(&(repo.to_owned(), branch.to_owned())).and_then(|entry| entry.acked.clone())
    }

    /// Every head that was ever acknowledged.
    pub fn all_acked(&self) -> &BTreeSet<String> {
        &self.acked
    }

    fn entry(&mut self, repo: &str, branch: &str) -> &mut Branch {
        self.branches.entry((repo.to_owned(), branch.to_owned())).or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Oracle;

    #[test]
    fn a_lost_ack_a_ghost_and_a_rollback_are_all_found() {
        let mut oracle = Oracle::default();
        let seen = |head: &str| BTreeMap::from([("main".to_owned(), head.to_owned())]);
        oracle.sent("r", "main", "a");
        oracle.acked("r", "main", "a");
        oracle.sent("r", "main", "b");
        assert!(oracle.clone().judge("r", &BTreeMap::new()).is_err(), "an acknowledged push was lost");
        assert!(oracle.clone().judge("r", &seen("x")).is_err(), "a head from nowhere");
        assert!(oracle.clone().judge("r", &seen("a")).is_ok(), "the unknown push did not happen");
        assert!(oracle.judge("r", &seen("b")).is_ok(), "the unknown push happened");
        assert!(oracle.judge("r", &seen("a")).is_err(), "what was seen must not go away");
    }
}
