//! Fuzzing (T16): every reader of bytes that a disk, a store or a client hands in, as a plain function over bytes.
//!
//! Invariants: [`TARGETS`] is the only list, and the gate, the coverage-guided run and the kept corpus follow it; a target
//! panics exactly when its promise does not hold; equal bytes give equal runs. The promise of each: no input makes it panic,
//! memory is bounded by the input and a constant, what can be decoded and encoded comes back equal, a canonical form is a
//! fixed point.
//!
//! Readers that the engine keeps to itself (segment header, frames, footer and its sections, anchor) are reached through the
//! smallest public door that reads them: an engine opened on a simulated disk that holds the bytes. Nothing behind a
//! checksum would ever be reached by chance, so `forge` makes checksums right first where the input's first byte says so;
//! it is written from FORMAT.md and shares no code with the engine.

use std::path::PathBuf;

pub mod corpus;
mod endpoints;
mod event;
mod forge;
mod log;
pub mod memory;
mod mutate;
mod pack;
mod record;
mod wire;

pub use mutate::mutated;

/// One reader under fuzz.
pub struct Target {
    /// Its name: of its corpus, of its test, and for `tests/fuzz`.
    pub name: &'static str,
    /// Reads the bytes; panics when the promise does not hold.
    pub run: fn(&[u8]),
    /// Well-formed inputs to begin with, made by the product or taken from the golden files.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longer inputs are not tried.
    pub input_bytes_max: usize,
    /// Bytes of memory that it may take for any input.
    pub memory_base: u64,
    /// Bytes of memory that it may take for each byte of its input.
    pub memory_per_byte: u64,
    /// Inputs that the gate tries.
    pub gate: u64,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "log_segment",
        run: log::segment,
        seeds: log::segment_seeds,
        input_bytes_max: 8 << 10,
        memory_base: 16 << 20,
        memory_per_byte: 256,
        gate: 50_000,
    },
    Target {
        name: "log_frames",
        run: log::frames,
        seeds: log::frames_seeds,
        input_bytes_max: 8 << 10,
        memory_base: 16 << 20,
        memory_per_byte: 256,
        gate: 50_000,
    },
    Target {
        name: "log_sealed",
        run: log::sealed,
        seeds: log::segment_seeds,
        input_bytes_max: 8 << 10,
        memory_base: 16 << 20,
        memory_per_byte: 256,
        gate: 50_000,
    },
    Target {
        name: "log_small_files",
        run: log::small_files,
        seeds: log::small_file_seeds,
        input_bytes_max: 256,
        memory_base: 16 << 20,
        memory_per_byte: 256,
        gate: 12_000,
    },
    Target {
        name: "pack",
        run: pack::pack,
        seeds: pack::seeds,
        input_bytes_max: 64 << 10,
        // A record of a few bytes may decode to its limit of 32 MiB; it and its base are held, and a growing copy of one.
        memory_base: 128 << 20,
        memory_per_byte: 64,
        gate: 30_000,
    },
    Target {
        name: "event",
        run: event::event,
        seeds: event::seeds,
        input_bytes_max: 80 << 10,
        memory_base: 4 << 20,
        memory_per_byte: 64,
        gate: 2_000_000,
    },
    Target {
        name: "canonical_json",
        run: record::canonical_json,
        seeds: record::seeds,
        input_bytes_max: 16 << 10,
        memory_base: 1 << 20,
        memory_per_byte: 512,
        gate: 600_000,
    },
    Target {
        name: "commit",
        run: record::commit,
        seeds: record::commit_seeds,
        input_bytes_max: 16 << 10,
        memory_base: 1 << 20,
        memory_per_byte: 512,
        gate: 600_000,
    },
    Target {
        name: "snapshot",
        run: record::snapshot,
        seeds: record::snapshot_seeds,
        input_bytes_max: 16 << 10,
        memory_base: 1 << 20,
        memory_per_byte: 512,
        gate: 600_000,
    },
    Target {
        name: "wire_request",
        run: wire::request,
        seeds: wire::request_seeds,
        input_bytes_max: 16 << 10,
        memory_base: 1 << 20,
        memory_per_byte: 512,
        gate: 1_000_000,
    },
    Target {
        name: "wire_value",
        run: wire::value,
        seeds: wire::value_seeds,
        input_bytes_max: 16 << 10,
        memory_base: 1 << 20,
        memory_per_byte: 1_024,
        gate: 1_000_000,
    },
    Target {
        name: "wire_transcode",
        run: wire::transcode,
        seeds: record::seeds,
        input_bytes_max: 16 << 10,
        memory_base: 1 << 20,
        memory_per_byte: 512,
        gate: 1_000_000,
    },
    Target {
        name: "endpoints",
        run: endpoints::endpoints,
        seeds: endpoints::seeds,
        input_bytes_max: 16 << 10,
        // A whole hub works beside it: its index and its log take memory of their own.
        memory_base: 96 << 20,
        memory_per_byte: 1_024,
        gate: 20_000,
    },
];

impl Target {
    /// The target of a name; panics naming all of them if there is none.
    pub fn named(name: &str) -> &'static Target {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("{name:?} is none of {names:?}"))
    }

    /// Runs one input and holds the target to its memory.
    pub fn check(&self, input: &[u8]) {
        let allowed = self.memory_base + self.memory_per_byte * input.len() as u64;
        let taken = memory::taken_by(|| (self.run)(input));
        assert!(
            taken <= allowed,
            "{}: {} bytes took {taken} bytes of memory, more than {allowed}",
            self.name,
            input.len()
        );
    }

    /// Where its corpus is kept.
    pub fn corpus_dir(&self) -> PathBuf {
        corpus::root().join(self.name)
    }

    /// The kept corpus and the seeds: what the gate starts from.
    pub fn pool(&self) -> Vec<Vec<u8>> {
        let mut pool = corpus::kept(&self.corpus_dir());
        pool.extend((self.seeds)());
        pool
    }
}

/// The first byte says what is made right, the rest is the input.
fn split(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(first, rest)| (*first, rest))
}
