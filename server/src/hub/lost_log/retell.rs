//! The survey's events into the new log, each commit completed by what it adds.
//!
//! Invariants: an event is the one that a push of the pack would have brought, by the one code that makes facts; push ids
//! follow from packs and repositories, so that whatever was appended before an interruption is not appended again; a pack that
//! is copied stands where the new log's packs are before its event does.

use std::collections::BTreeMap;

use reprise_engine::{
    Result,
    engine::{Condition, Reason},
    event::{EventBody, ObjectsReceived},
    id::{Kind, RepoId},
    store::StoreKey,
};
use reprise_projections::View;

use super::{
    Differing, Listener, Said,
    place::Place,
    stopped,
    survey::{self, Survey},
};
use crate::hub::{
    Hub, HubError,
    adds::{Adds, OfPack, OfView},
};

/// What the new log was told.
#[derive(Default)]
pub struct Told {
    /// By repository.
    pub repos: BTreeMap<RepoId, Tally>,
    /// What is worth saying.
    pub said: Said,
}

/// What stands in the packs of a repository.
#[derive(Default)]
pub struct Tally {
    /// Packs.
    pub packs: u64,
    /// Their entries, by kind: blobs, snapshots, commits. What stands in two packs counts twice.
    pub entries: [u64; 3],
}

/// Tells all of it.
pub fn run(survey: &Survey, place: &Place, hub: &Hub, listener: Listener<'_>) -> Result<Told> {
    let total = survey.len();
    if place.copies {
        survey.each(&mut |at, event| {
            if !listener("copying packs", at.0, total) {
                return Err(stopped());
            }
            match event {
                EventBody::ObjectsReceived(received) => place.bring(&StoreKey::pack(received.pack)),
                _ => Ok(()),
            }
        })?;
    }
    let (surveyed, known) = (survey.view()?, survey::view_at_end(&hub.engine, &hub.projections)?);
    let adds = Adds::new(&*place.to);
    let mut teller = Teller { hub, surveyed: &surveyed, known, adds, told: Told::default() };
    survey.each(&mut |at, event| {
        if !listener("writing the log", at.0, total) {
            return Err(stopped());
        }
        teller.event(event)
    })?;
    Ok(teller.told)
}

struct Teller<'a> {
    hub: &'a Hub,
    surveyed: &'a View,
    /// What the log had before.
    known: View,
    adds: Adds<'a>,
    told: Told,
}

impl Teller<'_> {
    fn event(&mut self, event: &EventBody) -> Result<()> {
        match event {
            EventBody::RepoCreated(record) => {
                self.told.repos.entry(record.repo).or_default();
                if self.known.repo(record.repo)?.is_some() {
                    return Ok(());
                }
                let free = vec![Condition::NameFree { owner: record.owner.clone(), slug: record.slug.clone() }];
                let push = survey::naming_of(record.repo);
                survey::settled(survey::append(&self.hub.engine, push, free, event.clone())?)
            }
            EventBody::ObjectsReceived(received) => self.pack(received),
            _ => Ok(()),
        }
    }

    fn pack(&mut self, received: &ObjectsReceived) -> Result<()> {
        self.differing(received)?;
        if self.known.storage_uri(received.pack)?.is_none() && !self.tell(received)? {
            return Ok(());
        }
        let tally = self.told.repos.entry(received.repo).or_default();
        tally.packs += 1;
        for row in &received.rows {
            tally.entries[usize::from(row.kind.byte())] += 1;
        }
        Ok(())
    }

    /// False if the log cannot take it.
    fn tell(&mut self, received: &ObjectsReceived) -> Result<bool> {
        let Some(repo) = self.surveyed.repo(received.repo)? else { return Ok(false) };
        let mut whole = received.clone();
        let records = OfView(self.surveyed, repo.scope());
        for commit in &mut whole.commits {
            // What the pack alone tells was found when it was read.
            if !OfPack(received).tells(commit)? {
                commit.adds = self.adds.of(&records, commit)?.new;
            }
        }
        let push = survey::push_of(received.pack);
        let there = vec![Condition::RepoLive(received.repo)];
        match survey::append(&self.hub.engine, push, there, EventBody::ObjectsReceived(whole))? {
            Ok(()) => Ok(true),
            Err(reason @ (Reason::TooLarge { .. } | Reason::Condition(_))) => {
                self.told.said.not_taken.push((received.pack, HubError::NotAppended(reason).to_string()));
                Ok(false)
            }
            refused => survey::settled(refused).map(|()| false),
        }
    }

    /// Records that another pack of the repository, read later, has with other fields: that one is served.
    fn differing(&mut self, received: &ObjectsReceived) -> Result<()> {
        let Some(repo) = self.surveyed.repo(received.repo)? else { return Ok(()) };
        for kind in [Kind::Snapshot, Kind::Commit] {
            let rows: Vec<_> = received.rows.iter().filter(|row| row.kind == kind).collect();
            let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
            let mut rows = rows.into_iter();
            self.surveyed.locate_all(repo.scope(), kind, &ids, &mut |id, location| {
                let row = rows.next();
                if location.is_some_and(|location| row.is_some_and(|row| row.record_hash != location.record_hash)) {
                    self.told.said.differs(Differing { repo: received.repo, kind, id, pack: received.pack });
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
