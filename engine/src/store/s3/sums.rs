//! Checksums of a copy's blocks, kept beside it: what a copy gives is checked before anybody sees it.
//!
//! Invariants: the checksums belong to one key, so that those of another copy never fit; a file of them that does not check out is
//! none. CRC32C finds what happens to bytes at rest; the bucket's own bytes are judged by their readers, with hashes.

use crate::store::StoreKey;

/// Of one copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sums {
    /// Bytes of the copy.
    pub(super) bytes: u64,
    blocks: Vec<u32>,
}

/// Of bytes that are still coming.
#[derive(Clone, Default)]
pub(super) struct Summing {
    bytes: u64,
    blocks: Vec<u32>,
    /// Of the last block, if it is not full.
    open: u32,
}

impl Summing {
    /// Takes in what comes next.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(self.room().min(bytes.len()));
            self.open = crc32c::crc32c_append(self.open, now);
            self.bytes += now.len() as u64;
            if self.bytes.is_multiple_of(BLOCK_BYTES) {
                self.blocks.push(std::mem::take(&mut self.open));
            }
            bytes = later;
        }
    }

    /// Nothing more comes.
    pub(super) fn finish(mut self) -> Sums {
        if !self.bytes.is_multiple_of(BLOCK_BYTES) {
            self.blocks.push(self.open);
        }
        Sums { bytes: self.bytes, blocks: self.blocks }
    }

    /// Bytes until the block is full.
    fn room(&self) -> usize {
        usize::try_from(BLOCK_BYTES - self.bytes % BLOCK_BYTES).unwrap_or(usize::MAX)
    }
}

impl Sums {
    /// Offset and length of the whole blocks around a range; `None` if the copy has not all of it.
    pub(super) fn around(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let end = offset.checked_add(len).filter(|end| *end <= self.bytes)?;
        let start = offset - offset % BLOCK_BYTES;
        Some((start, end.next_multiple_of(BLOCK_BYTES).min(self.bytes) - start))
    }

    /// Whether whole blocks from `offset` on are what they were.
    pub(super) fn fit(&self, offset: u64, bytes: &[u8]) -> bool {
        let Ok(first) = usize::try_from(offset / BLOCK_BYTES) else { return false };
        let mut blocks = bytes.chunks(BLOCK_STEP).zip(first..);
        blocks.all(|(block, at)| self.blocks.get(at) == Some(&crc32c::crc32c(block)))
    }

    /// The file of them: magic, length of the copy (8), a checksum of each block (4), and one of the key and all that (4).
    pub(super) fn encode(&self, key: &StoreKey) -> Vec<u8> {
        let mut file = Vec::with_capacity(FIXED_BYTES + self.blocks.len() * 4);
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(&self.bytes.to_le_bytes());
        self.blocks.iter().for_each(|block| file.extend_from_slice(&block.to_le_bytes()));
        file.extend_from_slice(&bound(key, &file).to_le_bytes());
        file
    }

    /// Reads it; `None` if it is not the one of `key`.
    pub(super) fn decode(key: &StoreKey, file: &[u8]) -> Option<Sums> {
        let (body, crc) = file.split_last_chunk::<4>()?;
        let (length, blocks) = body.strip_prefix(&MAGIC)?.split_first_chunk::<8>()?;
        let bytes = u64::from_le_bytes(*length);
        let (blocks, rest) = blocks.as_chunks::<4>();
        let whole = rest.is_empty() && blocks.len() as u64 == bytes.div_ceil(BLOCK_BYTES);
        let sound = whole && u32::from_le_bytes(*crc) == bound(key, body);
        sound.then(|| Sums { bytes, blocks: blocks.iter().map(|block| u32::from_le_bytes(*block)).collect() })
    }
}

fn bound(key: &StoreKey, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_str().as_bytes()), body)
}

const MAGIC: [u8; 8] = *b"RepriseC";
/// Magic, length, checksum.
const FIXED_BYTES: usize = 8 + 8 + 4;
/// The least that is read of a copy: a few microseconds of checksum.
const BLOCK_BYTES: u64 = 64 << 10;
const BLOCK_STEP: usize = 64 << 10;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
    use proptest::prelude::*;

    use super::*;
    use crate::id::PackId;

    fn sums(bytes: &[u8], piece: usize) -> Sums {
        let mut summing = Summing::default();
        bytes.chunks(piece).for_each(|piece| summing.update(piece));
        summing.finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_range_is_read_in_whole_blocks_that_fit_until_a_bit_of_them_flips(
            len in 1..200_000usize,
            piece in 1..100_000usize,
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut bytes: Vec<u8> = (0..len).map(|at| (at % 249) as u8).collect();
            let sums = sums(&bytes, piece);
            let at = at.index(len);
            let (start, count) = sums.around(at as u64, 1).unwrap();
            let block = usize::try_from(start).unwrap()..usize::try_from(start + count).unwrap();
            prop_assert!(block.contains(&at) && sums.fit(start, &bytes[block.clone()]));
            prop_assert_eq!(sums.around(0, len as u64), Some((0, len as u64)));
            prop_assert_eq!(sums.around(at as u64, (len - at) as u64 + 1), None);
            bytes[at] ^= 1 << bit;
            prop_assert!(!sums.fit(start, &bytes[block]));
        }
    }

    #[test]
    fn the_file_reads_back_under_its_key_and_no_flip_or_cut_of_it_does() {
        let key = StoreKey::pack(PackId([1; 32]));
        for len in [0, 1, 65_536, 65_537, 400_000] {
            let sums = sums(&vec![7; len], 10_000);
            let file = sums.encode(&key);
            assert_eq!(Sums::decode(&key, &file), Some(sums));
            assert_eq!(Sums::decode(&StoreKey::pack(PackId([2; 32])), &file), None);
            for at in 0..file.len() {
                assert_eq!(Sums::decode(&key, &file[..at]), None, "cut at {at}");
                let mut flipped = file.clone();
                flipped[at] ^= 0x10;
                assert_eq!(Sums::decode(&key, &flipped), None, "flipped at {at}");
            }
        }
    }
}
