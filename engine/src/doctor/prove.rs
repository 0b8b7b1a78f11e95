//! A sealed segment that proves itself, wherever it lies.
//!
//! Invariant: every byte that anybody will ever look at is covered: both headers, every frame and the chain, the footer's sections.

use super::segment;
use crate::{
    disk::Disk,
    engine::Durable,
    error::{Error, Result},
    id::{ChainHash, LogId, Position},
};

/// Reads the sealed segment of `log` at `path`, which begins at `first` behind `previous`, and says where it ends. `Corrupt` with
/// what is wrong with it.
pub fn prove_sealed(
    disk: &dyn Disk,
    path: &str,
    (log, first, previous): (LogId, Position, ChainHash),
) -> Result<Durable> {
    let opened = segment::open(disk, path)?;
    let wrong = |offset: u64, what: &str| Err(Error::corrupt(path, offset, what));
    let header = &opened.header;
    if (header.log, header.first, header.previous) != (log, first, previous) {
        return wrong(0, "the segment is not the one that belongs here");
    }
    if opened.header_hurt {
        return wrong(0, "one of the two copies of the header is damaged");
    }
    let Some(trailer) = &opened.trailer else { return wrong(opened.len, "the segment has no sound footer") };
    let walked = opened.walk(None, &mut |group| group.decode().map(drop))?;
    if let Some(hole) = walked.holes.first() {
        return wrong(hole.bytes.0, &hole.why);
    }
    if (walked.next, walked.chain) != (trailer.last.next(), trailer.chain) {
        return wrong(walked.end, &walked.why);
    }
    match opened.footer_sound()? {
        true => Ok(Durable { position: trailer.last, chain: trailer.chain }),
        false => wrong(walked.end, "index, push ids or state in the footer are damaged"),
    }
}
