//! A planned answer becomes bytes: ranged reads, every payload verified, msgpack in chunks over a bounded channel.
//!
//! Invariants: the bytes are exactly as many as the plan says, or the stream ends with an error and stops short; a payload
//! goes out only after it was verified (a large blob's last piece only then); memory is one range, one payload and a few
//! chunks; damage is looked for to the end of the plan and condemned, whether or not someone still listens.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use reprise_engine::{
    Error,
    id::{Kind, ObjectId, PackId},
    pack::{Payload, RangeReader, ReadPlan, Wanted},
    store::counted::CountedStore,
};
use reprise_projections::{RepoScope, View};
use tokio::sync::mpsc;

use crate::{
    hub::{
        Hub, HubError,
        error::told,
        plan::{CONTENT, KEYS, OBJECT_ID, Plan, Section, soon},
    },
    wire::{encode, transcode},
};

/// Turns one plan into chunks.
pub struct Producer {
    /// For the store, and for condemning.
    pub hub: Arc<Hub>,
    /// Index rows of records.
    pub view: View,
    /// Of which repository.
    pub scope: RepoScope,
    /// What to send.
    pub plan: Plan,
    /// To whom.
    pub chunks: mpsc::Sender<Result<Bytes, HubError>>,
}

/// Bytes on their way out.
pub(crate) struct Out {
    buffer: Vec<u8>,
    sent: u64,
    chunks: mpsc::Sender<Result<Bytes, HubError>>,
    /// False once the client is gone or an error ended the answer.
    open: bool,
    /// Why the answer ended.
    failure: Option<HubError>,
    /// What was found damaged on the way.
    damage: BTreeMap<PackId, (Vec<(Kind, ObjectId)>, String)>,
}

impl Producer {
    /// Sends everything. For a blocking thread.
    pub fn run(self) {
        let mut out = Out::new(self.chunks.clone());
        self.head(&mut out);
        let reads = self.plan.sections.each_ref().map(|section| self.plan.reads(section));
        let _coming = self.hub.engine.store().prefetch(soon(&reads));
        for ((section, planned), key) in self.plan.sections.iter().zip(reads).zip(&KEYS[1..]) {
            encode::text(&mut out.buffer, key);
            encode::array_header(&mut out.buffer, encode::len32(section.len()));
            self.section(section, planned, &mut out);
            if out.is_idle() {
                break;
            }
        }
        out.finish(self.plan.len, &self.hub, self.scope);
    }

    fn head(&self, out: &mut Out) {
        encode::map_header(&mut out.buffer, encode::len32(KEYS.len()));
        encode::text(&mut out.buffer, KEYS[0]);
        encode::map_header(&mut out.buffer, encode::len32(self.plan.refs.len()));
        for row in &self.plan.refs {
            encode::text(&mut out.buffer, &row.name);
            encode::id(&mut out.buffer, &row.head.0);
        }
    }

    fn section(&self, section: &Section, planned: ReadPlan, out: &mut Out) {
        if section.is_empty() {
            return;
        }
        metrics::counter!("reprise_fetch_planned_reads_total").increment(planned.reads);
        metrics::counter!("reprise_fetch_planned_bytes_total").increment(planned.bytes);
        if section.longest() > EARLY_RECORD_BYTES && section.kind() != Kind::Blob {
            // Decoding and verifying a manifest of 100,000 paths takes longer than all of the planning: the client hears
            // the beginning first, at the price that damage in such a record cuts the answer short instead of a 500.
            out.flush();
        }
        let wanted = self.plan.wanted(&self.view, self.scope, section);
        let store = Arc::new(CountedStore::new(Arc::clone(self.hub.engine.store())));
        let mut reader = RangeReader::new(Arc::<CountedStore>::clone(&store), planned.ranges, wanted);
        for (wanted, payload) in reader.by_ref() {
            if let Err(error) = payload.and_then(|payload| send(&wanted, payload, out)) {
                out.fail(&wanted, &error, &self.hub);
            }
            if out.is_idle() {
                break;
            }
        }
        metrics::counter!("reprise_fetch_reads_total").increment(store.reads());
        metrics::counter!("reprise_fetch_base_reads_total").increment(reader.base_reads());
        metrics::counter!("reprise_fetch_read_bytes_total").increment(store.bytes());
    }
}

fn send(wanted: &Wanted, payload: Payload, out: &mut Out) -> Result<(), Error> {
    let len = wanted.location.real_len;
    match payload {
        Payload::Whole(bytes) if wanted.kind == Kind::Blob => {
            blob_head(wanted.id, len, out);
            out.push(bytes);
        }
        Payload::Whole(bytes) => {
            let appended = transcode::append(&bytes, &mut out.buffer);
            appended.map_err(|error| {
                Error::corrupt(wanted.location.pack.to_string(), wanted.location.offset, error.to_string())
            })?;
            out.flush_if_full();
        }
        Payload::Pieces(pieces) => {
            blob_head(wanted.id, len, out);
            for piece in pieces {
                out.push(piece?);
            }
        }
    }
    Ok(())
}

fn blob_head(id: ObjectId, len: u64, out: &mut Out) {
    encode::map_header(&mut out.buffer, 2);
    encode::text(&mut out.buffer, OBJECT_ID);
    encode::id(&mut out.buffer, &id.0);
    encode::text(&mut out.buffer, CONTENT);
    encode::bin_header(&mut out.buffer, u32::try_from(len).unwrap_or(u32::MAX));
}

impl Out {
    /// Nothing is on its way yet.
    pub fn new(chunks: mpsc::Sender<Result<Bytes, HubError>>) -> Out {
        let buffer = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        Out { buffer, sent: 0, chunks, open: true, failure: None, damage: BTreeMap::new() }
    }

    /// Nothing more is worth doing: the answer has ended, and no damage was met that there may be more of.
    pub fn is_idle(&self) -> bool {
        !self.open && self.damage.is_empty()
    }

    /// Sends bytes on, small ones gathered.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.len() < CHUNK_BYTES {
            self.buffer.extend_from_slice(&bytes);
            return self.flush_if_full();
        }
        self.flush();
        self.send(bytes);
    }

    fn flush_if_full(&mut self) {
        if self.buffer.len() >= CHUNK_BYTES || !self.open {
            self.flush();
        }
    }

    /// Sends what was gathered.
    pub fn flush(&mut self) {
        if !self.buffer.is_empty() {
            let next = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
            let chunk = std::mem::replace(&mut self.buffer, next);
            self.send(chunk.into());
        }
    }

    fn send(&mut self, bytes: Bytes) {
        self.sent += bytes.len() as u64;
        if self.open {
            self.open = self.chunks.blocking_send(Ok(bytes)).is_ok();
        }
    }

    /// The answer ends here, short of its length; damage is remembered.
    pub fn fail(&mut self, wanted: &Wanted, error: &Error, hub: &Hub) {
        let damaged = hub.is_damage(error);
        let pack = wanted.location.pack;
        if std::mem::replace(&mut self.open, false) {
            self.failure = Some(match damaged {
                true => HubError::Damaged { object: wanted.id, pack },
                false => HubError::Unavailable(format!("object {} could not be read now: {}", wanted.id, told(error))),
            });
        }
        if damaged {
            let found = self.damage.entry(pack).or_insert_with(|| (Vec::new(), error.to_string()));
            found.0.push((wanted.kind, wanted.id));
        }
    }

    /// The answer ends here: the index could not be read.
    pub fn fail_unread(&mut self, error: &Error) {
        if std::mem::replace(&mut self.open, false) {
            self.failure = Some(HubError::Unavailable(format!("the index could not be read now: {}", told(error))));
        }
    }

    /// Sends the rest of an answer that was `planned` to have this many bytes; what was found damaged is condemned.
    pub fn finish(mut self, planned: u64, hub: &Hub, scope: RepoScope) {
        let total = self.sent + self.buffer.len() as u64;
        if self.open && total != planned {
            let text = format!("an answer of {total} bytes was planned as {planned}: it is not sent");
            tracing::error!(total, planned, "the plan and the answer differ");
            self.failure = Some(HubError::Internal(text));
            self.open = false;
        }
        self.flush();
        for (pack, (rows, reason)) in self.damage {
            hub.condemn(scope, pack, rows, &reason);
        }
        // Told last: who hears of damage may push the object again at once.
        if let Some(failure) = self.failure {
            // A client that is gone need not be told.
            self.chunks.blocking_send(Err(failure)).unwrap_or_default();
        }
    }
}

/// A longer record does not hold back what stands before it.
const EARLY_RECORD_BYTES: u32 = 1 << 20;
/// Bytes of one chunk, about.
const CHUNK_BYTES: usize = 256 << 10;
