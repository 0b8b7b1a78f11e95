//! Damage to the files of a stopped hub, as those who use it meet it: the server says where, goes on with what is intact, writes
//! nothing near it, and `reprise verify` names it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use reprise_tests::{
    client::{Request, ls_remote},
    server_process::{DataDir, ServerProcess},
    stopped_hub::{REPOS, StoppedHub, damage, pack_of, segments},
};
use serde_json::Value;

/// Offset in the middle of the frames of a segment with its footer.
fn middle(path: &Path) -> usize {
    4096 + (usize::try_from(fs::metadata(path).unwrap().len()).unwrap() - 4096) / 3
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Polls `/health` until it says that the log is read-only.
fn read_only(server: &ServerProcess) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = Request::get(server.url("health"), None).send().unwrap();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.code == 503 && text.contains("read-only") {
            return text;
        }
        assert!(Instant::now() < deadline, "healthy: {} {text}", answer.code);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every place where the damage must be named; no segment changes.
fn check_read_only(hub: &StoppedHub, data: &DataDir, file: &str, intact: &[usize]) {
    let before: Vec<_> = segments(data).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    let server = data.serve();
    let health = read_only(&server);
    assert!(health.contains(file) && health.contains("at byte") && health.contains("reprise doctor"), "{health}");
    server.wait_ready();
    server.until_printed(file);
    let status = data.run(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).contains(file), "{status:?}");

    for number in intact {
        hub.check_clone(&server, *number);
        assert_eq!(ls_remote(&server.url(REPOS[*number])).unwrap().len(), 1);
        let refused = hub.push_more(&server, *number).unwrap_err();
        assert_eq!(refused.code(), Some(503), "{refused:?}");
        assert!(format!("{refused:?}").contains("reprise doctor"), "{refused:?}");
    }
    let verified = data.run(&["verify", "--json"]);
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    let found = &verified["found"][0]["damaged"];
    assert_eq!(found["what"], "log", "{verified}");
    assert!(found["detail"].as_str().unwrap().contains("at byte") && found.to_string().contains(file), "{verified}");
    server.stop();
    for (bytes, path) in before {
        assert!(fs::read(&path).unwrap() == bytes, "{} was written to", path.display());
    }
}

#[test]
fn damage_inside_an_old_segment_stops_pushes_and_nothing_else() {
    let hub = StoppedHub::new();
    let data = hub.copy();
    let old = segments(&data)[0].clone();
    damage(&old, |bytes| bytes[middle(&old)] ^= 0x10);
    check_read_only(&hub, &data, &name(&old), &[0, 1, 2]);
    let data = hub.copy();
    let old = segments(&data)[1].clone();
    let at = middle(&old);
    damage(&old, |bytes| bytes[at..at + 512].fill(0));
    check_read_only(&hub, &data, &name(&old), &[0, 1, 2]);
}

#[test]
fn a_log_that_breaks_off_opens_read_only_and_serves_the_repositories_before_the_hole() {
    let hub = StoppedHub::new();
    let missing = hub.copy();
    let middle = segments(&missing)[1].clone();
    fs::remove_file(&middle).unwrap();
    check_read_only(&hub, &missing, &name(&segments(&missing)[1]), &[0]);

    let headless = hub.copy();
    let middle = segments(&headless)[1].clone();
    damage(&middle, |bytes| bytes[..4096].fill(0));
    check_read_only(&hub, &headless, &name(&middle), &[0]);
}

#[test]
fn an_old_segment_that_was_cut_stops_pushes_and_is_named() {
    let hub = StoppedHub::new();
    // A later footer has the state behind it: all of it is served. Behind the second one there is none.
    for (number, intact) in [(0, &[0, 1, 2][..]), (1, &[0])] {
        let data = hub.copy();
        let old = segments(&data)[number].clone();
        let at = middle(&old);
        damage(&old, |bytes| bytes.truncate(at));
        check_read_only(&hub, &data, &name(&old), intact);
    }
}

#[test]
fn what_follows_from_intact_events_is_made_again_and_stops_nothing() {
    let hub = StoppedHub::new();
    for what in ["trailer", "section", "header", "anchor", "no anchor"] {
        let data = hub.copy();
        let old = segments(&data)[1].clone();
        let anchor = data.path().join("log/anchor");
        match what {
            "trailer" => damage(&old, |bytes| *bytes.last_mut().unwrap() ^= 1),
            "section" => damage(&old, |bytes| {
                let at = bytes.len() - 160;
                bytes[at] ^= 1;
            }),
            "header" => damage(&old, |bytes| bytes[20] ^= 1),
            "anchor" => damage(&anchor, |bytes| bytes[30] ^= 1),
            _ => fs::remove_file(&anchor).unwrap(),
        }
        let server = data.serve();
        server.wait_ready();
        for number in 0..REPOS.len() {
            hub.check_clone(&server, number);
        }
        hub.push_more(&server, 0).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        server.stop();
        assert!(anchor.is_file(), "{what}");
    }
}

#[test]
fn packs_without_their_mark_or_of_another_log_are_not_opened_over() {
    let hub = StoppedHub::new();
    let data = hub.copy();
    let mark = data.path().join("objects/STORE");
    fs::write(&mark, "00000000-0000-0000-0000-000000000000\n").unwrap();
    let refused = data.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("are not those of log"), "{refused:?}");
    fs::remove_file(&mark).unwrap();
    let refused = data.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("STORE is missing"), "{refused:?}");
}

#[test]
fn verify_names_the_repository_and_the_objects_of_a_damaged_pack() {
    let hub = StoppedHub::new();
    for what in ["flipped", "zeroed", "cut", "missing", "swapped"] {
        let data = hub.copy();
        let (pack, other) = (pack_of(&hub, &data, 1, 0), pack_of(&hub, &data, 0, 2));
        match what {
            "flipped" => damage(&pack, |bytes| bytes[140] ^= 1),
            "zeroed" => damage(&pack, |bytes| bytes[128..150].fill(0)),
            "cut" => damage(&pack, |bytes| bytes.truncate(bytes.len() / 2)),
            "missing" => fs::remove_file(&pack).unwrap(),
            _ => drop(fs::copy(&other, &pack).unwrap()),
        }
        let verified = data.run(&["verify", "--deep", "--json"]);
        assert_eq!(verified.status.code(), Some(1), "{what}: {verified:?}");
        let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
        let found: Vec<&Value> = verified["found"].as_array().unwrap().iter().map(|line| &line["damaged"]).collect();
        let id = pack.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(found.iter().all(|one| one["pack"] == id.as_str()), "{what}: {verified}");
        let whole = found.iter().find(|one| one["what"] == "pack");
        match what {
            "flipped" | "zeroed" => {
                assert!(found.iter().any(|one| one["what"] == "object" && one["repo_id"].is_string()), "{verified}");
            }
            _ => {
                let whole = whole.unwrap_or_else(|| panic!("{what}: {verified}"));
                assert!(whole["repo"] == REPOS[1] && whole["objects"].as_u64() > Some(0), "{what}: {verified}");
            }
        }
    }
}
