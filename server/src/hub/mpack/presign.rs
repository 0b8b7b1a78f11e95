//! `fetch/presign`: the plan of a transfer as data, and the bytes of whole packs for those who have it.
//!
//! Invariants: a row is what the repository's own index says; whatever a row needs to be decoded (its base) has a row of the same
//! pack; ranges cover every row. No pack is looked at: in a bucket each look is a request. One that is gone is met by whoever reads its
//! address. Memory is the plan, 4 bytes per object and the ranges.

use std::sync::Arc;

use bytes::Bytes;
use reprise_engine::{
    Result,
    id::{Kind, ObjectId, PackId, RepoId},
    pack::{GAP_BYTES_MAX, PIECE_BYTES, transfer},
    store::{StoreKey, address::Access},
};
use reprise_projections::{RepoRow, RepoScope, View};

use crate::{
    hub::{
        Hub, HubError, Repo, Secret,
        fetch::FetchAnswer,
        mpack::{
            fetch::Planned,
            layout::bases_of,
            plan::TransferPlan,
            tickets::{Right, Terms},
        },
        repos::RepoName,
    },
    wire::encode,
};

/// A plan with what stands around its rows in the answer.
struct Listing {
    plan: TransferPlan,
    /// Of each snapshot entry: the ordinal of its base.
    bases: Vec<Option<u32>>,
    parts: Vec<Part>,
}

/// One pack of the answer.
struct Part {
    /// Everything up to the rows.
    head: Vec<u8>,
    /// Ordinals of its entries, by kind and id.
    order: Vec<u32>,
}

/// A stored pack that may be read.
pub struct OpenedPack {
    /// Its name.
    pub pack: PackId,
    /// Bytes of its file.
    pub len: u64,
}

impl Hub {
    /// Begins the answer to a planned `fetch/presign`.
    pub async fn list_packs(
        self: &Arc<Self>,
        planned: Planned<TransferPlan>,
    ) -> std::result::Result<FetchAnswer, HubError> {
        let hub = Arc::clone(self);
        let Planned { repo, view, plan, direct, .. } = planned;
        let scope = repo.scope;
        let listing = self.blocking(move || hub.listing(&repo, plan, direct)).await?;
        let mut head = Vec::new();
        encode::map_header(&mut head, 2);
        encode::text(&mut head, "expires_in");
        encode::unsigned(&mut head, self.limits.download_time_max.as_secs());
        encode::text(&mut head, "packs");
        encode::array_header(&mut head, encode::len32(listing.parts.len()));
        let part_len = |part: &Part| part.head.len() as u64 + part.order.len() as u64 * transfer::ROW_LEN;
        let len = head.len() as u64 + listing.parts.iter().map(part_len).sum::<u64>();
        self.begin(len, move |chunks| {
            let send = |bytes: Result<Vec<u8>>| {
                let bytes = bytes.map(Bytes::from).map_err(HubError::from);
                let ended = bytes.is_err();
                chunks.blocking_send(bytes).is_ok() && !ended
            };
            let _ends = send(Ok(head)) && listing.parts.iter().all(|part| listing.part(part, &view, scope, &send));
        })
        .await
    }

    fn listing(&self, repo: &Repo, plan: TransferPlan, direct: bool) -> std::result::Result<Listing, HubError> {
        if let Some(entry) = plan.entries.iter().find(|entry| entry.whole) {
            let text = format!("{} {} cannot be read from its pack alone: use fetch/mpack", entry.kind, entry.id);
            return Err(HubError::Conflict(text));
        }
        let mut order: Vec<u32> = (0..).take(plan.entries.len()).collect();
        order.sort_unstable_by_key(|ordinal| {
            let entry = plan.entry(*ordinal);
            (entry.pack, entry.kind, entry.id)
        });
        let groups: Vec<_> = order.chunk_by(|one, other| plan.entry(*one).pack == plan.entry(*other).pack).collect();
        let mut parts = Vec::new();
        for group in groups {
            let pack = plan.location(plan.entry(group[0])).pack;
            let url = self.pack_url(repo.row.record.repo, pack, direct)?;
            let head = part_head(pack, url.expose(), &ranges(&plan, group), group.len());
            parts.push(Part { head, order: group.to_vec() });
        }
        let bases = bases_of(&plan);
        Ok(Listing { plan, bases, parts })
    }

    /// Where a pack may be read for a while: in the bucket if clients reach one, else here. A pack holds objects of one
    /// repository, whose rows located it: its address opens nothing that a reader of that repository may not see.
    fn pack_url(&self, repo: RepoId, pack: PackId, direct: bool) -> std::result::Result<Secret, HubError> {
        let life = self.limits.download_time_max;
        if direct && let Some(address) = self.bucket_address(StoreKey::pack(pack), Access::Read, life) {
            return Ok(Secret::new(address?.url));
        }
        let terms = Terms { end_s: self.now_s().saturating_add(life.as_secs()), bytes: 0 };
        let ticket = self.tickets.issue(&Right::Read(repo, pack), terms)?;
        Ok(Secret::new(format!("mpack/{pack}?ticket={}", ticket.expose())))
    }

    /// The pack that a ticket opens; the same words for every reason why it opens none, after the same work.
    pub async fn open_pack(
        self: &Arc<Self>,
        name: &RepoName,
        pack: &str,
        ticket: &str,
    ) -> std::result::Result<OpenedPack, HubError> {
        let Ok(pack) = pack.parse::<ObjectId>().map(|id| PackId(id.0)) else {
            return Err(self.not_found(&name.owner, &name.slug).await);
        };
        let (row, view) = self.find_repo(&name.owner, &name.slug).await?;
        let mut opened = self.opened_by(ticket, row, pack).await?;
        // Another server, which gave the ticket, may know more.
        if opened.is_none() && self.is_behind(&view).await? {
            let (row, _) = self.find_repo(&name.owner, &name.slug).await?;
            opened = self.opened_by(ticket, row, pack).await?;
        }
        match opened {
            Some(opened) => Ok(opened),
            None => Err(self.not_found(&name.owner, &name.slug).await),
        }
    }

    /// The pack, if the ticket is one for it. Where there is no repository it is checked all the same, against nobody's.
    async fn opened_by(
        self: &Arc<Self>,
        ticket: &str,
        row: Option<RepoRow>,
        pack: PackId,
    ) -> std::result::Result<Option<OpenedPack>, HubError> {
        let is_there = row.is_some();
        let right = Right::Read(row.map_or(NOBODYS, |row| row.record.repo), pack);
        let (hub, ticket) = (Arc::clone(self), ticket.to_owned());
        let opened = self.read(move || match hub.tickets.terms(&ticket, &right, hub.now_s())? {
            Some(_) if is_there => hub.size_of(pack).map(Some),
            _ => Ok(None),
        });
        Ok(opened.await?.map(|len| OpenedPack { pack, len }))
    }

    fn size_of(&self, pack: PackId) -> std::result::Result<u64, HubError> {
        self.engine.store().size(&StoreKey::pack(pack)).map_err(|error| match error.is_not_found() {
            true if self.is_damage(&error) => {
                HubError::NotFound(format!("pack {pack} is gone: ask fetch/mpack for what was listed of it"))
            }
            true => HubError::Unavailable(format!("pack {pack}: its store is not there now")),
            false => error.into(),
        })
    }

    /// Begins to send bytes of a pack.
    pub async fn send_stored(
        self: &Arc<Self>,
        pack: PackId,
        range: std::ops::Range<u64>,
    ) -> std::result::Result<FetchAnswer, HubError> {
        let store = Arc::clone(self.engine.store());
        self.begin(range.end - range.start, move |chunks| {
            let (key, mut at) = (StoreKey::pack(pack), range.start);
            while at < range.end {
                let len = PIECE_BYTES.min(range.end - at);
                let piece = store.read(&key, at, len).map_err(HubError::from);
                let ended = piece.is_err();
                if chunks.blocking_send(piece).is_err() || ended {
                    return;
                }
                at += len;
            }
        })
        .await
    }
}

impl Listing {
    /// Sends one pack's part; false once the answer has ended.
    fn part(&self, part: &Part, view: &View, scope: RepoScope, send: &dyn Fn(Result<Vec<u8>>) -> bool) -> bool {
        if !send(Ok(part.head.clone())) {
            return false;
        }
        let of_one_kind = part.order.chunk_by(|one, other| self.plan.entry(*one).kind == self.plan.entry(*other).kind);
        let mut pieces = of_one_kind.flat_map(|ordinals| ordinals.chunks(ROWS_AT_ONCE));
        pieces.all(|piece| send(self.rows(part, piece, view, scope)))
    }

    fn rows(&self, part: &Part, piece: &[u32], view: &View, scope: RepoScope) -> Result<Vec<u8>> {
        let hashes = self.plan.record_hashes(view, scope, piece)?;
        let mut bytes = Vec::with_capacity(piece.len() * 96);
        for (ordinal, hash) in piece.iter().zip(hashes) {
            let entry = self.plan.entry(*ordinal);
            let base = self.place_of_base(part, *ordinal);
            let row = TransferPlan::row(entry, &self.plan.location(entry), base, hash);
            bytes.extend_from_slice(&transfer::row(&row));
        }
        Ok(bytes)
    }

    /// Where the base of an entry stands among its pack's rows.
    fn place_of_base(&self, part: &Part, ordinal: u32) -> Option<u32> {
        let first = self.plan.section(Kind::Snapshot).start;
        let place = usize::try_from(ordinal).ok()?.checked_sub(first)?;
        let base = self.plan.entry(self.bases.get(place).copied().flatten()?);
        let key = |entry: &crate::hub::mpack::plan::Entry| (entry.kind, entry.id);
        let found = part.order.binary_search_by_key(&key(base), |ordinal| key(self.plan.entry(*ordinal)));
        u32::try_from(found.ok()?).ok()
    }
}

fn part_head(pack: PackId, url: &str, ranges: &[(u64, u64)], rows: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode::map_header(&mut out, 4);
    encode::text(&mut out, "pack");
    encode::id(&mut out, &pack.0);
    encode::text(&mut out, "url");
    encode::text(&mut out, url);
    encode::text(&mut out, "ranges");
    encode::array_header(&mut out, encode::len32(ranges.len()));
    for (offset, len) in ranges {
        encode::array_header(&mut out, 2);
        encode::unsigned(&mut out, *offset);
        encode::unsigned(&mut out, *len);
    }
    encode::text(&mut out, "rows");
    encode::bin_header(&mut out, encode::len32(rows * 96));
    out
}

/// What of a pack is to be read: near things together, and all from the first to the last where most of that is wanted.
fn ranges(plan: &TransferPlan, group: &[u32]) -> Vec<(u64, u64)> {
    let extent = |ordinal: &u32| {
        let entry = plan.entry(*ordinal);
        (entry.offset, u64::from(entry.stored_len))
    };
    let mut extents: Vec<(u64, u64)> = group.iter().map(extent).collect();
    extents.sort_unstable();
    let wanted: u64 = extents.iter().map(|(_, len)| len).sum();
    let first = extents.first().map_or(0, |(offset, _)| *offset);
    let whole = extents.iter().map(|(offset, len)| offset + len).max().unwrap_or(first) - first;
    if u128::from(wanted) * 100 > u128::from(whole) * MOST_PERCENT {
        return vec![(first, whole)];
    }
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (offset, len) in extents {
        match ranges.last_mut() {
            Some((start, covered)) if offset.saturating_sub(*start + *covered) <= GAP_BYTES_MAX => {
                *covered = (*covered).max(offset + len - *start);
            }
            _ => ranges.push((offset, len)),
        }
    }
    ranges
}

/// Stands for the id of a repository that is not there; no ticket is given for it.
const NOBODYS: RepoId = RepoId([0; 16]);
/// Rows of one chunk.
const ROWS_AT_ONCE: usize = 2_048;
/// With more than this wanted, what lies between is read too.
const MOST_PERCENT: u128 = 60;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use reprise_engine::event::Codec;

    use super::*;
    use crate::hub::mpack::plan::Entry;

    fn check(extents: &[(u64, u32)], expected: &[(u64, u64)]) {
        let entry = |(offset, stored_len): &(u64, u32)| Entry {
            id: ObjectId([1; 32]),
            offset: *offset,
            stored_len: *stored_len,
            real_len: *stored_len,
            pack: 0,
            kind: Kind::Blob,
            codec: Codec::Raw,
            whole: false,
        };
        let entries: Vec<Entry> = extents.iter().map(entry).collect();
        let group: Vec<u32> = (0..).take(entries.len()).collect();
        let plan = TransferPlan { packs: vec![PackId([2; 32])], entries, bases: HashMap::new() };
        assert_eq!(ranges(&plan, &group), expected);
    }

    #[test]
    fn near_entries_share_a_range_far_ones_do_not_and_what_is_mostly_wanted_is_one() {
        check(&[(128, 100)], &[(128, 100)]);
        check(&[(128, 100), (300, 100)], &[(128, 272)]);
        let far = 228 + GAP_BYTES_MAX;
        check(&[(far, 9), (128, 100)], &[(128, 109 + GAP_BYTES_MAX)]);
        check(&[(far + 1, 9), (128, 100)], &[(128, 100), (far + 1, 9)]);
        // Two thirds of what lies between the first and the last are wanted, or not quite.
        let gap = u32::try_from(GAP_BYTES_MAX).unwrap_or(u32::MAX) + 1;
        check(&[(128, gap), (128 + 2 * u64::from(gap), gap)], &[(128, 3 * u64::from(gap))]);
        let behind = 128 + 3 * u64::from(gap);
        check(&[(128, gap), (behind, gap)], &[(128, u64::from(gap)), (behind, u64::from(gap))]);
    }
}
