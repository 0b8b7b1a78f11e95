//! The decision state: what the one writer must know to say yes or no, folded from the log itself.
//!
//! Invariants: [`State::judge`] changes nothing; [`State::fold`] is total (an event that is in the log is a fact) and can
//! be undone exactly with what it recorded; iteration order is sorted; its stored form is in `log::state_codec`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    engine::{Condition, Reason},
    event::{Event, EventBody, ObjectsReceived, RefUpdate, RepoRecord},
    id::{ObjectId, Position, RepoId},
    object::names::is_path_prefix,
};

/// Repositories as decisions need them.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct State {
    pub(crate) repos: BTreeMap<RepoId, RepoState>,
    pub(crate) names: BTreeMap<(String, String), RepoId>,
}

/// One repository, live or deleted.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct RepoState {
    /// First part of the name.
    pub(crate) owner: String,
    /// Second part of the name.
    pub(crate) slug: String,
    /// Not deleted.
    pub(crate) live: bool,
    /// Where its settings were last written.
    pub(crate) settings: Position,
    /// Its last event of any kind.
    pub(crate) last: Position,
    /// Its last delivery of snapshots or commits.
    pub(crate) records: Position,
    /// Branches.
    pub(crate) heads: BTreeMap<String, ObjectId>,
    /// Tags of its releases.
    pub(crate) releases: BTreeSet<String>,
}

/// What takes one change back.
pub(crate) enum Undo {
    /// A repository as it was.
    Repo(RepoId, Option<Box<RepoState>>),
    /// A name's owner as it was.
    Name((String, String), Option<RepoId>),
    /// A branch as it was.
    Head(RepoId, String, Option<ObjectId>),
    /// A release that was or was not there.
    Release(RepoId, String, bool),
    /// `last` and `records` as they were.
    Positions(RepoId, Position, Position),
}

impl State {
    /// Whether `conditions` and what `events` imply hold now.
    pub(crate) fn judge(&self, conditions: &[Condition], events: &[EventBody]) -> Result<(), Reason> {
        conditions.iter().try_for_each(|condition| self.holds(condition))?;
        let delivers = events.iter().any(|event| matches!(event, EventBody::ObjectsReceived(_)));
        if delivers && !conditions.iter().any(|condition| matches!(condition, Condition::NoSweepSince(_))) {
            self.holds(&Condition::NoSweepSince(Position::ZERO))?;
        }
        let mut made = BTreeSet::new();
        events.iter().try_for_each(|event| self.allows(event, &mut made))?;
        one_move_each(events)
    }

    /// Takes an event in; appends what takes it back to `undo`.
    pub(crate) fn fold(&mut self, event: &Event, undo: &mut Vec<Undo>) {
        let at = event.position;
        match &event.body {
            EventBody::RepoCreated(record) | EventBody::RepoUpdated(record) => self.fold_settings(record, at, undo),
            EventBody::RepoDeleted(gone) => self.fold_deleted(gone.repo, at, undo),
            EventBody::RefsUpdated(refs) => {
                self.touch(refs.repo, at, false, undo);
                refs.updates.iter().for_each(|update| self.fold_head(refs.repo, update, undo));
            }
            EventBody::ReleasePublished(release) => {
                self.touch(release.repo, at, false, undo);
                self.fold_release(release.repo, &release.tag, true, undo);
            }
            EventBody::ReleaseRetracted(release) => {
                self.touch(release.repo, at, false, undo);
                self.fold_release(release.repo, &release.tag, false, undo);
            }
            EventBody::ObjectsReceived(objects) => self.touch(objects.repo, at, has_records(objects), undo),
            EventBody::PacksRelocated(_) => self.touch(SWEEPS, at, false, undo),
            other => {
                if let Some(repo) = repo_of(other) {
                    self.touch(repo, at, false, undo);
                }
            }
        }
    }

    /// Takes changes back, last first.
    pub(crate) fn undo(&mut self, changes: Vec<Undo>) {
        for change in changes.into_iter().rev() {
            match change {
                Undo::Repo(repo, before) => set(&mut self.repos, repo, before.map(|state| *state)),
                Undo::Name(name, before) => set(&mut self.names, name, before),
                Undo::Head(repo, name, before) => set(&mut self.entry(repo).heads, name, before),
                Undo::Release(repo, tag, true) => drop(self.entry(repo).releases.insert(tag)),
                Undo::Release(repo, tag, false) => drop(self.entry(repo).releases.remove(&tag)),
                Undo::Positions(repo, last, records) => {
                    let state = self.entry(repo);
                    (state.last, state.records) = (last, records);
                }
            }
        }
    }

    fn holds(&self, condition: &Condition) -> Result<(), Reason> {
        let holds = match condition {
            Condition::NameFree { owner, slug } => !self.names.contains_key(&(owner.clone(), slug.clone())),
            Condition::RepoLive(repo) => self.live(*repo).is_some(),
            Condition::RepoAt(repo, at) => self.live(*repo).is_some_and(|state| state.settings == *at),
            Condition::RefIs { repo, name, head } => return self.ref_is(*repo, name, *head),
            Condition::NoRefs(repo) => self.live(*repo).is_some_and(|state| state.heads.is_empty()),
            Condition::NoRecordsSince(repo, at) => self.live(*repo).is_some_and(|state| state.records <= *at),
            Condition::NoSweepSince(at) => self.repos.get(&SWEEPS).is_none_or(|swept| swept.last <= *at),
            Condition::ReleaseExists { repo, tag, exists } => {
                self.live(*repo).is_some_and(|state| state.releases.contains(tag) == *exists)
            }
        };
        holds.then_some(()).ok_or_else(|| Reason::Condition(condition.clone()))
    }

    fn ref_is(&self, repo: RepoId, name: &str, head: Option<ObjectId>) -> Result<(), Reason> {
        let refused = || Reason::Condition(Condition::RefIs { repo, name: name.to_owned(), head });
        let state = self.live(repo).ok_or_else(refused)?;
        if state.heads.get(name).copied() != head {
            return Err(refused());
        }
        match head {
            None => clash(&state.heads, name).map_or(Ok(()), |existing| Err(Reason::RefNameClash { existing })),
            Some(_) => Ok(()),
        }
    }

    /// What an event needs by itself. `made`: repositories that earlier events of the same proposal create.
    fn allows(&self, event: &EventBody, made: &mut BTreeSet<RepoId>) -> Result<(), Reason> {
        match event {
            EventBody::RepoCreated(record) => {
                let free = Condition::NameFree { owner: record.owner.clone(), slug: record.slug.clone() };
                self.holds(&free)?;
                if self.repos.contains_key(&record.repo) || !made.insert(record.repo) {
                    return Err(Reason::Condition(free));
                }
                Ok(())
            }
            EventBody::RepoUpdated(record) => {
                self.needs_live(record.repo, made)?;
                match self.names.get(&(record.owner.clone(), record.slug.clone())) {
                    Some(holder) if *holder != record.repo => Err(Reason::Condition(Condition::NameFree {
                        owner: record.owner.clone(),
                        slug: record.slug.clone(),
                    })),
                    _ => Ok(()),
                }
            }
            EventBody::RefsUpdated(refs) => {
                self.needs_live(refs.repo, made)?;
                self.allows_refs(refs.repo, &refs.updates)
            }
            other => repo_of(other).map_or(Ok(()), |repo| self.needs_live(repo, made)),
        }
    }

    /// Each update's old head is the present one, counting the updates before it; new names clash with none.
    fn allows_refs(&self, repo: RepoId, updates: &[RefUpdate]) -> Result<(), Reason> {
        let none = BTreeMap::new();
        let heads = self.live(repo).map_or(&none, |state| &state.heads);
        let mut moved: BTreeMap<&str, Option<ObjectId>> = BTreeMap::new();
        for update in updates {
            let present = moved.get(update.name.as_str()).copied().unwrap_or_else(|| heads.get(&update.name).copied());
            if present != update.old {
                let (name, head) = (update.name.clone(), update.old);
                return Err(Reason::Condition(Condition::RefIs { repo, name, head }));
            }
            moved.insert(&update.name, update.new);
        }
        let created = moved.iter().filter(|(name, new)| new.is_some() && !heads.contains_key(**name));
        for (name, _) in created {
            let stays = |other: &str| moved.get(other).is_none_or(Option::is_some);
            let existing = clashes(heads, name).find(|other| stays(other)).map(str::to_owned);
            let beside = moved.iter().find(|(other, new)| new.is_some() && is_path_prefix(other, name));
            if let Some(existing) = existing.or_else(|| beside.map(|(other, _)| (*other).to_owned())) {
                return Err(Reason::RefNameClash { existing });
            }
        }
        Ok(())
    }

    fn needs_live(&self, repo: RepoId, made: &BTreeSet<RepoId>) -> Result<(), Reason> {
        if self.live(repo).is_some() || made.contains(&repo) {
            return Ok(());
        }
        Err(Reason::Condition(Condition::RepoLive(repo)))
    }

    fn live(&self, repo: RepoId) -> Option<&RepoState> {
        self.repos.get(&repo).filter(|state| state.live)
    }

    fn entry(&mut self, repo: RepoId) -> &mut RepoState {
        self.repos.entry(repo).or_default()
    }

    fn fold_settings(&mut self, record: &RepoRecord, at: Position, undo: &mut Vec<Undo>) {
        undo.push(Undo::Repo(record.repo, self.repos.get(&record.repo).cloned().map(Box::new)));
        let state = self.repos.entry(record.repo).or_default();
        let old_name = (
            std::mem::replace(&mut state.owner, record.owner.clone()),
            std::mem::replace(&mut state.slug, record.slug.clone()),
        );
        (state.live, state.settings, state.last) = (true, at, at);
        let new_name = (record.owner.clone(), record.slug.clone());
        if old_name != new_name && self.names.get(&old_name) == Some(&record.repo) {
            self.names.remove(&old_name);
            undo.push(Undo::Name(old_name, Some(record.repo)));
        }
        let before = self.names.insert(new_name.clone(), record.repo);
        undo.push(Undo::Name(new_name, before));
    }

    fn fold_deleted(&mut self, repo: RepoId, at: Position, undo: &mut Vec<Undo>) {
        let before = self.repos.remove(&repo);
        let gone = RepoState { last: at, ..RepoState::default() };
        self.repos.insert(repo, gone);
        if let Some(state) = &before {
            let name = (state.owner.clone(), state.slug.clone());
            if self.names.get(&name) == Some(&repo) {
                self.names.remove(&name);
                undo.push(Undo::Name(name, Some(repo)));
            }
        }
        undo.push(Undo::Repo(repo, before.map(Box::new)));
    }

    fn fold_head(&mut self, repo: RepoId, update: &RefUpdate, undo: &mut Vec<Undo>) {
        let heads = &mut self.entry(repo).heads;
        let before = heads.get(&update.name).copied();
        set(heads, update.name.clone(), update.new);
        undo.push(Undo::Head(repo, update.name.clone(), before));
    }

    fn fold_release(&mut self, repo: RepoId, tag: &str, exists: bool, undo: &mut Vec<Undo>) {
        let releases = &mut self.entry(repo).releases;
        let before = releases.contains(tag);
        if exists {
            releases.insert(tag.to_owned());
        } else {
            releases.remove(tag);
        }
        undo.push(Undo::Release(repo, tag.to_owned(), before));
    }

    fn touch(&mut self, repo: RepoId, at: Position, records: bool, undo: &mut Vec<Undo>) {
        if !self.repos.contains_key(&repo) {
            undo.push(Undo::Repo(repo, None));
        }
        let state = self.entry(repo);
        undo.push(Undo::Positions(repo, state.last, state.records));
        state.last = at;
        if records {
            state.records = at;
        }
    }
}

/// No repository: its last event is the last one about packs alone. It is stored like a repository that is gone.
const SWEEPS: RepoId = RepoId([0; 16]);

/// The repository that an event belongs to, if it belongs to one.
pub(crate) fn repo_of(event: &EventBody) -> Option<RepoId> {
    match event {
        EventBody::RepoCreated(record) | EventBody::RepoUpdated(record) => Some(record.repo),
        EventBody::RepoDeleted(fact) => Some(fact.repo),
        EventBody::ObjectsReceived(fact) => Some(fact.repo),
        EventBody::RefsUpdated(fact) => Some(fact.repo),
        EventBody::TagsSet(fact) => Some(fact.repo),
        EventBody::TagsDeleted(fact) => Some(fact.repo),
        EventBody::ReleasePublished(fact) => Some(fact.repo),
        EventBody::ReleaseRetracted(fact) => Some(fact.repo),
        EventBody::RowsCondemned(fact) => Some(fact.repo),
        EventBody::TokenIssued(_) | EventBody::TokenRevoked(_) | EventBody::PacksRelocated(_) => None,
    }
}

/// Branches are judged on the state before the proposal: a second event that moves those of the same repository would be
/// judged as if the first were not there.
fn one_move_each(events: &[EventBody]) -> Result<(), Reason> {
    let mut moved = BTreeSet::new();
    for event in events {
        if let EventBody::RefsUpdated(refs) = event
            && !moved.insert(refs.repo)
        {
            let text = format!(
                "a proposal moves the branches of repository {} twice: put the moves into one event",
                refs.repo
            );
            return Err(Reason::Invalid(text));
        }
    }
    Ok(())
}

fn has_records(objects: &ObjectsReceived) -> bool {
    !objects.snapshots.is_empty() || !objects.commits.is_empty()
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn clash(heads: &BTreeMap<String, ObjectId>, name: &str) -> Option<String> {
    clashes(heads, name).next().map(str::to_owned)
}

/// Existing branches of which one is a path prefix of the other with `name`: `feat` and `feat/x`.
fn clashes<'a>(heads: &'a BTreeMap<String, ObjectId>, name: &'a str) -> impl Iterator<Item = &'a str> {
    let above = name.match_indices('/').filter_map(|(at, _)| heads.get_key_value(&name[..at]));
    let below = heads.range(format!("{name}/")..).take_while(move |(other, _)| is_path_prefix(name, other));
    above.chain(below).map(|(other, _)| other.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        event::{PacksRelocated, Visibility},
        id::{PackId, PushId, TableHash},
        log::state_codec,
    };

    const REPO: RepoId = RepoId([7; 16]);

    fn event(position: u64, body: EventBody) -> Event {
        Event { position: Position(position), time_ms: 0, push: PushId([1; 16]), actor: String::new(), body }
    }

    fn created() -> EventBody {
        let text = |text: &str| text.to_owned();
        EventBody::RepoCreated(RepoRecord {
            repo: REPO,
            owner: text("alice"),
            slug: text("etude"),
            domain: String::new(),
            default_branch: String::new(),
            visibility: Visibility::Public,
            created_ms: 0,
        })
    }

    fn delivered() -> EventBody {
        EventBody::ObjectsReceived(ObjectsReceived {
            repo: REPO,
            pack: PackId([3; 32]),
            pack_bytes: 0,
            table_hash: TableHash([0; 32]),
            rows: Vec::new(),
            snapshots: Vec::new(),
            commits: Vec::new(),
        })
    }

    fn taken(state: &State, since: Option<u64>) -> bool {
        let conditions: Vec<_> = since.map(|since| Condition::NoSweepSince(Position(since))).into_iter().collect();
        state.judge(&conditions, &[delivered()]).is_ok()
    }

    #[test]
    fn a_pack_that_was_stored_before_a_sweep_began_is_never_named_after_it() {
        let (mut state, mut undo) = (State::default(), Vec::new());
        state.fold(&event(1, created()), &mut undo);
        assert!(taken(&state, None) && taken(&state, Some(0)));
        undo.clear();
        state.fold(&event(2, EventBody::PacksRelocated(PacksRelocated { packs: Vec::new() })), &mut undo);
        let stored = state_codec::decode(&state_codec::encode(&state)).unwrap();
        assert_eq!(stored, state);
        for state in [&state, &stored] {
            assert!(!taken(state, Some(1)) && taken(state, Some(2)));
            assert!(!taken(state, None), "one that does not say when counts as of the beginning");
            assert!(state.judge(&[], &[EventBody::PacksRelocated(PacksRelocated { packs: Vec::new() })]).is_ok());
        }
        state.undo(undo);
        assert!(taken(&state, None), "a sweep that was not written never began");
    }
}
