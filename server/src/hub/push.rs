//! `push`: commits and snapshots into packs, one branch moved, all in one append.
//!
//! Invariants: a refused push appends nothing, so no ref moves and none of its records becomes visible; the branch moves by
//! compare-and-swap on the head that the checks saw, and no record arrived since they looked; an identical re-push is
//! accepted, stores nothing and appends its small event; 409 means "diverged" and nothing else.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use reprise_engine::{
    engine::{Condition, Proposal, Reason},
    event::{EventBody, RefUpdate, RefsUpdated},
    id::{ObjectId, PushId, RepoId},
    object::names,
    store::StoreKey,
};
use reprise_projections::{View, view::RefRow};
use sha2::{Digest, Sha256};

use crate::{
    hub::{
        Caller, Hub, HubError, Repo,
        body::Body,
        bundle::{Intake, Refused, Taken},
        delivery::Delivery,
        packing::{Packing, StoredPacks, spool_error},
        receive::plant_rows_for_new_only,
        repos::RepoName,
    },
    wire::requests,
};

/// What a push is told, with status 200.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushAnswer {
    /// Whether it was accepted.
    pub ok: bool,
    /// For people.
    pub message: String,
    /// Branches after it.
    pub heads: BTreeMap<String, ObjectId>,
    /// Head of the pushed branch after it.
    pub head: Option<ObjectId>,
}

/// What a push asks for.
pub struct Asked {
    /// Which branch to move.
    pub branch: String,
    /// Where to; `None`: to the first commit that is delivered.
    pub tip: Option<ObjectId>,
    /// Whether anything but a fast-forward is wanted.
    pub force: bool,
    /// What it brings.
    pub delivery: Delivery,
}

/// One push to a repository at a time: those of one repository would only make each other decide again.
#[derive(Default)]
pub struct PushTurns(Mutex<BTreeMap<RepoId, Weak<tokio::sync::Mutex<()>>>>);

/// What a push is known by, whichever repository it meets.
pub(crate) struct Ident {
    /// The client's `Idempotency-Key`: the log may know it already.
    pub chosen: Option<String>,
    /// Without one.
    pub random: PushId,
    /// Hash of the body.
    pub body: [u8; 32],
}

/// A push id and what it stands for.
#[derive(Clone, Copy)]
struct Key {
    push: PushId,
    fingerprint: u64,
    /// True if the client chose it.
    chosen: bool,
}

/// A push that may be appended.
struct Ready {
    conditions: Vec<Condition>,
    events: Vec<EventBody>,
    stored: StoredPacks,
    /// Blobs that waited in quarantine.
    taken_in: Vec<StoreKey>,
    answer: PushAnswer,
}

impl Hub {
    /// Takes a `push` body in. Not to be dropped half-way by a disconnecting client: run it as a task.
    pub async fn push(
        self: Arc<Self>,
        caller: Caller,
        name: RepoName,
        body: Body,
        idempotency_key: Option<String>,
    ) -> Result<PushAnswer, HubError> {
        let (repo, _) = self.writable(&caller, &name.owner, &name.slug, true).await?;
        let turn = self.push_turns.of(repo.row.record.repo);
        let _turn = turn.lock().await;
        let hub = Arc::clone(&self);
        let (digest, asked) =
            self.blocking(move || Ok((body.digest().map_err(spool_error)?, hub.index_push(body)?))).await?;
        let ident = Ident { chosen: idempotency_key, random: self.random_push_id()?, body: digest };
        self.decide_push(&caller, &name, Arc::new(asked), &ident).await
    }

    /// Decides a push whose delivery was read, as often as the repository changes meanwhile. To be called with its turn.
    pub(crate) async fn decide_push(
        self: &Arc<Self>,
        caller: &Caller,
        name: &RepoName,
        asked: Arc<Asked>,
        ident: &Ident,
    ) -> Result<PushAnswer, HubError> {
        for _ in 0..ATTEMPTS_MAX {
            let known = self.engine.durable().position;
            match self.attempt(caller, name, &asked, ident).await {
                Ok(Some(answer)) if answer.ok => return Ok(answer),
                Ok(None) => {}
                // Perhaps another server has what it lacks, or has moved the branch.
                refused => {
                    let may_be_stale = !matches!(refused, Err(HubError::Unknown(_) | HubError::Unavailable(_)));
                    if !(may_be_stale && self.look().await? > known) {
                        return refused.and_then(|answer| answer.ok_or_else(changed));
                    }
                }
            }
        }
        Err(changed())
    }

    /// One reading of the repository and one proposal; `None` when it changed in between.
    async fn attempt(
        self: &Arc<Self>,
        caller: &Caller,
        name: &RepoName,
        asked: &Arc<Asked>,
        ident: &Ident,
    ) -> Result<Option<PushAnswer>, HubError> {
        let (repo, view) = self.writable(caller, &name.owner, &name.slug, true).await?;
        let (hub, job, branch) = (Arc::clone(self), Arc::clone(asked), &asked.branch);
        let (actor, repo_id) = (caller.actor(), repo.row.record.repo);
        let key = ident.key(&actor, repo_id);
        let decided = self.blocking(move || hub.decide(&repo, &view, &job, key.push)).await;
        let ready = match decided {
            Ok(Ok(ready)) => ready,
            refused if !key.chosen => return refused.map(|refusal| refusal.err()),
            // It is refused now, but may have been accepted before: then that answer holds.
            refused => {
                return match self.was_accepted(key, actor, repo_id).await? {
                    true => self.accepted_before(caller, name, branch).await.map(Some),
                    false => refused.map(|refusal| refusal.err()),
                };
            }
        };
        let Ready { conditions, events, stored, taken_in, answer } = ready;
        let proposal = Proposal { push: key.push, fingerprint: key.fingerprint, actor, conditions, events };
        match self.append_packs(proposal, stored).await {
            Ok(appended) if appended.repeated => self.accepted_before(caller, name, branch).await.map(Some),
            Ok(_) => {
                self.empty_quarantine(taken_in).await;
                Ok(Some(answer))
            }
            Err(HubError::NotAppended(Reason::Condition(Condition::RepoLive(_)))) => {
                Err(HubError::NotFound("the repository was deleted while the push was under way".to_owned()))
            }
            // Adopted packs lie in the store, and are read from there now.
            Err(HubError::NotAppended(Reason::Condition(_))) => Ok(None),
            Err(error @ HubError::NotAppended(Reason::RefNameClash { .. })) => {
                Ok(Some(PushAnswer { ok: false, message: error.to_string(), ..answer }))
            }
            Err(error) => Err(error),
        }
    }

    /// What was taken in needs to wait no more.
    async fn empty_quarantine(self: &Arc<Self>, keys: Vec<StoreKey>) {
        if keys.is_empty() {
            return;
        }
        let hub = Arc::clone(self);
        let emptied = self.read(move || {
            hub.remove_from_quarantine(&keys);
            Ok(())
        });
        if let Err(error) = emptied.await {
            tracing::warn!(%error, "blobs that were taken in stay until they are swept");
        }
    }

    /// Whether the log has a push of this key. An error: that is not known now, and any answer would be a guess.
    async fn was_accepted(&self, key: Key, actor: String, repo: RepoId) -> Result<bool, HubError> {
        // A proposal that cannot hold: the log answers with the push's first outcome, or refuses the condition.
        let update = RefUpdate { name: NEVER.to_owned(), old: None, new: None, forced: false };
        let head = Some(ObjectId([0; 32]));
        let question = Proposal {
            push: key.push,
            fingerprint: key.fingerprint,
            actor,
            conditions: vec![Condition::RefIs { repo, name: NEVER.to_owned(), head }],
            events: vec![EventBody::RefsUpdated(RefsUpdated { repo, updates: vec![update] })],
        };
        match self.append(question).await {
            Ok(_) => Ok(true),
            Err(HubError::NotAppended(Reason::Condition(_))) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The answer to a repeat: where the branches are now, which is where the push left them unless somebody went on.
    async fn accepted_before(&self, caller: &Caller, name: &RepoName, branch: &str) -> Result<PushAnswer, HubError> {
        let (repo, view) = self.writable(caller, &name.owner, &name.slug, false).await?;
        let refs = self.read(move || Ok(view.refs(repo.scope)?)).await?;
        let head = refs.iter().find(|row| row.name == branch).map(|row| row.head);
        Ok(answer(true, "this push was accepted before".to_owned(), &refs, head))
    }

    /// The answer to a push whose delivery is gone, if the log has it.
    pub(crate) async fn answered_before(
        &self,
        caller: &Caller,
        name: &RepoName,
        branch: &str,
        ident: &Ident,
    ) -> Result<Option<PushAnswer>, HubError> {
        let (repo, _) = self.writable(caller, &name.owner, &name.slug, true).await?;
        let (actor, repo_id) = (caller.actor(), repo.row.record.repo);
        let key = ident.key(&actor, repo_id);
        match key.chosen && self.was_accepted(key, actor, repo_id).await? {
            true => self.accepted_before(caller, name, branch).await.map(Some),
            false => Ok(None),
        }
    }

    fn index_push(&self, body: Body) -> Result<Asked, HubError> {
        let mut index = requests::push(body.source(), &self.push_caps())?;
        names::check_ref(&index.branch)?;
        let (branch, force) = (std::mem::take(&mut index.branch), index.force);
        Ok(Asked { branch, tip: None, force, delivery: Delivery::Body { body, index } })
    }

    /// Checks everything and makes the packs durable; the inner error is an answer with `ok: false`.
    fn decide(
        &self,
        repo: &Repo,
        view: &View,
        asked: &Asked,
        push: PushId,
    ) -> Result<Result<Ready, PushAnswer>, HubError> {
        let id = repo.row.record.repo;
        if let Some(packs) = asked.delivery.adoptable(view, repo, push)?
            && let Some(decided) = self.decide_with(
                repo,
                view,
                asked,
                Packing::adopting(self, id, push, packs, view.checkpoint().position),
            )?
        {
            return Ok(decided);
        }
        let decided = self.decide_with(repo, view, asked, Packing::new(self, id, push))?;
        decided.ok_or_else(|| HubError::Internal("packs that were written do not fit their events".to_owned()))
    }

    /// The same with one way to pack; `None` if that does not fit what is delivered.
    fn decide_with(
        &self,
        repo: &Repo,
        view: &View,
        asked: &Asked,
        mut packing: Packing,
    ) -> Result<Option<Result<Ready, PushAnswer>>, HubError> {
        let refs = view.refs(repo.scope)?;
        let old = refs.iter().find(|row| row.name == asked.branch).map(|row| row.head);
        let refused = |message: String| Ok(Some(Err(answer(false, message, &refs, old))));
        if let Some(text) = self.ref_fault(&refs, &asked.branch, old) {
            return refused(text);
        }
        let intake = Intake::new(self, (repo, view), asked, &mut packing);
        let taken = match intake.and_then(|intake| intake.run(old)) {
            Ok(taken) => taken,
            Err(Refused::Rejected(text)) => return refused(text),
            Err(Refused::Error(error)) => return Err(error),
        };
        let forward = self.is_fast_forward(repo, view, &taken, old)?;
        if !forward && !asked.force {
            return Err(HubError::Conflict(format!(
                "'{}' has diverged: its head is not an ancestor of the pushed commit. Pull first, or use --force",
                asked.branch
            )));
        }
        if !packing.fits() {
            return Ok(None);
        }
        let (mut events, stored) = packing.finish()?;
        plant_rows_for_new_only(view, repo, &mut events)?;
        let moved = Move { branch: &asked.branch, old, new: taken.tip, forced: !forward };
        let conditions = moved.propose(repo, view, refs.is_empty(), &mut events);
        let answer = accepted(asked, &taken, &refs);
        Ok(Some(Ok(Ready { conditions, events, stored, taken_in: taken.taken_in, answer })))
    }

    /// Why a new branch may not have this name.
    fn ref_fault(&self, refs: &[RefRow], branch: &str, old: Option<ObjectId>) -> Option<String> {
        if old.is_some() {
            return None;
        }
        if let Some(text) = self.too_many_refs(refs.len()) {
            return Some(text);
        }
        // The log decides it again; here it spares the packing.
        let clash = refs.iter().find(|row| names::clash(&row.name, branch))?;
        Some(HubError::NotAppended(Reason::RefNameClash { existing: clash.name.clone() }).to_string())
    }

    /// Why a repository that has `count` branches gets no other one.
    pub(crate) fn too_many_refs(&self, count: usize) -> Option<String> {
        let max = self.limits.refs_per_repo_max;
        (count >= max).then(|| format!("the repository has {count} branches; the limit is {max}"))
    }

    /// Whether `old` is the tip or an ancestor of it, over bundle and repository, both parents.
    fn is_fast_forward(
        &self,
        repo: &Repo,
        view: &View,
        taken: &Taken,
        old: Option<ObjectId>,
    ) -> Result<bool, HubError> {
        let Some(old) = old else { return Ok(true) };
        let mut seen = HashSet::from([taken.tip]);
        let mut queue = VecDeque::from([taken.tip]);
        while let Some(id) = queue.pop_front() {
            if id == old {
                return Ok(true);
            }
            let parents = match taken.lines.get(&id) {
                Some(line) => line.parents.clone(),
                None => view.commit(repo.scope, id)?.map(|row| row.parents).unwrap_or_default(),
            };
            queue.extend(parents.into_iter().filter(|parent| seen.insert(*parent)));
            if seen.len() > self.limits.walk_commits_max {
                let max = self.limits.walk_commits_max;
                return Err(HubError::TooLarge(format!("the fast-forward check passed its limit of {max} commits")));
            }
        }
        Ok(false)
    }
}

impl Ident {
    /// The push id in one repository: the key itself if it is a UUID (an answer "unknown" names one to repeat with), else
    /// derived from actor, repository and key, else random. The fingerprint covers actor, repository and body, so that
    /// nobody else's repeat and no other body passes for this push.
    fn key(&self, actor: &str, repo: RepoId) -> Key {
        let push = match self.chosen.as_deref().map(|text| (text, text.parse::<PushId>())) {
            None => self.random,
            Some((_, Ok(push))) => push,
            Some((text, Err(_))) => {
                let hash = hash_parts(&[actor.as_bytes(), &repo.0, text.as_bytes()]);
                PushId::from_random(std::array::from_fn(|at| hash[at]))
            }
        };
        let hash = hash_parts(&[actor.as_bytes(), &repo.0, &self.body]);
        let fingerprint = u64::from_be_bytes(std::array::from_fn(|at| hash[at]));
        Key { push, fingerprint, chosen: self.chosen.is_some() }
    }
}

struct Move<'a> {
    branch: &'a str,
    old: Option<ObjectId>,
    new: ObjectId,
    forced: bool,
}

impl Move<'_> {
    /// Adds the ref's event (and the default branch's, with a repository's first); returns what must be true.
    fn propose(self, repo: &Repo, view: &View, first: bool, events: &mut Vec<EventBody>) -> Vec<Condition> {
        let id = repo.row.record.repo;
        let name = self.branch.to_owned();
        let update = RefUpdate { name: name.clone(), old: self.old, new: Some(self.new), forced: self.forced };
        events.push(EventBody::RefsUpdated(RefsUpdated { repo: id, updates: vec![update] }));
        if repo.is_new {
            let record = repo.with_first_branch(&name).unwrap_or_else(|| repo.row.record.clone());
            events.insert(0, EventBody::RepoCreated(record));
            return vec![repo.is_there()];
        }
        let mut conditions = vec![
            repo.is_there(),
            Condition::RefIs { repo: id, name: name.clone(), head: self.old },
            Condition::NoRecordsSince(id, view.checkpoint().position),
        ];
        if first && let Some((unchanged, event)) = repo.first_branch(&name) {
            conditions.extend(unchanged);
            events.push(event);
        }
        conditions
    }
}

impl PushTurns {
    /// The lock of one repository.
    pub(crate) fn of(&self, repo: RepoId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&repo).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(repo, Arc::downgrade(&turn));
        turn
    }
}

fn accepted(asked: &Asked, taken: &Taken, refs: &[RefRow]) -> PushAnswer {
    let mut message = format!("pushed {} commit(s) to '{}'", asked.delivery.commits(), asked.branch);
    if let Some(first) = taken.differing.first() {
        let count = taken.differing.len();
        message += &format!(
            "; {count} record(s) differ from what the repository has and were left as they were there: {first}"
        );
    }
    let mut answer = answer(true, message, refs, Some(taken.tip));
    answer.heads.insert(asked.branch.clone(), taken.tip);
    answer
}

fn answer(ok: bool, message: String, refs: &[RefRow], head: Option<ObjectId>) -> PushAnswer {
    PushAnswer { ok, message, heads: refs.iter().map(|row| (row.name.clone(), row.head)).collect(), head }
}

fn hash_parts(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().into()
}

/// The refusal of a push that was overtaken again and again.
fn changed() -> HubError {
    HubError::Unavailable(format!(
        "the repository changed {ATTEMPTS_MAX} times while the push was being decided: push again"
    ))
}

/// Decisions of one push before it gives up: each lost one means that another push won.
const ATTEMPTS_MAX: usize = 8;
/// A branch that nobody can have: the grammar refuses its name.
const NEVER: &str = "..";
