//! Where every entry of a transfer stands in the pack that is sent, and what the pack is called.
//!
//! Invariants: all lengths are known before a byte is read; the name covers everything that the bytes follow from, so that equal
//! names mean equal bytes.

use reprise_engine::{
    event::Codec,
    id::{Kind, RepoId},
    pack::{Location, transfer},
};
use sha2::{Digest, Sha256};

use crate::hub::mpack::plan::{Entry, TransferPlan};

/// A plan with its places in one pack.
pub struct Layout {
    /// What is sent.
    pub plan: TransferPlan,
    /// Where each entry begins; parallel to `plan.entries`.
    pub starts: Vec<u64>,
    /// Of each snapshot that is sent against a base: the base's ordinal; parallel to the section of snapshots.
    bases: Vec<Option<u32>>,
    /// Where the body's end mark begins.
    pub body_end: u64,
    /// Bytes of the pack.
    pub len: u64,
    /// The strong name of these bytes.
    pub name: [u8; 32],
}

impl Layout {
    /// Lays a plan out.
    pub fn new(repo: RepoId, plan: TransferPlan) -> Layout {
        let name = name_of(repo, &plan);
        let mut at = transfer::HEAD_BYTES;
        let mut starts = Vec::with_capacity(plan.entries.len());
        for entry in &plan.entries {
            starts.push(at);
            at += transfer::entry_len(entry.kind, &sent(&plan, entry));
        }
        let len = at + transfer::tail_len(plan.entries.len() as u64);
        let bases = bases_of(&plan);
        Layout { plan, starts, bases, body_end: at, len, name }
    }

    /// The ordinal of the base that an entry is sent against.
    pub fn base_of(&self, ordinal: usize) -> Option<u32> {
        let place = ordinal.checked_sub(self.plan.section(Kind::Snapshot).start)?;
        self.bases.get(place).copied().flatten()
    }

    /// The entry's location in the pack that is sent, without base and record hash.
    pub fn sent(&self, ordinal: usize) -> Location {
        let entry = &self.plan.entries[ordinal];
        Location { offset: self.starts[ordinal] + transfer::BEFORE_ENTRY_BYTES, ..sent(&self.plan, entry) }
    }

    /// The first entry of which a byte stands at or behind `at`.
    pub fn first_behind(&self, at: u64) -> usize {
        match self.body_end > at {
            true => self.starts.partition_point(|start| *start <= at).saturating_sub(1),
            false => self.starts.len(),
        }
    }

    /// The nonce of the pack's header.
    pub fn nonce(&self) -> [u8; 16] {
        std::array::from_fn(|at| self.name[at])
    }
}

/// The base of each snapshot: the nearest before it that has none itself (the plan saw to that). Parallel to the section.
pub fn bases_of(plan: &TransferPlan) -> Vec<Option<u32>> {
    let mut nearest = None;
    let base_of = |ordinal: usize| {
        if sent(plan, &plan.entries[ordinal]).codec == Codec::ZstdPrefix {
            return nearest;
        }
        nearest = u32::try_from(ordinal).ok();
        None
    };
    plan.section(Kind::Snapshot).map(base_of).collect()
}

/// How an entry goes out: as it is stored, or its payload.
fn sent(plan: &TransferPlan, entry: &Entry) -> Location {
    let stored = plan.location(entry);
    match entry.whole {
        true => Location { stored_len: stored.real_len, codec: Codec::Raw, ..stored },
        false => stored,
    }
}

fn name_of(repo: RepoId, plan: &TransferPlan) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(NAME_VERSION);
    hash.update(repo.0);
    hash.update((plan.packs.len() as u64).to_le_bytes());
    for pack in &plan.packs {
        hash.update(pack.0);
    }
    for entry in &plan.entries {
        let mut bytes = [0; 56];
        bytes[..32].copy_from_slice(&entry.id.0);
        bytes[32..40].copy_from_slice(&entry.offset.to_le_bytes());
        bytes[40..44].copy_from_slice(&entry.stored_len.to_le_bytes());
        bytes[44..48].copy_from_slice(&entry.real_len.to_le_bytes());
        bytes[48..52].copy_from_slice(&entry.pack.to_le_bytes());
        bytes[52] = entry.kind.byte();
        bytes[53] = entry.codec as u8;
        bytes[54] = u8::from(entry.whole);
        hash.update(bytes);
    }
    hash.finalize().into()
}

/// To be changed with anything that changes the bytes of equal plans.
const NAME_VERSION: &[u8] = b"reprise transfer 1";
