//! The doctor over damage at rest (F3): named, mended only with what proves itself, kept, repeatable.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation
)]

use reprise_engine::{
    disk::sim::{SimDisk, Survival, image::Image},
    engine::Tail,
};
use reprise_tests::{
    effort::Effort,
    faults::{
        damage::{Rest, Shown},
        doctor::{Allowed, check_kept, examine, interrupted, judge, treat},
        run::{open, read_until_error, run},
        script::{Script, Step, create, noise, padded, push, repo},
        stories::scripts,
    },
};

/// Three segments, the last one in use, and two packs.
fn patient(shutdown: bool) -> Rest {
    let pack = |number: u64| Step::Pack {
        blobs: (0..3).map(|blob| noise(number * 10 + blob, 200).into_bytes()).collect(),
        repo: repo(0),
        push: push(1_000 + number),
        and: None,
    };
    let mut steps: Vec<Step> = (0..9).map(|number| Step::Append(padded(number, 500))).collect();
    steps.splice(1..1, [pack(1), Step::Append(create(20)), pack(2)]);
    Rest::of(&Script { segment_bytes: 6 << 10, shutdown, ..Script::story("a patient", steps) })
}

/// Treats one damage in both ways.
fn check(rest: &Rest, damaged: &Image, what: &str) {
    let found = examine(&SimDisk::from_image(damaged)).unwrap();
    let log_shown = rest.shown(damaged);
    assert!(
        !(found.is_healthy() && log_shown == Shown::Detected && rest.clean),
        "{what}: the engine finds damage, the doctor does not"
    );
    // What the engine still reads is not lost; what it calls damage is.
    if let Ok((engine, report)) = open(&SimDisk::from_image(damaged), rest.segment_bytes) {
        assert!(!matches!(report.tail, Tail::Damaged { .. }) || !found.is_healthy(), "{what}: {:?}", report.tail);
        let readable = read_until_error(&engine).0.len() as u64;
        assert!(found.readable_to.0 >= readable, "{what}: the engine reads up to {readable}, the doctor: {found:#?}");
    }
    for allowed in [Allowed::Copy, Allowed::Loss] {
        let disk = SimDisk::from_image(damaged);
        let (found, treatment) = treat(&disk, rest, allowed).unwrap_or_else(|error| panic!("{what}: {error}"));
        let packs_hurt = found.findings.iter().any(|finding| finding.file.starts_with("packs/"));
        check_kept(damaged, &disk.image()).unwrap_or_else(|wrong| panic!("{what}, {allowed:?}: {wrong}"));
        if allowed == Allowed::Loss && (packs_hurt || found.readable_to.0 == 0 && found.misses_events()) {
            assert!(!treatment.left.is_empty(), "{what}: without a copy this cannot be mended");
            continue;
        }
        let healed = SimDisk::from_image(&disk.crash(Survival::None, 0).image());
        judge(rest, &healed, allowed, found.readable_to)
            .unwrap_or_else(|wrong| panic!("{what}, {allowed:?}: {wrong}\n{found:#?}\n{treatment:#?}"));
    }
}

fn files(rest: &Rest) -> Vec<String> {
    let named = |path: &String| path.contains("seg-") || path.ends_with("anchor") || path.ends_with(".pack");
    rest.image.files.keys().filter(|path| named(path)).cloned().collect()
}

/// The bytes of a sealed segment's footer: from the `frames end` of its trailer (FORMAT.md 4.3) on.
fn footer(segment: &[u8]) -> Option<std::ops::Range<usize>> {
    let trailer = segment.len().checked_sub(144)?;
    let frames_end = segment.get(trailer + 56..trailer + 64)?.try_into().ok().map(u64::from_le_bytes)?;
    segment[trailer..].starts_with(b"RepriseF").then_some(frames_end as usize..segment.len())
}

#[test]
fn every_flipped_byte_is_named_and_mended_from_a_copy_or_cut_away_with_the_loss_accepted() {
    let mut effort = Effort::of("F3 doctor, flipped bytes", 2);
    while let Some(unit) = effort.next() {
        let rest = patient(unit % 2 == 0);
        // The gate takes a sample; a prime, so that every field of a frame has its turn.
        let (step, mask) = if effort.is_long() { (1, 1 << (unit / 2 % 8)) } else { (13, 0x41) };
        for path in files(&rest) {
            let footer = footer(rest.image.file(&path).unwrap());
            for at in (0..rest.image.file(&path).unwrap().len()).step_by(step) {
                effort.saw(1);
                let damaged = rest.with(&path, |bytes| bytes[at] ^= mask);
                check(&rest, &damaged, &format!("{path} at {at}"));
                if footer.as_ref().is_some_and(|footer| footer.contains(&at)) {
                    let found = examine(&SimDisk::from_image(&damaged)).unwrap();
                    assert!(found.findings.iter().any(|finding| finding.file == path), "{path} at {at} is not named");
                }
            }
        }
    }
}

#[test]
fn zeroed_cut_missing_and_swapped_files_are_mended_or_cut_away() {
    let rest = patient(true);
    let files = files(&rest);
    for path in &files {
        let len = rest.image.file(path).unwrap().len();
        for at in (0..len).step_by(512) {
            let zero = |bytes: &mut Vec<u8>| bytes[at..len.min(at + 512)].fill(0);
            check(&rest, &rest.with(path, zero), &format!("{path} zeroed at {at}"));
            check(&rest, &rest.with(path, |bytes| bytes.truncate(at)), &format!("{path} cut at {at}"));
        }
        let mut missing = rest.image.clone();
        missing.files.remove(path);
        check(&rest, &missing, &format!("{path} missing"));
        for other in files.iter().filter(|other| *other != path) {
            let mut swapped = rest.image.clone();
            swapped.files.insert(path.clone(), rest.image.files[other].clone());
            swapped.files.insert(other.clone(), rest.image.files[path].clone());
            check(&rest, &swapped, &format!("{path} and {other} swapped"));
        }
    }
}

#[test]
fn a_treatment_that_loses_power_anywhere_is_ended_by_the_next_one() {
    let rest = patient(true);
    let segments: Vec<String> = files(&rest).into_iter().filter(|path| path.contains("seg-")).collect();
    let mut images = 0;
    for path in &segments {
        let damaged = rest.with(path, |bytes| bytes[4_096 + 1_500] ^= 0x41);
        for allowed in [Allowed::Copy, Allowed::Loss] {
            images +=
                interrupted(&rest, &damaged, allowed).unwrap_or_else(|wrong| panic!("{path}, {allowed:?}: {wrong}"));
        }
    }
    let mut missing = rest.image.clone();
    missing.files.remove(&segments[1]);
    for allowed in [Allowed::Copy, Allowed::Loss] {
        images += interrupted(&rest, &missing, allowed).unwrap();
    }
    eprintln!("{images} images");
    assert!(images > 500);
}

#[test]
fn what_a_crash_leaves_is_never_called_damage() {
    let (mut images, mut without_a_log) = (0, 0);
    for script in scripts() {
        for stage in run(&script, |_| {}) {
            stage.history.each_cut(|cut, crash| {
                for survival in Survival::EVERY {
                    let disk = SimDisk::from_image(&crash.image(survival, cut as u64));
                    images += 1;
                    match examine(&disk) {
                        Ok(found) => {
                            assert!(found.is_healthy(), "{}, {survival:?} behind {cut}: {found:#?}", script.name);
                        }
                        // Before the first directory was durable.
                        Err(error) if error.is_not_found() => without_a_log += 1,
                        Err(error) => panic!("{}, {survival:?} behind {cut}: {error}", script.name),
                    }
                }
            });
        }
    }
    eprintln!("{images} images, {without_a_log} without a log");
    assert!(images > 40_000 && without_a_log < images / 10, "{images} images, {without_a_log} without a log");
}

#[test]
fn a_healthy_log_is_left_as_it_is() {
    let rest = patient(true);
    let disk = SimDisk::from_image(&rest.image);
    let (found, treatment) = treat(&disk, &rest, Allowed::Copy).unwrap();
    assert!(found.is_healthy() && found.findings.is_empty(), "{found:?}");
    assert_eq!((found.events, found.readable_to.0), (rest.events.len() as u64, rest.events.len() as u64));
    assert!(treatment.done.is_empty() && treatment.left.is_empty(), "{treatment:?}");
    assert_eq!(disk.image().files.keys().collect::<Vec<_>>(), rest.image.files.keys().collect::<Vec<_>>());
}
