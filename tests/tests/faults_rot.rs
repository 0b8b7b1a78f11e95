//! Damage at rest to the files of the log and of its packs (T3): every byte, every truncation, zeroed pages, swapped, older, missing files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation
)]

use reprise_engine::disk::sim::image::Image;
use reprise_tests::{
    effort::Effort,
    faults::{
        damage::{Counts, Rest, Shown},
        script::{Script, Step, create, noise, padded, push, repo},
    },
};

/// Three segments, the last one in use.
fn small_log(shutdown: bool) -> Rest {
    let steps = (0..9).map(|number| Step::Append(padded(number, 500))).collect();
    Rest::of(&Script { segment_bytes: 6 << 10, shutdown, ..Script::story("a small log", steps) })
}

fn finish(name: &str, counts: &Counts) {
    eprintln!("{name}: {} detected, {} harmless", counts.detected, counts.harmless);
    assert!(counts.silent.is_empty(), "{name}: {:#?}", counts.silent);
    assert!(counts.detected > 0, "{name}: a test that detects nothing proves nothing");
}

/// Every `step`-th byte of every file, judged by `shown`.
fn counted(rest: &Rest, what: Files, step: usize, change: impl Fn(&mut Vec<u8>, usize)) -> Counts {
    let mut counts = Counts::default();
    let (files, shown) = what(rest);
    for path in files {
        for at in (0..rest.image.file(&path).unwrap().len()).step_by(step) {
            let image = rest.with(&path, |bytes| change(bytes, at));
            counts.note(shown(rest, &image), || format!("{path} at {at}"));
        }
    }
    counts
}

/// Which files are damaged, and what tells how that shows.
type Files = fn(&Rest) -> (Vec<String>, fn(&Rest, &Image) -> Shown);

const LOG: Files = |rest| (rest.files(), Rest::shown);
const STORE: Files = |rest| (rest.store_files(), Rest::shown_objects);

fn check_each(name: &str, rest: &Rest, what: Files, step: usize, change: impl Fn(&mut Vec<u8>, usize)) {
    finish(name, &counted(rest, what, step, change));
}

/// A log that names three packs: many small blobs, one large, some equal ones.
fn small_store() -> Rest {
    let pack = |number: u64| {
        let blob = |blob: u64| noise(number * 10 + blob, 40 + 400 / number as usize).into_bytes();
        Step::Pack { blobs: (0..number).map(blob).collect(), repo: repo(0), push: push(number), and: None }
    };
    let steps = vec![Step::Append(create(0)), pack(6), pack(1), pack(3)];
    Rest::of(&Script::story("a small store", steps))
}

#[test]
fn every_flipped_byte_of_a_closed_log_is_detected_or_harmless() {
    check_each("flips, closed", &small_log(true), LOG, 1, |bytes, at| bytes[at] ^= 0x41);
}

#[test]
fn every_flipped_byte_of_an_unclosed_log_is_detected_or_harmless() {
    check_each("flips, unclosed", &small_log(false), LOG, 1, |bytes, at| bytes[at] ^= 0x41);
}

#[test]
fn every_flipped_byte_of_packs_and_their_mark_is_detected_or_harmless() {
    check_each("flips, store", &small_store(), STORE, 1, |bytes, at| bytes[at] ^= 0x41);
}

/// In the long run: bit after bit, of logs and stores, closed and unclosed.
#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    let mut effort = Effort::of("T3 flipped bits", 1);
    while let Some(unit) = effort.next() {
        let bit = 1 << (unit % 8);
        for (rest, what) in [(small_log(unit % 16 < 8), LOG), (small_store(), STORE)] {
            // The gate flips whole bytes above: a sample is enough.
            let step = if effort.is_long() { 1 } else { 7 };
            let counts = counted(&rest, what, step, |bytes, at| bytes[at] ^= bit);
            effort.saw(counts.detected + counts.harmless);
            finish(&format!("bit {bit:#04x}"), &counts);
        }
    }
}

#[test]
fn every_truncation_is_detected_or_harmless() {
    check_each("truncations, closed", &small_log(true), LOG, 1, Vec::truncate);
    check_each("truncations, store", &small_store(), STORE, 1, Vec::truncate);
}

#[test]
fn every_zeroed_page_is_detected_or_harmless() {
    let zero = |bytes: &mut Vec<u8>, at: usize| {
        let end = bytes.len().min(at + 512);
        bytes[at..end].fill(0);
    };
    for shutdown in [true, false] {
        // A page can hold the end of a batch and the start of the last one: then both look like one unfinished write.
        let rest = Rest { batches_touched: 2, ..small_log(shutdown) };
        check_each("zeroed pages", &rest, LOG, 512, zero);
    }
    check_each("zeroed pages, store", &small_store(), STORE, 64, zero);
}

fn check_files(name: &str, rest: &Rest, what: Files) {
    let (files, shown) = what(rest);
    let mut counts = Counts::default();
    for one in &files {
        let mut missing = rest.image.clone();
        missing.files.remove(one);
        counts.note(shown(rest, &missing), || format!("{one} missing"));
        for other in files.iter().filter(|other| *other != one) {
            let mut swapped = rest.image.clone();
            let (a, b) = (rest.image.files[one].clone(), rest.image.files[other].clone());
            swapped.files.insert(one.clone(), b);
            swapped.files.insert(other.clone(), a);
            counts.note(shown(rest, &swapped), || format!("{one} and {other} swapped"));
        }
        for (number, earlier) in rest.earlier.iter().enumerate() {
            let Some(old) = earlier.files.get(one) else { continue };
            let mut older = rest.image.clone();
            older.files.insert(one.clone(), old.clone());
            counts.note(shown(rest, &older), || format!("{one} as it was at moment {number}"));
        }
    }
    finish(name, &counts);
}

#[test]
fn swapped_older_and_missing_files_are_detected_or_harmless() {
    check_files("swapped, older, missing", &small_log(true), LOG);
    check_files("swapped, older, missing, store", &small_store(), STORE);
}
