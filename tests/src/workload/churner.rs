//! A client whose repository comes and goes under one name: created, pushed to, deleted, with the same content every time.
//!
//! That content is known to the hub already when it is pushed again is the point: a recreated repository must be whole.

use rand::rngs::StdRng;
use serde_json::json;

use crate::{
    client::{Repository, Request},
    oracle::{AckedPush, EMPTY, Kind, Register},
    seeds,
    workload::{Client, Field, Keyed, Outcome, writer::make_commits},
};

/// One repository that comes and goes.
pub struct Churner {
    repo: Register,
    local: Repository,
    random: StdRng,
}

impl Churner {
    /// A churner of `repo`, which is not there yet. `stream` tells clients of one seed apart.
    pub fn new(repo: &str, seed: u64, stream: u64) -> Churner {
        let mut local = Repository::init();
        local.set_ticks(stream * 100_000);
        let mut random = seeds::random(seed, stream);
        make_commits(&mut local, "main", &mut random);
        make_commits(&mut local, "main", &mut random);
        Churner { repo: Register::new(repo, Kind::Repo, "main"), local, random }
    }

    /// The next step of its life: whether it was taken, or `None` when the server is gone.
    fn live(&mut self, field: &Field) -> Option<bool> {
        let state = field.oracle().value(&self.repo).map(str::to_owned);
        match state.as_deref() {
            None => self.create(field),
            Some(EMPTY) => self.push(field),
            Some(_) => self.delete(field),
        }
    }

    fn create(&self, field: &Field) -> Option<bool> {
        let (owner, slug) = self.repo.repo.split_once('/').expect("OWNER/SLUG");
        let body = json!({"owner": owner, "slug": slug, "visibility": "public"}).to_string().into_bytes();
        let request = Request::post_json(field.url("api/v1/repos"), Some(field.token(owner)), &body);
        self.change(&request, Some(EMPTY), field)
    }

    fn delete(&self, field: &Field) -> Option<bool> {
        let url = field.url(&format!("api/v1/repos/{}", self.repo.repo));
        self.change(&Request::delete(url, Some(field.token(&self.repo.repo))), None, field)
    }

    fn push(&mut self, field: &Field) -> Option<bool> {
        let remote = field.remote(&self.repo.repo);
        let prepared = Keyed::prepare(&self.local, "main", false, &remote, field, &mut self.random);
        let push = prepared?;
        field.oracle().sent(&self.repo, Some(&push.head));
        let outcome = push.outcome(&remote, field);
        if let Outcome::Done(_) = &outcome {
            let (repo, branch) = (self.repo.repo.clone(), "main".to_owned());
            field.oracle().push_acked(&push.key, AckedPush { repo, branch, head: push.head });
        }
        self.told(&outcome, field)
    }

    fn change(&self, request: &Request<'_>, value: Option<&str>, field: &Field) -> Option<bool> {
        field.oracle().sent(&self.repo, value);
        self.told(&field.outcome(request.send()), field)
    }

    fn told(&self, outcome: &Outcome, field: &Field) -> Option<bool> {
        match outcome {
            Outcome::Done(_) => field.oracle().acked(&self.repo),
            Outcome::Refused(429 | 503, _) => {
                field.oracle().refused(&self.repo);
                return Some(false);
            }
            Outcome::Refused(code, text) => panic!("{:?}: {code}: {text}", self.repo),
            Outcome::Unknown => return None,
        }
        Some(true)
    }
}

impl Client for Churner {
    fn step(&mut self, field: &Field) -> Option<bool> {
        self.live(field)
    }

    fn ask_again(&mut self, _: &Field) {}

    fn settle(&mut self, _: &Field) {}
}
