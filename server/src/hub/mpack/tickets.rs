//! Tickets: the right to read one stored pack, or to send one upload, for a short time. Whoever has one may; any server of the hub
//! knows it, before and after a restart, and nobody else can make one.
//!
//! A ticket says what it allows and is signed with a key that all servers of one object store share: an object in that store,
//! made by whichever server needs it first (`StoreKey::ticket_key`). It weakens nothing: who can read the store can read every pack
//! there is, and an upload is worth nothing before somebody with the right to push has it unpacked.
//!
//! Used twice, a ticket does no harm, so that no server has to remember which were used: a read is a read; an upload is created
//! under the one key that the ticket states (`reprise_engine::store::quarantine`), once as long as it stands there, and only of
//! the bytes whose hash the ticket states. Sent again after it was taken in, the same bytes lie in quarantine until they are swept.
//! What becomes of them happens once: the push that names them has an id that the log knows.
//!
//! Invariants: a ticket names nothing that it does not sign; the key is never told. Time is wall clock, and nothing but the end of
//! a right rests on it (F10): with a clock that jumps a ticket ends early or late.

use std::sync::{Arc, OnceLock};

use reprise_engine::{
    Error, Result,
    clock::{Random, random16},
    id::{PackId, RepoId},
    store::{ObjectStore, StoreKey},
};
use sha2::{Digest, Sha256};

use crate::hub::Secret;

/// Makes and checks tickets.
pub struct Tickets {
    store: Arc<dyn ObjectStore>,
    random: Arc<dyn Random>,
    key: OnceLock<[u8; 32]>,
}

/// What a ticket allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// To read a pack of a repository.
    Read(RepoId, PackId),
    /// To send the upload with this place and hash (see [`reprise_engine::store::quarantine::Quarantined`]).
    Send([u8; 16], [u8; 32]),
}

/// What a ticket states beside its right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The end, seconds since 1970.
    pub end_s: u64,
    /// Bytes of an upload; of a blob no more than these.
    pub bytes: u64,
}

impl Tickets {
    /// Tickets of the servers of `store`.
    pub fn new(store: Arc<dyn ObjectStore>, random: Arc<dyn Random>) -> Tickets {
        Tickets { store, random, key: OnceLock::new() }
    }

    /// A ticket. Blocking.
    pub fn issue(&self, right: &Right, terms: Terms) -> Result<Secret> {
        Ok(written(&self.key()?, right, terms))
    }

    /// The terms of a ticket, if it is one for `right` and not over at `now_s`. Blocking.
    pub fn terms(&self, ticket: &str, right: &Right, now_s: u64) -> Result<Option<Terms>> {
        let number = |at: usize| u64::from_str_radix(ticket.get(at..at + DIGITS)?, 16).ok();
        let (Some(end_s), Some(bytes)) = (number(0), number(DIGITS)) else { return Ok(None) };
        let terms = Terms { end_s, bytes };
        let good = written(&self.key()?, right, terms).matches(ticket);
        Ok((good && now_s < end_s).then_some(terms))
    }

    /// The key that the servers of the store share; made by whoever needs it first.
    fn key(&self) -> Result<[u8; 32]> {
        if let Some(key) = self.key.get() {
            return Ok(*key);
        }
        let place = StoreKey::ticket_key();
        let found = match self.store.read_tail(&place, KEY_BYTES_MAX) {
            Err(error) if error.is_not_found() => {
                let made = random32(&*self.random)?;
                match self.store.create(&place, &made)? {
                    true => made.to_vec(),
                    // Another server was faster; or it was this very request, whose answer was lost.
                    false => self.store.read_tail(&place, KEY_BYTES_MAX)?.0.to_vec(),
                }
            }
            read => read?.0.to_vec(),
        };
        let key = found.try_into().map_err(|_| Error::corrupt(place.as_str(), 0, "it is no key of 32 bytes"))?;
        Ok(*self.key.get_or_init(|| key))
    }
}

/// The one way to write a ticket down.
fn written(key: &[u8; 32], right: &Right, terms: Terms) -> Secret {
    Secret::new(format!("{:016x}{:016x}{}", terms.end_s, terms.bytes, hex::encode(mark(key, right, terms))))
}

/// Everything has a fixed length: nothing needs to stand between the parts.
fn mark(key: &[u8; 32], right: &Right, terms: Terms) -> [u8; 32] {
    let (end, bytes) = (terms.end_s.to_be_bytes(), terms.bytes.to_be_bytes());
    match right {
        Right::Read(repo, pack) => hmac_sha256(key, &[b"r", &repo.0, &pack.0, &end, &bytes]),
        Right::Send(place, sha256) => hmac_sha256(key, &[b"s", place, sha256, &end, &bytes]),
    }
}

/// HMAC (RFC 2104) with SHA-256 and a key of half a block.
fn hmac_sha256(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    let mut inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36));
    for part in parts {
        inner.update(part);
    }
    let outer = Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c));
    outer.chain_update(inner.finalize()).finalize().into()
}

fn random32(random: &dyn Random) -> Result<[u8; 32]> {
    let (first, second) = (random16(random)?, random16(random)?);
    Ok(std::array::from_fn(|at| if at < 16 { first[at] } else { second[at - 16] }))
}

/// Hex digits of a number in a ticket.
const DIGITS: usize = 16;
const KEY_BYTES_MAX: u64 = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use reprise_engine::{clock::SeededRandom, store::memory::MemoryStore};

    use super::*;

    fn of(store: &MemoryStore, seed: u64) -> Tickets {
        Tickets::new(Arc::new(store.clone()), Arc::new(SeededRandom::new(seed)))
    }

    #[test]
    fn the_mark_is_the_hmac_of_rfc_2104() {
        // By an independent implementation: Python's hmac.new(bytes(range(32)), b"what do ya want for nothing?", "sha256").
        let key: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let mark = hmac_sha256(&key, &[b"what do ya ", b"want for nothing?"]);
        assert_eq!(hex::encode(mark), "099805f4ac310786968565c098db515cc50862b420ae31e20238312344bed36a");
    }

    #[test]
    fn a_ticket_is_good_for_its_right_until_its_end_and_no_other_text_is() {
        let tickets = of(&MemoryStore::new(), 7);
        let (place, hash) = ([1; 16], [2; 32]);
        let (read, send) = (Right::Read(RepoId(place), PackId(hash)), Right::Send(place, hash));
        let terms = Terms { end_s: 1_800_000_000, bytes: 9 };
        for right in [read, send] {
            let ticket = tickets.issue(&right, terms).unwrap();
            let ticket = ticket.expose();
            let good = |ticket: &str, right: &Right, now_s| tickets.terms(ticket, right, now_s).unwrap();
            assert_eq!(good(ticket, &right, terms.end_s - 1), Some(terms));
            assert_eq!(good(ticket, &right, terms.end_s), None);
            let others = [read, send, Right::Send([3; 16], hash), Right::Send(place, [3; 32])];
            let others = others.into_iter().chain([Right::Read(RepoId([3; 16]), PackId(hash))]);
            for other in others.chain([Right::Read(RepoId(place), PackId([3; 32]))]).filter(|other| *other != right) {
                assert_eq!(good(ticket, &other, 0), None, "{other:?}");
            }
            for at in 0..ticket.len() {
                let mut changed = ticket.to_owned().into_bytes();
                changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
                assert_eq!(good(std::str::from_utf8(&changed).unwrap(), &right, 0), None, "{at}");
                assert_eq!(good(&ticket[..at], &right, 0), None);
            }
            for other in ["", "é", "0123456789abcde\u{e9}", &ticket.to_uppercase(), &format!("{ticket}0")] {
                assert_eq!(good(other, &right, 0), None, "{other}");
            }
        }
    }

    #[test]
    fn servers_of_one_store_know_each_others_tickets_and_those_of_another_do_not() {
        let (store, right) = (MemoryStore::new(), Right::Send([1; 16], [2; 32]));
        let terms = Terms { end_s: 10, bytes: 0 };
        // Both are about to make the key; one wins.
        let (one, other) = (of(&store, 1), of(&store, 2));
        let tickets = std::thread::scope(|scope| {
            let issued = [&one, &other].map(|server| scope.spawn(|| server.issue(&right, terms).unwrap()));
            issued.map(|ticket| ticket.join().unwrap())
        });
        assert!(tickets[0].matches(tickets[1].expose()));
        let restarted = of(&store, 3);
        assert_eq!(restarted.terms(tickets[0].expose(), &right, 9).unwrap(), Some(terms));
        assert_eq!(of(&MemoryStore::new(), 4).terms(tickets[0].expose(), &right, 9).unwrap(), None);
    }

    #[test]
    fn a_damaged_key_signs_nothing() {
        let store = MemoryStore::new();
        store.create(&StoreKey::ticket_key(), b"short").unwrap();
        let terms = Terms { end_s: 10, bytes: 0 };
        assert!(of(&store, 1).issue(&Right::Send([1; 16], [2; 32]), terms).unwrap_err().is_corrupt());
    }
}
