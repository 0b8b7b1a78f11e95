//! Making whole what the store has damaged or lost, from what lies here and proves itself.
//!
//! Invariants: a key that is gone is created again; one that holds other bytes is deleted and created only when that was ordered, when
//! nobody else reads that store, after those bytes are kept under `damaged/` in the data directory, and with the good ones in hand;
//! nothing is put anywhere that does not hash to its name (packs) or continue the chain to a sound footer (segments). Nobody
//! overwrites a key.

use reprise_engine::{
    archive::AtRest,
    disk::Disk,
    doctor,
    engine::SegmentInfo,
    id::PackId,
    store::{Staged, StoreKey, files::StoreFiles, s3::Copies},
};
use sha2::{Digest, Sha256};

use super::Walk;
use crate::hub::HubError;

/// What became of something damaged.
pub(super) enum Mended {
    /// It is whole: how.
    Yes(String),
    /// It could be: what is wrong, and what helps.
    Could(String),
    /// There is nothing to do about it here.
    No,
}

impl Walk<'_> {
    /// A pack that is damaged or gone in the store.
    pub(super) fn mend_pack(&self, pack: PackId) -> Result<Mended, HubError> {
        let key = StoreKey::pack(pack);
        let Some(copies) = self.hub.engine.store().copies().filter(|copies| copies.is_whole(&key)) else {
            return Ok(Mended::No);
        };
        let stands = match self.store.size(&key) {
            Err(error) if error.is_not_found() => false,
            Err(error) => return Err(error.into()),
            // Whoever finds it absent condemns what it holds, for good.
            Ok(_) if self.hub.shared => {
                let text = format!("it is damaged in the bucket; the local copy is sound: {WITHOUT_OTHERS}");
                return Ok(Mended::Could(text));
            }
            Ok(_) if !self.repairs() => {
                let text =
                    "it is damaged in the bucket; the local copy is sound: `reprise scrub --repair` puts it there";
                return Ok(Mended::Could(text.to_owned()));
            }
            Ok(_) => true,
        };
        // Before the key goes: a copy may give way to another one at any moment, and a disk may be full.
        let Some(good) = self.good_bytes(copies, pack)? else { return Ok(Mended::No) };
        let kept = if stands { Some(self.take_away(&key)?) } else { None };
        good.commit(&key)?;
        Ok(Mended::Yes(put("the local copy", kept)))
    }

    /// What a copy holds, ready to be put under its key; `None` if the copy is gone, or not what it was a moment ago.
    fn good_bytes(&self, copies: &Copies, pack: PackId) -> Result<Option<Box<dyn Staged>>, HubError> {
        let (mut staged, mut hash) = (self.store.stage()?, Sha256::new());
        let read = copies.whole(&StoreKey::pack(pack), &mut |piece| {
            hash.update(piece);
            staged.write(piece)
        });
        match read {
            Err(error) if error.is_not_found() => return Ok(None),
            read => read?,
        }
        Ok((pack.0[..] == hash.finalize()[..]).then_some(staged))
    }

    /// A segment that the bucket has taken.
    pub(super) fn mend_segment(&self, segment: &SegmentInfo, state: &AtRest) -> Result<Mended, HubError> {
        let key = StoreKey::segment(segment.first);
        let kept = match state {
            AtRest::Same => return Ok(Mended::No),
            AtRest::Neither(why) => return Ok(Mended::Could(why.clone())),
            AtRest::Here(why) => {
                let help = "the bucket's is sound: stop the server, `reprise doctor --repair` takes it";
                return Ok(Mended::Could(format!("the local segment is damaged ({why}); {help}")));
            }
            AtRest::Missing => None,
            // Whoever finds it absent believes that no slot was deleted yet (FORMAT.md §5.3).
            AtRest::There(why) if self.hub.shared => {
                return Ok(Mended::Could(format!("{why}; the local one is sound: {WITHOUT_OTHERS}")));
            }
            AtRest::There(why) if !self.repairs() => {
                let help = "`reprise scrub --repair` puts it there";
                return Ok(Mended::Could(format!("{why}; the local one is sound: {help}")));
            }
            AtRest::There(_) => Some(self.take_away(&key)?),
        };
        self.hub.engine.bring_again(segment.first)?;
        Ok(Mended::Yes(put("the local segment", kept)))
    }

    fn repairs(&self) -> bool {
        self.orders.scrub.is_some_and(|scrub| scrub.repair)
    }

    /// Keeps what stands under a key, durably, and then deletes it.
    fn take_away(&self, key: &StoreKey) -> Result<String, HubError> {
        let stamp = format!("scrub-{}", self.cursor.as_ref().map_or(0, |cursor| cursor.began_ms));
        let damaged = StoreFiles::new(self.store.clone()).open(key.as_str())?;
        let kept = doctor::keep_aside(&*damaged, &**self.hub.engine.disk(), &format!("bucket/{key}"), &stamp)?;
        self.store.delete(key)?;
        Ok(kept)
    }
}

/// How what servers share is mended.
const WITHOUT_OTHERS: &str = "stop the other servers, delete the key, scrub again: then it is brought";

fn put(from: &str, kept: Option<String>) -> String {
    match kept {
        None => format!("it was not there: put there from {from}"),
        Some(kept) => format!("replaced by {from}; what stood there is kept as {kept} in the data directory"),
    }
}
