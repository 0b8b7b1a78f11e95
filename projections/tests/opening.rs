//! What opening believes and what it does not (FAULTS §1), each as a promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
#![allow(clippy::disallowed_methods, reason = "these tests damage files")]

mod history;

use std::{fs, path::Path};

use history::*;
use reprise_projections::{Projections, records};

fn check_serves(log: &MemoryLog, dir: &Path) -> Projections {
    let projections = open_caught_up(log, options(dir));
    assert_eq!(projections.view().digest().unwrap(), reference(log), "{:?}", projections.status());
    projections
}

fn built(seed: u64) -> (MemoryLog, tempfile::TempDir) {
    let log = random_history(seed, 25);
    let dir = tempfile::tempdir().unwrap();
    check_serves(&log, dir.path()).shutdown().unwrap();
    (log, dir)
}

fn files_under(dir: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_under(&path, into) } else { into.push(path) }
    }
}

#[test]
fn after_a_clean_stop_nothing_is_folded_again_and_nothing_is_said() {
    let (log, dir) = built(1);
    let again = check_serves(&log, dir.path());
    assert_eq!((again.status().reason.as_str(), again.status().state.as_str()), ("", "ready"));
    assert_eq!(again.status().generation, "gen-000001");
}

#[test]
fn after_an_unclean_stop_it_folds_again_from_the_last_flush_over_newer_rows() {
    let (log, dir) = built(2);
    for seed in 50..53 {
        let projections = check_serves(&log, dir.path());
        let flushed = fs::read(dir.path().join("gen-000001.flushed")).unwrap();
        for group in random_history(seed, 6).groups() {
            log.append(group.events.iter().map(|event| event.body.clone()).collect());
        }
        assert!(projections.wait_folded(log_end(&log), std::time::Duration::from_secs(10)));
        drop(projections);
        // On a slow machine it was flushed again meanwhile.
        fs::write(dir.path().join("gen-000001.flushed"), flushed).unwrap();
        let again = check_serves(&log, dir.path());
        assert!(again.status().reason.contains("after an unclean stop"), "{:?}", again.status());
        assert_eq!(again.status().generation, "gen-000001");
    }
}

#[test]
fn an_opening_that_died_is_not_tried_twice() {
    let (log, dir) = built(3);
    fs::write(dir.path().join("opening"), "junk").unwrap();
    let again = check_serves(&log, dir.path());
    assert!(again.status().reason.contains("did not come to its end"), "{:?}", again.status());
    assert_ne!(again.status().generation, "");
    assert!(!dir.path().join("opening").exists());
}

#[test]
fn an_index_that_knows_more_than_the_log_is_kept_aside_and_reported() {
    let (log, dir) = built(4);
    log.lose(3);
    let again = check_serves(&log, dir.path());
    assert!(again.status().possible_loss);
    assert!(dir.path().join("aside-000001").is_dir(), "{:?}", again.status());
    assert_eq!(again.status().generation, "gen-000002");
}

#[test]
fn an_index_of_another_log_is_kept_aside_and_reported() {
    let (log, dir) = built(5);
    log.become_another();
    let again = check_serves(&log, dir.path());
    assert!(again.status().possible_loss, "{:?}", again.status());
    assert!(dir.path().join("aside-000001").is_dir());
}

#[test]
fn a_possible_loss_is_reported_at_every_start_until_its_record_is_removed() {
    let (log, dir) = built(19);
    log.lose(3);
    for start in 1..=3 {
        let again = check_serves(&log, dir.path());
        let status = again.status();
        assert!(status.possible_loss, "start {start}: {status:?}");
        assert_eq!(
            status.reason.matches("gen-000001 was kept as aside-000001").count(),
            1,
            "start {start}: {status:?}"
        );
        again.shutdown().unwrap();
    }
    fs::remove_file(dir.path().join("aside-000001.loss")).unwrap();
    let again = check_serves(&log, dir.path());
    assert!(!again.status().possible_loss);
    assert_eq!(again.status().reason, "");
    assert!(dir.path().join("aside-000001").is_dir());
}

#[test]
fn a_generation_that_cannot_be_opened_is_kept_too_if_it_was_flushed_beyond_the_log() {
    let (log, dir) = built(20);
    log.lose(3);
    for damage in ["CURRENT", "opening", "gen-000001/keyspaces/1/manifest"] {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(dir.path(), copy.path());
        fs::write(copy.path().join(damage), "junk").unwrap();
        fs::remove_dir_all(copy.path().join("gen-000001/keyspaces/2")).unwrap();
        let again = check_serves(&log, copy.path());
        assert!(again.status().possible_loss, "{damage}: {:?}", again.status());
        assert!(copy.path().join("aside-000001").is_dir(), "{damage}: {:?}", again.status());
    }
}

#[test]
fn a_store_that_is_behind_its_own_flush_record_is_not_believed() {
    use reprise_projections::{Checkpoint, store::fjall::FjallStore, store::*};
    let (log, dir) = built(21);
    {
        let memory = reprise_projections::store::fjall::Memory { cache_bytes: 1 << 20, memtable_bytes: 1 << 20 };
        let store = FjallStore::open(&dir.path().join("gen-000001"), memory).unwrap();
        let early = log.groups()[2].clone();
        let at = Checkpoint { position: early.events.last().unwrap().position, chain: early.chain };
        store.apply(&Batch::new(), Some(at)).unwrap();
        store.flush(Stamp { number: 99, position: at.position }).unwrap();
    }
    let again = check_serves(&log, dir.path());
    assert!(again.status().reason.contains("older than its last flush"), "{:?}", again.status());
}

#[test]
fn any_file_of_the_index_may_vanish_or_turn_to_junk_after_a_clean_stop() {
    let (log, dir) = built(6);
    every_file_is_damaged(&log, dir.path());
}

#[test]
fn any_file_of_the_index_may_vanish_or_turn_to_junk_after_an_unclean_stop() {
    let (log, dir) = built(13);
    let projections = check_serves(&log, dir.path());
    for group in random_history(14, 6).groups() {
        log.append(group.events.iter().map(|event| event.body.clone()).collect());
    }
    assert!(projections.wait_folded(log_end(&log), std::time::Duration::from_secs(10)));
    drop(projections);
    every_file_is_damaged(&log, dir.path());
}

fn every_file_is_damaged(log: &MemoryLog, dir: &Path) {
    let mut files = Vec::new();
    files_under(dir, &mut files);
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    let junk: [Option<&[u8]>; 3] = [None, Some(b""), Some(&[0xa5; 300])];
    for (file, junk) in files.iter().flat_map(|file| junk.map(|junk| (file, junk))) {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(dir, copy.path());
        let name = file.strip_prefix(dir).unwrap();
        let victim = copy.path().join(name);
        match junk {
            None => fs::remove_file(&victim).unwrap(),
            Some(junk) => fs::write(&victim, junk).unwrap(),
        }
        let projections = open_caught_up(log, options(copy.path()));
        let damage = format!("{} becomes {junk:?}", name.display());
        assert_eq!(projections.view().digest().unwrap(), reference(log), "{damage}: {:?}", projections.status());
    }
}

/// The tables of the only generation in `dir`.
fn tables(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    files_under(dir, &mut files);
    files.retain(|file| file.parent().unwrap().ends_with("tables"));
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    files
}

/// Flips one bit in the first block of rows.
fn rot(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[60] ^= 4;
    fs::write(file, bytes).unwrap();
}

/// Damages a copy of `dir`, which must then be opened and heal by itself. What a block's checksum shows is never answered.
fn check_heals(log: &MemoryLog, dir: &Path, shows: bool, damage: impl Fn(&Path)) {
    let copy = tempfile::tempdir().unwrap();
    copy_tree(dir, copy.path());
    damage(copy.path());
    let projections = open_caught_up(log, options(copy.path()));
    let mut waits = 0;
    while projections.status().generation != "gen-000002" {
        if let Ok(digest) = projections.view().digest() {
            assert!(!shows || digest == reference(log), "{:?}", projections.status());
        }
        assert!(waits < 20_000, "not healed: {:?}", projections.status());
        waits += 1;
        projections.wait_folded(log_end(log).next(), std::time::Duration::from_millis(1));
    }
    assert_eq!(projections.view().digest().unwrap(), reference(log), "{:?}", projections.status());
}

#[test]
fn a_flipped_bit_in_any_table_is_found_and_heals_by_itself() {
    let (log, dir) = built(15);
    for file in tables(dir.path()) {
        let name = file.strip_prefix(dir.path()).unwrap();
        check_heals(&log, dir.path(), true, |copy| rot(&copy.join(name)));
    }
}

#[test]
fn a_table_of_another_keyspace_or_of_another_index_is_found_and_heals_by_itself() {
    let (log, dir) = built(17);
    let (_, other) = built(18);
    let mut files = tables(dir.path());
    // The library's own keyspace has the names and settings of the others: the same in every index.
    files.retain(|file| !file.to_string_lossy().contains("/keyspaces/0/"));
    let name = |file: &Path| file.strip_prefix(dir.path()).unwrap().to_owned();
    for file in &files {
        let foreign = other.path().join(name(file));
        if foreign.exists() {
            check_heals(&log, dir.path(), false, |copy| {
                fs::copy(&foreign, copy.join(name(file))).unwrap();
            });
        }
        for same in files.iter().filter(|same| *same > file && same.file_name() == file.file_name()).take(1) {
            check_heals(&log, dir.path(), false, |copy| {
                fs::copy(same, copy.join(name(file))).unwrap();
                fs::copy(file, copy.join(name(same))).unwrap();
            });
        }
    }
}

#[test]
fn a_flipped_byte_anywhere_in_the_lists_of_tables_is_found_before_the_store_is_opened() {
    use reprise_projections::store::fjall::{FjallStore, Memory};
    let (_, dir) = built(25);
    let generation = dir.path().join("gen-000001");
    let open = || FjallStore::open(&generation, Memory { cache_bytes: 1 << 20, memtable_bytes: 1 << 20 });
    let keyspaces: Vec<_> =
        fs::read_dir(generation.join("keyspaces")).unwrap().map(|dir| dir.unwrap().path()).collect();
    assert_eq!(keyspaces.len(), 5, "the library's own is one of them");
    for keyspace in keyspaces {
        let pointer = keyspace.join("current");
        let number = u64::from_le_bytes(fs::read(&pointer).unwrap()[..8].try_into().unwrap());
        for file in [pointer, keyspace.join(format!("v{number}"))] {
            let bytes = fs::read(&file).unwrap();
            for at in (0..bytes.len()).step_by(3) {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                fs::write(&file, flipped).unwrap();
                assert!(open().is_err(), "byte {at} of {}", file.display());
            }
            fs::write(&file, bytes).unwrap();
        }
    }
    assert!(open().is_ok());
}

#[test]
fn a_new_generation_that_is_damaged_before_it_serves_does_not_take_over() {
    let log = random_history(22, 25);
    let dir = tempfile::tempdir().unwrap();
    let projections = open_caught_up(&log, options(dir.path()));
    let rotten = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let rot_all = |_| {
        let mut files = Vec::new();
        files_under(&dir.path().join("gen-000002/keyspaces"), &mut files);
        files.retain(|file| file.parent().unwrap().ends_with("tables") && fs::metadata(file).unwrap().len() > 60);
        files.retain(|file| !file.to_string_lossy().contains("keyspaces/0/"));
        for file in files {
            if rotten.lock().unwrap().insert(file.clone()) {
                rot(&file);
            }
        }
    };
    let ended = projections.rebuild(&reprise_projections::RebuildOptions::default(), &rot_all);
    assert!(!rotten.lock().unwrap().is_empty(), "there was something to damage");
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(projections.status().generation, "gen-000001");
    assert_eq!(projections.view().digest().unwrap(), reference(&log));
    assert!(!dir.path().join("gen-000002").exists());
}

#[test]
fn a_rebuild_replaces_a_live_generation_that_cannot_be_read() {
    let log = random_history(16, 25);
    let dir = tempfile::tempdir().unwrap();
    let projections = open_caught_up(&log, options(dir.path()));
    for file in tables(dir.path()) {
        rot(&file);
    }
    let report = projections.rebuild(&reprise_projections::RebuildOptions::default(), &|_| {}).unwrap();
    assert!(report.switched);
    assert_eq!(report.live_digest, None, "nothing to compare with");
    assert_eq!(projections.view().digest().unwrap(), reference(&log));
    assert!(!dir.path().join("gen-000001").exists());
    assert_eq!(projections.status().generation, "gen-000002");
}

#[test]
fn every_keyspace_may_vanish_and_the_whole_directory_too() {
    let (log, dir) = built(7);
    let keyspaces = dir.path().join("gen-000001/keyspaces");
    let mut names: Vec<_> = fs::read_dir(&keyspaces).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(dir.path(), copy.path());
        fs::remove_dir_all(copy.path().join("gen-000001/keyspaces").join(&name)).unwrap();
        let again = check_serves(&log, copy.path());
        assert_eq!(again.status().generation, "gen-000002", "a number is never given twice");
        assert!(!copy.path().join("gen-000001").exists(), "the bad one is gone");
        assert!(again.status().reason.contains("rebuilt"), "{name:?}: {:?}", again.status());
    }
    fs::remove_dir_all(dir.path()).unwrap();
    drop(check_serves(&log, dir.path()));
}

#[test]
fn a_projection_that_did_not_exist_catches_up_by_itself_and_says_so() {
    let (log, dir) = built(8);
    let disk = reprise_engine::disk::real::RealDisk::new(dir.path().to_owned());
    let mut current: records::Current = records::read(&disk, records::CURRENT).unwrap().unwrap();
    current.versions.remove("object_refs");
    records::write(&disk, records::CURRENT, &current).unwrap();
    let again = check_serves(&log, dir.path());
    assert!(again.status().reason.contains("object_refs did not exist"), "{:?}", again.status());
    assert!(!again.status().possible_loss);
    assert!(dir.path().join("aside-000001").is_dir(), "the old one is kept until someone says otherwise");
}

#[test]
fn what_an_interrupted_rebuild_left_is_removed_at_the_next_start() {
    let (log, dir) = built(9);
    fs::create_dir(dir.path().join("gen-000007")).unwrap();
    fs::write(dir.path().join("gen-000007/run-000001"), b"x").unwrap();
    fs::write(dir.path().join("gen-000007.flushed"), b"x").unwrap();
    let again = check_serves(&log, dir.path());
    assert_eq!(again.status().generation, "gen-000001");
    assert!(!dir.path().join("gen-000007").exists());
    assert!(!dir.path().join("gen-000007.flushed").exists());
}

#[test]
fn whatever_has_the_name_of_a_generation_or_of_a_record_holds_nothing_up() {
    for usable in [true, false] {
        let (log, dir) = built(24);
        fs::write(dir.path().join("gen-000050"), b"x").unwrap();
        fs::create_dir(dir.path().join("gen-000098.clean")).unwrap();
        if !usable {
            fs::remove_file(dir.path().join("CURRENT")).unwrap();
        }
        let again = check_serves(&log, dir.path());
        assert_eq!(again.status().generation, if usable { "gen-000001" } else { "gen-000099" });
        assert!(!dir.path().join("gen-000050").exists());
    }
}

#[test]
fn who_waits_for_a_position_is_called_once_it_is_in_the_view() {
    let log = random_history(10, 5);
    let dir = tempfile::tempdir().unwrap();
    let projections = check_serves(&log, dir.path());
    let next = log_end(&log).next();
    let (sender, receiver) = std::sync::mpsc::channel();
    let handle = projections.clone();
    let then = move || sender.send(handle.view().checkpoint().position).unwrap();
    projections.when_folded(next, Box::new(then));
    assert!(receiver.try_recv().is_err(), "not before");
    log.append(random_history(11, 1).groups()[0].events.iter().map(|event| event.body.clone()).collect());
    assert!(receiver.recv_timeout(std::time::Duration::from_secs(10)).unwrap() >= next);
    assert_eq!(projections.lag().events, 0);
}

#[test]
fn beyond_ten_thousand_waiters_the_next_is_turned_away_at_once() {
    let log = random_history(23, 5);
    let dir = tempfile::tempdir().unwrap();
    let projections = check_serves(&log, dir.path());
    let never = reprise_engine::id::Position(u64::MAX);
    let wait = || {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        projections.when_folded(never, Box::new(move || sender.send(()).unwrap()));
        receiver
    };
    let waiting: Vec<_> = (0..10_000).map(|_| wait()).collect();
    assert_eq!(wait().try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
    assert!(waiting.iter().all(|one| one.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty)));
}

#[test]
fn a_live_generation_that_differs_from_the_log_is_not_replaced_without_being_told_to() {
    use reprise_projections::{Checkpoint, RebuildOptions, source::Source, store::fjall::FjallStore, store::*};
    let (log, dir) = built(12);
    {
        let memory = reprise_projections::store::fjall::Memory { cache_bytes: 1 << 20, memtable_bytes: 1 << 20 };
        let store = FjallStore::open(&dir.path().join("gen-000001"), memory).unwrap();
        let mut batch = Batch::new();
        batch.put(reprise_projections::Model::Tokens, &[9; 32], b"rotten");
        let durable = log.durable();
        store.apply(&batch, Some(Checkpoint { position: durable.position, chain: durable.chain })).unwrap();
        store.flush(Stamp { number: 99, position: durable.position }).unwrap();
    }
    let projections = open_caught_up(&log, options(dir.path()));
    let report = projections.rebuild(&RebuildOptions::default(), &|_| {}).unwrap();
    assert!(!report.switched);
    assert_ne!(report.live_digest.unwrap(), report.digest);
    assert!(projections.status().reason.contains("are not what the log says"), "{:?}", projections.status());
    let bad = RebuildOptions { live_is_bad: true, ..RebuildOptions::default() };
    assert!(projections.rebuild(&bad, &|_| {}).unwrap().switched);
    assert_eq!(projections.view().digest().unwrap(), reference(&log));
}

fn log_end(log: &MemoryLog) -> reprise_engine::id::Position {
    use reprise_projections::source::Source;
    log.durable().position
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
