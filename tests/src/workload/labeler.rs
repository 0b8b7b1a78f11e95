//! A client that publishes and retracts releases and moves tags.

use rand::{RngExt, rngs::StdRng};

use crate::{
    client::{Repository, Request, Value, release},
    oracle::{Kind, Register},
    seeds,
    workload::{Client, Field, Outcome},
};

/// Labels that are used in turn.
const LABELS: u32 = 8;

/// One client with labels of its own.
pub struct Labeler {
    repo: String,
    local: Repository,
    random: StdRng,
}

impl Labeler {
    /// A labeler; nobody else labels anything in `repo`. `stream` tells clients of one seed apart.
    pub fn new(repo: &str, seed: u64, stream: u64) -> Labeler {
        let mut local = Repository::init();
        local.set_ticks(stream * 100_000);
        Labeler { repo: repo.to_owned(), local, random: seeds::random(seed, stream) }
    }

    /// One change: whether it was accepted, or `None` when the server is gone.
    fn change(&mut self, field: &Field) -> Option<bool> {
        let number = self.random.random_range(0..LABELS);
        let content = seeds::bytes(&mut self.random, 30);
        let commit = self.local.commit("main", "labelled", &[("a", Some(&content))]);
        if self.random.random() {
            return self.set_tag(&format!("mood:{number}"), &commit, field);
        }
        let label = Register::new(&self.repo, Kind::Release, &format!("v1.0.{number}"));
        let published = field.oracle().value(&label).is_some();
        if published { self.retract(&label, field) } else { self.publish(&label, &commit, field) }
    }

    fn publish(&self, label: &Register, commit: &str, field: &Field) -> Option<bool> {
        let remote = field.remote(&self.repo);
        let body = release::record(&self.local, &label.name, "main", "stable", false).to_string().into_bytes();
        let request = Request::post_json(format!("{}/releases", remote.url), remote.token.as_deref(), &body);
        self.send(&request, label, Some(commit), field)
    }

    fn retract(&self, label: &Register, field: &Field) -> Option<bool> {
        let remote = field.remote(&self.repo);
        let url = format!("{}/releases/{}", remote.url, label.name);
        self.send(&Request::delete(url, remote.token.as_deref()), label, None, field)
    }

    fn set_tag(&self, tag: &str, commit: &str, field: &Field) -> Option<bool> {
        let remote = field.remote(&self.repo);
        let entry = Value::map([
            ("tag_id", Value::str("00000000-0000-4000-8000-000000000002")),
            ("repo_id", Value::str(&self.local.repo_id)),
            ("commit_id", Value::str(commit)),
            ("tag", Value::str(tag)),
            ("created_at", Value::str("2026-03-20T10:00:00+00:00")),
        ]);
        let body = Value::map([("tags", Value::Array(vec![entry]))]).encode();
        let request = Request::post(format!("{}/tags", remote.url), remote.token.as_deref(), &body);
        self.send(&request, &Register::new(&self.repo, Kind::Tag, tag), Some(commit), field)
    }

    fn send(&self, request: &Request<'_>, label: &Register, value: Option<&str>, field: &Field) -> Option<bool> {
        field.oracle().sent(label, value);
        match field.outcome(request.send()) {
            Outcome::Done(_) => field.oracle().acked(label),
            Outcome::Refused(429 | 503, _) => {
                field.oracle().refused(label);
                return Some(false);
            }
            Outcome::Refused(code, text) => panic!("{label:?}: {code}: {text}"),
            Outcome::Unknown => return None,
        }
        Some(true)
    }
}

impl Client for Labeler {
    fn step(&mut self, field: &Field) -> Option<bool> {
        self.change(field)
    }

    fn ask_again(&mut self, _: &Field) {}

    fn settle(&mut self, _: &Field) {}
}
