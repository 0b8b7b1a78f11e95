//! How much a test of the fault programme does: a fixed number of units in the gate, as many as fit into a time on demand.
//!
//! Invariants: a unit is one seed, image, damage or cycle, numbered from zero; the long run goes on behind the units of the
//! gate; every run that is told of a ledger (`REPRISE_LEDGER`) appends one line to it, a failed one too, so that totals are
//! cumulative and honest: date, test, first unit, units, cases seen in them, failures, seconds.

use std::{
    fs::OpenOptions,
    io::Write,
    time::{Duration, Instant},
};

/// Every test with an effort, a line each: `tests/long` counts them to share its time.
const TESTS: &[&str] = &[
    "F3 copies, flipped bits",
    "F3 doctor, flipped bytes",
    "T1 crashes in random stories",
    "T2 crashes in the recovery of random stories",
    "T3 flipped bits",
    "T4 store damaged",
    "T5 failed syncs",
    "T6 failed reads",
    "T6 full disks",
    "T6 short reads and writes",
    "T7 simulation",
    "T8 same seed, same trace",
    "T10 asked to stop",
    "T10 kill -9",
    "T10 killed recoveries",
    "T10 lost disks, archived",
    "T10 lost disks, durable in the bucket",
    "T11 eight openings of nothing",
    "T11 histories of a fleet",
    "T11 servers of a fleet",
    "T12 calls and outcomes",
    "T12 outcomes of requests",
    "T12 steps and fates",
    "T15 rebuilt = folded",
    "T16 log_segment",
    "T16 log_frames",
    "T16 log_sealed",
    "T16 log_small_files",
    "T16 pack",
    "T16 event",
    "T16 canonical_json",
    "T16 commit",
    "T16 snapshot",
    "T16 wire_request",
    "T16 wire_value",
    "T16 wire_transcode",
    "T16 endpoints",
    "T17 log model",
    "T17 objects = maps",
    "T17 pack model",
    "T17 refs = map",
    "T18 dropped clients",
    "three ways",
    "verify-clone, flipped bytes",
];

/// The units that one test has to do.
pub struct Effort {
    test: &'static str,
    first: u64,
    next: u64,
    cases: u64,
    stop: Stop,
    began: Instant,
}

enum Stop {
    Units(u64),
    Time(Duration),
}

impl Effort {
    /// `gate` units; with `REPRISE_LONG_SECONDS` as many as fit into that time, behind those of the gate and of the runs that
    /// the ledger knows. `REPRISE_FIRST` begins elsewhere, to repeat a failure.
    pub fn of(test: &'static str, gate: u64) -> Effort {
        assert!(TESTS.contains(&test), "{test} is not in the list of tests with an effort");
        let long = crate::seeds::count("REPRISE_LONG_SECONDS", 0);
        let first = crate::seeds::count("REPRISE_FIRST", if long == 0 { 0 } else { known_end(test).max(gate) });
        let stop = if long == 0 { Stop::Units(first + gate) } else { Stop::Time(Duration::from_secs(long)) };
        Effort { test, first, next: first, cases: 0, stop, began: Instant::now() }
    }

    /// Whether this is the long run: a test may then look closer (every bit instead of every byte).
    pub fn is_long(&self) -> bool {
        matches!(self.stop, Stop::Time(_))
    }

    /// Units begun.
    pub fn done(&self) -> u64 {
        self.next - self.first
    }

    /// A unit had so many cases (images, damages, requests): the ledger adds them up.
    pub fn saw(&mut self, cases: usize) {
        self.cases += cases as u64;
    }
}

/// The unit behind the last one that the ledger has of a test.
fn known_end(test: &str) -> u64 {
    let ledger = std::env::var("REPRISE_LEDGER").ok().and_then(|path| std::fs::read_to_string(path).ok());
    let end = |line: &str| -> Option<u64> {
        let mut fields = line.split('\t').skip(1);
        let named = fields.next() == Some(test);
        let (first, units): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        named.then_some(first + units)
    };
    ledger.iter().flat_map(|text| text.lines()).filter_map(end).max().unwrap_or(0)
}

/// The numbers of the units to do.
impl Iterator for Effort {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let enough = match self.stop {
            Stop::Units(end) => self.next >= end,
            Stop::Time(time) => self.began.elapsed() >= time,
        };
        if enough {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

impl Drop for Effort {
    fn drop(&mut self) {
        let failed = u8::from(std::thread::panicking());
        let (units, seconds) = (self.done(), self.began.elapsed().as_secs());
        let cases = self.cases;
        let told = format!("{units} units from {}, {cases} cases, {failed} failed, {seconds} s", self.first);
        drop(writeln!(std::io::stderr(), "{}: {told}", self.test));
        let Ok(path) = std::env::var("REPRISE_LEDGER") else { return };
        let date = std::env::var("REPRISE_DATE").unwrap_or_default();
        let line = format!("{date}\t{}\t{}\t{units}\t{cases}\t{failed}\t{seconds}\n", self.test, self.first);
        // One write of a short line to a file opened for appending: tests that end together do not mix their lines.
        let appended = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = appended {
            drop(writeln!(std::io::stderr(), "the ledger was not written: {error}"));
        }
    }
}
