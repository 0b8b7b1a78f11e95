//! One-time addresses for the stock client's large blobs (MWP §5.3, §5.4): each brings one object, as `push/objects` would.
//!
//! Invariants: an address is given to those who may push, and what comes there is pushed as theirs, if they still may; it is good
//! for one object of one repository, once, for a short time (measured by the process's own clock, F10); nothing is stored that
//! does not hash to its id; how many addresses there are is bounded.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reprise_engine::id::ObjectId;
use tokio::time::Instant;

use crate::{
    hub::{Caller, Hub, HubError, body::Body, mpack::uploads::random32, receive::Received, repos::RepoName},
    wire::requests::{ObjectSpan, Span},
};

/// The addresses that were given out.
pub struct Presigned {
    /// Where clients reach this server, without a slash at the end.
    url: String,
    grants: Mutex<HashMap<String, Grant>>,
}

/// What one answer to `presign` allows, by its ticket.
struct Grant {
    caller: Caller,
    name: RepoName,
    until: Instant,
    /// Not brought yet.
    objects: BTreeSet<ObjectId>,
}

impl Presigned {
    /// No address yet.
    pub fn new(url: String) -> Presigned {
        Presigned { url: url.trim_end_matches('/').to_owned(), grants: Mutex::default() }
    }

    fn grants(&self) -> MutexGuard<'_, HashMap<String, Grant>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an object's right out; who it belongs to.
    fn claim(&self, name: &RepoName, object: ObjectId, ticket: &str) -> Option<Caller> {
        let mut grants = self.grants();
        let grant = grants.get_mut(ticket).filter(|grant| grant.name == *name && grant.until > Instant::now())?;
        grant.objects.remove(&object).then(|| grant.caller.clone())
    }
}

/// A right in use: unless it was used up, it is given back.
struct InUse {
    hub: Arc<Hub>,
    ticket: String,
    object: ObjectId,
    used_up: bool,
}

impl Drop for InUse {
    fn drop(&mut self) {
        if self.used_up {
            return;
        }
        if let Some(presigned) = &self.hub.presigned
            && let Some(grant) = presigned.grants().get_mut(&self.ticket)
        {
            grant.objects.insert(self.object);
        }
    }
}

/// A blob that may be sent.
pub struct BlobTicket {
    caller: Caller,
    in_use: InUse,
}

impl Hub {
    /// Addresses for the first of `ids`, if there are to be any; the others go inline.
    pub fn presign_blobs(
        &self,
        caller: &Caller,
        name: &RepoName,
        ids: &[ObjectId],
    ) -> Result<Vec<(ObjectId, String)>, HubError> {
        let Some(presigned) = &self.presigned else { return Ok(Vec::new()) };
        let objects: BTreeSet<ObjectId> = ids.iter().take(ADDRESSES_MAX).copied().collect();
        let ticket = hex::encode(random32(self.engine.random().as_ref())?);
        let until = Instant::now() + self.limits.upload_time_max;
        let mut grants = presigned.grants();
        grants.retain(|_, grant| grant.until > Instant::now() && !grant.objects.is_empty());
        if grants.len() >= GRANTS_MAX || objects.is_empty() {
            return Ok(Vec::new());
        }
        let RepoName { owner, slug } = name;
        let address = |id: &ObjectId| (*id, format!("{}/{owner}/{slug}/objects/{id}?ticket={ticket}", presigned.url));
        let addresses = objects.iter().map(address).collect();
        grants.insert(ticket.clone(), Grant { caller: caller.clone(), name: name.clone(), until, objects });
        Ok(addresses)
    }

    /// The right that a ticket is; the same words for every reason why not.
    pub async fn blob_ticket(
        self: &Arc<Self>,
        name: &RepoName,
        object: &str,
        ticket: &str,
    ) -> Result<BlobTicket, HubError> {
        let claimed = object.parse::<ObjectId>().ok().and_then(|object| {
            let caller = self.presigned.as_ref()?.claim(name, object, ticket)?;
            Some((caller, object))
        });
        let Some((caller, object)) = claimed else { return Err(self.not_found(&name.owner, &name.slug).await) };
        let in_use = InUse { hub: Arc::clone(self), ticket: ticket.to_owned(), object, used_up: false };
        Ok(BlobTicket { caller, in_use })
    }

    /// Stores the blob that came by a ticket. Not to be dropped half-way by a disconnecting client: run it as a task.
    pub async fn receive_blob(
        self: Arc<Self>,
        ticket: BlobTicket,
        name: RepoName,
        body: Body,
    ) -> Result<Received, HubError> {
        let BlobTicket { caller, mut in_use } = ticket;
        let len = u32::try_from(body.len()).map_err(|_| HubError::TooLarge("a blob over 4 GiB".to_owned()))?;
        let objects = vec![ObjectSpan { id: in_use.object, content: Span { offset: 0, len } }];
        let received = self.receive_spans(caller, name, body, objects).await?;
        in_use.used_up = true;
        Ok(received)
    }
}

/// Addresses in one answer.
const ADDRESSES_MAX: usize = 1_024;
/// Answers with addresses that are good at a time.
const GRANTS_MAX: usize = 256;
