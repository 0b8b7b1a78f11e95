//! Damage at rest to the files of the log (T3): every byte, every truncation, zeroed pages, swapped, older, missing files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use reprise_tests::faults::{
    damage::{Counts, Rest},
    script::{Script, Step, padded},
};

/// Three segments, the last one in use.
fn small_log(shutdown: bool) -> Rest {
    let steps = (0..9).map(|number| Step::Append(padded(number, 500))).collect();
    Rest::of(&Script { name: "a small log", segment_bytes: 6 << 10, steps, shutdown })
}

fn finish(name: &str, counts: &Counts) {
    eprintln!("{name}: {} detected, {} harmless", counts.detected, counts.harmless);
    assert!(counts.silent.is_empty(), "{name}: {:#?}", counts.silent);
    assert!(counts.detected > 0, "{name}: a test that detects nothing proves nothing");
}

fn check_each(name: &str, rest: &Rest, step: usize, change: impl Fn(&mut Vec<u8>, usize)) {
    let mut counts = Counts::default();
    for path in rest.files() {
        for at in (0..rest.image.file(&path).unwrap().len()).step_by(step) {
            let image = rest.with(&path, |bytes| change(bytes, at));
            counts.note(rest.shown(&image), || format!("{path} at {at}"));
        }
    }
    finish(name, &counts);
}

#[test]
fn every_flipped_byte_of_a_closed_log_is_detected_or_harmless() {
    check_each("flips, closed", &small_log(true), 1, |bytes, at| bytes[at] ^= 0x41);
}

#[test]
fn every_flipped_byte_of_an_unclosed_log_is_detected_or_harmless() {
    check_each("flips, unclosed", &small_log(false), 1, |bytes, at| bytes[at] ^= 0x41);
}

#[test]
fn every_truncation_is_detected_or_harmless() {
    check_each("truncations, closed", &small_log(true), 1, Vec::truncate);
}

#[test]
fn every_zeroed_page_is_detected_or_harmless() {
    for shutdown in [true, false] {
        // A page can hold the end of a batch and the start of the last one: then both look like one unfinished write.
        let rest = Rest { batches_touched: 2, ..small_log(shutdown) };
        check_each("zeroed pages", &rest, 512, |bytes, at| {
            let end = bytes.len().min(at + 512);
            bytes[at..end].fill(0);
        });
    }
}

#[test]
fn swapped_older_and_missing_files_are_detected_or_harmless() {
    let rest = small_log(true);
    let files = rest.files();
    let mut counts = Counts::default();
    for one in &files {
        let mut missing = rest.image.clone();
        missing.files.remove(one);
        counts.note(rest.shown(&missing), || format!("{one} missing"));
        for other in &files {
            let mut swapped = rest.image.clone();
            let (a, b) = (rest.image.files[one].clone(), rest.image.files[other].clone());
            swapped.files.insert(one.clone(), b);
            swapped.files.insert(other.clone(), a);
            counts.note(rest.shown(&swapped), || format!("{one} and {other} swapped"));
        }
        for (number, earlier) in rest.earlier.iter().enumerate() {
            let Some(old) = earlier.files.get(one) else { continue };
            let mut older = rest.image.clone();
            older.files.insert(one.clone(), old.clone());
            counts.note(rest.shown(&older), || format!("{one} as it was at moment {number}"));
        }
    }
    finish("swapped, older, missing", &counts);
}
