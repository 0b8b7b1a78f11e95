//! What a recovery found, and what nobody can know.

use reprise_engine::{
    Result,
    id::{PackId, RepoId},
};
use serde_json::{Value, json};

use super::{
    DamagedPack, Said,
    place::Place,
    retell::{Tally, Told},
    survey,
};
use crate::hub::{Hub, heads, heads::Heads};

/// What there is to say.
pub struct Report {
    /// Where the packs are.
    pub place: String,
    /// The log that was given up, if the store bore a mark of one or pieces.
    pub replaced: Option<String>,
    /// Pieces of it that were set aside below `aside/`.
    pub set_aside: u64,
    /// The new log.
    pub log: String,
    /// Packs found.
    pub packs: u64,
    /// What the new log has, by repository.
    pub repositories: Vec<Recovered>,
    /// What is worth saying.
    pub said: Said,
}

/// One repository in the quarantine.
pub struct Recovered {
    /// Its id, as its packs say.
    pub repo: RepoId,
    /// `OWNER/SLUG`.
    pub name: String,
    /// What its packs hold.
    pub tally: Tally,
    /// Its commits, and what they end in.
    pub heads: Heads,
}

impl Report {
    /// Nothing found yet.
    pub(super) fn new(place: &Place) -> Report {
        let (replaced, set_aside) = place.replaced();
        Report {
            place: place.packs().to_owned(),
            replaced: replaced.map(str::to_owned),
            set_aside,
            log: String::new(),
            packs: 0,
            repositories: Vec::new(),
            said: Said::default(),
        }
    }

    /// Adds what the new log has.
    pub(super) fn complete(&mut self, hub: &Hub, told: Told) -> Result<()> {
        let view = survey::view_at_end(&hub.engine, &hub.projections)?;
        self.log = hub.engine.log().to_string();
        self.said.differing = told.said.differing;
        self.said.differing_more = told.said.differing_more;
        self.said.not_taken = told.said.not_taken;
        for (repo, tally) in told.repos {
            let Some(row) = view.repo(repo)? else { continue };
            let heads = heads::list(&view, row.scope(), HEADS_SHOWN)?;
            let name = format!("{}/{}", row.record.owner, row.record.slug);
            self.repositories.push(Recovered { repo, name, tally, heads });
        }
        Ok(())
    }

    /// True if everything that was found went on.
    pub fn is_whole(&self) -> bool {
        let said = &self.said;
        said.damaged.is_empty() && said.not_packs.is_empty() && said.not_taken.is_empty()
    }

    /// As one JSON value.
    pub fn json(&self) -> Value {
        let entries = |at: usize| self.repositories.iter().map(|repo| repo.tally.entries[at]).sum::<u64>();
        let said = &self.said;
        let differing = said.differing.iter().map(|one| {
            json!({"repo_id": one.repo.to_string(), "kind": one.kind.name(), "object": one.id.to_string(),
                "pack": one.pack.to_string()})
        });
        json!({
            "place": self.place,
            "log": self.log,
            "replaced_log": self.replaced,
            "set_aside": self.set_aside,
            "packs": self.packs,
            "packs_in_log": self.repositories.iter().map(|repo| repo.tally.packs).sum::<u64>(),
            "blobs": entries(0),
            "snapshots": entries(1),
            "commits": self.repositories.iter().map(|repo| repo.heads.commits).sum::<u64>(),
            "repositories": self.repositories.iter().map(Recovered::json).collect::<Vec<_>>(),
            "damaged": said.damaged.iter().map(DamagedPack::json).collect::<Vec<_>>(),
            "damaged_more": said.damaged_more,
            "not_packs": said.not_packs,
            "not_taken": said.not_taken.iter().map(not_taken).collect::<Vec<_>>(),
            "differing": differing.collect::<Vec<_>>(),
            "differing_more": said.differing_more,
            "unknown": UNKNOWN,
        })
    }
}

impl Recovered {
    fn json(&self) -> Value {
        json!({
            "repo_id": self.repo.to_string(),
            "name": self.name,
            "packs": self.tally.packs,
            "commits": self.heads.commits,
            "heads": self.heads.heads.iter().map(heads::Head::json).collect::<Vec<_>>(),
            "heads_more": self.heads.more,
        })
    }
}

impl DamagedPack {
    fn json(&self) -> Value {
        json!({
            "pack": self.pack.to_string(),
            "repo_id": self.repo.map(|repo| repo.to_string()),
            "problem": self.problem,
            "proven": self.proven,
            "rescued": self.rescued.map(|pack| pack.to_string()),
            "lost": self.lost,
            "lost_more": self.lost_more,
            "complete": self.complete,
        })
    }
}

fn not_taken((pack, why): &(PackId, String)) -> Value {
    json!({"pack": pack.to_string(), "problem": why})
}

/// What packs do not say.
pub const UNKNOWN: [&str; 7] = [
    "branches, tags and releases: heads are adopted one by one",
    "names, owners, domains, default branches and visibility: every repository is private, in the quarantine",
    "tokens: none is valid any more",
    "which repositories had been deleted",
    "which commits a push had brought that was refused",
    "the order of pushes, who pushed and when",
    "of records that stand in two packs and differ, which one the repository had",
];
/// Candidate heads of each repository in the report.
const HEADS_SHOWN: usize = 20;
