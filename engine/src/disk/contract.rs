//! What every disk promises, checked over the real one and the simulated one; and what only the simulated one can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use super::{
    Disk, read_exact_at,
    real::RealDisk,
    sim::{Fault, SimDisk, Survival, image::Image},
    write_all_at,
};
use crate::error::ErrorKind;

fn check(promise: impl Fn(&dyn Disk)) {
    let folder = tempfile::tempdir().unwrap();
    promise(&RealDisk::new(folder.path().to_owned()));
    promise(&SimDisk::new());
}

#[test]
fn what_is_written_is_read_back_and_a_gap_reads_as_zeros() {
    check(|disk| {
        let file = disk.create_new("a").unwrap();
        write_all_at(&*file, b"tail", 6).unwrap();
        let mut all = [1u8; 10];
        read_exact_at(&*file, &mut all, 0).unwrap();
        assert_eq!(&all, b"\0\0\0\0\0\0tail");
        file.set_len(3).unwrap();
        assert_eq!((file.len().unwrap(), file.read_at(&mut all, 3).unwrap()), (3, 0));
        file.sync_data().unwrap();
        assert!(read_exact_at(&*disk.open("a").unwrap(), &mut all, 0).unwrap_err().is_corrupt());
    });
}

#[test]
fn names_are_listed_in_order_renamed_over_each_other_and_removed() {
    check(|disk| {
        assert_eq!(disk.list("x/y").unwrap(), Vec::<String>::new());
        disk.create_dir("x/y").unwrap();
        disk.create_dir("x/y").unwrap();
        for name in ["x/y/b", "x/y/a", "x/c"] {
            write_all_at(&*disk.create_new(name).unwrap(), name.as_bytes(), 0).unwrap();
        }
        assert_eq!(disk.list("x").unwrap(), ["c", "y"]);
        disk.rename("x/c", "x/y/a").unwrap();
        assert_eq!(disk.open("x/y/a").unwrap().len().unwrap(), 3);
        disk.remove("x/y/b").unwrap();
        assert_eq!(disk.list("x/y").unwrap(), ["a"]);
        disk.sync_dir("x/y").unwrap();
        disk.sync_dir("").unwrap();
    });
}

/// Texts of errors reach clients: why a log is read-only stood in an anonymous `/health`, data directory and all.
#[test]
fn errors_of_the_real_disk_do_not_say_where_its_root_is() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path().to_owned());
    let file = RealDisk::for_reading(folder.path().to_owned());
    disk.create_new("there").unwrap();
    let errors = [
        disk.open("gone/a").err(),
        disk.create_new("there").err(),
        disk.rename("gone/a", "b").err(),
        disk.remove("gone/a").err(),
        disk.list("there").err(),
        disk.create_dir("there/a").err(),
        disk.remove_dir("gone/a").err(),
        disk.sync_dir("gone/a").err(),
        file.open("there").unwrap().write_at(b"x", 0).err(),
        file.open("there").unwrap().set_len(1).err(),
    ];
    for error in errors.map(Option::unwrap) {
        let text = error.to_string();
        assert!(text.contains("gone/a") || text.contains("there"), "{text}");
        assert!(!text.contains(&*folder.path().to_string_lossy()), "{text}");
    }
}

#[test]
fn errors_say_what_to_do_and_name_the_path() {
    check(|disk| {
        disk.create_new("a").unwrap();
        let kind = |error: crate::Error| {
            assert!(error.to_string().contains("missing") || error.to_string().contains('a'), "{error}");
            error.kind()
        };
        assert_eq!(kind(disk.create_new("a").err().unwrap()), ErrorKind::Conflict);
        assert_eq!(kind(disk.open("missing").err().unwrap()), ErrorKind::NotFound);
        assert_eq!(kind(disk.create_new("missing/b").err().unwrap()), ErrorKind::NotFound);
        assert_eq!(kind(disk.remove("missing").unwrap_err()), ErrorKind::NotFound);
        assert_eq!(kind(disk.rename("missing", "b").unwrap_err()), ErrorKind::NotFound);
        assert_eq!(kind(disk.sync_dir("missing").unwrap_err()), ErrorKind::NotFound);
        for path in ["/a", "../a", "b/../a", "a//b", "./a"] {
            assert_eq!(kind(disk.open(path).err().unwrap()), ErrorKind::Invalid, "{path}");
        }
    });
}

#[test]
fn a_second_lock_is_refused_by_the_first_ones_name_until_it_is_dropped() {
    check(|disk| {
        let lock = disk.lock("LOCK", "pid 7 on 127.0.0.1:10003").unwrap();
        let refused = disk.lock("LOCK", "pid 8").err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert!(refused.to_string().contains("pid 7 on 127.0.0.1:10003"), "{refused}");
        drop(lock);
        disk.lock("LOCK", "pid 8").unwrap();
    });
}

#[test]
fn only_a_synced_file_under_a_synced_name_survives_a_crash_that_loses_everything_else() {
    for (sync_file, sync_dir) in [(false, false), (true, false), (false, true), (true, true)] {
        let disk = SimDisk::new();
        let file = disk.create_new("a").unwrap();
        write_all_at(&*file, b"bytes", 0).unwrap();
        if sync_file {
            file.sync_data().unwrap();
        }
        if sync_dir {
            disk.sync_dir("").unwrap();
        }
        let found = disk.crash(Survival::None, 1).image();
        let expected: Option<&[u8]> = match (sync_file, sync_dir) {
            (true, true) => Some(b"bytes"),
            (false, true) => Some(b""),
            _ => None,
        };
        assert_eq!(found.file("a"), expected, "file synced {sync_file}, directory synced {sync_dir}");
        assert!(file.len().is_err(), "the machine has crashed");
    }
}

#[test]
fn a_rename_is_kept_or_lost_whole_and_only_a_synced_directory_keeps_it() {
    let disk = SimDisk::new();
    for (name, content) in [("old", b"1"), ("new", b"2")] {
        let file = disk.create_new(name).unwrap();
        write_all_at(&*file, content, 0).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir("").unwrap();
    disk.rename("new", "old").unwrap();
    let history = disk.history();
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..50 {
        for survival in Survival::EVERY {
            let image = history.image_at(history.len(), survival, seed);
            match (image.file("old"), image.file("new")) {
                (Some(b"2"), None) => kept += 1,
                (Some(b"1"), Some(b"2")) => lost += 1,
                other => panic!("{survival:?}, seed {seed}: {other:?}"),
            }
        }
    }
    assert!(kept > 0 && lost > 0);
    disk.sync_dir("").unwrap();
    assert_eq!(disk.crash(Survival::None, 1).image().file("old"), Some(&b"2"[..]));
}

#[test]
fn unsynced_sectors_survive_singly_a_torn_one_by_half_and_synced_ones_always() {
    let disk = SimDisk::new();
    let file = disk.create_new("a").unwrap();
    write_all_at(&*file, &[1; 2048], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir("").unwrap();
    write_all_at(&*file, &[2; 2048], 1024).unwrap();
    let history = disk.history();
    let images =
        |survival| -> Vec<Image> { (0..40).map(|seed| history.image_at(history.len(), survival, seed)).collect() };
    for survival in Survival::EVERY {
        for image in images(survival) {
            assert_eq!(image.file("a").unwrap()[..1024], [1; 1024], "{survival:?}");
        }
    }
    let holed = |image: &Image| image.file("a").is_some_and(|a| a.len() == 3072 && a[1024..1536] == [1; 512]);
    assert!(images(Survival::Reordered).iter().any(holed), "a later sector without the one before it");
    let half = |image: &Image| image.file("a").is_some_and(|a| a[1024..1280] == [2; 256] && a[1280..1536] == [1; 256]);
    assert!(images(Survival::TornSector).iter().any(half), "half a sector");
    let zero = images(Survival::ZeroTail);
    assert!(zero.iter().all(|image| image.file("a").is_some_and(|a| a.len() == 3072 && a[2048..] == [0; 1024])));
}

#[test]
fn a_failed_sync_whose_data_was_dropped_answers_ok_to_the_retry_and_the_data_is_gone() {
    for (fault, survives) in [(Fault::SyncErrorKept, true), (Fault::SyncErrorDropped, false)] {
        let disk = SimDisk::new();
        let file = disk.create_new("a").unwrap();
        disk.sync_dir("").unwrap();
        write_all_at(&*file, b"bytes", 0).unwrap();
        disk.plan(disk.calls() + 1, fault);
        assert_eq!(file.sync_data().unwrap_err().kind(), ErrorKind::Unavailable);
        file.sync_data().expect("the retry lies");
        assert_eq!(file.len().unwrap(), 5, "the cache still shows it");
        let kept = disk.crash(Survival::None, 1).image().file("a").is_some_and(|a| a == b"bytes");
        assert_eq!(kept, survives, "{fault:?}");
    }
}

#[test]
fn a_planned_call_fails_as_planned_and_the_next_one_works() {
    let disk = SimDisk::new();
    let file = disk.create_new("a").unwrap();
    let next = |fault| disk.plan(disk.calls() + 1, fault);
    next(Fault::NoSpace);
    assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), ErrorKind::Full);
    next(Fault::TooManyFiles);
    assert_eq!(disk.open("a").err().unwrap().kind(), ErrorKind::Full);
    next(Fault::Short);
    assert_eq!(file.write_at(b"four", 0).unwrap(), 2);
    write_all_at(&*file, b"four", 0).unwrap();
    disk.set_full(true);
    assert_eq!(file.set_len(9).unwrap_err().kind(), ErrorKind::Full);
    disk.set_full(false);
    disk.plan(disk.calls() + 1, Fault::Crash);
    assert!(file.sync_data().is_err() && file.len().is_err() && disk.list("").is_err());
    assert_eq!(disk.fired().len(), 5);
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let disk = SimDisk::new();
    let file = disk.create_new("a").unwrap();
    for at in 0..20 {
        write_all_at(&*file, &[at; 700], u64::from(at) * 650).unwrap();
    }
    let history = disk.history();
    for survival in Survival::EVERY {
        assert_eq!(history.image_at(15, survival, 9), history.image_at(15, survival, 9), "{survival:?}");
    }
    history.each_cut(|cut, crash| {
        assert_eq!(crash.image(Survival::Reordered, 3), history.image_at(cut, Survival::Reordered, 3));
    });
}

#[test]
fn after_a_kill_everything_is_seen_and_a_power_loss_still_takes_what_no_sync_covered() {
    let disk = SimDisk::new();
    let file = disk.create_new("a").unwrap();
    disk.sync_dir("").unwrap();
    write_all_at(&*file, b"bytes", 0).unwrap();
    let history = disk.history();
    let killed = history.killed_at(history.len());
    assert_eq!(killed.open("a").unwrap().len().unwrap(), 5);
    assert_eq!(killed.crash(Survival::None, 1).image().file("a"), Some(&b""[..]));
}
