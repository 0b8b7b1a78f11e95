//! The tail table, row by row.
use super::*;
use crate::{
    log::footer::{TRAILER_LEN, Trailer},
    recover::{Facts, Verdict, judge},
};

const NOTHING: Facts = Facts { remains: false, later: false, short: false, undecodable: false, anchored_beyond: false };

#[test]
fn the_table_tells_a_tear_from_damage() {
    assert_eq!(judge(NOTHING), Verdict::Clean);
    assert_eq!(judge(Facts { remains: true, ..NOTHING }), Verdict::Torn);
    for damaged in [
        Facts { later: true, remains: true, ..NOTHING },
        Facts { short: true, ..NOTHING },
        Facts { undecodable: true, ..NOTHING },
        Facts { anchored_beyond: true, ..NOTHING },
    ] {
        assert!(matches!(judge(damaged), Verdict::Damaged(_)), "{damaged:?}");
    }
}

/// Ten events in one segment, closed or killed; then `change` alters the only segment file.
fn altered(clean: bool, change: impl FnOnce(&mut Vec<u8>, &[usize])) -> (SimDisk, Result<(Engine, OpenReport)>) {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    let mut ends = vec![];
    for number in 1..=10 {
        done(engine.propose_and_wait(small(number)));
        ends.push(engine.frames_end() as usize);
    }
    if clean {
        engine.shutdown().unwrap();
    }
    let mut image = disk.image();
    drop(engine);
    let path = "log/seg-00000000000000000001.log";
    let mut content = image.file(path).unwrap().to_vec();
    change(&mut content, &ends);
    image.put(path, content);
    let disk = SimDisk::from_image(&image);
    let opened = try_open(&disk, Driver::Inline, 9);
    (disk, opened)
}

fn position(opened: &Result<(Engine, OpenReport)>) -> u64 {
    opened.as_ref().unwrap().1.durable.position.0
}

#[test]
fn a_torn_last_group_is_cut_kept_aside_and_reported() {
    let (disk, opened) = altered(false, |bytes, ends| bytes[ends[9] - 3] ^= 1);
    assert_eq!(position(&opened), 9);
    let (engine, report) = opened.unwrap();
    assert!(matches!(report.tail, Tail::Torn { .. }), "{report:?}");
    assert_eq!(disk.list("log/torn").unwrap().len(), 1);
    assert_eq!(done(engine.propose_and_wait(small(10))), (10, 10));
}

#[test]
fn after_a_clean_close_a_bad_last_group_is_damage() {
    let (_, opened) = altered(true, |bytes, ends| bytes[ends[9] - 3] ^= 1);
    assert_eq!(position(&opened), 9);
    let (engine, report) = opened.unwrap();
    assert!(matches!(report.tail, Tail::Damaged { .. }), "{report:?}");
    let refused = engine.propose_and_wait(small(10));
    assert!(matches!(refused, Outcome::NotDone(Reason::ReadOnly(_))), "{refused:?}");
    assert_eq!(read_all(&engine).unwrap().len(), 9);
}

#[test]
fn damage_in_the_middle_is_read_only_with_the_exact_place() {
    let (disk, opened) = altered(false, |bytes, ends| bytes[ends[3] + 100] ^= 1);
    let (engine, report) = opened.unwrap();
    let Tail::Damaged { file, offset, .. } = report.tail else { panic!("{report:?}") };
    assert_eq!(file, "log/seg-00000000000000000001.log");
    let before = disk.image();
    assert_eq!(read_all(&engine).unwrap().len(), 4);
    assert!(offset > 4096);
    drop(engine);
    assert_eq!(disk.image(), before, "a damaged log is not written to");
}

#[test]
fn a_cut_file_is_damage() {
    let (_, opened) = altered(false, |bytes, ends| bytes.truncate(ends[5]));
    assert_eq!(position(&opened), 6);
    assert!(matches!(opened.unwrap().1.tail, Tail::Damaged { .. }));
}

#[test]
fn an_older_copy_of_the_active_segment_is_damage_after_a_clean_close() {
    let (_, opened) = altered(true, |bytes, ends| {
        let end = ends[5];
        bytes[end..].fill(0);
    });
    assert!(matches!(opened.unwrap().1.tail, Tail::Damaged { .. }));
}

#[test]
fn a_newer_format_is_refused_before_a_byte_is_written() {
    let (disk, opened) = altered(true, |bytes, _| {
        bytes[8] = 2;
        bytes[2048 + 8] = 2;
    });
    assert_eq!(opened.map(|_| ()).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(disk.list("log/torn").unwrap().is_empty());
}

#[test]
fn one_damaged_copy_of_the_header_changes_nothing() {
    let (_, opened) = altered(true, |bytes, _| bytes[20] ^= 1);
    assert_eq!((position(&opened), opened.unwrap().1.tail), (10, Tail::Clean));
}

/// Several sealed segments, closed; `change` alters the image.
fn long(change: impl FnOnce(&mut crate::disk::sim::image::Image, &[String])) -> (Engine, OpenReport) {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    for number in 1..=300 {
        done(engine.propose_and_wait(small(number)));
    }
    engine.shutdown().unwrap();
    let names: Vec<String> = engine.segments().iter().map(|s| format!("log/seg-{:020}.log", s.first.0)).collect();
    assert!(names.len() > 3);
    let mut image = disk.image();
    drop(engine);
    change(&mut image, &names);
    try_open(&SimDisk::from_image(&image), Driver::Inline, 9).unwrap()
}

#[test]
fn a_damaged_footer_is_refolded() {
    for from_end in [1, 60, 140, 400, 1200] {
        let (engine, report) = long(|image, names| {
            let mut bytes = image.file(&names[1]).unwrap().to_vec();
            let at = bytes.len() - from_end;
            bytes[at] ^= 4;
            image.put(&names[1], bytes);
        });
        assert_eq!((report.tail, report.durable.position.0), (Tail::Clean, 300), "{from_end}");
        assert_eq!(read_all(&engine).unwrap().len(), 300);
        for number in [5, 150, 299] {
            assert_eq!(done(engine.propose_and_wait(small(number))), (number, number));
        }
    }
}

/// A power loss while a segment is sealed: the blocks of its footer reach the disk in any order.
#[test]
fn a_footer_of_which_only_the_end_was_written_is_written_again() {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    for number in 1..=30 {
        done(engine.propose_and_wait(small(number)));
    }
    let sealed = format!("log/seg-{:020}.log", engine.segments().last().unwrap().first.0);
    engine.roll();
    let image = disk.image();
    let whole = image.file(&sealed).unwrap().to_vec();
    let trailer_at = whole.len() - TRAILER_LEN;
    let trailer = Trailer::decode(&whole[trailer_at..], whole.len() as u64).unwrap();
    for at in usize::try_from(trailer.frames_end).unwrap()..trailer_at {
        let mut torn = image.clone();
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        torn.put(&sealed, bytes);
        let disk = SimDisk::from_image(&torn);
        let (engine, report) = try_open(&disk, Driver::Inline, 9).unwrap();
        assert_eq!((report.tail, engine.durable().position.0), (Tail::Clean, 30), "byte {at}");
        assert!(disk.image().file(&sealed).unwrap() == whole, "byte {at}: the footer is not as it was");
    }
}

#[test]
fn a_missing_segment_is_damage() {
    for missing in [1, 2] {
        let (engine, report) = long(|image, names| {
            image.files.remove(&names[missing]);
        });
        assert!(matches!(report.tail, Tail::Damaged { .. }), "{report:?}");
        let first_missing = engine.durable().position.0;
        assert!(first_missing > 0 && first_missing < 300);
        assert_eq!(read_all(&engine).unwrap().len() as u64, first_missing);
    }
}

#[test]
fn a_sound_frame_that_does_not_continue_the_chain_is_not_believed() {
    use crate::{
        disk::write_all_at,
        id::ChainHash,
        log::{
            frame::{self, Draft},
            scan::{From, GroupReader, Step},
        },
    };
    let disk = SimDisk::new();
    let file = disk.create_new("frames").unwrap();
    let (salt, mut bytes) = ([3; 16], Vec::new());
    let draft = |first, sequence, previous| Draft {
        flags: 0,
        count: 1,
        first: Position(first),
        sequence,
        time_ms: 0,
        previous,
    };
    let after = frame::append(&mut bytes, &salt, &draft(1, 1, ChainHash([0; 32])), b"one");
    assert_ne!(after, ChainHash([9; 32]));
    frame::append(&mut bytes, &salt, &draft(2, 2, ChainHash([9; 32])), b"two");
    write_all_at(&*file, &bytes, 0).unwrap();
    let from = From { offset: 0, next: Position(1), sequence: 1, chain: Some(ChainHash([0; 32])) };
    let mut reader = GroupReader::new(file.into(), "frames".into(), salt, from, bytes.len() as u64);
    assert!(matches!(reader.step().unwrap(), Step::Group(_)));
    assert!(matches!(reader.step().unwrap(), Step::Stop(_)));
}
