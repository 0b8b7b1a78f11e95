//! What every pack says, in a log beside: `DATA/recovery/survey`.
//!
//! Each pack is read through and appended as the event that it yields, without what commits add to parents in other packs: that
//! may follow from packs that come later. The engine and its projections keep the place of an interrupted survey, and answer what the second reading
//! asks: where a snapshot is, which snapshot a commit has.
//!
//! Invariants: an event is appended only after every byte of its pack was verified; a pack that is in the survey is not read
//! again; of a damaged pack only what proves itself goes on, in a pack of its own.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use reprise_engine::{
    Error, ErrorKind, Result,
    clock::{Clock, Random, SystemClock, SystemRandom},
    disk::{Disk, real::RealDisk},
    engine::{Condition, Engine, Options, Outcome, Parts, Proposal, Reason},
    event::EventBody,
    id::{PackId, Position, PushId, RepoId},
    store::{ObjectStore, directory::DirectoryStore},
};
use reprise_projections::{Projections, View};
use sha2::{Digest, Sha256};

use super::{
    Listener, Report, damaged, derived,
    place::{Place, SURVEY},
    stopped,
};
use crate::hub::{
    quarantine,
    testimony::{self, Testimony},
};

/// The survey's log and its index.
pub struct Survey {
    engine: Engine,
    projections: Projections,
}

impl Survey {
    /// Opens the survey of a place, a new one or one that was interrupted.
    ///
    /// Errors: `Conflict` naming the holder when another process is at it.
    pub fn open(place: &Place, holder: &str) -> Result<Survey> {
        let root = place.data.join(SURVEY);
        let disk = Arc::new(RealDisk::new(root.clone()));
        disk.create_dir("")?;
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        // Only the mark: the survey's packs are where they were.
        let objects: Arc<dyn Disk> = Arc::new(RealDisk::new(root.join("objects")));
        let store = Arc::new(DirectoryStore::new(objects, Arc::clone(&random)));
        let parts = Parts { disk, store, clock: Arc::new(SystemClock), random };
        let (engine, _) = Engine::open(parts, Options::new(holder))?;
        let options = reprise_projections::Options {
            dir: Some(root.join("index")),
            cache_bytes: CACHE_BYTES,
            memtable_bytes: MEMTABLE_BYTES,
        };
        let projections = Projections::open(engine.clone(), options)?;
        Ok(Survey { engine, projections })
    }

    /// Reads every pack that is not in the survey yet.
    pub fn run(&self, place: &Place, listener: Listener<'_>) -> Result<Report> {
        let keys = place.from.list("packs")?;
        let (known, total) = (self.view()?, keys.len() as u64);
        let mut report = Report::new(place);
        let mut repos = BTreeSet::new();
        for (done, key) in (0..).zip(&keys) {
            if !listener("reading packs", done, total) {
                return Err(stopped());
            }
            let Some(pack) = key.as_pack() else {
                report.said.not_a_pack(key);
                continue;
            };
            report.packs += 1;
            if known.storage_uri(pack)?.is_none() {
                self.take(place, pack, &known, &mut repos, &mut report)?;
            }
        }
        Ok(report)
    }

    fn take(
        &self,
        place: &Place,
        pack: PackId,
        known: &View,
        repos: &mut BTreeSet<RepoId>,
        report: &mut Report,
    ) -> Result<()> {
        let near = place.near(pack)?;
        let mut bad = None;
        let heard = testimony::hear(&*near.store, pack, &mut |_, _, why| bad = bad.take().or(Some(why)));
        let problem = match (heard, bad) {
            (Ok(heard), None) => return self.add(&*near.store, heard, known, repos),
            (Ok(_), Some(why)) => why,
            (Err(error), _) if error.is_corrupt() || error.is_not_found() => error.to_string(),
            (Err(error), _) => return Err(error),
        };
        match damaged::rescue((&*near.store, &*place.to), pack, problem, report)? {
            Some(rescued) => {
                let heard = testimony::hear(&*place.to, rescued, &mut |_, _, _| {})?;
                self.add(&*place.to, heard, known, repos)
            }
            None => Ok(()),
        }
    }

    /// Appends what a pack says, and before its repository's first the repository.
    fn add(
        &self,
        store: &dyn ObjectStore,
        mut heard: Testimony,
        known: &View,
        repos: &mut BTreeSet<RepoId>,
    ) -> Result<()> {
        testimony::complete(store, &mut heard.received)?;
        let repo = heard.received.repo;
        if known.repo(repo)?.is_none() && repos.insert(repo) {
            self.name(repo)?;
        }
        let push = push_of(heard.received.pack);
        settled(append(&self.engine, push, Vec::new(), EventBody::ObjectsReceived(heard.received))?)
    }

    /// The first pack of a repository: it gets its name in the quarantine.
    fn name(&self, repo: RepoId) -> Result<()> {
        let now = SystemClock.now_ms();
        for slug in [quarantine::slug(repo), quarantine::long_slug(repo)] {
            let record = quarantine::record(repo, slug, now);
            let free = vec![Condition::NameFree { owner: record.owner.clone(), slug: record.slug.clone() }];
            let appended = append(&self.engine, naming_of(repo), free, EventBody::RepoCreated(record))?;
            if !matches!(appended, Err(Reason::Condition(Condition::NameFree { .. }))) {
                return settled(appended);
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("repository {repo} finds no free name")))
    }

    /// Everything in the survey.
    pub fn view(&self) -> Result<View> {
        view_at_end(&self.engine, &self.projections)
    }

    /// Events in the survey.
    pub fn len(&self) -> u64 {
        self.engine.durable().position.0
    }

    /// Calls `each` with every event of the survey, in order, and its position.
    pub fn each(&self, each: &mut dyn FnMut(Position, &EventBody) -> Result<()>) -> Result<()> {
        let end = self.engine.durable().position;
        let mut follower = self.engine.follow(Position(1))?;
        let mut at = Position::ZERO;
        while at < end {
            let Some(group) = follower.next(STEP)? else {
                let text = format!("the survey gives no event after {at}, its end is {end}");
                return Err(Error::new(ErrorKind::Unavailable, text));
            };
            for event in group.events.iter() {
                at = event.position;
                each(at, &event.body)?;
            }
        }
        Ok(())
    }

    /// Closes it, with its clean marks.
    pub fn close(self) -> Result<()> {
        let projections = self.projections.shutdown();
        self.engine.shutdown()?;
        projections
    }
}

/// A view that shows the end of the log.
pub fn view_at_end(engine: &Engine, projections: &Projections) -> Result<View> {
    let end = engine.durable().position;
    while !projections.wait_folded(end, STEP) {
        let status = projections.status();
        if status.state == "stopped" {
            return Err(Error::new(ErrorKind::Unavailable, format!("the index stopped: {}", status.reason)));
        }
    }
    Ok(projections.view())
}

/// What the writer says to an event.
pub type Answer = std::result::Result<(), Reason>;

/// Appends one event. The inner error is the writer's refusal; a repeat of what was appended before is fine.
pub fn append(engine: &Engine, push: PushId, conditions: Vec<Condition>, event: EventBody) -> Result<Answer> {
    let proposal = Proposal { push, fingerprint: 0, actor: "operator".to_owned(), conditions, events: vec![event] };
    match engine.propose_and_wait(proposal) {
        Outcome::Done { .. } => Ok(Ok(())),
        Outcome::NotDone(reason) => Ok(Err(reason)),
        Outcome::Unknown(_) => Err(Error::new(ErrorKind::Unknown, "a write failed: run the same command again")),
    }
}

/// A refusal that nothing here can answer.
pub fn settled(appended: Answer) -> Result<()> {
    appended.map_err(|reason| Error::new(ErrorKind::Unavailable, format!("the log took an event not in: {reason:?}")))
}

/// The push id under which a pack's event is appended.
pub fn push_of(pack: PackId) -> PushId {
    PushId::from_random(derived("reprise recovered pack", pack))
}

/// The push id under which a repository is created.
pub fn naming_of(repo: RepoId) -> PushId {
    let hash = Sha256::new().chain_update("reprise recovered repository").chain_update(repo.0).finalize();
    PushId::from_random(std::array::from_fn(|at| hash[at]))
}

const STEP: Duration = Duration::from_secs(10);
const CACHE_BYTES: u64 = 16 << 20;
const MEMTABLE_BYTES: u64 = 12 << 20;
