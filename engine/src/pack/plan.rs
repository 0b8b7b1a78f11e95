//! Planning of reads: which byte ranges of which packs answer a list of objects.
//!
//! Invariants: input is sorted by (pack, offset) and output keeps that order; a range never passes
//! [`RANGE_BYTES_MAX`] unless one object alone does; what the plan counts is exactly what [`super::RangeReader`] reads.

use crate::id::PackId;

/// What the planner needs to know about one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlanItem {
    /// In which pack.
    pub pack: PackId,
    /// Byte offset of the stored form.
    pub offset: u64,
    /// Bytes of the stored form.
    pub stored_len: u64,
    /// True for a blob over [`super::WHOLE_BYTES_MAX`]: it is read by itself, piece by piece.
    pub large: bool,
}

impl PlanItem {
    /// The planner's view of a location.
    pub fn of(kind: crate::id::Kind, location: &super::Location) -> PlanItem {
        PlanItem {
            pack: location.pack,
            offset: location.offset,
            stored_len: location.stored_len,
            large: super::is_large(kind, location),
        }
    }
}

/// One ranged read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlannedRange {
    /// In which pack.
    pub pack: PackId,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// How many objects of the input, in order, lie in it (at least 1).
    pub objects: usize,
    /// One large blob: read in pieces of [`super::PIECE_BYTES`] instead of one read.
    pub large: bool,
}

/// Ranges in order, and what they cost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadPlan {
    /// In the order of the objects.
    pub ranges: Vec<PlannedRange>,
    /// Bytes that the ranges read.
    pub bytes: u64,
    /// Ranged reads they take (bases outside a range are read besides, see [`super::RangeReader::base_reads`]).
    pub reads: u64,
}

/// Coalesces objects, sorted by (pack, offset), into ranges: gaps up to [`GAP_BYTES_MAX`] are read through; where more
/// than 60 % of what lies between a pack's first and last wanted byte is wanted, every gap is.
pub fn plan_ranges<I: Iterator<Item = PlanItem> + Clone>(items: I) -> ReadPlan {
    let mut plan = ReadPlan::default();
    let mut rest = items.peekable();
    while let Some(pack) = rest.peek().map(|item| item.pack) {
        let ahead = rest.clone().take_while(|item| item.pack == pack);
        let gap_max = if mostly_wanted(ahead) { RANGE_BYTES_MAX } else { GAP_BYTES_MAX };
        while let Some(item) = rest.next_if(|item| item.pack == pack) {
            push_item(&mut plan.ranges, item, gap_max);
        }
    }
    plan.bytes = plan.ranges.iter().map(|range| range.len).sum();
    plan.reads =
        plan.ranges.iter().map(|range| if range.large { range.len.div_ceil(super::PIECE_BYTES) } else { 1 }).sum();
    plan
}

fn mostly_wanted(items: impl Iterator<Item = PlanItem>) -> bool {
    let (mut first, mut end, mut wanted) = (None, 0u64, 0u64);
    for item in items {
        first = first.or(Some(item.offset));
        end = end.max(item.offset.saturating_add(item.stored_len));
        wanted = wanted.saturating_add(item.stored_len);
    }
    let span = end.saturating_sub(first.unwrap_or(end));
    u128::from(wanted) * 100 > u128::from(span) * 60
}

fn push_item(ranges: &mut Vec<PlannedRange>, item: PlanItem, gap_max: u64) {
    let end = item.offset.saturating_add(item.stored_len);
    if let Some(last) = ranges.last_mut().filter(|last| last.pack == item.pack && !last.large && !item.large) {
        let last_end = last.offset + last.len;
        let merged = end.max(last_end).saturating_sub(last.offset);
        let sorted = item.offset >= last.offset;
        if sorted && item.offset.saturating_sub(last_end) <= gap_max && merged <= RANGE_BYTES_MAX {
            last.len = merged;
            last.objects += 1;
            return;
        }
    }
    let len = end - item.offset;
    ranges.push(PlannedRange { pack: item.pack, offset: item.offset, len, objects: 1, large: item.large });
}

/// Gaps up to this many bytes are cheaper to read than to skip.
pub const GAP_BYTES_MAX: u64 = 64 << 10;
/// A reader holds one range at a time.
pub const RANGE_BYTES_MAX: u64 = 8 << 20;

const _: () = assert!(GAP_BYTES_MAX < RANGE_BYTES_MAX);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
    use super::*;

    fn item(pack: u8, offset: u64, stored_len: u64) -> PlanItem {
        PlanItem { pack: PackId([pack; 32]), offset, stored_len, large: false }
    }

    #[test]
    fn near_objects_share_a_range_and_far_ones_do_not() {
        let plan = plan_ranges([item(1, 100, 10), item(1, 200, 10), item(1, 10 << 20, 10), item(2, 0, 5)].into_iter());
        let seen: Vec<_> = plan.ranges.iter().map(|range| (range.offset, range.len, range.objects)).collect();
        assert_eq!(seen, [(100, 110, 2), (10 << 20, 10, 1), (0, 5, 1)]);
        assert_eq!((plan.bytes, plan.reads), (125, 3));
    }

    #[test]
    fn a_mostly_wanted_pack_is_read_through_its_gaps() {
        let mib = 1 << 20;
        let plan = plan_ranges([item(1, 0, 2 * mib), item(1, 3 * mib, 2 * mib)].into_iter());
        assert_eq!(plan.ranges.len(), 1);
        let plan = plan_ranges([item(1, 0, mib), item(1, 3 * mib, mib)].into_iter());
        assert_eq!(plan.ranges.len(), 2);
    }

    #[test]
    fn no_range_of_several_objects_passes_its_cap() {
        let plan = plan_ranges((0..100).map(|index| item(1, index * 1_000_000, 1_000_000)));
        assert!(plan.ranges.iter().all(|range| range.len <= RANGE_BYTES_MAX));
        assert_eq!(plan.ranges.iter().map(|range| range.objects).sum::<usize>(), 100);
        assert_eq!(plan.bytes, 100_000_000);
    }
}
