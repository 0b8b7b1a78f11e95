//! A client that pushes to a branch that others push to as well: it wins, or takes over what won and tries again.

use rand::rngs::StdRng;

use crate::{
    client::{Failure, Repository, fetch},
    oracle::AckedPush,
    seeds,
    workload::{Client, Field, Keyed, Outcome},
};

/// One of several on the same branch.
pub struct Racer {
    repo: String,
    branch: String,
    local: Repository,
    random: StdRng,
    unanswered: Option<Keyed>,
}

impl Racer {
    /// A racer that knows nothing yet. `stream` tells clients of one seed apart.
    pub fn new(repo: &str, branch: &str, seed: u64, stream: u64) -> Racer {
        let mut local = Repository::init();
        local.set_ticks(stream * 100_000);
        let random = seeds::random(seed, stream);
        Racer { repo: repo.to_owned(), branch: branch.to_owned(), local, random, unanswered: None }
    }

    /// One attempt: whether it won, or `None` when the server is gone.
    fn race(&mut self, field: &Field) -> Option<bool> {
        let remote = field.remote(&self.repo);
        self.local.remotes.insert("origin".to_owned(), remote.clone());
        self.take_over(field)?;
        // One commit, so that the branch's line and the pushes are the same list.
        let content = seeds::bytes(&mut self.random, 300);
        self.local.commit(&self.branch, "a bar of the race", &[("race/bar.txt", Some(&content))]);
        let push = Keyed::prepare(&self.local, &self.branch, false, &remote, field, &mut self.random)?;
        field.oracle().race_sent(&self.repo, &self.branch, &push.head);
        match push.outcome(&remote, field) {
            Outcome::Done(_) => self.acked(&push, field),
            Outcome::Refused(409 | 429 | 503, _) => {
                field.oracle().race_refused(&self.repo, &self.branch, &push.head);
                return Some(false);
            }
            Outcome::Refused(code, text) => panic!("{} {}: {code}: {text}", self.repo, self.branch),
            Outcome::Unknown => {
                self.unanswered = Some(push);
                return None;
            }
        }
        Some(true)
    }

    fn acked(&self, push: &Keyed, field: &Field) {
        let acked = AckedPush { repo: self.repo.clone(), branch: self.branch.clone(), head: push.head.clone() };
        let mut oracle = field.oracle();
        oracle.race_acked(&self.repo, &self.branch, &push.head);
        oracle.push_acked(&push.key, acked);
    }

    /// Fetches the branch and puts the local one there; `None` when the server is gone.
    fn take_over(&mut self, field: &Field) -> Option<()> {
        match fetch(&mut self.local, "origin", &self.branch) {
            Ok(_) => {
                let head = self.local.tracking[&("origin".to_owned(), self.branch.clone())].clone();
                self.local.set_branch(&self.branch, &head);
                Some(())
            }
            Err(Failure::Body(text)) if text.contains("does not exist") => {
                self.local.heads.remove(&self.branch);
                Some(())
            }
            Err(Failure::Status { code: 429 | 503, .. }) => Some(()),
            Err(failure) => {
                field.gone("a fetch", failure.code(), &failure);
                None
            }
        }
    }
}

impl Client for Racer {
    fn step(&mut self, field: &Field) -> Option<bool> {
        self.race(field)
    }

    fn known(&mut self, field: &Field) -> bool {
        let Some(push) = self.unanswered.take() else { return true };
        match push.outcome(&field.remote(&self.repo), field) {
            Outcome::Done(_) => self.acked(&push, field),
            // It had not happened, and another has won since.
            Outcome::Refused(409, _) => field.oracle().race_refused(&self.repo, &self.branch, &push.head),
            Outcome::Unknown | Outcome::Refused(429 | 503, _) => self.unanswered = Some(push),
            other => panic!("a push that got no answer, again with its key: {other:?}"),
        }
        self.unanswered.is_none()
    }

    fn ask_again(&mut self, field: &Field) {
        assert!(self.known(field), "a push that got no answer, again with its key, got none");
    }

    fn settle(&mut self, _: &Field) {}
}
