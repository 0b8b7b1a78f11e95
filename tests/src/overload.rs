//! Many clients that push and fetch at once, more than a server has places for, and what they were told.
//!
//! Invariants: an answer is whole or there is none; whoever is told "later" (429, 503) is told when, before the first byte
//! of anything else, and asks again with the same push id; everything else but success is a failure.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rand::RngExt;

use crate::{
    client::{
        Repository, Request, Response, Value,
        pack::apply,
        push::{bundle_body, objects_body},
    },
    seeds,
    server_process::{DataDir, ServerProcess},
};

/// Repositories that the clients share.
const REPOS: usize = 8;
/// Clients that only ask for refs meanwhile.
const WATCHERS: usize = 2;
/// Longest pause of a client that was told "later"; shorter than it was told, or there would be no overload.
const PAUSE_MS_MAX: u64 = 200;

/// What happened.
#[derive(Default)]
pub struct Report {
    /// Times of `GET refs` by clients that did nothing else.
    pub refs: Vec<Duration>,
    /// Times of accepted pushes, from sending the one request that was accepted.
    pub pushes: Vec<Duration>,
    /// Times of whole fetches.
    pub fetches: Vec<Duration>,
    /// Answers with 2xx.
    pub done: u64,
    /// Answers with 429.
    pub too_many: u64,
    /// Answers with 503 to requests that got no place in time.
    pub no_place: u64,
    /// Answers with 503 to requests that were being worked on.
    pub given_up: Vec<String>,
    /// Heads that were acknowledged, by repository and branch.
    pub acked: BTreeMap<(String, String), String>,
}

impl Report {
    /// One line of counts.
    pub fn text(&self) -> String {
        let Report { done, too_many, no_place, .. } = self;
        let (pushes, fetches) = (self.pushes.len(), self.fetches.len());
        format!("{done} x 2xx ({pushes} pushes, {fetches} fetches), {too_many} x 429, {no_place} x 503")
    }
}

struct Crowd<'a> {
    server: &'a ServerProcess,
    token: String,
    until: Instant,
    report: Mutex<Report>,
}

/// Lets `clients` work for `time`; each has a branch of its own, pushes a commit with a few KB and fetches its repository, in
/// turn.
pub fn run(data: &DataDir, server: &ServerProcess, clients: usize, time: Duration, seed: u64) -> Report {
    (0..REPOS).for_each(|number| drop(data.create_repo(&repo(number), &[])));
    let token = data.token("crowd");
    let crowd = Crowd { server, token, until: Instant::now() + time, report: Mutex::default() };
    thread::scope(|scope| {
        for number in 0..clients {
            let crowd = &crowd;
            scope.spawn(move || crowd.work(number, seed));
        }
        for number in 0..WATCHERS {
            let crowd = &crowd;
            scope.spawn(move || crowd.watch(number));
        }
    });
    crowd.report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn repo(number: usize) -> String {
    format!("crowd/r{}", number % REPOS)
}

impl Crowd<'_> {
    fn work(&self, number: usize, seed: u64) {
        let (repo, branch) = (repo(number), format!("b{number}"));
        let (url, mut random) = (self.server.url(&repo), seeds::random(seed, number as u64));
        let mut local = Repository::init();
        local.set_ticks(number as u64 * 10_000);
        for turn in 0u64.. {
            if Instant::now() > self.until {
                return;
            }
            let content = seeds::bytes(&mut random, 4_000);
            let head = local.commit(&branch, "one more", &[("a", Some(&content))]);
            let blob = vec![local.tree(&head)["a"].clone()];
            let objects = objects_body(&local.objects, &blob);
            let upload = Request::post(format!("{url}/push/objects"), Some(&self.token), &objects);
            let Some(_) = self.ask(&upload, &mut random) else { return };
            let body = bundle_body(&local, std::slice::from_ref(&head), &branch, false).encode();
            let push = Request::post(format!("{url}/push"), Some(&self.token), &body);
            let push = push.header("Idempotency-Key", &format!("{branch} {turn}"));
            let Some((answer, time)) = self.ask(&push, &mut random) else { return };
            let answer = answer.decode().expect("an answer in msgpack");
            assert_eq!(answer.get("ok"), Some(&Value::Bool(true)), "{answer:?}");
            self.note(|report| {
                report.pushes.push(time);
                report.acked.insert((repo.clone(), branch.clone()), head.clone());
            });
            let body = Value::map([("want", Value::strs([&head])), ("have", Value::Array(Vec::new()))]).encode();
            let fetch = Request::post(format!("{url}/fetch"), None, &body);
            let Some((answer, time)) = self.ask(&fetch, &mut random) else { return };
            let mut fetched = Repository::init();
            apply(&mut fetched, &answer.decode().expect("an answer in msgpack")).expect("whole objects");
            fetched.check_complete(&head).expect("a pusher reads his own push");
            self.note(|report| report.fetches.push(time));
        }
    }

    /// Asks until it is done, or until the time is over: then a request that was refused is given up.
    fn ask(&self, request: &Request<'_>, random: &mut impl RngExt) -> Option<(Response, Duration)> {
        loop {
            let begun = Instant::now();
            let answer = request.send().unwrap_or_else(|failure| panic!("no whole answer: {failure}"));
            let time = begun.elapsed();
            if (200..300).contains(&answer.code) {
                self.note(|report| report.done += 1);
                return Some((answer, time));
            }
            self.refused(&answer);
            if Instant::now() > self.until {
                return None;
            }
            // What a client does that was told to come later; nothing is waited for but the time itself.
            thread::sleep(Duration::from_millis(random.random_range(1..PAUSE_MS_MAX)));
        }
    }

    fn refused(&self, answer: &Response) {
        let text = answer.text();
        assert!(matches!(answer.code, 429 | 503), "{}: {text}", answer.code);
        let after = answer.header("retry-after").and_then(|value| value.parse::<u64>().ok());
        assert!(after.is_some_and(|seconds| (1..=60).contains(&seconds)), "no Retry-After: {answer:?}");
        assert!(text.starts_with("{\"detail\":"), "{text}");
        self.note(|report| match answer.code {
            429 => report.too_many += 1,
            _ if text.contains("no place for") => report.no_place += 1,
            _ => report.given_up.push(text),
        });
    }

    fn watch(&self, number: usize) {
        let url = format!("{}/refs", self.server.url(&repo(number)));
        while Instant::now() < self.until {
            let begun = Instant::now();
            let answer = Request::get(&url, None).send().unwrap_or_else(|failure| panic!("refs: {failure}"));
            assert_eq!(answer.code, 200, "refs are never refused: {}", answer.text());
            self.note(|report| report.refs.push(begun.elapsed()));
        }
    }

    fn note(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
