//! The byte layout of a pack: header, preamble, seal, table row, footer; encode and decode side by side (FORMAT.md §3).
//!
//! Invariants: everything is little-endian and of fixed width; reserved bytes are zero and checked; decoding allocates
//! nothing and never reads outside its input; layout constants are derived from each other.

use crate::{
    error::{Error, Result},
    event::{Codec, ObjectRow},
    id::{Kind, ObjectId, PushId, RecordHash, RepoId},
    limits::{BLOB_BYTES_MAX, PACK_ROWS_MAX, RECORD_BYTES_MAX},
    pack::PackOrigin,
};

/// What stands first in a pack.
pub(super) fn encode_header(origin: &PackOrigin) -> [u8; HEADER_BYTES] {
    let mut bytes = [0u8; HEADER_BYTES];
    bytes[..8].copy_from_slice(HEADER_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..28].copy_from_slice(&origin.repo.0);
    bytes[28..44].copy_from_slice(&origin.push.0);
    bytes[44..60].copy_from_slice(&origin.nonce);
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Checks a header and says where the pack came from.
pub(super) fn decode_header(file: &str, bytes: &[u8]) -> Result<PackOrigin> {
    if bytes.len() != HEADER_BYTES || &bytes[..8] != HEADER_MAGIC {
        return Err(Error::corrupt(file, 0, "this is not a pack: its first bytes are wrong"));
    }
    let version = u32_at(bytes, 8);
    if crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60) {
        return Err(Error::corrupt(file, 0, "the pack's header does not match its checksum"));
    }
    if version != VERSION {
        return Err(Error::corrupt(file, 8, format!("pack version {version} is not known here (known: {VERSION})")));
    }
    Ok(PackOrigin { repo: RepoId(take(bytes, 12)), push: PushId(take(bytes, 28)), nonce: take(bytes, 44) })
}

/// What stands before every stored form, so that a pack without its trailer can be salvaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Preamble {
    /// An entry follows.
    Entry(EntryPreamble),
    /// The body ends here, after this many entries.
    End {
        /// Entries in the body.
        entries: u64,
    },
}

/// The preamble of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EntryPreamble {
    /// What it is.
    pub kind: Kind,
    /// How it is stored.
    pub codec: Codec,
    /// Its stored length, checksum and id were not known yet: they are in the seal after the stored form.
    pub streamed: bool,
    /// CRC32C of the stored form; 0 when streamed.
    pub stored_crc: u32,
    /// Bytes of the payload.
    pub real_len: u64,
    /// Bytes of the stored form; 0 when streamed.
    pub stored_len: u32,
    /// For `ZstdPrefix`: the base's ordinal in the body, counted from 0; else [`NO_BASE`].
    pub base: u32,
    /// Its id; zeros when streamed.
    pub id: ObjectId,
}

impl Preamble {
    /// The bytes.
    pub fn encode(&self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0u8; PREAMBLE_BYTES];
        match self {
            Preamble::Entry(entry) => {
                bytes[0] = entry.kind.byte();
                bytes[1] = codec_byte(entry.codec);
                bytes[2] = u8::from(entry.streamed);
                bytes[4..8].copy_from_slice(&entry.stored_crc.to_le_bytes());
                bytes[8..16].copy_from_slice(&entry.real_len.to_le_bytes());
                bytes[16..20].copy_from_slice(&entry.stored_len.to_le_bytes());
                bytes[20..24].copy_from_slice(&entry.base.to_le_bytes());
                bytes[32..].copy_from_slice(&entry.id.0);
            }
            Preamble::End { entries } => {
                bytes[0] = END_MARK;
                bytes[8..16].copy_from_slice(&entries.to_le_bytes());
            }
        }
        let crc = preamble_crc(&bytes);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None`: these bytes are not a preamble that this version wrote.
    pub fn decode(bytes: &[u8]) -> Option<Preamble> {
        if bytes.len() != PREAMBLE_BYTES || bytes[3] != 0 || u32_at(bytes, 24) != 0 {
            return None;
        }
        if preamble_crc(bytes) != u32_at(bytes, 28) {
            return None;
        }
        if bytes[0] == END_MARK {
            let rest_is_zero = bytes[1..8].iter().chain(&bytes[16..28]).chain(&bytes[32..]).all(|byte| *byte == 0);
            return rest_is_zero.then(|| Preamble::End { entries: u64_at(bytes, 8) });
        }
        let entry = EntryPreamble {
            kind: Kind::from_byte(bytes[0])?,
            codec: codec_from_byte(bytes[1])?,
            streamed: match bytes[2] {
                0 => false,
                1 => true,
                _ => return None,
            },
            stored_crc: u32_at(bytes, 4),
            real_len: u64_at(bytes, 8),
            stored_len: u32_at(bytes, 16),
            base: u32_at(bytes, 20),
            id: ObjectId(take(bytes, 32)),
        };
        let base_fits = (entry.codec == Codec::ZstdPrefix) == (entry.base != NO_BASE);
        (base_fits && entry.real_len <= real_len_max(entry.kind)).then_some(Preamble::Entry(entry))
    }
}

fn preamble_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..28]), &bytes[32..])
}

/// What stands after the stored form of a streamed entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seal {
    /// The entry's id.
    pub id: ObjectId,
    /// Bytes of the stored form.
    pub stored_len: u64,
    /// CRC32C of the stored form.
    pub stored_crc: u32,
}

impl Seal {
    /// The bytes.
    pub fn encode(&self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0u8; SEAL_BYTES];
        bytes[..32].copy_from_slice(&self.id.0);
        bytes[32..40].copy_from_slice(&self.stored_len.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.stored_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None`: these bytes are not a seal.
    pub fn decode(bytes: &[u8]) -> Option<Seal> {
        if bytes.len() != SEAL_BYTES || crc32c::crc32c(&bytes[..44]) != u32_at(bytes, 44) {
            return None;
        }
        Some(Seal { id: ObjectId(take(bytes, 0)), stored_len: u64_at(bytes, 32), stored_crc: u32_at(bytes, 40) })
    }
}

/// One table row. `base` is an index into the table.
pub(super) fn encode_row(row: &ObjectRow) -> [u8; ROW_BYTES] {
    let mut bytes = [0u8; ROW_BYTES];
    bytes[0] = row.kind.byte();
    bytes[1] = codec_byte(row.codec);
    bytes[4..8].copy_from_slice(&row.base.unwrap_or(NO_BASE).to_le_bytes());
    bytes[8..16].copy_from_slice(&row.offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&row.stored_len.to_le_bytes());
    bytes[24..32].copy_from_slice(&row.real_len.to_le_bytes());
    bytes[32..64].copy_from_slice(&row.id.0);
    bytes[64..].copy_from_slice(&row.record_hash.map_or([0; 32], |hash| hash.0));
    bytes
}

fn decode_row(bytes: &[u8]) -> Option<ObjectRow> {
    let kind = Kind::from_byte(bytes[0])?;
    let codec = codec_from_byte(bytes[1])?;
    let base = Some(u32_at(bytes, 4)).filter(|base| *base != NO_BASE);
    let hash: [u8; 32] = take(bytes, 64);
    if bytes[2] != 0 || bytes[3] != 0 || (codec == Codec::ZstdPrefix) != base.is_some() {
        return None;
    }
    if kind == Kind::Blob && (hash != [0; 32] || base.is_some()) {
        return None;
    }
    Some(ObjectRow {
        kind,
        id: ObjectId(take(bytes, 32)),
        offset: u64_at(bytes, 8),
        stored_len: u64_at(bytes, 16),
        real_len: u64_at(bytes, 24),
        codec,
        base,
        record_hash: (kind != Kind::Blob).then_some(RecordHash(hash)),
    })
}

/// The rows of a table whose hash was checked; every field is checked against the body's extent and the caps.
pub(super) fn decode_table(file: &str, table: &[u8], footer: &Footer) -> Result<Vec<ObjectRow>> {
    assert!(table.len().is_multiple_of(ROW_BYTES), "the footer's lengths were checked");
    let mut rows: Vec<ObjectRow> = Vec::with_capacity(table.len() / ROW_BYTES);
    for (index, bytes) in table.chunks_exact(ROW_BYTES).enumerate() {
        let bad = |what: &str| {
            Error::corrupt(file, footer.table_offset + (index * ROW_BYTES) as u64, format!("table row {index}: {what}"))
        };
        let row = decode_row(bytes).ok_or_else(|| bad("a field has no meaning"))?;
        if rows.last().is_some_and(|last| (last.kind, last.id) >= (row.kind, row.id)) {
            return Err(bad("rows are not ascending by kind and id"));
        }
        let end = row.offset.checked_add(row.stored_len);
        if row.offset < BODY_OFFSET_MIN || end.is_none_or(|end| end > footer.table_offset) {
            return Err(bad("the stored form lies outside the body"));
        }
        if row.real_len > real_len_max(row.kind) || (row.codec == Codec::Raw && row.stored_len != row.real_len) {
            return Err(bad("its lengths are impossible"));
        }
        rows.push(row);
    }
    check_bases(file, footer, &rows)?;
    Ok(rows)
}

fn check_bases(file: &str, footer: &Footer, rows: &[ObjectRow]) -> Result<()> {
    for (index, row) in rows.iter().enumerate() {
        let Some(base) = row.base else { continue };
        let found = usize::try_from(base).ok().and_then(|base| rows.get(base));
        // Depth exactly 1, earlier in the file: a base is never itself a delta.
        let good = found
            .is_some_and(|base| base.codec != Codec::ZstdPrefix && base.kind == row.kind && base.offset < row.offset);
        if !good {
            let at = footer.table_offset + (index * ROW_BYTES) as u64;
            return Err(Error::corrupt(file, at, format!("table row {index}: its base {base} is not one")));
        }
    }
    Ok(())
}

/// What stands last in a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Footer {
    /// Where the table starts: the end of the body.
    pub table_offset: u64,
    /// Rows in the table.
    pub count: u32,
    /// SHA-256 of the table.
    pub table_hash: [u8; 32],
    /// SHA-256 of everything before the table.
    pub body_hash: [u8; 32],
}

impl Footer {
    /// Bytes of the table.
    pub fn table_len(&self) -> u64 {
        u64::from(self.count) * ROW_BYTES as u64
    }

    /// The bytes.
    pub fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0u8; FOOTER_BYTES];
        bytes[..8].copy_from_slice(&self.table_offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.table_len().to_le_bytes());
        bytes[16..20].copy_from_slice(&self.count.to_le_bytes());
        bytes[20..24].copy_from_slice(&VERSION.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.table_hash);
        bytes[56..88].copy_from_slice(&self.body_hash);
        let crc = crc32c::crc32c(&bytes[..88]);
        bytes[88..92].copy_from_slice(&crc.to_le_bytes());
        bytes[96..].copy_from_slice(FOOTER_MAGIC);
        bytes
    }

    /// Checks the last bytes of a file of `size` bytes.
    pub fn decode(file: &str, bytes: &[u8], size: u64) -> Result<Footer> {
        let at = size.saturating_sub(FOOTER_BYTES as u64);
        let bad = |what: &str| Error::corrupt(file, at, format!("the pack's footer {what}"));
        if bytes.len() != FOOTER_BYTES || &bytes[96..] != FOOTER_MAGIC || u32_at(bytes, 92) != 0 {
            return Err(bad("is not one: the file ends early or was damaged"));
        }
        if crc32c::crc32c(&bytes[..88]) != u32_at(bytes, 88) {
            return Err(bad("does not match its checksum"));
        }
        if u32_at(bytes, 20) != VERSION {
            return Err(bad("has a version that is not known here"));
        }
        let footer = Footer {
            table_offset: u64_at(bytes, 0),
            count: u32_at(bytes, 16),
            table_hash: take(bytes, 24),
            body_hash: take(bytes, 56),
        };
        // Before anything is allocated from `count`.
        let end = footer.table_offset.checked_add(footer.table_len());
        let rows_fit = usize::try_from(footer.count).is_ok_and(|count| count <= PACK_ROWS_MAX);
        if !rows_fit || u64_at(bytes, 8) != footer.table_len() || end != Some(at) || footer.table_offset < BODY_END_MIN
        {
            return Err(bad("names a table that does not fit the file"));
        }
        Ok(footer)
    }
}

/// The largest payload of a kind.
pub(super) fn real_len_max(kind: Kind) -> u64 {
    if kind == Kind::Blob { BLOB_BYTES_MAX } else { RECORD_BYTES_MAX }
}

fn codec_byte(codec: Codec) -> u8 {
    match codec {
        Codec::Raw => 0,
        Codec::Zstd => 1,
        Codec::ZstdPrefix => 2,
    }
}

fn codec_from_byte(byte: u8) -> Option<Codec> {
    match byte {
        0 => Some(Codec::Raw),
        1 => Some(Codec::Zstd),
        2 => Some(Codec::ZstdPrefix),
        _ => None,
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0u8; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(take(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(take(bytes, at))
}

/// Version of every part of the file.
pub(super) const VERSION: u32 = 1;
/// First bytes of a pack.
pub(super) const HEADER_MAGIC: &[u8; 8] = b"RPRSPACK";
/// Last bytes of a pack.
pub(super) const FOOTER_MAGIC: &[u8; 8] = b"RPRSPEND";
/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 64;
/// Bytes before each stored form.
pub(super) const PREAMBLE_BYTES: usize = 64;
/// Bytes after a streamed stored form.
pub(super) const SEAL_BYTES: usize = 48;
/// Bytes of a table row.
pub(super) const ROW_BYTES: usize = 96;
/// Bytes of the footer.
pub(super) const FOOTER_BYTES: usize = 104;
/// "No base" in rows and preambles.
pub(super) const NO_BASE: u32 = u32::MAX;
const END_MARK: u8 = 0xff;
/// The first stored form stands after the header and its preamble.
const BODY_OFFSET_MIN: u64 = (HEADER_BYTES + PREAMBLE_BYTES) as u64;
/// An empty body is the header and the end mark.
const BODY_END_MIN: u64 = (HEADER_BYTES + PREAMBLE_BYTES) as u64;

const _: () = assert!(PACK_ROWS_MAX < NO_BASE as usize);
const _: () = assert!(BLOB_BYTES_MAX < u32::MAX as u64);
const _: () = assert!(RECORD_BYTES_MAX <= BLOB_BYTES_MAX);
const _: () = assert!(crate::limits::PACK_TAIL_BYTES > (FOOTER_BYTES + ROW_BYTES) as u64);
