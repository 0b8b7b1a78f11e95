//! The local log: segment files of checksummed, chained frames, one writer, group commit.
//!
//! Follow one append: `writer` (the state machine) decides and builds frames, [`files`] writes and syncs them,
//! [`published`] shows them to followers. Follow one open: `recover` scans with [`scan`], judges the tail, hands over.
//! Bytes are in FORMAT.md, section 4. Nothing here is overwritten once it was synced, except by the footer of a segment
//! whose last group was first copied, durably, into the next one.

pub(crate) mod anchor;
pub(crate) mod bucket;
pub(crate) mod drive;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod footer;
pub(crate) mod frame;
pub(crate) mod header;
mod helper;
pub(crate) mod published;
pub(crate) mod push_ids;
mod queued;
pub(crate) mod refold;
pub(crate) mod repair;
pub(crate) mod scan;
pub(crate) mod segment;
pub(crate) mod slot;
pub(crate) mod state_codec;
pub(crate) mod survey;

#[cfg(test)]
mod tests;
