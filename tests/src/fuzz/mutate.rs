//! Blind mutation, for the gate: what a fuzzer without an eye for coverage does, from one seed.
//!
//! Invariant: the same random source and pool give the same bytes.

use rand::{Rng, RngExt, rngs::StdRng};

/// An input of the pool with one to eight changes, at most `bytes_max` bytes.
pub fn mutated(random: &mut StdRng, pool: &[Vec<u8>], bytes_max: usize) -> Vec<u8> {
    let mut bytes = pool[random.random_range(0..pool.len())].clone();
    for _ in 0..random.random_range(1..=8) {
        change(random, pool, &mut bytes);
    }
    bytes.truncate(bytes_max);
    bytes
}

fn change(random: &mut StdRng, pool: &[Vec<u8>], bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        bytes.push(random.random());
        return;
    }
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..9) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => bytes[at] = bytes[at].wrapping_add(random.random_range(0..17)).wrapping_sub(8),
        3 => overwrite(bytes, at, number(random)),
        4 => drop(bytes.drain(at..bytes.len().min(at + random.random_range(1..32)))),
        5 => bytes.truncate(at),
        6 => {
            let (from, len) = (random.random_range(0..bytes.len()), random.random_range(1..64));
            let piece = bytes[from..bytes.len().min(from + len)].to_vec();
            bytes.splice(at..at, piece);
        }
        7 => {
            let other = &pool[random.random_range(0..pool.len())];
            let from = random.random_range(0..=other.len());
            let piece = other[from..other.len().min(from + random.random_range(1..256))].to_vec();
            let end = bytes.len().min(at + if random.random() { piece.len() } else { 0 });
            bytes.splice(at..end, piece);
        }
        _ => {
            let mut piece = vec![0; random.random_range(1..16)];
            random.fill_bytes(&mut piece);
            bytes.splice(at..at, piece);
        }
    }
}

/// A number at which readers tend to trip, in one of both byte orders and four widths.
fn number(random: &mut StdRng) -> Vec<u8> {
    const EDGES: [u64; 12] = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0xffff_ffff,
        0x7fff_ffff_ffff_ffff,
        u64::MAX - 1,
        u64::MAX,
    ];
    let edge = EDGES[random.random_range(0..EDGES.len())];
    let width = 1 << random.random_range(0..4);
    let mut bytes = edge.to_le_bytes()[..width].to_vec();
    if random.random() {
        bytes.reverse();
    }
    bytes
}

fn overwrite(bytes: &mut [u8], at: usize, piece: Vec<u8>) {
    let end = bytes.len().min(at + piece.len());
    bytes[at..end].copy_from_slice(&piece[..end - at]);
}
