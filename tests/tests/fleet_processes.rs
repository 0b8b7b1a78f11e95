//! T7, T10, T11 with real servers and a bucket whose requests fail: killed, paused, disks destroyed, under load, again and again.
//!
//! The oracle lives in this process. A fleet, and one machine with `--durability bucket`, lose nothing that was acknowledged; one
//! machine with a log of its own loses with its disk at most what was not archived, and what comes back is a prefix.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, clippy::print_stderr)]

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use reprise_tests::{
    bucket::{
        Bucket, Faults,
        machine::{URL, machine},
    },
    client::{CloneFailure, clone},
    effort::Effort,
    machines::Fleet,
    seeds,
    server_process::{DataDir, ServerProcess},
    workload::{Client, Field, Writer, load_until},
};
use rustix::process::Signal;
use serde_json::Value as Json;

/// Cycles on one bucket; a long run starts with a new one then, or history would be all that it handles.
const CYCLES_PER_BUCKET: u64 = 60;

/// Starts and restores that are tried while requests fail.
const STARTS_MAX: usize = 5;
const RESTORES_MAX: usize = 6;
/// Of a hundred requests, those that fail.
const PERCENTS: [u32; 3] = [0, 3, 8];

/// Cycles of fleets of `count` servers: nothing acknowledged is lost.
fn check_cycles(effort: Effort, count: usize, arguments: &[&'static str]) {
    let seed = seeds::seed("fleet_processes");
    let mut fleet = Fleet::new(seed, 0, count, arguments);
    let (mut events, mut pushes, mut cycles, mut acknowledged, mut failed) = (BTreeMap::new(), 0, 0u64, 0, 0);
    let mut add = |fleet: Fleet| {
        (acknowledged, failed) = (acknowledged + fleet.acknowledged, failed + fleet.failed);
        pushes += fleet.end().pushes().len();
    };
    for cycle in effort {
        if cycles > 0 && cycles.is_multiple_of(CYCLES_PER_BUCKET) {
            add(std::mem::replace(&mut fleet, Fleet::new(seed, cycle, count, arguments)));
        }
        *events.entry(fleet.cycle(cycle)).or_insert(0) += 1;
        cycles += 1;
    }
    add(fleet);
    eprintln!(
        "{count} servers: {cycles} cycles {events:?}, {acknowledged} successes seen, {pushes} pushes acknowledged, {failed} \
         requests of the bucket failed"
    );
    assert!(
        pushes as u64 > cycles && failed > 0,
        "the load and the faults were real: {pushes} pushes, {failed} failed"
    );
}

#[test]
fn a_fleet_loses_nothing_acknowledged_whatever_becomes_of_its_servers_disks_and_requests() {
    check_cycles(Effort::of("T11 servers of a fleet", 20), 3, &["--log", "bucket"]);
}

#[test]
fn durability_bucket_loses_nothing_acknowledged_with_any_disk() {
    check_cycles(Effort::of("T10 lost disks, durable in the bucket", 9), 1, &["--durability", "bucket"]);
}

/// One machine with a log of its own, and what it said and had before its disk went.
struct Alone {
    bucket: Bucket,
    data: DataDir,
    /// The last that is known of the archive: what `status` said, or a shutdown that brought everything.
    archived: u64,
    /// Lives in which it went on.
    advanced: u64,
    log: Vec<Json>,
    random: StdRng,
    seed: u64,
}

impl Alone {
    fn new(seed: u64, number: u64) -> Alone {
        let bucket = Bucket::start();
        let data = machine(&bucket);
        Alone { data, bucket, archived: 0, advanced: 0, log: Vec::new(), random: seeds::random(seed, number), seed }
    }

    fn faulty(&self, life: u64, percent: u32) {
        self.bucket.objects.set_faults(Faults::random(self.seed ^ life, percent));
    }

    fn serve(&self) -> ServerProcess {
        // A quarter of this is brought at once: lives are too short for the usual thirty seconds.
        let arguments = ["--bucket", URL, "--limit", "unarchived_bytes_max=160000"];
        let started =
            |_| self.data.try_serve_with(&arguments).inspect_err(|told| eprintln!("a start failed: {told}")).ok();
        let server = (0..STARTS_MAX).find_map(started).expect("one of some starts");
        server.wait_ready();
        server
    }

    fn asked_archived(&self, server: &ServerProcess) -> u64 {
        let status = self.data.asked(server, "status");
        status[0]["archived"].as_u64().unwrap_or_else(|| panic!("{status:?}"))
    }

    /// A life under load: it ends by a kill, or by a shutdown that brings the rest of the log and is killed in the middle of it,
    /// or not. Then what is on its disk is read, and the disk is lost.
    fn live(&mut self, life: u64) {
        let (percent, end) = (PERCENTS[usize::try_from(life / 3).unwrap() % PERCENTS.len()], life % 3);
        self.faulty(life, percent);
        let server = self.serve();
        let repo = format!("alice/life-{life}");
        self.data.create_repo(&repo, &[]);
        let field = Field::new(&self.data, &["alice"]);
        let mut clients: Vec<Box<dyn Client>> = (0..3)
            .map(|at| Box::new(Writer::new(&repo, &format!("b{at}"), self.seed, life * 10 + at)) as Box<dyn Client>)
            .collect();
        let load = Duration::from_millis(self.random.random_range(600..1_500));
        let patience = self.random.random_range(0..400);
        let archived = std::cell::Cell::new(0);
        load_until(server, &mut clients, &field, load, |server| {
            archived.set(self.asked_archived(&server));
            match end {
                0 => server.kill(),
                1 => {
                    server.signal(Signal::TERM);
                    thread::sleep(Duration::from_millis(patience));
                    server.kill();
                }
                _ => server.stop(),
            }
        });
        self.log = self.on_disk();
        self.advanced += u64::from(archived.get() > self.archived);
        self.archived = self.archived.max(archived.get());
        // A shutdown that ended well, with a bucket that works, has brought all of it.
        if end == 2 && percent == 0 {
            self.archived = self.log.len() as u64;
        }
        self.data = machine(&self.bucket);
    }

    /// All of the log that is on the disk. Reading it opens the hub, and that brings the rest to the bucket: taken away again.
    fn on_disk(&self) -> Vec<Json> {
        let objects = &self.bucket.objects;
        let before: BTreeSet<String> = objects.keys().into_iter().collect();
        objects.set_faults(Faults::default());
        let log = self.data.json_lines(&["log"]);
        objects.keys().iter().filter(|key| !before.contains(*key)).for_each(|key| objects.remove(key));
        log
    }

    /// What the bucket brings back is a prefix of what was on the disk, and reaches what was said to be archived.
    fn restore(&mut self, life: u64) -> usize {
        let percent = PERCENTS[self.random.random_range(0..PERCENTS.len())];
        self.faulty(life + 1_000_000, percent);
        // Requests fail: begun again, it goes on where it was, until the log is there; then only its report may have failed.
        let restored = (0..RESTORES_MAX).find_map(|_| {
            let output = self.data.run(&["restore", "--bucket", URL, "--json"]);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.success() {
                true => Some(serde_json::from_slice(&output.stdout).unwrap()),
                false => told.contains("holds a log already").then_some(Json::Null),
            }
        });
        let restored = restored.unwrap_or_else(|| panic!("life {life}: {RESTORES_MAX} restores failed"));
        self.bucket.objects.set_faults(Faults::default());
        let back = self.data.json_lines(&["log"]);
        if !restored.is_null() {
            let told = (restored["archived"].as_u64(), restored["missing_packs"].as_u64());
            assert_eq!(told, (Some(back.len() as u64), Some(0)), "life {life}: {restored}");
        }
        assert!(back.len() as u64 >= self.archived, "life {life}: {} of {} archived", back.len(), self.archived);
        assert!(back.len() <= self.log.len(), "life {life}: events that the disk never had");
        for (at, (before, after)) in self.log.iter().zip(&back).enumerate() {
            assert_eq!(before, after, "life {life}: event {}", at + 1);
        }
        back.len()
    }
}

#[test]
fn what_the_bucket_brings_back_of_a_lost_disk_is_a_prefix_that_reaches_what_was_archived() {
    let seed = seeds::seed("lost_disks");
    let mut alone = Alone::new(seed, 0);
    let (mut judged, mut advanced, mut lost, mut kept) = (0, 0, 0, 0);
    for life in Effort::of("T10 lost disks, archived", 9) {
        if life > 0 && u64::is_multiple_of(life, CYCLES_PER_BUCKET) {
            alone = Alone::new(seed, life);
        }
        let before = alone.advanced;
        alone.live(life);
        // Nothing was ever sealed: there is nothing to restore, and nothing was said to be archived.
        if alone.archived == 0 && !alone.bucket.objects.keys().iter().any(|key| key.starts_with("hub/log/")) {
            alone = Alone::new(seed, life + 1_000_000);
            continue;
        }
        let back = alone.restore(life);
        (lost, kept) = (lost + alone.log.len() - back, kept + back);
        (judged, advanced) = (judged + 1, advanced + alone.advanced - before);
        let server = alone.serve();
        let named = alone.data.json(&["repo", "list"]);
        for repo in named["repos"].as_array().unwrap().iter().filter_map(|repo| repo["slug"].as_str()) {
            match clone(&server.url(&format!("alice/{repo}"))) {
                Ok(given) => given.heads.values().for_each(|head| given.check_complete(head).unwrap()),
                // Its first push did not come back.
                Err(CloneFailure::Empty) => {}
                Err(failure) => panic!("{repo}: {failure:?}"),
            }
        }
        server.kill();
    }
    eprintln!(
        "{judged} disks lost, the archive had gone on in {advanced} of their lives: {kept} events came back, {lost} were lost and \
         had not been called archived"
    );
    assert!(judged > 0 && advanced > 0 && kept > 0, "nothing was archived: nothing was judged");
}
