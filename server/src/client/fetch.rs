//! Brings commits, and everything below them, from a hub into a repository.
//!
//! Invariants: a commit that is in the repository has everything below it, before, during and after ([`Incoming`]), so what
//! was settled once is never asked for again. A pack that cannot be had in one piece comes in several.

use std::sync::Arc;

use hyper::StatusCode;
use reprise_engine::id::{Kind, ObjectId};
use tokio_util::sync::CancellationToken;

use super::{
    ClientError, Repository,
    counter::{Counter, Unit},
    direct, history,
    http::Remote,
    incoming::{Incoming, Settled},
    stock,
};

/// What a command works with.
#[derive(Clone)]
pub struct Fetch {
    /// Into this repository.
    pub repository: Repository,
    /// From this one.
    pub remote: Remote,
    /// Tells how far it is.
    pub counter: Arc<Counter>,
    /// Tells when to end.
    pub stop: CancellationToken,
}

impl Fetch {
    /// Brings what is missing of `heads`: in packs of any size, or from a hub that has none in whole answers.
    pub async fn bring(&self, heads: &[ObjectId]) -> Result<Settled, ClientError> {
        let mut settled = Settled::default();
        for _ in 0..ROUNDS_MAX {
            let missing = self.missing(heads)?;
            if missing.is_empty() {
                return Ok(settled);
            }
            let have = history::have(&self.repository, heads)?;
            match direct::bring(self, &missing, &have).await {
                Ok(more) => settled = settled.and(more),
                Err(error) if is_unknown_endpoint(&error) => {
                    return Ok(settled.and(self.bring_in_answers(&missing, heads).await?));
                }
                Err(error) => return Err(error),
            }
        }
        // An interrupted pack first, then what was missing: a third is for what a server forgot.
        Err(ClientError::untrusted("what was wanted did not come"))
    }

    async fn bring_in_answers(&self, missing: &[ObjectId], heads: &[ObjectId]) -> Result<Settled, ClientError> {
        match self.one_answer(missing, heads).await {
            // Too much for one answer: perhaps not branch by branch, each with what the ones before brought.
            Err(error) if error.status() == Some(StatusCode::PAYLOAD_TOO_LARGE) && missing.len() > 1 => {
                let mut settled = Settled::default();
                for head in missing {
                    if !self.repository.has(Kind::Commit, *head)? {
                        settled = settled.and(self.one_answer(&[*head], heads).await?);
                    }
                }
                Ok(settled)
            }
            other => other,
        }
    }

    fn missing(&self, heads: &[ObjectId]) -> Result<Vec<ObjectId>, ClientError> {
        let mut missing = Vec::new();
        for head in heads {
            if !missing.contains(head) && !self.repository.has(Kind::Commit, *head)? {
                missing.push(*head);
            }
        }
        Ok(missing)
    }

    /// `heads` that are here already tell the server what need not be sent.
    async fn one_answer(&self, want: &[ObjectId], heads: &[ObjectId]) -> Result<Settled, ClientError> {
        self.counter.begin("fetching", Unit::Objects, 0);
        let have = history::have(&self.repository, heads)?;
        let answer = stock::fetch(&self.remote, want, &have).await?;
        let (repository, stop, want) = (self.repository.clone(), self.stop.clone(), want.to_vec());
        blocking(move || {
            let incoming = Incoming::begin(&repository)?;
            stock::receive(&answer, &incoming, &stop)?;
            incoming.settle(&want, &stop)
        })
        .await
    }
}

/// Whether a hub may have answered so because it knows no direct transfer.
pub fn is_unknown_endpoint(error: &ClientError) -> bool {
    matches!(error.status(), Some(StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED))
}

/// Packs that one command asks for.
const ROUNDS_MAX: usize = 3;

/// Runs what blocks its thread.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(ClientError::Refused(format!("the work ended: {error}"))))
}
