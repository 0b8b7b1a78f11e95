//! A laid-out transfer becomes bytes, from any byte on.
//!
//! Invariants: an entry goes out only after its payload was verified (of a large blob the last piece only then); what stands
//! before the first byte asked for is not read, except the entry that it stands in and a base; memory is one range, one payload,
//! a few chunks and 4 bytes per object.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use reprise_engine::{
    Error, Result,
    id::{Kind, ObjectId},
    pack::{PlanItem, RangeReader, ReadPlan, StoredForm, Wanted, plan_ranges, transfer},
    store::counted::CountedStore,
};
use reprise_projections::{RepoScope, View};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::hub::{
    Hub, HubError,
    mpack::{layout::Layout, plan::TransferPlan},
    plan::soon,
    stream::Out,
};

/// Sends one transfer.
pub struct Sender {
    /// For the store, and for condemning.
    pub hub: Arc<Hub>,
    /// Index rows of records.
    pub view: View,
    /// Of which repository.
    pub scope: RepoScope,
    /// What to send.
    pub layout: Arc<Layout>,
    /// The first byte that is wanted.
    pub from: u64,
}

/// Bytes on their way, less those before the first that is wanted.
struct Tail {
    out: Out,
    at: u64,
    from: u64,
}

impl Tail {
    fn push(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let skipped = self.from.saturating_sub(self.at).min(bytes.len() as u64);
        self.at += bytes.len() as u64;
        if skipped < bytes.len() as u64 {
            self.out.push(bytes.slice(usize::try_from(skipped).unwrap_or(0)..));
        }
    }
}

impl Sender {
    /// Sends everything from the first wanted byte on. For a blocking thread.
    pub fn run(self, chunks: mpsc::Sender<std::result::Result<Bytes, HubError>>) {
        let mut tail = Tail { out: Out::new(chunks), at: 0, from: self.from };
        tail.push(transfer::head(self.scope.repo(), self.layout.nonce()));
        let kinds = [Kind::Commit, Kind::Snapshot, Kind::Blob];
        let reads = kinds.map(|kind| self.reads(kind));
        let _coming = self.hub.engine.store().prefetch(soon(&reads));
        for (kind, planned) in kinds.into_iter().zip(reads) {
            self.section(kind, planned, &mut tail);
            if tail.out.is_idle() {
                break;
            }
        }
        if !tail.out.is_idle() {
            tail.at = self.layout.body_end;
            if let Err(error) = self.tail(&mut tail) {
                tail.out.fail_unread(&error);
            }
        }
        tail.out.finish(self.layout.len.saturating_sub(self.from), &self.hub, self.scope);
    }

    /// The entries of one kind that are sent.
    fn sent(&self, kind: Kind) -> Range<usize> {
        let section = self.layout.plan.section(kind);
        self.layout.first_behind(self.from).clamp(section.start, section.end)..section.end
    }

    /// The ranged reads of them.
    fn reads(&self, kind: Kind) -> ReadPlan {
        let entries = &self.layout.plan.entries[self.sent(kind)];
        plan_ranges(entries.iter().map(|entry| PlanItem::of(kind, &self.layout.plan.location(entry))))
    }

    fn section(&self, kind: Kind, planned: ReadPlan, tail: &mut Tail) {
        let sent = self.sent(kind);
        if sent.is_empty() {
            return;
        }
        tail.at = self.layout.starts[sent.start];
        metrics::counter!("reprise_fetch_planned_reads_total").increment(planned.reads);
        metrics::counter!("reprise_fetch_planned_bytes_total").increment(planned.bytes);
        let wanted = sent.clone().map(|ordinal| self.wanted(ordinal));
        let store = Arc::new(CountedStore::new(Arc::clone(self.hub.engine.store())));
        let mut reader = RangeReader::new(Arc::<CountedStore>::clone(&store), planned.ranges, wanted);
        let mut ordinal = sent.start;
        while let Some((wanted, form)) = reader.next_stored() {
            let sent = form.and_then(|form| self.entry(ordinal, &wanted, form, tail));
            if let Err(error) = sent {
                tail.out.fail(&wanted, &error, &self.hub);
            }
            if tail.out.is_idle() {
                break;
            }
            ordinal += 1;
        }
        metrics::counter!("reprise_fetch_reads_total").increment(store.reads());
        metrics::counter!("reprise_fetch_base_reads_total").increment(reader.base_reads());
        metrics::counter!("reprise_fetch_read_bytes_total").increment(store.bytes());
    }

    /// What to read of an entry; a record's whole location is looked up when its turn comes.
    fn wanted(&self, ordinal: usize) -> Wanted {
        let plan = &self.layout.plan;
        let entry = &plan.entries[ordinal];
        let mut location = plan.location(entry);
        let own_hash = u32::try_from(ordinal).ok().and_then(|ordinal| plan.bases.get(&ordinal));
        match (entry.kind, own_hash) {
            (Kind::Blob, _) => {}
            (_, Some(hash)) => location.record_hash = Some(*hash),
            (kind, None) => {
                // Without its row the read fails to verify, and says which object it was.
                let row = self.view.locate(self.scope, kind, entry.id).ok().flatten();
                location = row.unwrap_or(location);
            }
        }
        Wanted { kind: entry.kind, id: entry.id, location }
    }

    fn entry(&self, ordinal: usize, wanted: &Wanted, form: StoredForm, tail: &mut Tail) -> Result<()> {
        let location = self.layout.sent(ordinal);
        let base = self.layout.base_of(ordinal);
        match form {
            StoredForm::Whole { stored, payload } => {
                let bytes = if self.layout.plan.entries[ordinal].whole { payload } else { stored };
                tail.push(transfer::before_whole(wanted.kind, wanted.id, &location, base, &bytes)?);
                tail.push(bytes);
            }
            StoredForm::Pieces(pieces) => {
                tail.push(transfer::before_large(&location)?);
                let mut sealing = transfer::Sealing::default();
                for piece in pieces {
                    let piece = piece?;
                    sealing.pass(&piece);
                    tail.push(piece);
                }
                tail.push(sealing.seal(wanted.id));
            }
        }
        Ok(())
    }

    /// End mark, table and footer.
    fn tail(&self, tail: &mut Tail) -> Result<()> {
        let count = self.layout.plan.entries.len();
        tail.push(transfer::end_mark(count as u64));
        let table_offset = tail.at;
        let mut table_hash = Sha256::new();
        let mut written = 0;
        for kind in [Kind::Blob, Kind::Snapshot, Kind::Commit] {
            let order = self.table_order(kind);
            for part in order.chunks(ROWS_AT_ONCE) {
                let hashes = self.layout.plan.record_hashes(&self.view, self.scope, part)?;
                let mut bytes = Vec::with_capacity(part.len() * 96);
                for (ordinal, hash) in part.iter().zip(hashes) {
                    let base = self.place_of_base(*ordinal, &order, written);
                    let index = usize::try_from(*ordinal).unwrap_or(usize::MAX);
                    let (entry, sent) = (&self.layout.plan.entries[index], self.layout.sent(index));
                    bytes.extend_from_slice(&transfer::row(&TransferPlan::row(entry, &sent, base, hash)));
                }
                table_hash.update(&bytes);
                tail.push(bytes);
            }
            written += order.len();
        }
        let count = u32::try_from(count).map_err(|_| Error::invalid("too many entries"))?;
        tail.push(transfer::foot(table_offset, count, table_hash.finalize().into()));
        Ok(())
    }

    /// Ordinals of the entries of one kind, by id.
    fn table_order(&self, kind: Kind) -> Vec<u32> {
        let mut order: Vec<u32> =
            self.layout.plan.section(kind).filter_map(|ordinal| u32::try_from(ordinal).ok()).collect();
        order.sort_unstable_by_key(|ordinal| self.id_of(*ordinal));
        order
    }

    fn id_of(&self, ordinal: u32) -> ObjectId {
        self.layout.plan.entry(ordinal).id
    }

    /// Where the base of an entry stands in the table, in which `written` rows of other kinds precede `order`.
    fn place_of_base(&self, ordinal: u32, order: &[u32], written: usize) -> Option<u32> {
        let base = self.id_of(self.layout.base_of(usize::try_from(ordinal).ok()?)?);
        let place = order.binary_search_by_key(&base, |ordinal| self.id_of(*ordinal)).ok()?;
        u32::try_from(written + place).ok()
    }
}

/// Table rows of one chunk.
const ROWS_AT_ONCE: usize = 2_048;
