//! The log with each objects event as its pack tells it.
//!
//! Invariants: what is told comes from bytes that were all read and verified; what a pack cannot tell is taken from the event and
//! nothing else is: repository, position, push, actor, time, facts of records that are damaged, what a commit adds to a snapshot
//! that cannot be read where the log says, and whether it adds all of its own because its first parent's could not be read when
//! it came. Not read are packs of repositories that are not
//! there any more (their rows are not logical) and packs that were retired or moved. Every difference from the event is kept
//! for the report, up to a bound.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reprise_engine::{
    ErrorKind, Result,
    engine::{Durable, Engine, Group},
    event::{Event, EventBody, ObjectsReceived},
    id::{ChainHash, Kind, ObjectId, PackId, Position},
    store::StoreKey,
};
use reprise_projections::{
    Model, RepoRow, View,
    source::{Groups, Source},
};
use serde_json::{Value, json};

use super::{Say, not_now};
use crate::hub::{
    Hub,
    adds::{Adds, OfView},
    testimony,
};

/// A source whose objects events are the packs' own.
pub struct FromPacks {
    teller: Teller,
}

#[derive(Clone)]
struct Teller {
    hub: Arc<Hub>,
    /// Folded from the log: where objects are.
    view: View,
    findings: Arc<Findings>,
}

/// What was found on the way.
#[derive(Default)]
pub struct Findings(Mutex<Found>);

#[derive(Default)]
struct Found {
    lines: Vec<Value>,
    counts: Counts,
}

/// How much was found.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Packs read.
    pub read: u64,
    /// Differences from the log.
    pub differing: u64,
    /// Damaged objects and packs that readers need.
    pub damaged: u64,
}

impl FromPacks {
    /// Packs of the hub, their objects found by `view`.
    pub fn new(hub: &Arc<Hub>, view: View) -> FromPacks {
        FromPacks { teller: Teller { hub: Arc::clone(hub), view, findings: Arc::default() } }
    }

    /// What will have been found when it was read to its end.
    pub fn findings(&self) -> Arc<Findings> {
        Arc::clone(&self.teller.findings)
    }

    fn engine(&self) -> &Engine {
        &self.teller.hub.engine
    }
}

impl Source for FromPacks {
    fn durable(&self) -> Durable {
        self.engine().durable()
    }

    fn chain_at(&self, position: Position) -> Result<Option<ChainHash>> {
        self.engine().chain_at(position)
    }

    fn follow(&self, from: Position) -> Result<Box<dyn Groups>> {
        let groups = Source::follow(self.engine(), from)?;
        Ok(Box::new(Retold { groups, teller: self.teller.clone() }))
    }

    fn now_ms(&self) -> u64 {
        self.engine().clock().now_ms()
    }
}

struct Retold {
    groups: Box<dyn Groups>,
    teller: Teller,
}

impl Groups for Retold {
    fn next(&mut self, wait: Duration) -> Result<Option<Group>> {
        let Some(group) = self.groups.next(wait)? else { return Ok(None) };
        let events = group.events.iter().map(|event| self.teller.retold(event)).collect::<Result<Vec<_>>>()?;
        Ok(Some(Group { events: events.into(), chain: group.chain }))
    }
}

impl Teller {
    fn retold(&self, event: &Event) -> Result<Event> {
        let EventBody::ObjectsReceived(received) = &event.body else { return Ok(event.clone()) };
        let told = self.told_by_pack(event.position, received)?;
        let body = told.map_or_else(|| event.body.clone(), EventBody::ObjectsReceived);
        Ok(Event { body, ..event.clone() })
    }

    /// The event of a pack as the pack tells it; `None` if it is not asked, or cannot tell.
    fn told_by_pack(&self, at: Position, received: &ObjectsReceived) -> Result<Option<ObjectsReceived>> {
        let Some(repo) = self.view.repo(received.repo)? else { return Ok(None) };
        let its_own = StoreKey::pack(received.pack);
        let is_there = self.view.storage_uri(received.pack)?.is_some_and(|uri| uri == its_own.as_str());
        if !is_there || self.view.parked()?.contains_key(&received.repo) {
            return Ok(None);
        }
        let about = About { repo: &repo, pack: received.pack, at };
        // The packs themselves: a copy that is sound says nothing of what rests in the bucket.
        let store = self.hub.engine.store_itself();
        let mut bad = Vec::new();
        let heard = testimony::hear(&*store, received.pack, &mut |kind, id, why| bad.push((kind, id, why)));
        let mut told = match heard {
            Ok(heard) => heard.received,
            Err(error) if self.hub.is_damage(&error) => {
                self.pack_is_damaged(&about, received, &error.to_string())?;
                return Ok(None);
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound) => return Err(not_now(&error)),
            Err(error) => return Err(error),
        };
        self.findings.with(|found| found.counts.read += 1);
        told.repo = received.repo;
        for (kind, id, why) in bad {
            self.object_is_damaged(&about, kind, id, &why)?;
            take_facts(&mut told, received, kind, id);
        }
        self.add(&repo, &mut told, received)?;
        self.compare(&about, &told, received);
        Ok(Some(told))
    }

    /// What its commits add.
    fn add(&self, repo: &RepoRow, told: &mut ObjectsReceived, received: &ObjectsReceived) -> Result<()> {
        let mut adds = Adds::new(self.hub.engine.store().as_ref());
        let records = OfView(&self.view, repo.scope());
        for commit in &mut told.commits {
            let said = received.commits.binary_search_by_key(&commit.id, |facts| facts.id).ok();
            let said = said.map(|index| &received.commits[index].adds);
            let added = adds.of(&records, commit)?;
            commit.adds = match said {
                Some(said) if !added.is_certain || said[..] == added.all[..] => said.clone(),
                _ => added.new,
            };
        }
        Ok(())
    }

    /// Keeps the first difference of each projection.
    fn compare(&self, about: &About<'_>, told: &ObjectsReceived, said: &ObjectsReceived) {
        let names = |of: &ObjectsReceived| of.rows.iter().map(|row| (row.kind, row.id)).collect::<Vec<_>>();
        if names(told) != names(said) {
            about.differs(
                &self.findings,
                Model::ObjectRefs,
                "the pack holds other objects than the log says".to_owned(),
            );
        }
        let rows = told.rows.iter().zip(&said.rows).find(|(told, said)| told != said);
        if let Some((row, _)) = rows {
            about.differs(
                &self.findings,
                Model::MpackIndex,
                format!("{} {} lies elsewhere than the log says", row.kind, row.id),
            );
        } else if told.rows.len() != said.rows.len() {
            about.differs(
                &self.findings,
                Model::MpackIndex,
                "the pack has more or fewer rows than the log says".to_owned(),
            );
        }
        if let Some(id) = first_difference(&told.snapshots, &said.snapshots, |facts| facts.id) {
            about.differs(&self.findings, Model::Snapshots, format!("snapshot {id} is another than the log says"));
        }
        if let Some(id) = first_difference(&told.commits, &said.commits, |facts| facts.id) {
            about.differs(&self.findings, Model::Commits, format!("commit {id} is another than the log says"));
        }
        if (told.pack_bytes, told.table_hash) != (said.pack_bytes, said.table_hash) {
            about.differs(&self.findings, Model::StorageUri, "the pack is not the one that was accepted".to_owned());
        }
    }

    fn pack_is_damaged(&self, about: &About<'_>, received: &ObjectsReceived, why: &str) -> Result<()> {
        for row in &received.rows {
            if self.is_read_there(about, row.kind, row.id)? {
                about.is_damaged(&self.findings, None, why);
                return Ok(());
            }
        }
        Ok(())
    }

    fn object_is_damaged(&self, about: &About<'_>, kind: Kind, id: ObjectId, why: &str) -> Result<()> {
        if self.is_read_there(about, kind, id)? {
            about.is_damaged(&self.findings, Some((kind, id)), why);
        }
        Ok(())
    }

    /// Whether readers are sent to this pack for the object, or nowhere at all.
    fn is_read_there(&self, about: &About<'_>, kind: Kind, id: ObjectId) -> Result<bool> {
        let found = self.view.locate(about.repo.scope(), kind, id)?;
        Ok(found.is_none_or(|location| location.pack == about.pack))
    }
}

/// The facts of a damaged record are the log's.
fn take_facts(told: &mut ObjectsReceived, said: &ObjectsReceived, kind: Kind, id: ObjectId) {
    match kind {
        Kind::Blob => {}
        Kind::Snapshot => {
            let known = said.snapshots.iter().find(|facts| facts.id == id);
            let place = told.snapshots.partition_point(|facts| facts.id < id);
            known.into_iter().for_each(|facts| told.snapshots.insert(place, facts.clone()));
        }
        Kind::Commit => {
            let known = said.commits.iter().find(|facts| facts.id == id);
            let place = told.commits.partition_point(|facts| facts.id < id);
            known.into_iter().for_each(|facts| told.commits.insert(place, facts.clone()));
        }
    }
}

fn first_difference<T: PartialEq>(told: &[T], said: &[T], id: impl Fn(&T) -> ObjectId) -> Option<ObjectId> {
    let unequal = told.iter().zip(said).find(|(told, said)| told != said);
    let longer = || told.get(said.len()).or_else(|| said.get(told.len()));
    unequal.map(|(told, _)| told).or_else(longer).map(id)
}

/// Which event is spoken of.
struct About<'a> {
    repo: &'a RepoRow,
    pack: PackId,
    at: Position,
}

impl About<'_> {
    fn differs(&self, findings: &Findings, model: Model, detail: String) {
        let line = json!({"difference": {
            "projection": model.name(), "repository": self.name(), "repo_id": self.repo.record.repo.to_string(),
            "pack": self.pack.to_string(), "position": self.at.0, "detail": format!("packs: {detail}"),
        }});
        findings.with(|found| {
            found.counts.differing += 1;
            found.keep(line);
        });
    }

    fn is_damaged(&self, findings: &Findings, object: Option<(Kind, ObjectId)>, detail: &str) {
        let line = json!({"damaged": {
            "repository": self.name(), "repo_id": self.repo.record.repo.to_string(), "pack": self.pack.to_string(),
            "position": self.at.0, "kind": object.map(|(kind, _)| kind.name()),
            "object": object.map(|(_, id)| id.to_string()), "detail": detail,
        }});
        findings.with(|found| {
            found.counts.damaged += 1;
            found.keep(line);
        });
    }

    fn name(&self) -> String {
        format!("{}/{}", self.repo.record.owner, self.repo.record.slug)
    }
}

impl Findings {
    /// Says what was kept; how much was found.
    pub fn say_all(&self, say: Say<'_>) -> Counts {
        self.with(|found| {
            for line in found.lines.drain(..) {
                say(line);
            }
            found.counts
        })
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Found) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Found {
    fn keep(&mut self, line: Value) {
        if self.lines.len() < KEPT_MAX {
            self.lines.push(line);
        }
    }
}

/// Findings that are said.
const KEPT_MAX: usize = 1_000;
