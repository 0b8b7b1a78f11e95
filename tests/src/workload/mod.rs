//! Clients that work until the server dies under them, and what they tell the oracle.
//!
//! Invariants: the oracle knows of a change before its first byte leaves; an answer that does not come while the server
//! is meant to live is a failure; what a server refuses without an effect is told as a refusal; after a restart each client
//! goes on from what the oracle settled.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    archive::Archive,
    client::{Failure, Remote, Response},
    oracle::{Kind, Oracle},
    server_process::{DataDir, ServerProcess},
};

mod check;
mod churner;
mod keyed;
mod labeler;
mod racer;
mod reader;
mod writer;

pub use check::{check_log, check_served, judge};
pub use churner::Churner;
pub use keyed::Keyed;
pub use labeler::Labeler;
pub use racer::Racer;
pub use reader::Reader;
pub use writer::Writer;

/// What all clients of a server share.
#[derive(Default)]
pub struct Field {
    host: Mutex<String>,
    tokens: BTreeMap<String, String>,
    oracle: Arc<Mutex<Oracle>>,
    archive: Arc<Mutex<Archive>>,
    /// From now on the server may die at any moment.
    doomed: AtomicBool,
}

/// Somebody who works with the hub.
pub trait Client: Send {
    /// One piece of work: whether its success was seen, or `None` when there was no answer.
    fn step(&mut self, field: &Field) -> Option<bool>;

    /// Works until the server is gone; how many of its requests had their success seen.
    fn run(&mut self, field: &Field) -> u64 {
        std::iter::from_fn(|| self.step(field)).map(u64::from).sum()
    }

    /// Asks once more, here or by another server of the same log, about what got no answer; true once nothing is open. Who leaves
    /// that to the judge has nothing to ask.
    fn known(&mut self, _: &Field) -> bool {
        true
    }

    /// After a restart, before anything is judged: may ask again about what got no answer.
    fn ask_again(&mut self, field: &Field);

    /// Goes on from what was settled.
    fn settle(&mut self, field: &Field);
}

/// What came of a request that would change something.
#[derive(Debug)]
pub enum Outcome {
    /// 2xx.
    Done(Response),
    /// Refused, without an effect: status and text.
    Refused(u16, String),
    /// It may or may not have happened.
    Unknown,
}

impl Field {
    /// A field with admin tokens of these owners.
    pub fn new(data: &DataDir, owners: &[&str]) -> Field {
        let token = |owner: &&str| ((*owner).to_owned(), data.token_with(owner, &["--scope", "admin"]).0);
        Field { tokens: owners.iter().map(token).collect(), ..Field::default() }
    }

    /// The field of another server of the same log.
    pub fn beside(&self) -> Field {
        let (oracle, archive) = (Arc::clone(&self.oracle), Arc::clone(&self.archive));
        Field { tokens: self.tokens.clone(), oracle, archive, ..Field::default() }
    }

    /// A server is there.
    pub fn serve(&self, server: &ServerProcess) {
        server.host().clone_into(&mut lock(&self.host));
        self.doomed.store(false, Ordering::Release);
    }

    /// To be called before the first signal goes out.
    pub fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    /// Whether a missing answer is to be expected.
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }

    /// What is known.
    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        lock(&self.oracle)
    }

    /// What was sent.
    pub fn archive(&self) -> MutexGuard<'_, Archive> {
        lock(&self.archive)
    }

    /// The URL of a repository, or of anything else below the root.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", lock(&self.host))
    }

    /// The token of a repository's owner.
    pub fn token(&self, repo: &str) -> &str {
        let owner = repo.split('/').next().unwrap_or_default();
        self.tokens.get(owner).unwrap_or_else(|| panic!("no token for {owner}"))
    }

    /// A repository as a remote, with its owner's token.
    pub fn remote(&self, repo: &str) -> Remote {
        Remote { url: self.url(repo), token: Some(self.token(repo).to_owned()) }
    }

    /// No answer came, only this failure: the server is gone, or meant to be. An answer that is no refusal is none either.
    pub fn gone(&self, doing: &str, code: Option<u16>, failure: &dyn std::fmt::Debug) {
        assert!(code.is_none() && self.is_doomed(), "{doing} failed and the server lives: {failure:?}");
    }

    /// What an exchange came to.
    pub fn outcome(&self, answer: Result<Response, Failure>) -> Outcome {
        match answer {
            Ok(response) if (200..300).contains(&response.code) => Outcome::Done(response),
            Ok(response) if response.code == 503 && response.text().contains("\"unknown\"") => Outcome::Unknown,
            Ok(response) => {
                let later = response.header("retry-after").is_some();
                assert!(later || response.code < 429, "{}: {}", response.code, response.text());
                Outcome::Refused(response.code, response.text())
            }
            Err(failure) => {
                self.gone("a change", failure.code(), &failure);
                Outcome::Unknown
            }
        }
    }
}

/// Runs all clients against the server while `script` has it its way; how many successes were seen. The script calls
/// [`Field::doom`] before it ends the server.
pub fn under_load(
    server: ServerProcess,
    clients: &mut [Box<dyn Client>],
    field: &Field,
    script: impl FnOnce(ServerProcess),
) -> u64 {
    field.serve(&server);
    thread::scope(|scope| {
        let running: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| client.run(field))).collect();
        script(server);
        running.into_iter().map(|client| client.join().expect("a client panicked")).sum()
    })
}

/// The same for a server that is left alone for `load` and then ended with `end`.
pub fn load_until(
    server: ServerProcess,
    clients: &mut [Box<dyn Client>],
    field: &Field,
    load: Duration,
    end: impl FnOnce(ServerProcess),
) -> u64 {
    under_load(server, clients, field, |server| {
        // The length of the load: nothing is waited for but the time itself.
        thread::sleep(load);
        field.doom();
        end(server);
    })
}

/// What `/refs` shows of a repository that comes and goes.
fn state_of(heads: Option<&[(String, String)]>) -> Option<String> {
    heads.map(|heads| heads.first().map_or_else(|| crate::oracle::EMPTY.to_owned(), |(_, head)| head.clone()))
}

/// The kinds of register that [`judge`] looks at in every repository.
const LISTED: [Kind; 2] = [Kind::Branch, Kind::Release];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
