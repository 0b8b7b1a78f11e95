//! A client that pushes small commits to a branch of its own, sometimes by force, sometimes twice.

use rand::{RngExt, rngs::StdRng};

use crate::{
    client::Repository,
    oracle::{AckedPush, Kind, Register},
    seeds,
    workload::{Client, Field, Keyed, Outcome},
};

/// Paths that a writer changes in turn: trees stay small, history grows.
const PATHS: u64 = 24;
/// Of so many pushes one is sent again although it was answered.
const AGAIN: u32 = 5;

/// One writer: a local repository and the branch that it pushes.
pub struct Writer {
    branch: Register,
    /// Every third push leaves the history and starts a new one.
    forces: bool,
    local: Repository,
    random: StdRng,
    unanswered: Option<Keyed>,
}

impl Writer {
    /// A writer with nothing pushed yet. `stream` tells clients of one seed apart.
    pub fn new(repo: &str, branch: &str, seed: u64, stream: u64) -> Writer {
        let mut local = Repository::init();
        local.set_ticks(stream * 100_000);
        let random = seeds::random(seed, stream);
        Writer { branch: Register::new(repo, Kind::Branch, branch), forces: false, local, random, unanswered: None }
    }

    /// The same, that pushes by force.
    #[must_use]
    pub fn forcing(self) -> Writer {
        Writer { forces: true, ..self }
    }

    /// One push, and perhaps once more: whether it was accepted, or `None` when the server is gone.
    fn push(&mut self, field: &Field) -> Option<bool> {
        let remote = field.remote(&self.branch.repo);
        let force = self.forces && self.random.random_range(0..3) == 0;
        if force {
            self.local.heads.remove(&self.branch.name);
        }
        make_commits(&mut self.local, &self.branch.name, &mut self.random);
        let local = &self.local;
        let prepared = Keyed::prepare(local, &self.branch.name, self.forces, &remote, field, &mut self.random);
        let push = prepared?;
        field.oracle().sent(&self.branch, Some(&push.head));
        match push.outcome(&remote, field) {
            Outcome::Done(_) => self.acked(&push, field),
            Outcome::Refused(429 | 503, _) => {
                field.oracle().refused(&self.branch);
                self.go_to_certain(field);
                return Some(false);
            }
            Outcome::Refused(code, text) => panic!("{:?}: {code}: {text}", self.branch),
            Outcome::Unknown => {
                self.unanswered = Some(push);
                return None;
            }
        }
        if self.random.random_range(0..AGAIN) == 0 {
            // It was acknowledged: whatever comes now, it stays.
            match push.outcome(&remote, field) {
                Outcome::Done(response) => {
                    let answer = response.decode().expect("an answer in msgpack");
                    assert_eq!(answer.text("remote_head"), push.head, "the same push id, the same answer");
                }
                Outcome::Refused(429 | 503, _) => {}
                Outcome::Refused(code, text) => panic!("the same push again: {code}: {text}"),
                Outcome::Unknown => return None,
            }
        }
        Some(true)
    }

    fn acked(&mut self, push: &Keyed, field: &Field) {
        let Register { repo, name, .. } = self.branch.clone();
        let mut oracle = field.oracle();
        oracle.acked(&self.branch);
        oracle.push_acked(&push.key, AckedPush { repo, branch: name.clone(), head: push.head.clone() });
        self.local.tracking.insert(("origin".to_owned(), name), push.head.clone());
    }

    /// Back to the settled head, tracking ref included.
    fn go_to_certain(&mut self, field: &Field) {
        let key = ("origin".to_owned(), self.branch.name.clone());
        match field.oracle().value(&self.branch) {
            Some(head) => {
                self.local.set_branch(&self.branch.name, head);
                self.local.tracking.insert(key, head.to_owned());
            }
            None => {
                self.local.heads.remove(&self.branch.name);
                self.local.tracking.remove(&key);
            }
        }
    }
}

impl Client for Writer {
    fn step(&mut self, field: &Field) -> Option<bool> {
        self.push(field)
    }

    fn known(&mut self, field: &Field) -> bool {
        let Some(push) = self.unanswered.take() else { return true };
        match push.outcome(&field.remote(&self.branch.repo), field) {
            Outcome::Done(_) => self.acked(&push, field),
            Outcome::Unknown | Outcome::Refused(429 | 503, _) => self.unanswered = Some(push),
            other => panic!("a push that got no answer, again with its key: {other:?}"),
        }
        self.unanswered.is_none()
    }

    fn ask_again(&mut self, field: &Field) {
        if self.random.random() {
            assert!(self.known(field), "a push that got no answer, again with its key, got none");
        }
    }

    fn settle(&mut self, field: &Field) {
        self.unanswered = None;
        self.go_to_certain(field);
    }
}

/// One to three small commits.
pub(super) fn make_commits(local: &mut Repository, branch: &str, random: &mut StdRng) {
    for _ in 0..random.random_range(1..=3) {
        let path = format!("part-{}/bar.txt", random.random_range(0..PATHS));
        let length = random.random_range(1..2_000);
        let content = seeds::bytes(random, length);
        local.commit(branch, "a bar", &[(&path, Some(&content))]);
    }
}
