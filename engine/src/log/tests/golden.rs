//! The bytes of a tiny log, for ever: `snapshots/log/`. A changed format is a new version, never a changed file here.
use super::*;
use crate::disk::sim::image::Image;

/// A sealed segment, an active one, an anchor; everything that could differ between runs is fixed.
fn tiny() -> Image {
    let disk = SimDisk::new();
    let (engine, _) = open(&disk);
    let mut number = 0;
    done(engine.propose_and_wait(proposal(1_000_000, vec![repo(1, "one"), moved(1, "main", None, Some(1))])));
    while engine.segments().len() < 2 {
        number += 1;
        done(engine.propose_and_wait(proposal(number, vec![token(number, 900), token(number + 1_000, 900)])));
    }
    done(engine.propose_and_wait(small(900_000)));
    engine.shutdown().unwrap();
    disk.image()
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)]
}

#[test]
#[allow(clippy::disallowed_methods, reason = "golden files are read where they are")]
fn a_tiny_log_has_the_bytes_that_it_always_had_and_the_golden_one_still_opens() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots/log");
    let made = tiny();
    let mut golden = Image::default();
    for (path, bytes) in &made.files {
        if path.ends_with("LOCK") {
            continue;
        }
        let file = format!("{dir}/{}.bin", path.rsplit('/').next().unwrap());
        let stored = std::fs::read(&file).unwrap_or_default();
        if stored != without_zeros(bytes) {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::write(format!("{file}.new"), without_zeros(bytes)).unwrap();
            panic!("{file} differs; what is written now is beside it as .new");
        }
        let mut whole = stored.clone();
        whole.resize(bytes.len(), 0);
        golden.put(path, whole);
    }
    let (engine, report) = try_open(&SimDisk::from_image(&golden), Driver::Inline, 1).unwrap();
    assert_eq!((report.tail, report.unclean), (Tail::Clean, false));
    let read = read_all(&engine).unwrap();
    assert_eq!(read[&1], push_id(1_000_000));
    assert_eq!(read[&(read.len() as u64)], push_id(900_000));
}
