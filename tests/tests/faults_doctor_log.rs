//! What the doctor makes of a damaged log (F3), case by case: with an intact copy every event comes back; without one only the loss
//! that was named goes; nothing of another course of the log ever passes for its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use reprise_engine::{
    Error, ErrorKind,
    disk::sim::{SimDisk, Survival, image::Image},
    doctor::{Diagnosis, Orders, Treatment},
    engine::Tail,
    id::Position,
};
use reprise_tests::faults::{
    damage::Rest,
    doctor::{
        Allowed, check_kept, doctor_of, examine, frames, go_on, interrupted, judge, orders, segments, treat_with,
    },
    run::open,
    script::{Script, Step, padded},
    sectors::BadSectors,
};

const SEGMENT_BYTES: u64 = 6 << 10;

fn appended(count: u64) -> Vec<Step> {
    (0..count).map(|number| Step::Append(padded(number, 500))).collect()
}

fn rest_of(steps: Vec<Step>, shutdown: bool) -> Rest {
    Rest::of(&Script { segment_bytes: SEGMENT_BYTES, shutdown, ..Script::story("a patient", steps) })
}

/// Five segments, the last one in use.
fn long_log() -> Rest {
    let rest = rest_of(appended(23), true);
    assert!(segments(&rest.image).len() >= 5, "{:?}", segments(&rest.image));
    rest
}

fn without(rest: &Rest, gone: Range<usize>) -> Image {
    let mut image = rest.image.clone();
    for path in &segments(&rest.image)[gone] {
        image.files.remove(path);
    }
    image
}

fn treated(image: &Image, orders: &Orders) -> (SimDisk, Diagnosis, Treatment) {
    let disk = SimDisk::from_image(image);
    let (found, treatment) = treat_with(&disk, orders).unwrap();
    check_kept(image, &disk.image()).unwrap();
    (disk, found, treatment)
}

/// Every event is back.
fn check_whole(rest: &Rest, image: &Image, orders: &Orders) -> Treatment {
    let (disk, found, treatment) = treated(image, orders);
    assert!(!found.is_healthy(), "it was not damaged");
    judge(rest, &disk, Allowed::Copy, found.readable_to).unwrap_or_else(|wrong| panic!("{wrong}: {treatment:#?}"));
    treatment
}

/// Nothing was lost but what comes after `end`.
fn check_cut(rest: &Rest, image: &Image, end: u64) -> Treatment {
    let (disk, found, treatment) = treated(image, &orders(None, Some(end)));
    assert_eq!(found.readable_to.0, end, "{found:#?}");
    judge(rest, &disk, Allowed::Loss, Position(end)).unwrap_or_else(|wrong| panic!("{wrong}: {treatment:#?}"));
    treatment
}

fn is_damaged(image: &Image) -> bool {
    match open(&SimDisk::from_image(image), SEGMENT_BYTES) {
        Ok((_, report)) => matches!(report.tail, Tail::Damaged { .. }),
        Err(_) => true,
    }
}

#[test]
fn any_segments_that_are_missing_beside_each_other_come_back_from_a_copy() {
    let rest = long_log();
    let count = segments(&rest.image).len();
    for from in 0..count {
        for to in from + 1..=count {
            // Whether a copy of the end of the log is the newest one is for the operator to say.
            let accepted = (to == count).then_some(rest.events.len() as u64);
            let damaged = without(&rest, from..to);
            let treatment = check_whole(&rest, &damaged, &orders(Some(&rest.image), accepted));
            assert!(treatment.left.is_empty(), "{from}..{to}: {treatment:#?}");
            if to == count {
                let (disk, ..) = treated(&damaged, &orders(Some(&rest.image), None));
                let told = |path: &&String| path.contains("seg-");
                let put = disk.image().files.keys().filter(told).count();
                assert_eq!(put, damaged.files.keys().filter(told).count(), "nobody said that there was no more");
            }
        }
    }
}

#[test]
fn segments_that_are_taken_beside_each_other_are_taken_again_after_any_power_loss() {
    let rest = long_log();
    let count = segments(&rest.image).len();
    for gone in [1..3, count - 2..count] {
        interrupted(&rest, &without(&rest, gone), Allowed::Copy).unwrap();
    }
}

#[test]
fn a_part_of_the_missing_segments_is_taken_only_when_the_loss_of_the_others_is_named() {
    let rest = long_log();
    let names = segments(&rest.image);
    let damaged = without(&rest, 1..3);
    let mut copy = rest.image.clone();
    copy.files.remove(&names[2]);
    let (disk, found, treatment) = treated(&damaged, &orders(Some(&copy), None));
    assert_eq!(segments(&disk.image()), segments(&damaged), "{treatment:#?}");
    let end: u64 = names[2][8..28].parse::<u64>().unwrap() - 1;
    assert!(treatment.left.iter().any(|left| left.contains(&format!("--accept-loss-after {end} takes it"))));
    assert!(found.readable_to.0 < end);
    let (disk, ..) = treated(&damaged, &orders(Some(&copy), Some(end)));
    judge(&rest, &disk, Allowed::Loss, Position(end)).unwrap();
}

#[test]
fn a_log_of_one_segment_without_its_header_comes_back_from_a_copy() {
    let rest = rest_of(appended(3), true);
    let [only] = &segments(&rest.image)[..] else { panic!("one segment") };
    let damaged = rest.with(only, |bytes| bytes[..4096].fill(0));
    // Its own frames are intact: nobody has to say that there were no more.
    check_whole(&rest, &damaged, &orders(Some(&rest.image), None));
    let mut no_anchor = damaged;
    no_anchor.files.remove("log/anchor");
    check_whole(&rest, &no_anchor, &orders(Some(&rest.image), None));
}

#[test]
fn frames_of_later_writes_behind_the_end_are_damage_for_the_doctor_as_for_the_engine() {
    let rest = rest_of(appended(9), false);
    let last = segments(&rest.image).pop().unwrap();
    let at = frames(rest.image.file(&last).unwrap());
    assert!(at.len() >= 2, "two frames in the last segment");
    let flip = |bytes: &mut Vec<u8>| at[at.len() - 2..].iter().for_each(|at| bytes[at + 120] ^= 1);
    let damaged = rest.with(&last, flip);
    assert!(is_damaged(&damaged), "the engine says so");
    let found = examine(&SimDisk::from_image(&damaged)).unwrap();
    let events = rest.events.len() as u64;
    assert_eq!((found.readable_to.0, found.end.0), (events - 2, events), "{found:#?}");
    check_cut(&rest, &damaged, events - 2);
    check_whole(&rest, &damaged, &orders(Some(&rest.image), None));
    // A copy that has fewer of them does not make it whole.
    let older = rest.with(&last, |bytes| bytes[at[at.len() - 2]..].fill(0));
    let (_, _, treatment) = treated(&damaged, &orders(Some(&older), None));
    assert!(!treatment.after.unwrap().is_healthy(), "{:?}", treatment.done);
}

#[test]
fn marks_that_are_damaged_beside_each_other_are_made_anew() {
    let steps = |before: u64, restarts: usize| {
        let more = (before..before + 2).map(|number| Step::Append(padded(number, 300)));
        appended(before).into_iter().chain((0..restarts).map(|_| Step::Restart)).chain(more).collect()
    };
    for restarts in 2..5 {
        let rest = rest_of(steps(1, restarts), true);
        let path = segments(&rest.image).remove(0);
        let segment = rest.image.file(&path).unwrap();
        let is_mark = |at: &&usize| segment[**at + 8] & 2 != 0;
        let at = frames(segment);
        let marks: Vec<usize> = at.iter().filter(is_mark).copied().filter(|mark| *mark < at[at.len() - 2]).collect();
        let beside: Vec<usize> = marks.windows(2).filter(|two| two[1] - two[0] == 96).map(|two| two[0]).collect();
        assert!(beside.len() + 1 >= restarts, "{marks:?}");
        let damaged = rest.with(&path, |bytes| bytes[beside[0]..beside[0] + 96 * (beside.len() + 1)].fill(0));
        let treatment = check_whole(&rest, &damaged, &orders(None, None));
        assert!(treatment.left.is_empty() && treatment.done.len() == 1, "{treatment:#?}");
    }
}

#[test]
fn a_sound_copy_of_a_header_is_used_also_when_the_next_segment_is_missing() {
    let rest = long_log();
    let names = segments(&rest.image);
    let mut damaged = rest.with(&names[1], |bytes| bytes[2048 + 40] ^= 1);
    damaged.files.remove(&names[2]);
    let end: u64 = names[2][8..28].parse::<u64>().unwrap() - 1;
    let (_, _, treatment) = treated(&damaged, &orders(None, None));
    assert!(treatment.done.iter().any(|done| done.starts_with(&names[1])), "{treatment:#?}");
    assert!(!treatment.left.iter().any(|left| left.starts_with(&names[1])), "{treatment:#?}");
    check_cut(&rest, &damaged, end);
    check_whole(&rest, &damaged, &orders(Some(&rest.image), None));
}

#[test]
fn a_file_that_is_replaced_more_than_once_is_kept_each_time() {
    let rest = long_log();
    let names = segments(&rest.image);
    let mut damaged = rest.with(&names[1], |bytes| bytes[40] ^= 1);
    damaged.files.remove(&names[2]);
    let end: u64 = names[2][8..28].parse::<u64>().unwrap() - 1;
    // Mended first, then the end of the log: the original is what must be found.
    let (disk, ..) = treated(&damaged, &orders(None, Some(end)));
    let image = disk.image();
    let kept = |number: &str| image.file(&format!("damaged/today/{}{number}", names[1]));
    assert_eq!(kept(""), damaged.file(&names[1]));
    assert!(kept(".1").is_some_and(|mended| Some(mended) != damaged.file(&names[1])));
}

/// Counts how often it is asked; refuses if told to.
fn asked(orders: Orders, refuse: bool) -> (Orders, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let before_cut = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        match refuse {
            true => Err(Error::new(ErrorKind::Unavailable, "not now")),
            false => Ok(Some("asked".to_owned())),
        }
    };
    (Orders { before_cut: Some(Arc::new(before_cut)), ..orders }, count)
}

#[test]
fn whoever_must_know_of_a_loss_is_asked_right_before_it_and_only_then() {
    let rest = long_log();
    let names = segments(&rest.image);
    let damaged = without(&rest, 2..3);
    let end = names[2][8..28].parse::<u64>().unwrap() - 1;
    let times = |image: &Image, given: Orders| {
        let (given, count) = asked(given, false);
        let (_, _, treatment) = treated(image, &given);
        let asked = count.load(Ordering::SeqCst);
        assert_eq!(treatment.done.iter().filter(|done| *done == "asked").count(), asked);
        asked
    };
    assert_eq!(times(&damaged, orders(None, Some(end))), 1, "a cut");
    assert_eq!(times(&damaged, orders(Some(&rest.image), Some(end))), 0, "the copy has everything: nothing is cut");
    assert_eq!(times(&damaged, orders(None, Some(end + 1))), 0, "another loss than the one that is");
    assert_eq!(times(&without(&rest, 0..1), orders(None, Some(0))), 0, "nothing is left to cut");
    // A copy of the end of the log that may not have had everything.
    let all = rest.events.len() as u64;
    let headless = rest.with(names.last().unwrap(), |bytes| bytes.fill(0));
    assert_eq!(times(&headless, orders(Some(&rest.image), Some(all))), 1);

    // Refused: nothing is touched.
    for (image, given) in [(&damaged, orders(None, Some(end))), (&headless, orders(Some(&rest.image), Some(all)))] {
        let (given, _) = asked(given, true);
        let disk = SimDisk::from_image(image);
        assert!(treat_with(&disk, &given).is_err());
        let log = |image: &Image| -> Vec<_> {
            image.files.iter().filter(|(path, _)| path.contains("seg-")).map(|(_, bytes)| bytes.clone()).collect()
        };
        assert_eq!(log(&disk.image()), log(image));
    }
}

/// A log that goes on from where another one, of which there is a copy, was cut: what it is, the copy, where the courses part.
fn another_course(shutdown: bool) -> (Rest, Image, u64) {
    let mut rest = rest_of(appended(7), true);
    let last = segments(&rest.image).pop().unwrap();
    let at = frames(rest.image.file(&last).unwrap());
    let damaged = rest.with(&last, |bytes| bytes[at[1] + 120] ^= 1);
    let end = examine(&SimDisk::from_image(&damaged)).unwrap().readable_to.0;
    let (disk, ..) = treated(&damaged, &orders(None, Some(end)));
    let copy = rest.image.clone();
    rest.image = go_on(&disk.image(), SEGMENT_BYTES, &[padded(77, 500)], shutdown);
    rest.events.truncate(usize::try_from(end).unwrap());
    (rest, copy, end)
}

#[test]
fn events_that_were_given_up_never_come_back_from_an_older_copy() {
    for anchor in [true, false] {
        let (rest, copy, end) = another_course(true);
        let last = segments(&rest.image).pop().unwrap();
        let at = frames(rest.image.file(&last).unwrap());
        let is_new = at.iter().copied().rfind(|at| rest.image.file(&last).unwrap()[at + 8] & 2 == 0).unwrap();
        let mut damaged = rest.with(&last, |bytes| bytes[is_new + 120] ^= 1);
        if !anchor {
            damaged.files.remove("log/anchor");
        }
        let found = examine(&SimDisk::from_image(&damaged)).unwrap();
        assert_eq!(found.readable_to.0, end, "{found:#?}");
        let (disk, _, treatment) = treated(&damaged, &orders(Some(&copy), None));
        assert!(!treatment.after.as_ref().unwrap().is_healthy(), "{treatment:#?}");
        let now = examine(&disk).unwrap();
        assert_eq!(now.readable_to.0, end, "{treatment:#?}");
    }
}

#[test]
fn a_segment_that_contradicts_the_anchor_is_not_taken_from_a_copy() {
    let (rest, copy, _) = another_course(true);
    let count = segments(&rest.image).len();
    let damaged = without(&rest, count - 1..count);
    for accepted in 0..12 {
        let (disk, ..) = treated(&damaged, &orders(Some(&copy), Some(accepted)));
        let Ok((engine, _)) = open(&disk, SEGMENT_BYTES) else { continue };
        assert!(engine.durable().position.0 < 7, "events that were given up came back");
    }
}

#[test]
fn a_cut_segment_gets_another_salt() {
    let rest = long_log();
    let names = segments(&rest.image);
    let end = names[2][8..28].parse::<u64>().unwrap() - 1;
    let (disk, ..) = treated(&without(&rest, 2..3), &orders(None, Some(end)));
    let salt = |image: &Image| image.file(&names[1]).unwrap()[80..96].to_vec();
    assert_ne!(salt(&disk.image()), salt(&rest.image));
    assert_eq!(
        disk.image().file("damaged/today/log/anchor"),
        rest.image.file("log/anchor"),
        "what it replaces is kept"
    );
}

#[test]
fn an_anchor_of_another_course_inside_a_group_is_cut_away_with_the_group() {
    let together = Step::Together((10..16).map(|number| padded(number, 20)).collect());
    let rest = rest_of([appended(2), vec![together]].concat(), true);
    let events = rest.events.len() as u64;
    for position in [events - 1, events] {
        let damaged = rest.with("log/anchor", |bytes| {
            bytes[24..32].copy_from_slice(&position.to_le_bytes());
            bytes[40] ^= 1;
            let crc = crc32c::crc32c(&bytes[..68]).to_le_bytes();
            bytes[68..].copy_from_slice(&crc);
        });
        let found = examine(&SimDisk::from_image(&damaged)).unwrap();
        assert!(!found.is_healthy() && found.readable_to.0 < events - 1, "{found:#?}");
        check_cut(&rest, &damaged, found.readable_to.0);
    }
}

#[test]
fn an_anchor_that_knows_another_event_in_the_middle_of_the_log_is_seen() {
    let rest = long_log();
    let damaged = rest.with("log/anchor", |bytes| {
        bytes[24..32].copy_from_slice(&3u64.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..68]).to_le_bytes();
        bytes[68..].copy_from_slice(&crc);
    });
    let found = examine(&SimDisk::from_image(&damaged)).unwrap();
    assert_eq!((found.is_healthy(), found.readable_to.0), (false, 2), "{found:#?}");
    check_cut(&rest, &damaged, 2);
}

#[test]
fn a_name_that_no_segment_has_is_taken_away() {
    let rest = long_log();
    let mut damaged = rest.image.clone();
    damaged.put("log/seg-00000000000000000000.log", Vec::new());
    let found = examine(&SimDisk::from_image(&damaged)).unwrap();
    assert_eq!((found.damaged(), found.readable_to.0), (1, rest.events.len() as u64), "{found:#?}");
    let (disk, ..) = treated(&damaged, &orders(None, None));
    let healed = disk.crash(Survival::None, 0);
    judge(&rest, &healed, Allowed::Copy, found.readable_to).unwrap();
}

#[test]
fn an_end_that_the_anchor_knows_comes_back_from_a_copy_without_a_word() {
    let rest = rest_of(appended(9), true);
    let last = segments(&rest.image).pop().unwrap();
    let at = frames(rest.image.file(&last).unwrap());
    let damaged = rest.with(&last, |bytes| bytes[at[1]..].fill(0));
    let treatment = check_whole(&rest, &damaged, &orders(Some(&rest.image), None));
    assert!(treatment.left.is_empty(), "{treatment:#?}");
}

#[test]
fn what_stands_between_segments_that_are_taken_is_taken_away() {
    let rest = long_log();
    let names = segments(&rest.image);
    // The same events in longer segments, one of which takes the place of the first two.
    let of = |segment_bytes| Rest::of(&Script { segment_bytes, ..Script::story("a copy", appended(23)) }).image;
    let fits = |copy: &Image| segments(copy).contains(&names[2]) && !segments(copy).contains(&names[1]);
    let copy = (8..64).map(|quarters| of(quarters << 8)).find(fits).expect("segments of twice the length");
    let mut damaged = rest.with(&names[1], |bytes| bytes[..4096].fill(0));
    damaged.files.remove(&names[0]);
    let (disk, found, treatment) = treated(&damaged, &orders(Some(&copy), None));
    assert!(!disk.image().files.contains_key(&names[1]), "{treatment:#?}");
    judge(&rest, &disk, Allowed::Copy, found.readable_to).unwrap_or_else(|wrong| panic!("{wrong}: {treatment:#?}"));
}

#[test]
fn a_segment_of_another_log_at_the_beginning_does_not_say_which_log_it_is() {
    let rest = long_log();
    let other = rest_of(appended(23), true);
    let first = segments(&rest.image).remove(0);
    let mut foreign = other.image.file(&first).unwrap().to_vec();
    // The same log id in both copies would be the same log.
    for copy in [0, 2048] {
        foreign[copy + 16] ^= 1;
        let crc = crc32c::crc32c(&foreign[copy..copy + 108]).to_le_bytes();
        foreign[copy + 108..copy + 112].copy_from_slice(&crc);
    }
    let damaged = rest.with(&first, |bytes| *bytes = foreign);
    let found = examine(&SimDisk::from_image(&damaged)).unwrap();
    assert!(found.damaged() == 1 && found.findings[0].problem.contains("another log"), "{found:#?}");
    check_whole(&rest, &damaged, &orders(Some(&rest.image), None));
}

#[test]
fn a_sector_that_cannot_be_read_is_damage_like_any_other() {
    let rest = long_log();
    let names = segments(&rest.image);
    // Zeros that nothing was written to yet.
    let roomy = Rest::of(&Script::story("room", appended(3)));
    let (only, len) = (segments(&roomy.image).remove(0), 64 << 10);
    let cases = [
        (&rest, names[1].as_str(), 4096..4608, true),
        (&rest, names[2].as_str(), 0..512, true),
        (&roomy, only.as_str(), len - 512..len, false),
        (&rest, "log/anchor", 0..72, false),
    ];
    for (rest, path, sector, misses) in cases {
        let disk = SimDisk::from_image(&rest.image);
        let bad = BadSectors::new(&disk, &[(path, sector)]);
        let doctor = doctor_of(Arc::new(bad)).unwrap();
        let found = doctor.examine(true, &mut |_, _| true).unwrap();
        let named = |text: &str| text.contains("the disk cannot read these bytes");
        assert!(found.findings.iter().any(|finding| finding.file == path && named(&finding.problem)), "{found:#?}");
        assert_eq!(found.misses_events(), misses);
        let treatment = doctor.treat(&found, &orders(Some(&rest.image), None), "today", &mut |_, _| true);
        assert!(treatment.after.as_ref().is_some_and(Diagnosis::is_healthy), "{path}: {treatment:#?}");
        drop(doctor);
        judge(rest, &disk, Allowed::Copy, found.readable_to).unwrap_or_else(|wrong| panic!("{path}: {wrong}"));
        // What had the name before is kept, as far as the disk gives it.
        assert!(disk.image().files.keys().any(|kept| kept.starts_with(&format!("damaged/today/{path}"))));
    }
}

#[test]
fn a_treatment_that_is_stopped_or_fails_tells_what_it_did() {
    let rest = long_log();
    let names = segments(&rest.image);
    let mut damaged = rest.with(&names[1], |bytes| bytes[40] ^= 1);
    damaged.files.remove(&names[3]);
    let disk = SimDisk::from_image(&damaged);
    let doctor = doctor_of(Arc::new(disk)).unwrap();
    let found = doctor.examine(true, &mut |_, _| true).unwrap();
    let mut asked = 0;
    let mut once = |_, _| {
        asked += 1;
        asked < 2
    };
    let treatment = doctor.treat(&found, &orders(Some(&rest.image), None), "today", &mut once);
    assert!(treatment.ended.is_some() && treatment.after.is_none(), "{treatment:#?}");
    assert_eq!(treatment.done.len(), 1, "{treatment:#?}");
    // The next one does the rest.
    let found = doctor.examine(true, &mut |_, _| true).unwrap();
    let treatment = doctor.treat(&found, &orders(Some(&rest.image), None), "today", &mut |_, _| true);
    assert!(treatment.after.is_some_and(|after| after.is_healthy()) && treatment.ended.is_none());
}
