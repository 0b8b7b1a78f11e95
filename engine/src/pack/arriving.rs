//! A pack read front to back as it arrives, every entry verified (FORMAT.md §3.6).
//!
//! Invariants: nothing is skipped: header, preambles, stored forms, seals, end mark, table and footer follow each other without
//! a gap and agree with each other, or the reader ends with `Corrupt`; memory is a row per entry, one small entry, one base and
//! one piece; nothing is allocated from a length that was not checked, and no more than really comes. A record's hash is compared
//! with the table's at the end: what came is good once [`Arriving::next`] said `None`.

use std::io::{BufRead, ErrorKind as IoErrorKind, Read};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Location, PIECE_BYTES, PackOrigin, WHOLE_BYTES_MAX,
    decode::{Inflater, canonical_hash, check_lengths, check_name, damaged, inflate},
    layout::{
        EntryPreamble, FOOTER_BYTES, Footer, HEADER_BYTES, PREAMBLE_BYTES, Preamble, ROW_BYTES, SEAL_BYTES, Seal,
        decode_header, encode_row,
    },
    transfer::NO_PUSH,
    writer::sort_rows,
};
use crate::{
    error::{Error, Result},
    event::{Codec, ObjectRow},
    id::{Kind, ObjectId, PackId, RecordHash, TableHash},
    store::StoreKey,
};

/// What comes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// A whole object. A blob hashes to its id; a record's id is as the pack says: recompute it from the record.
    Object {
        /// What it is.
        kind: Kind,
        /// Its id.
        id: ObjectId,
        /// Its payload.
        payload: Bytes,
    },
    /// Bytes of a large blob, not verified yet.
    Piece(Bytes),
    /// The pieces since the last arrival are this blob, verified.
    Blob {
        /// Its id.
        id: ObjectId,
        /// Bytes of all its pieces.
        len: u64,
    },
}

/// Reads a pack from its first byte to its last.
pub struct Arriving<R> {
    source: R,
    name: PackId,
    origin: PackOrigin,
    rows_max: usize,
    at: u64,
    /// Of everything before the table; not of a transfer, which states none.
    body: Option<Sha256>,
    /// In body order; `base` is an ordinal in it.
    rows: Vec<ObjectRow>,
    /// The nearest snapshot that is not itself stored against another: the only base there is.
    base: Option<(u32, Bytes)>,
    large: Option<Large>,
    table: Option<(Vec<ObjectRow>, TableHash)>,
}

/// A large blob that is coming.
struct Large {
    entry: EntryPreamble,
    offset: u64,
    inflater: Option<Inflater<'static>>,
    frame_ended: bool,
    read: u64,
    made: u64,
    hasher: Sha256,
    crc: u32,
}

impl<R: BufRead> Arriving<R> {
    /// Reads the header. `name` is what errors call the pack; more than `rows_max` entries are refused.
    pub fn open(source: R, name: PackId, rows_max: usize) -> Result<Arriving<R>> {
        let origin = PackOrigin { repo: crate::id::RepoId([0; 16]), push: NO_PUSH, nonce: [0; 16] };
        let (at, body, rows, base, large, table) = (0, Some(Sha256::new()), Vec::new(), None, None, None);
        let mut arriving = Arriving { source, name, origin, rows_max, at, body, rows, base, large, table };
        let header = arriving.take::<HEADER_BYTES>()?;
        arriving.origin = decode_header(StoreKey::pack(name).as_str(), &header)?;
        if arriving.origin.push == NO_PUSH {
            arriving.body = None;
        }
        Ok(arriving)
    }

    /// Where the pack came from.
    pub fn origin(&self) -> &PackOrigin {
        &self.origin
    }

    /// Once everything has come: the table, (kind, id) ascending, and its hash.
    pub fn into_table(self) -> Option<(Vec<ObjectRow>, TableHash)> {
        self.table
    }

    /// The next arrival; `None` once the whole pack came and was good. Not to be called again after an error.
    #[allow(clippy::should_implement_trait, reason = "an iterator of results invites going on after an error")]
    pub fn next(&mut self) -> Result<Option<Arrival>> {
        if let Some(large) = self.large.take() {
            return self.large_piece(large).map(Some);
        }
        if self.table.is_some() {
            return Ok(None);
        }
        let at = self.at;
        match Preamble::decode(&self.take::<PREAMBLE_BYTES>()?) {
            Some(Preamble::Entry(entry)) => self.entry(entry).map(Some),
            Some(Preamble::End { entries }) if entries == self.rows.len() as u64 => self.end().map(|()| None),
            _ => Err(self.corrupt(at, "what should be an entry or the end of the body is neither")),
        }
    }

    fn entry(&mut self, entry: EntryPreamble) -> Result<Arrival> {
        if self.rows.len() >= self.rows_max {
            return Err(Error::invalid(format!(
                "the pack has more than {} objects, which is the limit",
                self.rows_max
            )));
        }
        let location = self.location(&entry, entry.stored_len.into());
        check_lengths(entry.kind, &location)?;
        let longest = entry.real_len.max(entry.stored_len.into());
        if entry.kind == Kind::Blob && (entry.streamed || longest > WHOLE_BYTES_MAX) {
            return self.begin_large(entry, &location);
        }
        if entry.streamed {
            return Err(damaged(&location, "only a blob may be streamed"));
        }
        let stored = self.stored(&location)?;
        if crc32c::crc32c(&stored) != entry.stored_crc {
            return Err(damaged(&location, "the stored form does not match its checksum"));
        }
        let payload = self.payload(&entry, &location, stored)?;
        let record_hash = match entry.kind {
            Kind::Blob => None,
            kind => Some(RecordHash(canonical_hash(kind, &payload))),
        };
        if entry.kind == Kind::Blob {
            check_name(entry.kind, entry.id, &location, &payload)?;
        }
        if entry.kind == Kind::Snapshot && entry.codec != Codec::ZstdPrefix {
            let ordinal = u32::try_from(self.rows.len()).map_err(|_| Error::invalid("too many entries"))?;
            self.base = Some((ordinal, payload.clone()));
        }
        self.note(&entry, entry.id, &location, record_hash);
        Ok(Arrival::Object { kind: entry.kind, id: entry.id, payload })
    }

    fn payload(&self, entry: &EntryPreamble, location: &Location, stored: Bytes) -> Result<Bytes> {
        match entry.codec {
            Codec::Raw if stored.len() as u64 == entry.real_len => Ok(stored),
            Codec::Raw => Err(damaged(location, "a raw entry has another length than its payload")),
            Codec::Zstd => inflate(entry.kind, location, &stored, None).map(Bytes::from),
            Codec::ZstdPrefix => match &self.base {
                Some((ordinal, base)) if *ordinal == entry.base && entry.kind == Kind::Snapshot => {
                    inflate(entry.kind, location, &stored, Some(base)).map(Bytes::from)
                }
                _ => Err(damaged(location, "its base is not the nearest whole snapshot before it")),
            },
        }
    }

    fn begin_large(&mut self, entry: EntryPreamble, location: &Location) -> Result<Arrival> {
        let inflater = match entry.codec {
            Codec::Raw if !entry.streamed && location.stored_len != location.real_len => {
                return Err(damaged(location, "a raw entry has another length than its payload"));
            }
            Codec::Raw => None,
            Codec::Zstd => Some(Inflater::new(None, location)?),
            Codec::ZstdPrefix => return Err(damaged(location, "a blob is never stored against a base")),
        };
        let (offset, frame_ended, read, made, crc) = (self.at, false, 0, 0, 0);
        let large = Large { entry, offset, inflater, frame_ended, read, made, hasher: Sha256::new(), crc };
        self.large_piece(large)
    }

    /// A piece of a large blob, or its end.
    fn large_piece(&mut self, mut large: Large) -> Result<Arrival> {
        let location = self.location_at(&large.entry, large.offset, large.entry.stored_len.into());
        loop {
            // A streamed raw form is as long as its payload, a streamed frame tells its own end.
            let left = match (large.entry.streamed, large.entry.codec) {
                (true, Codec::Raw) => large.entry.real_len - large.read,
                (true, _) if large.frame_ended => 0,
                (true, _) => PIECE_BYTES,
                (false, _) => u64::from(large.entry.stored_len) - large.read,
            };
            let starved = large.inflater.as_ref().is_none_or(|inflater| inflater.starved);
            if left == 0 && (starved || large.frame_ended) {
                return self.end_large(large, &location);
            }
            let piece = self.inflated(&mut large, left, &location)?;
            if !piece.is_empty() {
                large.made += piece.len() as u64;
                if large.made > large.entry.real_len {
                    return Err(damaged(&location, "it decodes to more than its real length"));
                }
                large.hasher.update(&piece);
                self.large = Some(large);
                return Ok(Arrival::Piece(piece));
            }
        }
    }

    /// Takes up to `left` bytes of a stored form and gives what they decode to, perhaps nothing yet.
    fn inflated(&mut self, large: &mut Large, left: u64, location: &Location) -> Result<Bytes> {
        let held = fill(&mut self.source, self.name)?;
        let most = usize::try_from(left.min(PIECE_BYTES)).unwrap_or(usize::MAX).min(held.len());
        if most == 0 && left > 0 {
            return Err(damaged(location, "the pack ends in the middle of it"));
        }
        let mut rest = &held[..most];
        let mut out = Vec::new();
        match large.inflater.as_mut() {
            None => {
                out.extend_from_slice(rest);
                rest = &[];
            }
            Some(_) if large.frame_ended => return Err(damaged(location, "bytes follow its zstd frame")),
            Some(inflater) => large.frame_ended = inflater.step(&mut rest, &mut out, STEP_BYTES, location)?,
        }
        let used = most - rest.len();
        large.crc = crc32c::crc32c_append(large.crc, &held[..used]);
        if let Some(body) = self.body.as_mut() {
            body.update(&held[..used]);
        }
        self.source.consume(used);
        self.at += used as u64;
        large.read += used as u64;
        Ok(Bytes::from(out))
    }

    fn end_large(&mut self, large: Large, location: &Location) -> Result<Arrival> {
        let Large { entry, offset, inflater, frame_ended, read, made, hasher, crc } = large;
        if made != entry.real_len || (inflater.is_some() && !frame_ended) {
            return Err(damaged(location, "it does not decode to its real length"));
        }
        let (id, stored_crc) = match entry.streamed {
            false => (entry.id, entry.stored_crc),
            true => {
                let seal = Seal::decode(&self.take::<SEAL_BYTES>()?).filter(|seal| seal.stored_len == read);
                let seal = seal.ok_or_else(|| damaged(location, "what should be its seal is not"))?;
                (seal.id, seal.stored_crc)
            }
        };
        if stored_crc != crc {
            return Err(damaged(location, "the stored form does not match its checksum"));
        }
        if hasher.finalize()[..] != id.0 {
            return Err(damaged(location, &format!("blob {id} does not hash to its id")));
        }
        let location = self.location_at(&entry, offset, read);
        check_lengths(Kind::Blob, &location)?;
        self.note(&entry, id, &location, None);
        Ok(Arrival::Blob { id, len: made })
    }

    /// The table must say what came, and nothing may follow the footer.
    fn end(&mut self) -> Result<()> {
        let body_hash: [u8; 32] = self.body.take().map_or([0; 32], |body| body.finalize().into());
        let table_offset = self.at;
        let rows = sort_rows(std::mem::take(&mut self.rows))?;
        if let Some(pair) = rows.windows(2).find(|pair| (pair[0].kind, pair[0].id) == (pair[1].kind, pair[1].id)) {
            return Err(self.corrupt(table_offset, &format!("{} {} stands twice in it", pair[0].kind, pair[0].id)));
        }
        let mut table_hash = Sha256::new();
        for row in &rows {
            let at = self.at;
            let bytes = self.take::<ROW_BYTES>()?;
            if bytes != encode_row(row) {
                return Err(self.corrupt(at, &format!("the table says something else of {} {}", row.kind, row.id)));
            }
            table_hash.update(bytes);
        }
        let table_hash: [u8; 32] = table_hash.finalize().into();
        let count = u32::try_from(rows.len()).map_err(|_| Error::invalid("too many entries"))?;
        let at = self.at;
        if self.take::<FOOTER_BYTES>()? != (Footer { table_offset, count, table_hash, body_hash }).encode() {
            return Err(self.corrupt(at, "the footer does not fit what came"));
        }
        if !fill(&mut self.source, self.name)?.is_empty() {
            return Err(self.corrupt(self.at, "bytes follow the footer"));
        }
        self.table = Some((rows, TableHash(table_hash)));
        Ok(())
    }

    fn note(&mut self, entry: &EntryPreamble, id: ObjectId, location: &Location, record_hash: Option<RecordHash>) {
        self.rows.push(ObjectRow {
            kind: entry.kind,
            id,
            offset: location.offset,
            stored_len: location.stored_len,
            real_len: entry.real_len,
            codec: entry.codec,
            base: (entry.codec == Codec::ZstdPrefix).then_some(entry.base),
            record_hash,
        });
    }

    /// A stored form that is held whole.
    fn stored(&mut self, location: &Location) -> Result<Bytes> {
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut self.source).take(location.stored_len).read_to_end(&mut bytes);
        read.map_err(|error| Error::io("read", StoreKey::pack(self.name).as_str(), error))?;
        if bytes.len() as u64 != location.stored_len {
            return Err(damaged(location, "the pack ends in the middle of it"));
        }
        self.passed(&bytes);
        Ok(bytes.into())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).map_err(|error| match error.kind() {
            IoErrorKind::UnexpectedEof => self.corrupt(self.at, "the pack ends early"),
            _ => Error::io("read", StoreKey::pack(self.name).as_str(), error),
        })?;
        self.passed(&bytes);
        Ok(bytes)
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.at += bytes.len() as u64;
        if let Some(body) = self.body.as_mut() {
            body.update(bytes);
        }
    }

    fn location(&self, entry: &EntryPreamble, stored_len: u64) -> Location {
        self.location_at(entry, self.at, stored_len)
    }

    fn location_at(&self, entry: &EntryPreamble, offset: u64, stored_len: u64) -> Location {
        let (real_len, codec) = (entry.real_len, entry.codec);
        Location { pack: self.name, offset, stored_len, real_len, codec, base: None, record_hash: None }
    }

    fn corrupt(&self, at: u64, what: &str) -> Error {
        Error::corrupt(StoreKey::pack(self.name).as_str(), at, what)
    }
}

/// What is there to be read; empty at the end.
fn fill(source: &mut impl BufRead, name: PackId) -> Result<&[u8]> {
    source.fill_buf().map_err(|error| Error::io("read", StoreKey::pack(name).as_str(), error))
}

const STEP_BYTES: usize = 256 << 10;
