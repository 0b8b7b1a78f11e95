//! What a view answers, on memory and on fjall.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod history;

use std::sync::Arc;

use history::*;
use reprise_engine::{ErrorKind, event::*, id::*};
use reprise_projections::{
    Model, RepoScope, View,
    projections::Checkpoint,
    store::{
        Store,
        fjall::{FjallStore, Memory},
        memory::MemoryStore,
    },
};

/// Runs `check` on views of the same events in both stores.
fn in_both(events: &[EventBody], check: impl Fn(&View)) {
    let log = MemoryLog::default();
    for event in events {
        log.append(vec![event.clone()]);
    }
    let dir = tempfile::tempdir().unwrap();
    let small = Memory { cache_bytes: 1 << 20, memtable_bytes: 1 << 20 };
    let stores: [Arc<dyn Store>; 2] =
        [Arc::new(MemoryStore::new()), Arc::new(FjallStore::create(&dir.path().join("x"), small).unwrap())];
    for store in stores {
        fold_live(&log, Arc::clone(&store), Checkpoint::START, || true).unwrap();
        check(&View::of_snapshot(store.snapshot().unwrap()).unwrap());
    }
}

fn repo(number: u8) -> RepoId {
    RepoId([number; 16])
}

fn created(number: u8, slug: &str) -> EventBody {
    EventBody::RepoCreated(repo_record(repo(number), slug))
}

fn deleted(number: u8, slug: &str) -> EventBody {
    EventBody::RepoDeleted(RepoDeleted { repo: repo(number), owner: "gabriel".into(), slug: slug.into() })
}

fn blob(number: u8) -> ObjectId {
    ObjectId([number; 32])
}

fn blobs(numbers: &[u8]) -> Vec<(Kind, ObjectId)> {
    numbers.iter().map(|number| (Kind::Blob, blob(*number))).collect()
}

fn delivered(repo_number: u8, pack: u8, numbers: &[u8]) -> EventBody {
    EventBody::ObjectsReceived(received(repo(repo_number), PackId([pack; 32]), &blobs(numbers), 0))
}

fn condemned(repo_number: u8, pack: u8, numbers: &[u8]) -> EventBody {
    EventBody::RowsCondemned(RowsCondemned {
        repo: repo(repo_number),
        pack: PackId([pack; 32]),
        rows: blobs(numbers),
        reason: "rot".into(),
    })
}

fn scope(view: &View, slug: &str) -> RepoScope {
    view.repo_by_name("gabriel", slug).unwrap().unwrap().scope()
}

fn pack_of(view: &View, scope: RepoScope, number: u8) -> Option<PackId> {
    view.locate(scope, Kind::Blob, blob(number)).unwrap().map(|location| location.pack)
}

#[test]
fn two_repositories_with_the_same_content_both_have_all_of_it() {
    let events = [created(1, "a"), created(2, "b"), delivered(1, 10, &[1, 2]), delivered(2, 11, &[1, 2])];
    in_both(&events, |view| {
        for (slug, pack) in [("a", 10), ("b", 11)] {
            let scope = scope(view, slug);
            assert!(view.missing(scope, Kind::Blob, &[blob(1), blob(2)]).unwrap().is_empty());
            assert_eq!(pack_of(view, scope, 1), Some(PackId([pack; 32])));
            assert!(view.proof(scope, Kind::Blob, blob(2)).unwrap().is_some());
        }
    });
}

#[test]
fn a_condemned_object_is_missing_until_it_is_delivered_again() {
    let mut events = vec![created(1, "a"), delivered(1, 10, &[1, 2]), condemned(1, 10, &[1])];
    in_both(&events, |view| {
        let scope = scope(view, "a");
        assert_eq!(view.missing(scope, Kind::Blob, &[blob(1), blob(2)]).unwrap(), [blob(1)]);
        assert_eq!(pack_of(view, scope, 1), None);
        assert!(view.has(scope, Kind::Blob, blob(2)).unwrap());
    });
    events.push(delivered(1, 5, &[1]));
    in_both(&events, |view| assert_eq!(pack_of(view, scope(view, "a"), 1), Some(PackId([5; 32]))));
    events.push(condemned(1, 5, &[1]));
    in_both(&events, |view| assert!(!view.has(scope(view, "a"), Kind::Blob, blob(1)).unwrap()));
    events.push(delivered(1, 10, &[1, 2]));
    in_both(&events, |view| assert_eq!(pack_of(view, scope(view, "a"), 1), Some(PackId([10; 32]))));
}

#[test]
fn the_latest_row_is_taken_whatever_the_packs_are_called() {
    for (first, second) in [(1, 200), (200, 1)] {
        let events = [created(1, "a"), delivered(1, first, &[7]), delivered(1, second, &[7])];
        in_both(&events, |view| assert_eq!(pack_of(view, scope(view, "a"), 7), Some(PackId([second; 32]))));
    }
}

#[test]
fn a_recreated_repository_sees_nothing_of_the_deleted_one() {
    let events = [created(1, "a"), delivered(1, 10, &[1]), deleted(1, "a"), created(2, "a"), delivered(2, 11, &[2])];
    in_both(&events, |view| {
        let scope = scope(view, "a");
        assert_eq!(scope.repo(), repo(2));
        assert!(!view.has(scope, Kind::Blob, blob(1)).unwrap());
        assert!(view.has(scope, Kind::Blob, blob(2)).unwrap());
        assert!(view.repo(repo(1)).unwrap().is_none());
        view.dump(Model::ObjectRefs, &mut |row| {
            assert_eq!(row["repo"], repo(2).to_string());
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn a_merge_over_many_ids_leaps_over_gaps_and_misses_nothing() {
    let all: Vec<u8> = (0..=255).collect();
    let events =
        [created(1, "a"), delivered(1, 10, &all), delivered(1, 11, &all), created(2, "b"), delivered(2, 12, &[3])];
    in_both(&events, |view| {
        let scope = scope(view, "a");
        for wanted in [vec![], vec![0], vec![255], vec![0, 255], vec![0, 1, 2, 120, 121, 254], (0..=255).collect()] {
            let mut ids: Vec<ObjectId> = wanted.iter().map(|number| blob(*number)).collect();
            // One that is not there, between two that are.
            let mut between = blob(0x80);
            between.0[31] = 1;
            ids.push(between);
            ids.sort();
            let mut answers = Vec::new();
            view.locate_all(scope, Kind::Blob, &ids, &mut |id, location| {
                answers.push((id, location.is_some()));
                Ok(())
            })
            .unwrap();
            let expected: Vec<(ObjectId, bool)> = ids.iter().map(|id| (*id, *id != between)).collect();
            assert_eq!(answers, expected);
            assert_eq!(view.missing(scope, Kind::Blob, &ids).unwrap(), [between]);
        }
    });
}

#[test]
fn what_a_commit_adds_comes_back_over_many_chunks() {
    let commit = (Kind::Commit, ObjectId([3; 32]));
    for adds in [0, 1, 1_024, 1_025, 5_000] {
        let pack = EventBody::ObjectsReceived(received(repo(1), PackId([1; 32]), &[commit], adds));
        in_both(&[created(1, "a"), pack], |view| {
            let scope = scope(view, "a");
            let mut found = Vec::new();
            view.commit_adds(scope, commit.1, &mut found).unwrap();
            assert_eq!(found.len(), adds);
            assert!(found.is_sorted());
            assert_eq!(view.commit(scope, commit.1).unwrap().unwrap().adds, adds as u64);
        });
    }
}

#[test]
fn an_event_that_cannot_be_folded_parks_its_repository_and_no_other() {
    let mut bad = received(repo(1), PackId([1; 32]), &blobs(&[1, 2]), 0);
    bad.rows.swap(0, 1);
    let events = [created(1, "a"), created(2, "b"), EventBody::ObjectsReceived(bad), delivered(2, 9, &[1])];
    in_both(&events, |view| {
        let parked = scope(view, "a");
        let refused = view.refs(parked).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert!(refused.to_string().contains("position 3"), "{refused}");
        assert!(view.has(scope(view, "b"), Kind::Blob, blob(1)).unwrap());
        assert_eq!(view.parked().unwrap().len(), 1);
    });
}

#[test]
fn a_repository_that_is_gone_is_not_parked_any_more_before_a_rebuild_as_after_it() {
    let mut bad = received(repo(1), PackId([1; 32]), &blobs(&[1, 2]), 0);
    bad.rows.swap(0, 1);
    let log = MemoryLog::default();
    for event in [created(1, "a"), EventBody::ObjectsReceived(bad)] {
        log.append(vec![event]);
    }
    let dir = tempfile::tempdir().unwrap();
    let projections = open_caught_up(&log, options(dir.path()));
    assert_eq!(projections.status().parked, 1);
    let end = log.append(vec![deleted(1, "a")]);
    assert!(projections.wait_folded(end, std::time::Duration::from_secs(10)));
    assert_eq!(projections.status().parked, 0);
    assert!(projections.rebuild(&Default::default(), &|_| {}).unwrap().switched);
    assert_eq!(projections.status().parked, 0);
}

#[test]
fn a_name_that_fits_into_no_key_parks_its_repository_in_a_live_fold_and_in_a_rebuild() {
    let long = "v".repeat(70_000);
    let tag =
        TagRecord { tag_id: "t".into(), tag: long.clone(), commit: ObjectId([1; 32]), created_at: "2026-01-01".into() };
    let mut named = repo_record(repo(3), "c");
    named.owner = long.clone();
    let update = RefUpdate { name: long.clone(), old: None, new: Some(ObjectId([1; 32])), forced: true };
    let events = [
        created(1, "a"),
        created(2, "b"),
        EventBody::TagsSet(TagsSet { repo: repo(1), tags: vec![tag] }),
        EventBody::RefsUpdated(RefsUpdated { repo: repo(1), updates: vec![update] }),
        EventBody::TagsDeleted(TagsDeleted { repo: repo(1), tags: vec![long.clone()] }),
        EventBody::ReleaseRetracted(ReleaseRetracted { repo: repo(1), tag: long }),
        EventBody::RepoCreated(named),
        delivered(2, 9, &[1]),
    ];
    in_both(&events, |view| {
        assert!(view.tags(scope(view, "a")).unwrap_err().to_string().contains("70000 bytes"));
        assert!(view.has(scope(view, "b"), Kind::Blob, blob(1)).unwrap());
        assert_eq!(view.parked().unwrap().len(), 1, "the third never came to be");
    });
    let log = MemoryLog::default();
    events.into_iter().for_each(|event| _ = log.append(vec![event]));
    let dir = tempfile::tempdir().unwrap();
    let projections = open_caught_up(&log, options(dir.path()));
    assert!(projections.rebuild(&Default::default(), &|_| {}).unwrap().switched);
    assert_eq!(projections.view().digest().unwrap(), reference(&log));
}

#[test]
fn repositories_are_listed_by_name_page_by_page_without_stale_names() {
    let mut renamed = repo_record(repo(1), "z");
    renamed.slug = "m".into();
    let events = [created(1, "z"), created(2, "b"), created(3, "c"), EventBody::RepoUpdated(renamed), deleted(3, "c")];
    in_both(&events, |view| {
        let slugs = |after, limit| -> Vec<String> {
            view.repos(after, limit).unwrap().into_iter().map(|row| row.record.slug).collect()
        };
        assert_eq!(slugs(None, 10), ["b", "m"]);
        assert_eq!(slugs(None, 1), ["b"]);
        assert_eq!(slugs(Some(("gabriel", "b")), 10), ["m"]);
        assert!(view.repo_by_name("gabriel", "z").unwrap().is_none());
    });
}

#[test]
fn every_projection_dumps_one_value_per_row() {
    let log = random_history(77, 60);
    let store = Arc::new(MemoryStore::new());
    fold_live(&log, store.clone(), Checkpoint::START, || true).unwrap();
    let view = View::of_snapshot(store.snapshot().unwrap()).unwrap();
    let digest = view.digest().unwrap();
    for model in Model::ALL.into_iter().filter(|model| *model != Model::Repos) {
        let mut count = 0;
        view.dump(model, &mut |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(count, digest.rows_of(model), "{}", model.name());
    }
}
