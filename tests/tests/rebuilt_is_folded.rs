//! Folded as events came, built again from the log, folded in memory (T15): the same rows, for random histories, by digest, at
//! every position that was looked at, whatever stops, kills and rebuilds lie between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use reprise_engine::{
    disk::{Disk, sim::SimDisk},
    engine::{Engine, Outcome},
};
use reprise_projections::{
    Checkpoint, Digest, Projections, RebuildOptions, View,
    projections::build_at,
    rebuild::{Target, build},
    store::{Batch, Store, memory::MemoryStore},
};
use reprise_tests::{
    answers::Questions,
    effort::Effort,
    faults::{
        run::{open, read_all},
        store::image::Image,
    },
    history::{History, KINDS, kind_of},
    scratch, seeds,
};

/// What happens between the pushes of a history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Between {
    /// The digest is noted.
    Look,
    /// The index is shut down and opened.
    CleanStop,
    /// It is let go and opened.
    UncleanStop,
    /// Its process is killed, so that what it held in memory is gone, and another one opens it.
    Kill,
    /// The log is closed and opened, and with it everything.
    LogRestart,
    /// A new generation is built while pushes go on.
    Rebuild,
}

impl Between {
    const ALL: [Between; 6] =
        [Between::Look, Between::CleanStop, Between::UncleanStop, Between::Kill, Between::LogRestart, Between::Rebuild];
}

/// A log, its index in fjall, the same in memory, and what both showed.
struct Story {
    random: StdRng,
    history: History,
    disk: SimDisk,
    engine: Engine,
    dir: tempfile::TempDir,
    lives: u32,
    /// `None` while nobody has it open.
    index: Option<Projections>,
    beside: Projections,
    shown: BTreeMap<u64, (Checkpoint, Digest)>,
    kinds: BTreeSet<&'static str>,
}

impl Story {
    fn new(seed: u64) -> Story {
        let (disk, dir) = (SimDisk::new(), scratch::dir());
        let (engine, _) = open(&disk, SEGMENT_BYTES).unwrap();
        let index = Some(open_index(&engine, Some(dir.path().join("0"))));
        let beside = open_index(&engine, None);
        let (random, history) = (seeds::random(seed, STORY_STREAM), History::new(seed));
        let (shown, kinds) = (BTreeMap::new(), BTreeSet::new());
        Story { random, history, disk, engine, dir, lives: 0, index, beside, shown, kinds }
    }

    fn append(&mut self, proposals: usize) {
        for proposal in self.history.by_ref().take(proposals) {
            self.kinds.extend(proposal.events.iter().map(kind_of));
            let outcome = self.engine.propose_and_wait(proposal);
            assert!(matches!(outcome, Outcome::Done { repeated: false, .. }), "{outcome:?}");
        }
    }

    fn between(&mut self, what: Between) {
        match what {
            Between::Look => self.look(),
            Between::CleanStop => {
                self.index().shutdown().unwrap();
                self.start();
            }
            Between::UncleanStop => self.start(),
            Between::Kill => self.kill(),
            Between::LogRestart => self.restart_log(),
            Between::Rebuild => self.rebuild(),
        }
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join(self.lives.to_string())
    }

    fn index(&self) -> &Projections {
        self.index.as_ref().unwrap()
    }

    fn start(&mut self) {
        drop(self.index.take());
        self.index = Some(open_index(&self.engine, Some(self.place())));
    }

    /// A copy of what is in the files now goes on elsewhere.
    fn kill(&mut self) {
        let files = Image::of(&self.place());
        self.lives += 1;
        files.write(&self.place()).unwrap();
        self.start();
    }

    fn restart_log(&mut self) {
        self.index().shutdown().unwrap();
        self.beside.shutdown().unwrap();
        self.engine.shutdown().unwrap();
        self.engine = open(&self.disk, SEGMENT_BYTES).unwrap().0;
        self.start();
        self.beside = open_index(&self.engine, None);
    }

    fn rebuild(&mut self) {
        self.catch_up();
        let options = self.options();
        let index = self.index().clone();
        std::thread::scope(|scope| {
            let rebuilding = scope.spawn(move || index.rebuild(&options, &|_| {}));
            self.append(8);
            let report = rebuilding.join().unwrap().unwrap();
            assert!(report.switched, "{report:?}");
        });
        self.look();
    }

    /// Both show the same.
    fn look(&mut self) {
        self.catch_up();
        let (view, beside) = (self.index().view(), self.beside.view());
        assert_eq!(view.checkpoint(), beside.checkpoint());
        let digest = view.digest().unwrap();
        assert_eq!(digest, beside.digest().unwrap(), "fjall and memory, {:?}", self.index().status());
        self.shown.insert(view.checkpoint().position.0, (view.checkpoint(), digest));
    }

    fn catch_up(&self) {
        let end = self.engine.durable().position;
        for index in [self.index(), &self.beside] {
            assert!(index.wait_folded(end, PATIENCE), "{:?}", index.status());
        }
    }

    fn options(&mut self) -> RebuildOptions {
        RebuildOptions {
            readers: self.random.random_range(1..4),
            run_bytes: [1, 8_000, 12 << 20][self.random.random_range(0..3)],
            fan_in: [2, 5, 64][self.random.random_range(0..3)],
            live_is_bad: false,
        }
    }

    /// What was shown on the way is what a build of that position gives; at the end every answer is the same.
    fn check(&mut self) {
        self.look();
        for (at, shown) in self.shown.clone().into_values() {
            let store = MemoryStore::new();
            let spill: Arc<dyn Disk> = Arc::new(SimDisk::new());
            let target = Target { store: Some(&store), spill: Some((spill, String::new())), stop: &|| false };
            let options = self.options();
            let built = build(&self.engine, at, &target, &options, &|_| {}).unwrap();
            assert_eq!(built, shown, "built up to {}, {options:?}", at.position);
            store.apply(&Batch::new(), Some(at)).unwrap();
            let stored = View::of_snapshot(store.snapshot().unwrap()).unwrap();
            assert_eq!(stored.digest().unwrap(), shown, "stored up to {}, {options:?}", at.position);
            let again = build_at(&self.engine, at.position).unwrap();
            assert_eq!(again.digest().unwrap(), shown, "folded up to {}", at.position);
        }
        let questions = Questions::of(&read_all(&self.engine).unwrap());
        let expected = build_at(&self.engine, self.engine.durable().position).unwrap();
        for index in [self.index(), &self.beside] {
            assert_eq!(questions.difference(&index.view(), &expected).unwrap(), None);
        }
    }
}

fn open_index(engine: &Engine, dir: Option<PathBuf>) -> Projections {
    let options = reprise_projections::Options { dir, cache_bytes: 4 << 20, memtable_bytes: 4 << 20 };
    Projections::open(engine.clone(), options).unwrap()
}

#[test]
fn however_rows_came_to_be_they_are_the_same_at_every_position() {
    let (mut kinds, mut done, mut looks) = (BTreeSet::new(), BTreeSet::new(), 0);
    for seed in Effort::of("T15 rebuilt = folded", 50) {
        let mut story = Story::new(seed);
        for _ in 0..story.random.random_range(3..9) {
            let proposals = story.random.random_range(1..25);
            story.append(proposals);
            let what = Between::ALL[story.random.random_range(0..Between::ALL.len())];
            story.between(what);
            done.insert(what);
        }
        story.check();
        looks += story.shown.len();
        kinds.append(&mut story.kinds);
    }
    eprintln!("{looks} positions");
    assert_eq!(kinds.len(), KINDS, "not every kind of event came up: {kinds:?}");
    assert_eq!(done.len(), Between::ALL.len(), "not everything happened: {done:?}");
}

const SEGMENT_BYTES: u64 = 16 << 10;
const STORY_STREAM: u64 = 0x5431_3500;
/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
