//! Every pack that the log names, where the store keeps it.
//!
//! Invariants: a verification only says what it finds; a scrub first has a pack made whole ([`super::mend`]), and condemns the rows of
//! what is damaged and cannot be, so that the next push of the same content heals them.

use std::time::Duration;

use reprise_engine::{
    Error,
    id::{Kind, ObjectId, PackId},
    pack,
    store::StoreKey,
};
use serde_json::json;

use super::{
    Walk,
    cursor::Stage,
    mend::Mended,
    named::{Judge, NamedPack, rows_of},
};
use crate::hub::HubError;

/// Why a pack does not verify.
enum Wrong {
    /// Its bytes are gone or not what was accepted.
    Damaged(String),
    /// It could not be read now.
    NotRead(HubError),
}

type Bad = Vec<(Kind, ObjectId, String)>;

impl Walk<'_> {
    /// All of them, by id.
    pub(super) fn packs(&mut self) -> Result<(), HubError> {
        if !self.hub.projections.wait_folded(self.named.read, FOLD_WAIT_MAX) {
            return Err(HubError::Unavailable(
                "the index does not catch up with the log: try again when it has".to_owned(),
            ));
        }
        let packs: Vec<(PackId, NamedPack)> = self.named.packs.iter().map(|(pack, named)| (*pack, *named)).collect();
        for (pack, expected) in &packs {
            let name = pack.to_string();
            if self.ended {
                return Ok(());
            }
            if self.is_past(Stage::Packs, &name) {
                continue;
            }
            self.pack(*pack, expected)?;
            self.found.packs += 1;
            self.past(Stage::Packs, &name, expected.bytes)?;
            if self.orders.scrub.is_none() {
                let (done, bytes) = (self.found.packs, self.found.bytes);
                self.tell(json!({"progress": {"what": "packs", "done": done, "total": packs.len(), "bytes": bytes}}));
            }
        }
        Ok(())
    }

    fn pack(&mut self, pack: PackId, expected: &NamedPack) -> Result<(), HubError> {
        let mut bad = Bad::new();
        let mut wrong = self.judged(pack, expected, &mut bad)?;
        if self.orders.scrub.is_some() && (wrong.is_some() || !bad.is_empty()) {
            match self.mend_pack(pack)? {
                Mended::Yes(what) => {
                    self.found.repaired += 1;
                    self.tell(json!({"repaired": {"what": "pack", "pack": pack.to_string(), "detail": what}}));
                    bad.clear();
                    wrong = self.judged(pack, expected, &mut bad)?;
                }
                Mended::Could(what) => {
                    let named = StoreKey::pack(pack).to_string();
                    self.found(false, json!({"what": "pack", "file": named, "pack": pack.to_string(), "detail": what}));
                    return Ok(());
                }
                Mended::No => {}
            }
        }
        self.findings(pack, expected, wrong, &bad)
    }

    fn findings(
        &mut self,
        pack: PackId,
        expected: &NamedPack,
        wrong: Option<String>,
        bad: &Bad,
    ) -> Result<(), HubError> {
        let view = self.hub.projections.view();
        let row = view.repo(expected.repo)?;
        let all = if wrong.is_some() { rows_of(self.hub, pack, expected.position)? } else { Vec::new() };
        let judge = Judge { view: &view, named: &self.named, repo: expected.repo, pack };
        let (mut lines, mut condemned) = (Vec::new(), Vec::new());
        if let Some(detail) = wrong {
            let repo = row.as_ref().map(|row| format!("{}/{}", row.record.owner, row.record.slug));
            let healed = judge.all_healed(&all)?;
            condemned.extend(all.iter().filter(|_| !healed).map(|row| (*row, detail.clone())));
            lines.push((
                healed,
                json!({
                    "what": "pack", "pack": pack.to_string(), "repo": repo, "repo_id": expected.repo.to_string(),
                    "position": expected.position.0, "objects": expected.objects, "detail": detail,
                }),
            ));
        }
        for (kind, id, detail) in bad {
            let healed = judge.healed(*kind, *id)?;
            condemned.extend((!healed).then(|| ((*kind, *id), detail.clone())));
            lines.push((healed, judge.object(*kind, *id, detail)));
        }
        for (kind, id) in judge.condemned().filter(|at| !bad.iter().any(|(kind, id, _)| (*kind, *id) == *at)) {
            if !judge.healed(kind, id)? {
                lines.push((false, judge.object(kind, id, "condemned, and not pushed again since")));
            }
        }
        for (healed, line) in lines {
            self.found(healed, line);
        }
        if self.orders.scrub.is_some()
            && let (Some(row), Some((_, reason))) = (row, condemned.first())
        {
            let rows = condemned.iter().map(|(row, _)| *row).collect();
            self.found.condemned += self.hub.condemn(row.scope(), pack, rows, reason);
        }
        Ok(())
    }

    /// What is wrong with all of a pack; what is wrong with single entries goes into `bad`.
    fn judged(&self, pack: PackId, expected: &NamedPack, bad: &mut Bad) -> Result<Option<String>, HubError> {
        match self.verified(pack, expected, bad) {
            Ok(()) => Ok(None),
            Err(Wrong::Damaged(detail)) => Ok(Some(detail)),
            Err(Wrong::NotRead(error)) => Err(error),
        }
    }

    fn verified(&self, pack: PackId, expected: &NamedPack, bad: &mut Bad) -> Result<(), Wrong> {
        let wrong = |error: Error| match self.hub.is_damage(&error) {
            true => Wrong::Damaged(error.to_string()),
            false => Wrong::NotRead(error.into()),
        };
        let size = self.store.size(&StoreKey::pack(pack)).map_err(wrong)?;
        if size != expected.bytes {
            return Err(Wrong::Damaged(format!("{size} bytes, the log says {}", expected.bytes)));
        }
        let described = match self.orders.deep {
            true => pack::verify(&*self.store, pack, &mut |kind, id, detail| bad.push((kind, id, detail))),
            false => pack::describe(&*self.store, pack),
        };
        if described.map_err(wrong)?.stored.table_hash != expected.table_hash {
            return Err(Wrong::Damaged("its table is not the one that was accepted".to_owned()));
        }
        Ok(())
    }
}

/// How long the index may take to show the end of the log.
const FOLD_WAIT_MAX: Duration = Duration::from_secs(60);
