//! Compression decisions: raw, zstd, or zstd against a keyframe.
//!
//! Invariants: what saves less than 5 % is stored raw; a frame states its content size; windows stay within what
//! [`super::decode`] accepts. Must never decide from anything but the bytes (equal input, equal output).

use std::io;

use zstd::{bulk::Compressor, zstd_safe};

use crate::error::{Error, ErrorKind, Result};

/// Reusable zstd state of one writer.
pub(super) struct Squeezer {
    zstd: Compressor<'static>,
    out: Vec<u8>,
}

impl Squeezer {
    /// A fresh context.
    pub fn new() -> Result<Squeezer> {
        Ok(Squeezer { zstd: Compressor::new(LEVEL_BLOB).map_err(failed)?, out: Vec::new() })
    }

    /// The zstd form of `bytes` if it saves at least 5 %.
    pub fn squeeze(&mut self, bytes: &[u8]) -> Result<Option<&[u8]>> {
        if bytes.len() < SQUEEZE_BYTES_MIN || looks_random(bytes) {
            return Ok(None);
        }
        self.out.clear();
        self.out.reserve(zstd_safe::compress_bound(bytes.len()));
        self.zstd.compress_to_buffer(bytes, &mut self.out).map_err(failed)?;
        let good = saves(self.out.len(), bytes.len());
        // A 256 MiB blob must not leave its buffer behind for the rest of the pack.
        if self.out.capacity() > KEPT_BYTES_MAX && !good {
            self.out = Vec::new();
        }
        Ok(good.then_some(self.out.as_slice()))
    }
}

/// `bytes` as one zstd frame with `prefix` before it.
pub(super) fn squeeze_against(prefix: &[u8], bytes: &[u8]) -> Result<Vec<u8>> {
    let code = |code| failed(io::Error::other(zstd_safe::get_error_name(code)));
    let mut context = zstd_safe::CCtx::create();
    context.set_parameter(zstd_safe::CParameter::CompressionLevel(LEVEL_DELTA)).map_err(code)?;
    // The window must reach back over the payload into all of the prefix, and long-distance matching finds what is there.
    let window_log = (prefix.len() + bytes.len()).max(1024).next_power_of_two().trailing_zeros();
    assert!(window_log <= WINDOW_LOG_MAX, "records and keyframes are capped");
    context.set_parameter(zstd_safe::CParameter::WindowLog(window_log)).map_err(code)?;
    context.set_parameter(zstd_safe::CParameter::EnableLongDistanceMatching(true)).map_err(code)?;
    context.ref_prefix(prefix).map_err(code)?;
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    context.compress2(&mut out, bytes).map_err(code)?;
    Ok(out)
}

/// True if storing `squeezed` instead of `real` bytes saves at least 5 %.
pub(super) fn saves(squeezed: usize, real: usize) -> bool {
    squeezed <= real - real / 20
}

/// True if a look at the start says that zstd would find nothing: bytes as even as random ones, and no repeats. Wrong
/// guesses cost space only.
pub(super) fn looks_random(bytes: &[u8]) -> bool {
    let sample = &bytes[..bytes.len().min(SAMPLE_BYTES)];
    if sample.len() < SAMPLE_BYTES_MIN {
        return false;
    }
    let mut counts = [[0u32; 256]; 2];
    for pair in sample.chunks_exact(2) {
        counts[0][usize::from(pair[0])] += 1;
        counts[1][usize::from(pair[1])] += 1;
    }
    let squares: u64 = (0..256).map(|byte| u64::from(counts[0][byte] + counts[1][byte]).pow(2)).sum();
    // Random bytes: the sum of squares is n + n²/256 on average. A saving of 5 % by frequencies alone needs > 1.3 ×.
    let len = sample.len() as u64;
    squares * 256 < (len * 256 + len * len) * 115 / 100 && !has_repeats(sample)
}

/// Looks for equal 4-byte words at a stride through a small table: long repeats show, chance hits do not.
fn has_repeats(sample: &[u8]) -> bool {
    let mut seen = [0u32; 256];
    let mut hits = 0;
    for word in sample.windows(4) {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        // Content-chosen positions (1 in 16), so that a repeat at any distance meets itself.
        let mixed = word.wrapping_mul(0x9e37_79b1);
        if mixed >> 28 == 0 {
            let slot = usize::from(mixed.to_le_bytes()[2]);
            hits += u32::from(seen[slot] == word && word != 0);
            seen[slot] = word;
        }
    }
    hits > 4
}

pub(super) fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("zstd failed to compress: {error}"))
}

/// Level of blobs and keyframes.
pub(super) const LEVEL_BLOB: i32 = 1;
const LEVEL_DELTA: i32 = 3;
/// Windows of prefix frames: a record of 32 MiB after a keyframe of at most 8 MiB.
pub(super) const WINDOW_LOG_MAX: u32 = 26;
/// A zstd frame of so little would only grow.
const SQUEEZE_BYTES_MIN: usize = 32;
/// How much of a blob is looked at.
pub(super) const SAMPLE_BYTES: usize = 4096;
const SAMPLE_BYTES_MIN: usize = 1024;
const KEPT_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(crate::limits::RECORD_BYTES_MAX + super::KEYFRAME_BYTES_MAX <= 1 << WINDOW_LOG_MAX);
