//! Which objects a repository has, where they are, and what is known of its commits: deliveries, repeated and shared ones,
//! condemned rows, packs that move, against plain maps.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, rngs::StdRng};
use reprise_engine::{
    event::{CommitFacts, EventBody, ObjectRow, ObjectsReceived, PacksRelocated, RowsCondemned, SnapshotFacts},
    id::{Kind, ObjectId, PackId, Position, RepoId},
    pack::{BaseLocation, Location},
};
use reprise_projections::{CommitRow, RepoScope, SnapshotRow, View};
use reprise_tests::{
    effort::Effort,
    history::{delivery, pooled},
    seeds,
};

use super::stepped::{Repos, Stepped};

#[test]
fn objects_places_and_commits_are_what_maps_say_after_every_step() {
    let (mut condemned, mut healed) = (0, 0);
    for number in Effort::of("T17 objects = maps", 256) {
        let mut case = Case {
            random: seeds::random(number, STREAM),
            log: Stepped::new(number),
            repos: Repos::new(),
            deliveries: Vec::new(),
            packs: BTreeMap::new(),
        };
        for _ in 0..case.random.random_range(1..=100) {
            case.step();
            case.check();
        }
        let rows = case.repos.live.values().flat_map(|owned| owned.places.values()).flat_map(BTreeMap::values);
        for place in rows.filter(|place| place.condemned.is_some()) {
            condemned += 1;
            healed += u32::from(place.location().is_some());
        }
    }
    assert!(condemned > 300 && healed > 30, "{condemned} condemned, {healed} of them delivered again");
}

/// What a repository has.
#[derive(Default, Debug)]
struct Owned {
    proofs: BTreeMap<(Kind, ObjectId), Position>,
    places: BTreeMap<(Kind, ObjectId), BTreeMap<PackId, Place>>,
    commits: BTreeMap<ObjectId, (CommitFacts, Position)>,
    snapshots: BTreeMap<ObjectId, (SnapshotFacts, Position)>,
}

/// An object in a pack.
#[derive(Default, Debug)]
struct Place {
    delivered: Option<(Location, Position)>,
    condemned: Option<Position>,
}

impl Place {
    /// Where it is, unless that was condemned since.
    fn location(&self) -> Option<&(Location, Position)> {
        self.delivered.as_ref().filter(|(_, at)| self.condemned.is_none_or(|condemned| condemned < *at))
    }
}

struct Case {
    random: StdRng,
    log: Stepped,
    repos: Repos<Owned>,
    deliveries: Vec<ObjectsReceived>,
    packs: BTreeMap<PackId, Option<String>>,
}

impl Case {
    fn step(&mut self) {
        let repos: Vec<RepoId> = self.repos.live.keys().copied().collect();
        if repos.is_empty() {
            return self.repos.create(&mut self.log);
        }
        let repo = repos[self.random.random_range(0..repos.len())];
        match self.random.random_range(0..20) {
            0 => self.repos.create(&mut self.log),
            1 => self.repos.delete(&mut self.log, repo),
            2..5 => self.relocate(),
            5..9 => self.condemn(repo),
            9..13 => self.deliver_again(repo),
            _ => {
                let received = delivery(&mut self.random, repo, POOL);
                self.deliver(received);
            }
        }
    }

    fn deliver(&mut self, received: ObjectsReceived) {
        let at = self.log.append(vec![EventBody::ObjectsReceived(received.clone())]);
        let owned = self.repos.live.get_mut(&received.repo).unwrap();
        for row in &received.rows {
            owned.proofs.insert((row.kind, row.id), at);
            let place = owned.places.entry((row.kind, row.id)).or_default().entry(received.pack).or_default();
            place.delivered = Some((location(&received, row), at));
        }
        owned.commits.extend(received.commits.iter().map(|facts| (facts.id, (facts.clone(), at))));
        owned.snapshots.extend(received.snapshots.iter().map(|facts| (facts.id, (facts.clone(), at))));
        self.packs.insert(received.pack, Some(key_of(received.pack)));
        self.deliveries.push(received);
    }

    /// The same pack once more, to its repository or, as a fork would, to another.
    fn deliver_again(&mut self, repo: RepoId) {
        if !self.deliveries.is_empty() {
            let again = self.deliveries[self.random.random_range(0..self.deliveries.len())].clone();
            self.deliver(ObjectsReceived { repo, ..again });
        }
    }

    /// Some rows of a pack; not all of them need be there.
    fn condemn(&mut self, repo: RepoId) {
        if self.deliveries.is_empty() {
            return;
        }
        let pack = self.deliveries[self.random.random_range(0..self.deliveries.len())].pack;
        let rows: BTreeSet<(Kind, ObjectId)> = pool().filter(|_| self.random.random_bool(0.2)).collect();
        let condemned = RowsCondemned { repo, pack, rows: rows.iter().copied().collect(), reason: "rot".to_owned() };
        let at = self.log.append(vec![EventBody::RowsCondemned(condemned)]);
        let owned = self.repos.live.get_mut(&repo).unwrap();
        for row in rows {
            owned.places.entry(row).or_default().entry(pack).or_default().condemned = Some(at);
        }
    }

    fn relocate(&mut self) {
        let chosen: Vec<PackId> = self.packs.keys().copied().filter(|_| self.random.random_bool(0.1)).collect();
        let place = |random: &mut StdRng| random.random::<bool>().then(|| format!("s3://{}", random.random::<u16>()));
        let packs: Vec<_> = chosen.into_iter().map(|pack| (pack, place(&mut self.random))).collect();
        self.packs.extend(packs.iter().cloned());
        self.log.append(vec![EventBody::PacksRelocated(PacksRelocated { packs })]);
    }

    fn check(&self) {
        let view = self.log.view();
        self.repos.check(&view);
        for (pack, place) in &self.packs {
            assert_eq!(view.storage_uri(*pack).unwrap(), *place, "{pack}");
        }
        for (repo, owned) in &self.repos.live {
            let scope = view.repo(*repo).unwrap().unwrap().scope();
            check_objects(&view, scope, owned);
            check_records(&view, scope, owned);
        }
    }
}

fn check_objects(view: &View, scope: RepoScope, owned: &Owned) {
    for kind in [Kind::Blob, Kind::Snapshot, Kind::Commit] {
        let ids: Vec<ObjectId> = (0..POOL).map(|number| pooled(number, kind)).collect();
        let mut places = Vec::new();
        for id in &ids {
            assert_eq!(view.proof(scope, kind, *id).unwrap().as_ref(), owned.proofs.get(&(kind, *id)), "{kind} {id}");
            let packs = owned.places.get(&(kind, *id)).into_iter().flat_map(BTreeMap::values);
            let latest = packs.filter_map(Place::location).max_by_key(|(_, at)| *at);
            places.push((*id, latest.map(|(location, _)| location.clone())));
        }
        let mut shown = Vec::new();
        view.locate_all(scope, kind, &ids, &mut |id, location| {
            shown.push((id, location));
            Ok(())
        })
        .unwrap();
        assert_eq!(shown, places, "{kind}");
        let missing: Vec<ObjectId> = places.iter().filter(|(_, place)| place.is_none()).map(|(id, _)| *id).collect();
        assert_eq!(view.missing(scope, kind, &ids).unwrap(), missing, "{kind}");
    }
}

fn check_records(view: &View, scope: RepoScope, owned: &Owned) {
    for number in 0..POOL {
        let (commit, snapshot) = (pooled(number, Kind::Commit), pooled(number, Kind::Snapshot));
        let known = owned.commits.get(&commit);
        assert_eq!(view.commit(scope, commit).unwrap(), known.map(|(facts, at)| commit_row(facts, *at)));
        let mut adds = Vec::new();
        view.commit_adds(scope, commit, &mut adds).unwrap();
        assert_eq!(adds, known.map_or(Vec::new(), |(facts, _)| facts.adds.clone()));
        let known = owned.snapshots.get(&snapshot).map(|(facts, at)| SnapshotRow {
            entries: facts.entries,
            directories: facts.directories,
            wire_len: facts.wire_len,
            position: *at,
        });
        assert_eq!(view.snapshot(scope, snapshot).unwrap(), known);
    }
}

fn commit_row(facts: &CommitFacts, position: Position) -> CommitRow {
    CommitRow {
        parents: facts.parents.clone(),
        snapshot: facts.snapshot,
        committed_at: facts.committed_at.clone(),
        branch: facts.branch.clone(),
        author: facts.author.clone(),
        message: facts.message.clone(),
        adds: facts.adds.len() as u64,
        wire_len: facts.wire_len,
        position,
    }
}

fn location(received: &ObjectsReceived, row: &ObjectRow) -> Location {
    let base = row.base.map(|base| &received.rows[base as usize]).map(|base| BaseLocation {
        offset: base.offset,
        stored_len: base.stored_len,
        real_len: base.real_len,
        codec: base.codec,
    });
    Location {
        pack: received.pack,
        offset: row.offset,
        stored_len: row.stored_len,
        real_len: row.real_len,
        codec: row.codec,
        base,
        record_hash: row.record_hash,
    }
}

/// A pack's place in an object store until an event says otherwise.
fn key_of(pack: PackId) -> String {
    let hex = pack.to_string();
    format!("packs/{}/{hex}.pack", &hex[..2])
}

fn pool() -> impl Iterator<Item = (Kind, ObjectId)> {
    let kinds = [Kind::Blob, Kind::Snapshot, Kind::Commit];
    kinds.into_iter().flat_map(|kind| (0..POOL).map(move |number| (kind, pooled(number, kind))))
}

/// Objects of a kind.
const POOL: u8 = 8;
const STREAM: u64 = 0x4f42;
