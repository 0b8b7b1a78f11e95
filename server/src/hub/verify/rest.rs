//! What only a scrub reads: the log's segments in the bucket, and the copies beside it.
//!
//! Invariants: a segment is compared byte by byte with the local one, whose frames were read before; where they differ, the one that
//! proves itself is right. A copy is what its name says or it goes.

use reprise_engine::{engine::SegmentInfo, store::StoreKey};
use serde_json::json;

use super::{Walk, cursor::Stage, mend::Mended};
use crate::hub::HubError;

impl Walk<'_> {
    /// How many bytes are to be read.
    pub(super) fn measure(&mut self) -> Result<(), HubError> {
        let mut ahead = 0;
        for segment in self.archived_segments() {
            if !self.is_past(Stage::Archived, StoreKey::segment(segment.first).as_str()) {
                ahead += segment.bytes;
            }
        }
        for (pack, named) in &self.named.packs {
            if !self.is_past(Stage::Packs, &pack.to_string()) {
                ahead += named.bytes;
            }
        }
        for (key, bytes) in self.hub.engine.store().copies().map(|copies| copies.keys()).unwrap_or_default() {
            if !self.is_past(Stage::Copies, key.as_str()) {
                ahead += bytes;
            }
        }
        self.ahead = ahead;
        Ok(())
    }

    /// Those that the bucket should have: in a log of one server, all that are sealed.
    fn archived_segments(&self) -> Vec<SegmentInfo> {
        let archived = self.hub.engine.archived();
        let there = |segment: &SegmentInfo| {
            self.hub.archiving && segment.sealed && (!self.hub.shared || segment.last <= archived)
        };
        self.hub.engine.segments().into_iter().filter(there).collect()
    }

    /// The segments that the bucket has taken.
    pub(super) fn archived(&mut self) -> Result<(), HubError> {
        for segment in self.archived_segments() {
            let key = StoreKey::segment(segment.first);
            if self.ended {
                return Ok(());
            }
            if self.is_past(Stage::Archived, key.as_str()) {
                continue;
            }
            let state = self.hub.engine.judge_archived(segment.first)?;
            match self.mend_segment(&segment, &state)? {
                Mended::Yes(what) => {
                    self.found.repaired += 1;
                    self.tell(json!({"repaired": {"what": "segment", "file": key.as_str(), "detail": what}}));
                }
                Mended::Could(what) => {
                    self.found(false, json!({"what": "segment", "file": key.as_str(), "detail": what}));
                }
                Mended::No => {}
            }
            self.found.segments += 1;
            self.past(Stage::Archived, key.as_str(), segment.bytes)?;
        }
        Ok(())
    }

    /// The copies. What is wrong with one is no damage: the bucket has the pack.
    pub(super) fn copies(&mut self) -> Result<(), HubError> {
        let Some(copies) = self.hub.engine.store().copies() else { return Ok(()) };
        for (key, bytes) in copies.keys() {
            if self.ended {
                return Ok(());
            }
            if self.is_past(Stage::Copies, key.as_str()) {
                continue;
            }
            if !copies.is_whole(&key) {
                self.found.repaired += 1;
                let detail = "a damaged local copy was dropped: the bucket has the pack";
                self.tell(json!({"repaired": {"what": "copy", "file": key.as_str(), "detail": detail}}));
            }
            self.found.copies += 1;
            self.past(Stage::Copies, key.as_str(), bytes)?;
        }
        Ok(())
    }
}
