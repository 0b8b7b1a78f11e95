//! Makes checksums, lengths and chains of log and pack files right after their bytes were changed, so that a reader gets
//! past them (layouts: engine/FORMAT.md, §3 and §4).
//!
//! Invariants: shares no code with the engine; each part is made right only when asked for, so that wrong ones are tried too;
//! never panics, whatever the bytes.

use sha2::{Digest, Sha256};

/// The segment's header.
pub const HEADER: u8 = 1;
/// Lengths and checksums of frames.
pub const FRAMES: u8 = 2;
/// Positions, sequence and chain of frames.
pub const CHAIN: u8 = 4;
/// The segment's footer.
pub const FOOTER: u8 = 8;
/// The pack's header and footer.
pub const PACK_ENDS: u8 = 1;
/// Checksums of the pack's entries.
pub const ENTRIES: u8 = 2;
/// The pack's rows in order.
pub const ROWS: u8 = 4;

/// Bytes before a segment's first frame.
pub const BLOCK: usize = 4_096;
const FRAME_HEADER: usize = 88;
const FRAME_END: usize = 8;
const TRAILER: usize = 144;

/// A segment file, in the parts that `how` names.
pub fn segment(bytes: &mut [u8], how: u8) {
    if bytes.len() < BLOCK {
        return;
    }
    if how & HEADER != 0 {
        put(bytes, 0, b"RepriseL\x01\0\0\0\0\0\0\0");
        put(bytes, 104, &[0; 4]);
        let crc = crc32c::crc32c(&bytes[..108]);
        put(bytes, 108, &crc.to_le_bytes());
        bytes.copy_within(..112, 2_048);
    }
    if how & (FRAMES | CHAIN) != 0 {
        frames(bytes, how & CHAIN != 0);
    }
    if how & FOOTER != 0 {
        footer(bytes);
    }
}

fn frames(bytes: &mut [u8], chain_too: bool) {
    let salt = bytes[80..96].to_vec();
    let (mut next, mut sequence) = (u64_at(bytes, 32), u64_at(bytes, 40));
    let mut chain = bytes[48..80].to_vec();
    let mut at = BLOCK;
    while at + FRAME_HEADER + FRAME_END <= bytes.len() && bytes[at..].starts_with(b"RpFr") {
        let len = u32_at(bytes, at + 4) as usize;
        if !len.is_multiple_of(8) || len < FRAME_HEADER + FRAME_END || len > bytes.len() - at {
            return;
        }
        let frame = &mut bytes[at..at + len];
        if chain_too {
            put(frame, 16, &next.to_le_bytes());
            put(frame, 24, &sequence.to_le_bytes());
            put(frame, 40, &chain);
        }
        frame_sums(frame, &salt);
        let (continues, mark) = (frame[8] & 1 != 0, frame[8] & 2 != 0);
        next = next.wrapping_add(u64::from(u32_at(frame, 12)));
        sequence = sequence.wrapping_add(u64::from(!continues));
        if !mark {
            let body_end = FRAME_HEADER + u32_at(frame, 72) as usize;
            chain = Sha256::digest([&frame[..84], &frame[FRAME_HEADER..body_end]].concat()).to_vec();
        }
        at += len;
    }
}

fn frame_sums(frame: &mut [u8], salt: &[u8]) {
    let len = frame.len();
    let room = len - FRAME_HEADER - FRAME_END;
    let mut body_len = u32_at(frame, 72) as usize;
    if body_len > room || room - body_len >= 8 {
        body_len = room;
    }
    put(frame, 72, &as_u32(body_len).to_le_bytes());
    let (body, crc) = (FRAME_HEADER..FRAME_HEADER + body_len, 76);
    let sum = crc32c::crc32c(&frame[body.clone()]);
    put(frame, crc, &sum.to_le_bytes());
    frame[body.end..len - FRAME_END].fill(0);
    put(frame, len - 8, &as_u32(len).to_le_bytes());
    put(frame, len - 4, b"rFpR");
    put(frame, 80, &[0; 4]);
    let sum = crc32c::crc32c_append(crc32c::crc32c(salt), &frame[..84]);
    put(frame, 84, &sum.to_le_bytes());
}

fn footer(bytes: &mut [u8]) {
    let Some(at) = bytes.len().checked_sub(TRAILER).filter(|at| *at >= BLOCK) else { return };
    let sections: [u64; 3] = [104, 112, 120].map(|field| u64_at(bytes, at + field));
    let total = sections.iter().try_fold(0_u64, |sum, len| sum.checked_add(*len)).unwrap_or(u64::MAX);
    let room = (at - BLOCK) as u64;
    let sections = if total <= room { sections } else { [0, 0, room] };
    let mut start = at - sections.iter().sum::<u64>() as usize;
    put(bytes, at, b"RepriseF\x01\0\0\0\0\0\0\0");
    bytes.copy_within(16..32, at + 16);
    bytes.copy_within(32..40, at + 32);
    put(bytes, at + 56, &(start as u64).to_le_bytes());
    for (number, len) in sections.into_iter().enumerate() {
        let sum = crc32c::crc32c(&bytes[start..start + len as usize]);
        put(bytes, at + 104 + number * 8, &len.to_le_bytes());
        put(bytes, at + 128 + number * 4, &sum.to_le_bytes());
        start += len as usize;
    }
    let sum = crc32c::crc32c(&bytes[at..at + 140]);
    put(bytes, at + 140, &sum.to_le_bytes());
}

/// First position and file of the empty segment that a sealed one says comes next.
pub fn successor(sealed: &[u8], capacity: u64) -> Option<(u64, Vec<u8>)> {
    let at = sealed.len().checked_sub(TRAILER).filter(|at| *at >= BLOCK)?;
    let first = u64_at(sealed, at + 40).wrapping_add(1);
    let mut file = vec![0; capacity as usize];
    put(&mut file, 16, &sealed[16..32]);
    put(&mut file, 32, &first.to_le_bytes());
    put(&mut file, 40, &sealed[at + 48..at + 56]);
    put(&mut file, 48, &sealed[at + 72..at + 104]);
    put(&mut file, 80, &[7; 16]);
    put(&mut file, 96, &capacity.to_le_bytes());
    segment(&mut file, HEADER);
    Some((first, file))
}

/// An anchor.
pub fn anchor(bytes: &mut [u8]) {
    if bytes.len() == 72 {
        let sum = crc32c::crc32c(&bytes[..68]);
        put(bytes, 68, &sum.to_le_bytes());
    }
}

const PACK_HEADER: usize = 64;
const PREAMBLE: usize = 64;
const SEAL: usize = 48;
const ROW: usize = 96;
const PACK_FOOTER: usize = 104;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A pack file, in the parts that `how` names.
pub fn pack(bytes: &mut [u8], how: u8) {
    if bytes.len() < PACK_HEADER + PREAMBLE + PACK_FOOTER {
        return;
    }
    if how & ENTRIES != 0 {
        entries(bytes);
    }
    let footer_at = bytes.len() - PACK_FOOTER;
    let count = (u32_at(bytes, footer_at + 16) as usize).min((footer_at - PACK_HEADER - PREAMBLE) / ROW);
    let table_at = footer_at - count * ROW;
    if how & ROWS != 0 {
        let mut rows: Vec<Vec<u8>> = bytes[table_at..footer_at].chunks(ROW).map(<[u8]>::to_vec).collect();
        rows.sort_by(|one, two| (one[0], &one[32..64]).cmp(&(two[0], &two[32..64])));
        put(bytes, table_at, &rows.concat());
    }
    if how & PACK_ENDS != 0 {
        let sum = crc32c::crc32c(&bytes[..60]);
        put(bytes, 60, &sum.to_le_bytes());
        pack_footer(bytes, table_at, count);
    }
}

fn pack_footer(bytes: &mut [u8], table_at: usize, count: usize) {
    let at = bytes.len() - PACK_FOOTER;
    let (table, body) = (Sha256::digest(&bytes[table_at..at]), Sha256::digest(&bytes[..table_at]));
    put(bytes, at, &(table_at as u64).to_le_bytes());
    put(bytes, at + 8, &((count * ROW) as u64).to_le_bytes());
    put(bytes, at + 16, &as_u32(count).to_le_bytes());
    put(bytes, at + 20, &1_u32.to_le_bytes());
    put(bytes, at + 24, &table);
    put(bytes, at + 56, &body);
    let sum = crc32c::crc32c(&bytes[at..at + 88]);
    put(bytes, at + 88, &sum.to_le_bytes());
    put(bytes, at + 92, b"\0\0\0\0RPRSPEND");
}

/// Walks the body as its preambles tell, as far as it can.
fn entries(bytes: &mut [u8]) {
    let mut at = PACK_HEADER;
    while at + PREAMBLE <= bytes.len() && bytes[at] <= 2 {
        let stored_at = at + PREAMBLE;
        let streamed = bytes[at + 2] == 1;
        let stored_len = if streamed { u64_at(bytes, at + 8) } else { u64::from(u32_at(bytes, at + 16)) };
        let Some(end) = usize::try_from(stored_len).ok().and_then(|len| stored_at.checked_add(len)) else { return };
        if end > bytes.len().saturating_sub(SEAL) {
            return;
        }
        let sum = crc32c::crc32c(&bytes[stored_at..end]);
        let id: [u8; 32] = Sha256::digest(&bytes[stored_at..end]).into();
        let raw_blob = bytes[at] == 0 && bytes[at + 1] == 0 && !bytes[stored_at..end].starts_with(&ZSTD_MAGIC);
        if streamed {
            put(bytes, end + 40, &sum.to_le_bytes());
            let seal = crc32c::crc32c(&bytes[end..end + 44]);
            put(bytes, end + 44, &seal.to_le_bytes());
        } else {
            put(bytes, at + 4, &sum.to_le_bytes());
            if raw_blob {
                put(bytes, at + 32, &id);
            }
        }
        preamble_sum(&mut bytes[at..stored_at]);
        at = end + if streamed { SEAL } else { 0 };
    }
    if at + PREAMBLE <= bytes.len() {
        preamble_sum(&mut bytes[at..at + PREAMBLE]);
    }
}

fn preamble_sum(preamble: &mut [u8]) {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&preamble[..28]), &preamble[32..]);
    put(preamble, 28, &sum.to_le_bytes());
}

fn put(bytes: &mut [u8], at: usize, piece: &[u8]) {
    bytes[at..at + piece.len()].copy_from_slice(piece);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn as_u32(len: usize) -> u32 {
    u32::try_from(len).expect("a small file")
}
