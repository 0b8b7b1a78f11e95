//! What the doctor does not take from a copy (F3): nothing that proves less than what stands there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use reprise_engine::disk::sim::{SimDisk, image::Image};
use reprise_tests::faults::{
    damage::Rest,
    doctor::{Allowed, check_kept, examine, frames, judge, orders, segments, treat_with},
    script::{Script, Step, padded},
};

/// Five segments.
fn long_log() -> Rest {
    let steps = (0..23).map(|number| Step::Append(padded(number, 500))).collect();
    Rest::of(&Script { segment_bytes: 6 << 10, ..Script::story("a patient", steps) })
}

/// Nothing of the log is replaced, whatever was accepted.
fn check_untouched(damaged: &Image, copy: &Image, accepted: Option<u64>) {
    let disk = SimDisk::from_image(damaged);
    let (_, treatment) = treat_with(&disk, &orders(Some(copy), accepted)).unwrap();
    check_kept(damaged, &disk.image()).unwrap();
    assert!(treatment.done.is_empty() && !treatment.left.is_empty(), "{treatment:#?}");
    for path in segments(damaged) {
        assert_eq!(disk.image().file(&path), damaged.file(&path), "{path}");
    }
    assert_eq!(segments(&disk.image()), segments(damaged));
}

#[test]
fn the_header_of_another_segment_does_not_make_an_empty_one_of_it() {
    let rest = long_log();
    let last = segments(&rest.image).pop().unwrap();
    let mut damaged = rest.with(&last, |bytes| bytes[..4096].fill(0));
    damaged.files.remove("log/anchor");
    let copy = rest.with(&last, |bytes| {
        for header in [0, 2048] {
            bytes[header + 80] ^= 1;
            let crc = crc32c::crc32c(&bytes[header..header + 108]).to_le_bytes();
            bytes[header + 108..header + 112].copy_from_slice(&crc);
        }
    });
    check_untouched(&damaged, &copy, None);
}

#[test]
fn the_end_of_a_copy_is_not_taken_behind_a_gap_that_stays() {
    let rest = long_log();
    let names = segments(&rest.image);
    let (mut damaged, mut copy) = (rest.image.clone(), rest.image.clone());
    damaged.files.remove(&names[1]);
    damaged.files.remove(&names[4]);
    copy.files.remove(&names[1]);
    check_untouched(&damaged, &copy, Some(rest.events.len() as u64));
}

#[test]
fn a_copy_that_ends_before_what_can_be_read_is_not_taken() {
    let rest = long_log();
    let last = segments(&rest.image).pop().unwrap();
    let at = frames(rest.image.file(&last).unwrap());
    let damaged = rest.with(&last, |bytes| bytes[at[2] + 120] ^= 1);
    let copy = rest.with(&last, |bytes| bytes[at[1]..].fill(0));
    let readable = examine(&SimDisk::from_image(&damaged)).unwrap().readable_to.0;
    check_untouched(&damaged, &copy, Some(readable - 1));
}

#[test]
fn a_footer_of_other_events_is_left_to_be_written_again() {
    let rest = long_log();
    let path = segments(&rest.image).remove(1);
    let damaged = rest.with(&path, |bytes| {
        // The chained hash in the trailer, and the checksum over it (FORMAT.md 4.3).
        let trailer = bytes.len() - 144;
        bytes[trailer + 80] ^= 1;
        let crc = crc32c::crc32c(&bytes[trailer..trailer + 140]).to_le_bytes();
        bytes[trailer + 140..].copy_from_slice(&crc);
    });
    let disk = SimDisk::from_image(&damaged);
    let (found, treatment) = treat_with(&disk, &orders(None, None)).unwrap();
    assert!(found.findings.iter().any(|finding| finding.file == path), "{found:#?}");
    check_kept(&damaged, &disk.image()).unwrap();
    judge(&rest, &disk, Allowed::Copy, found.readable_to).unwrap_or_else(|wrong| panic!("{wrong}: {treatment:#?}"));
}
