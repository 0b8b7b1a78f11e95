//! Tickets for reading one stored pack for a short time: whoever has one may, nobody can make one.
//!
//! Invariants: a ticket names nothing that it does not sign: repository, pack and end; the key lives as long as the process and is
//! never told; time is the process's own, which does not jump (F10).

use std::time::Duration;

use reprise_engine::id::{PackId, RepoId};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::hub::Secret;

/// Makes and checks tickets.
pub struct Tickets {
    key: [u8; 32],
    since: Instant,
}

impl Tickets {
    /// With a key that follows from the operator's secret, which is random and new with every start.
    pub fn of(operator: &Secret) -> Tickets {
        let key = Sha256::new().chain_update(PURPOSE).chain_update([0]).chain_update(operator.expose());
        Tickets::new(key.finalize().into())
    }

    fn new(key: [u8; 32]) -> Tickets {
        Tickets { key, since: Instant::now() }
    }

    /// The right to read `pack` of `repo` for `life`.
    pub fn issue(&self, repo: RepoId, pack: PackId, life: Duration) -> Secret {
        let until = self.millis().saturating_add(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        let mark = self.mark(repo, pack, until);
        Secret::new(format!("{until:016x}{}", hex::encode(mark)))
    }

    /// Whether `ticket` is such a right, now.
    pub fn is_good(&self, ticket: &str, repo: RepoId, pack: PackId) -> bool {
        let Some((until, mark)) = ticket.split_at_checked(UNTIL_DIGITS) else { return false };
        let Ok(until) = u64::from_str_radix(until, 16) else { return false };
        let good = Secret::new(hex::encode(self.mark(repo, pack, until))).matches(mark);
        good && until > self.millis()
    }

    fn mark(&self, repo: RepoId, pack: PackId, until: u64) -> [u8; 32] {
        hmac_sha256(&self.key, &[PURPOSE, &repo.0, &pack.0, &until.to_be_bytes()])
    }

    /// Since this was made.
    fn millis(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// HMAC (RFC 2104) with SHA-256 and a key of half a block. The parts are of fixed lengths: nothing needs to stand between them.
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

const PURPOSE: &[u8] = b"read a pack";
const UNTIL_DIGITS: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_mark_is_the_hmac_of_rfc_2104() {
        // By an independent implementation: Python's hmac.new(bytes(range(32)), b"what do ya want for nothing?", "sha256").
        let key: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let mark = hmac_sha256(&key, &[b"what do ya ", b"want for nothing?"]);
        assert_eq!(hex::encode(mark), "099805f4ac310786968565c098db515cc50862b420ae31e20238312344bed36a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_for_its_repository_and_pack_until_its_end_and_no_other_text_is() {
        let (repo, pack, life) = (RepoId([1; 16]), PackId([2; 32]), Duration::from_secs(9));
        let tickets = Tickets::new([7; 32]);
        let ticket = tickets.issue(repo, pack, life);
        let ticket = ticket.expose();
        assert!(tickets.is_good(ticket, repo, pack));
        assert!(!tickets.is_good(ticket, RepoId([3; 16]), pack) && !tickets.is_good(ticket, repo, PackId([3; 32])));
        assert!(!Tickets::new([8; 32]).is_good(ticket, repo, pack), "another key");
        for at in 0..ticket.len() {
            let mut changed = ticket.to_owned().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert!(!tickets.is_good(std::str::from_utf8(&changed).unwrap(), repo, pack), "{at}");
            assert!(!tickets.is_good(&ticket[..at], repo, pack));
        }
        for other in ["", "é", "0123456789abcde\u{e9}", &ticket.to_uppercase()] {
            assert!(!tickets.is_good(other, repo, pack), "{other}");
        }
        tokio::time::advance(Duration::from_millis(8_999)).await;
        assert!(tickets.is_good(ticket, repo, pack));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!tickets.is_good(ticket, repo, pack));
    }
}
