//! A rebuild gives the rows of a plain fold, whatever the buffers, segments and threads; it fails rather than be wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reprise_engine::{
    Error, ErrorKind, Result,
    disk::{Disk, real::RealDisk},
    engine::Group,
    event::{
        Codec, CommitFacts, Event, EventBody, ObjectRow, ObjectsReceived, PacksRelocated, RefUpdate, RefsUpdated,
        ReleasePublished, ReleaseRetracted, RepoDeleted, RepoRecord, RowsCondemned, Scope, SnapshotFacts, TagRecord,
        TagsDeleted, TagsSet, TokenRecord, Visibility,
    },
    id::{ChainHash, Kind, ObjectId, PackId, Position, PushId, RecordHash, RepoId, TableHash, TokenHash, TokenId},
};

use super::{
    RebuildOptions, Target,
    buffer::{Buffer, Liveness},
    build_from,
    feed::MemoryFeed,
    runs::spill,
};
use crate::{
    Checkpoint, Digest, digest,
    models::{self, Keyspace, Model},
    store::{Batch, Snapshot, SortedRows, Stamp, Store, memory::MemoryStore},
};

#[test]
fn a_rebuild_is_a_plain_fold_whatever_the_buffers_segments_and_threads() {
    let (mut spilled, mut deleted) = (0, 0);
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let groups = history(&mut random);
        let (plain, expected) = fold_plainly(&groups);
        deleted += groups.iter().flat_map(|group| group.events.iter()).filter(|event| is_deletion(event)).count();
        let options = RebuildOptions {
            readers: random.random_range(1..4),
            run_bytes: [1, 4_000, 60_000, 1 << 20][random.random_range(0..4)],
            fan_in: [2, 3, 7, 64][random.random_range(0..4)],
            live_is_bad: false,
        };
        let per_segment = random.random_range(1..=groups.len());
        let case = format!("seed {seed}, {per_segment} groups in a segment, {options:?}");
        let rebuilt = MemoryStore::new();
        let dir = tempfile::tempdir().unwrap();
        let disk = CountedDisk::new(dir.path());
        let digest = build(&groups, per_segment, &rebuilt, &disk, &options).unwrap();
        assert_eq!(digest, expected, "{case}");
        assert_eq!(digest::of_snapshot(&*rebuilt.snapshot().unwrap(), expected.position).unwrap(), expected, "{case}");
        assert_no_dead_rows(&*rebuilt.snapshot().unwrap(), &*plain.snapshot().unwrap());
        assert!(disk.list("").unwrap().is_empty(), "run files are left: {case}");
        spilled += disk.created.load(Relaxed);
    }
    assert!(spilled > 1_000, "only {spilled} run files were written: nothing was tested");
    assert!(deleted > 60, "only {deleted} repositories were deleted: nothing was tested");
}

#[test]
fn two_builds_of_different_shape_write_the_same_rows() {
    let groups = history(&mut StdRng::seed_from_u64(77));
    let dir = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    for (readers, run_bytes, fan_in) in [(1, 1 << 24, 64), (2, 1, 2), (3, 9_000, 5)] {
        let store = MemoryStore::new();
        let options = RebuildOptions { readers, run_bytes, fan_in, live_is_bad: false };
        build(&groups, 3, &store, &CountedDisk::new(dir.path()), &options).unwrap();
        found.push(all_rows(&*store.snapshot().unwrap()));
    }
    assert!(found[0].len() > 300);
    assert!(found[0] == found[1] && found[1] == found[2]);
}

#[test]
fn an_empty_log_gives_no_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let digest = build(&[], 1, &store, &CountedDisk::new(dir.path()), &RebuildOptions::default()).unwrap();
    assert_eq!(digest, Digest::empty(Position::ZERO));
}

#[test]
fn a_position_inside_a_group_a_foreign_chain_and_a_hole_are_refused() {
    let events: Vec<Event> =
        (1..=9).map(|at| event(at, created(RepoId([at as u8; 16]), "o", &at.to_string()))).collect();
    let group = |part: &[Event]| Group { events: part.into(), chain: chain_of(part.last().unwrap().position) };
    let groups: Vec<Group> = events.chunks(3).map(group).collect();
    let run = |groups: &[Group], until: u64, chain: ChainHash| {
        let target = Target { store: None, spill: None, stop: &|| false };
        let until = Checkpoint { position: Position(until), chain };
        build_from(&MemoryFeed::new(groups, 1), until, &target, &RebuildOptions::default(), &|_| {})
    };
    let chain = |at| chain_of(Position(at));
    assert_eq!(run(&groups, 6, chain(6)).unwrap().rows(), 12);
    assert_eq!(run(&groups, 5, chain(5)).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(run(&groups, 6, chain(9)).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(run(&groups, 12, chain(12)).unwrap_err().kind(), ErrorKind::Corrupt, "the log is shorter");
    let hole = [groups[0].clone(), groups[2].clone()];
    assert_eq!(run(&hole, 9, chain(9)).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_build_that_is_stopped_or_whose_store_fails_ends_with_that_error_and_leaves_no_files() {
    let groups = history(&mut StdRng::seed_from_u64(5));
    let dir = tempfile::tempdir().unwrap();
    let disk = CountedDisk::new(dir.path());
    let until = end_of(&groups);
    let options = RebuildOptions { run_bytes: 1, fan_in: 3, ..RebuildOptions::default() };
    let feed = MemoryFeed::new(&groups, 2);
    let spill = || Some((Arc::clone(&disk) as Arc<dyn Disk>, String::new()));
    let store = FailingStore;
    let target = Target { store: Some(&store), spill: spill(), stop: &|| false };
    let failed = build_from(&feed, until, &target, &options, &|_| {}).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Full);
    let target = Target { store: Some(&store), spill: spill(), stop: &|| true };
    let long = long_history();
    let stopped = build_from(&MemoryFeed::new(&long, 9_000), end_of(&long), &target, &options, &|_| {});
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(disk.created.load(Relaxed) > 0);
    assert!(disk.list("").unwrap().is_empty());
}

#[test]
fn every_flipped_byte_and_every_cut_of_a_run_file_is_an_error() {
    let groups = history(&mut StdRng::seed_from_u64(3));
    let (mut buffer, mut liveness) = (Buffer::with_room(1 << 20), Liveness::new());
    for event in groups.iter().take(12).flat_map(|group| group.events.iter()) {
        models::fold(event, &mut buffer.event(event.position, &mut liveness));
    }
    buffer.sort();
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path().to_owned()));
    let run = spill(&buffer, &(Arc::clone(&disk), String::new()), &AtomicU64::new(0)).unwrap();
    let read_all = || -> Result<usize> {
        let mut count = 0;
        for keyspace in Keyspace::ALL {
            let mut cursor = run.cursor(keyspace)?;
            while let Some(change) = cursor.change() {
                assert_eq!(change, buffer.change(keyspace, count_in(&mut count)), "{keyspace:?}");
                cursor.advance()?;
            }
            assert_eq!(std::mem::take(&mut count), buffer.len_of(keyspace));
        }
        Ok(0)
    };
    read_all().unwrap();
    let file = disk.open("run-000000").unwrap();
    let len = file.len().unwrap();
    assert!(len > 1_000);
    for at in (0..len).step_by(7).chain(0..64) {
        let mut byte = [0];
        file.read_at(&mut byte, at).unwrap();
        file.write_at(&[byte[0] ^ 0x10], at).unwrap();
        assert_eq!(read_all().unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}");
        file.write_at(&byte, at).unwrap();
    }
    read_all().unwrap();
    file.set_len(len - 1).unwrap();
    assert_eq!(read_all().unwrap_err().kind(), ErrorKind::Corrupt);
    drop(run);
    assert!(disk.list("").unwrap().is_empty(), "a run takes its file with it");
}

fn count_in(count: &mut usize) -> usize {
    *count += 1;
    *count - 1
}

fn build(
    groups: &[Group],
    per_segment: usize,
    store: &dyn Store,
    disk: &Arc<CountedDisk>,
    options: &RebuildOptions,
) -> Result<Digest> {
    let spill = Some((Arc::clone(disk) as Arc<dyn Disk>, String::new()));
    let target = Target { store: Some(store), spill, stop: &|| false };
    build_from(&MemoryFeed::new(groups, per_segment), end_of(groups), &target, options, &|_| {})
}

fn fold_plainly(groups: &[Group]) -> (MemoryStore, Digest) {
    let store = MemoryStore::new();
    for event in groups.iter().flat_map(|group| group.events.iter()) {
        let mut batch = Batch::new();
        models::fold(event, &mut batch);
        store.apply(&batch, None).unwrap();
    }
    let digest = digest::of_snapshot(&*store.snapshot().unwrap(), end_of(groups).position).unwrap();
    (store, digest)
}

fn end_of(groups: &[Group]) -> Checkpoint {
    let position = groups.last().map_or(Position::ZERO, |group| group.events.last().unwrap().position);
    Checkpoint { position, chain: chain_of(position) }
}

fn chain_of(position: Position) -> ChainHash {
    ChainHash([position.0 as u8; 32])
}

/// Nothing but logical rows is loaded, although a plain fold keeps those of deleted repositories.
fn assert_no_dead_rows(rebuilt: &dyn Snapshot, plain: &dyn Snapshot) {
    let (rebuilt, plain) = (all_rows(rebuilt), all_rows(plain));
    assert!(rebuilt.len() <= plain.len());
    assert!(rebuilt.iter().all(|row| plain.binary_search(row).is_ok()));
}

type Row = (Model, Vec<u8>, Vec<u8>);

fn all_rows(snapshot: &dyn Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    for model in Model::ALL {
        let mut each = |key: &[u8], row: &[u8]| {
            rows.push((model, key.to_vec(), row.to_vec()));
            Ok(std::ops::ControlFlow::Continue(()))
        };
        snapshot.scan(model, &[], None, &mut each).unwrap();
    }
    rows
}

/// A log that takes longer than the time between two questions whether to stop, with a run file for every event.
fn long_history() -> Vec<Group> {
    let body = |at: u64| created(RepoId([at as u8; 16]), "owner", "slug");
    let one = |at: u64| Group { events: [event(at, body(at))].into(), chain: chain_of(Position(at)) };
    (1..=30_000).map(one).collect()
}

struct FailingStore;

/// A store that loses a row on the way.
struct ForgetfulStore;

impl Store for ForgetfulStore {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        FailingStore.snapshot()
    }
    fn apply(&self, batch: &Batch, checkpoint: Option<Checkpoint>) -> Result<()> {
        FailingStore.apply(batch, checkpoint)
    }
    fn ingest(&self, rows: &mut dyn SortedRows) -> Result<u64> {
        let mut count = 0u64;
        while rows.next_row()?.is_some() {
            count += 1;
        }
        Ok(count.saturating_sub(1))
    }
    fn flush(&self, stamp: Stamp) -> Result<()> {
        FailingStore.flush(stamp)
    }
}

#[test]
fn a_store_that_took_fewer_rows_than_it_was_given_is_no_build() {
    let groups = history(&mut StdRng::seed_from_u64(9));
    let target = Target { store: Some(&ForgetfulStore), spill: None, stop: &|| false };
    let options = RebuildOptions::default();
    let ended = build_from(&MemoryFeed::new(&groups, 9_000), end_of(&groups), &target, &options, &|_| {});
    assert!(ended.unwrap_err().to_string().contains("the store took"));
}

impl Store for FailingStore {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Err(Error::new(ErrorKind::Full, "full"))
    }
    fn apply(&self, _: &Batch, _: Option<Checkpoint>) -> Result<()> {
        Err(Error::new(ErrorKind::Full, "full"))
    }
    fn ingest(&self, rows: &mut dyn SortedRows) -> Result<u64> {
        rows.next_row()?;
        Err(Error::new(ErrorKind::Full, "full"))
    }
    fn flush(&self, _: Stamp) -> Result<()> {
        Err(Error::new(ErrorKind::Full, "full"))
    }
}

/// A real disk that counts the files it made.
struct CountedDisk {
    disk: RealDisk,
    created: AtomicU64,
}

impl CountedDisk {
    fn new(root: &std::path::Path) -> Arc<CountedDisk> {
        Arc::new(CountedDisk { disk: RealDisk::new(root.to_owned()), created: AtomicU64::new(0) })
    }
}

impl Disk for CountedDisk {
    fn open(&self, path: &str) -> Result<Box<dyn reprise_engine::disk::DiskFile>> {
        self.disk.open(path)
    }
    fn create_new(&self, path: &str) -> Result<Box<dyn reprise_engine::disk::DiskFile>> {
        self.created.fetch_add(1, Relaxed);
        self.disk.create_new(path)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, dir: &str) -> Result<()> {
        self.disk.create_dir(dir)
    }
    fn remove_dir(&self, dir: &str) -> Result<()> {
        self.disk.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &str, holder: &str) -> Result<Box<dyn reprise_engine::disk::DiskLock>> {
        self.disk.lock(path, holder)
    }
}

/// Some hundred events of a few repositories that delete, recreate, overwrite, condemn and revoke, in groups.
fn history(random: &mut StdRng) -> Vec<Group> {
    let mut next = 1;
    let mut groups = Vec::new();
    for _ in 0..random.random_range(40..90) {
        let events: Vec<Event> = (0..random.random_range(1..4))
            .map(|_| {
                next += 1;
                event(next - 1, body(random))
            })
            .collect();
        let chain = chain_of(events.last().unwrap().position);
        groups.push(Group { events: events.into(), chain });
    }
    groups
}

fn event(at: u64, body: EventBody) -> Event {
    Event { position: Position(at), time_ms: at, push: PushId([1; 16]), actor: "someone".into(), body }
}

fn is_deletion(event: &Event) -> bool {
    matches!(event.body, EventBody::RepoDeleted(_))
}

fn body(random: &mut StdRng) -> EventBody {
    let repo = RepoId([random.random_range(1..6); 16]);
    let slug = repo.0[0].to_string();
    match random.random_range(0..24) {
        0..3 => created(repo, "owner", &slug),
        3 => EventBody::RepoUpdated(record(repo, "owner", "renamed")),
        4..6 => EventBody::RepoDeleted(RepoDeleted { repo, owner: "owner".into(), slug }),
        6..11 => EventBody::ObjectsReceived(received(random, repo)),
        11..14 => {
            let head = |random: &mut StdRng| random.random_bool(0.8).then(|| object(random));
            let updates = (0..random.random_range(1..4)).map(|at| RefUpdate {
                name: format!("branch-{at}"),
                old: head(random),
                new: head(random),
                forced: false,
            });
            EventBody::RefsUpdated(RefsUpdated { repo, updates: updates.collect() })
        }
        14 => EventBody::TagsSet(TagsSet { repo, tags: (0..3).map(|at| tag(random, at)).collect() }),
        15 => EventBody::TagsDeleted(TagsDeleted { repo, tags: vec!["tag-1".into(), "tag-2".into()] }),
        16 => EventBody::ReleasePublished(ReleasePublished {
            repo,
            tag: format!("v{}", random.random_range(0..3)),
            channel: "stable".into(),
            is_draft: false,
            record: vec![b'{', b'}'],
        }),
        17 => EventBody::ReleaseRetracted(ReleaseRetracted { repo, tag: format!("v{}", random.random_range(0..3)) }),
        18 => EventBody::TokenIssued(token(random)),
        19 => EventBody::TokenRevoked(token(random)),
        20 => EventBody::PacksRelocated(PacksRelocated {
            packs: vec![(pack(random), random.random_bool(0.5).then(|| "elsewhere".to_owned()))],
        }),
        _ => {
            let rows = vec![(Kind::Blob, object(random)), (Kind::Commit, object(random))];
            EventBody::RowsCondemned(RowsCondemned { repo, pack: pack(random), rows, reason: "rotten".into() })
        }
    }
}

fn created(repo: RepoId, owner: &str, slug: &str) -> EventBody {
    EventBody::RepoCreated(record(repo, owner, slug))
}

fn record(repo: RepoId, owner: &str, slug: &str) -> RepoRecord {
    RepoRecord {
        repo,
        owner: owner.into(),
        slug: slug.into(),
        domain: "code".into(),
        default_branch: "main".into(),
        visibility: Visibility::Private,
        created_ms: 5,
    }
}

/// Few ids, so that packs overlap.
fn object(random: &mut StdRng) -> ObjectId {
    ObjectId([random.random_range(0..40); 32])
}

fn pack(random: &mut StdRng) -> PackId {
    PackId([random.random_range(0..6); 32])
}

fn tag(random: &mut StdRng, at: usize) -> TagRecord {
    TagRecord { tag_id: "id".into(), tag: format!("tag-{at}"), commit: object(random), created_at: "then".into() }
}

fn token(random: &mut StdRng) -> TokenRecord {
    let name = random.random_range(0..4);
    TokenRecord {
        token: TokenId([name; 16]),
        hash: TokenHash([name; 32]),
        owner: "owner".into(),
        repo: None,
        scope: Scope::Write,
        issued_ms: 1,
        expires_ms: None,
    }
}

fn received(random: &mut StdRng, repo: RepoId) -> ObjectsReceived {
    let kinds = [Kind::Blob, Kind::Snapshot, Kind::Commit];
    let mut names: Vec<(Kind, ObjectId)> =
        (0..random.random_range(1..40)).map(|_| (kinds[random.random_range(0..3)], object(random))).collect();
    names.sort_unstable();
    names.dedup();
    if random.random_bool(0.1) {
        // Not as the fold wants it: the repository is parked.
        names.reverse();
    }
    let of = |kind| names.iter().filter(move |name| name.0 == kind).map(|name| name.1).collect::<Vec<_>>();
    let commits = of(Kind::Commit).into_iter().map(|id| CommitFacts {
        id,
        parents: vec![ObjectId([7; 32])],
        snapshot: ObjectId([8; 32]),
        committed_at: "then".into(),
        branch: "main".into(),
        author: "someone".into(),
        message: "why".into(),
        adds: (0..if random.random_bool(0.05) { 1_500 } else { 9 }).map(|at: u16| ObjectId([at as u8; 32])).collect(),
        wire_len: 9,
    });
    let commits = commits.collect();
    let snapshots =
        of(Kind::Snapshot).into_iter().map(|id| SnapshotFacts { id, entries: 3, directories: 1, wire_len: 4 });
    let rows = names.iter().map(|(kind, id)| ObjectRow {
        kind: *kind,
        id: *id,
        offset: random.random_range(0..1 << 20),
        stored_len: 10,
        real_len: 20,
        codec: Codec::Raw,
        base: None,
        record_hash: (*kind != Kind::Blob).then_some(RecordHash([3; 32])),
    });
    let rows = rows.collect();
    ObjectsReceived {
        repo,
        pack: pack(random),
        pack_bytes: 100,
        table_hash: TableHash([4; 32]),
        snapshots: snapshots.collect(),
        rows,
        commits,
    }
}
