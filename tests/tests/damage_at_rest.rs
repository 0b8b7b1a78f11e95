//! Damage at rest as an operator meets it (F3): it is named, what is intact is served, nothing is accepted that could be lost, and
//! `reprise doctor` says what can be done and does it when told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use reprise_tests::{
    client::{PushFailure, Repository, Request, clone, ls_remote, push},
    fixtures,
    server_process::{DataDir, ServerProcess},
};
use serde_json::Value;

const BRANCHES: [&str; 3] = ["main", "variation", "feature/long-name"];

fn push_all(data: &DataDir, server: &ServerProcess, repo: &str, branches: &[&str]) -> Repository {
    let token = data.token(repo.split('/').next().unwrap());
    let mut local = fixtures::etude();
    local.remote("origin", &server.url(repo), Some(&token));
    for branch in branches {
        push(&mut local, "origin", branch).unwrap_or_else(|error| panic!("{repo} {branch}: {error:?}"));
    }
    local
}

/// Three repositories pushed one after another, closed, and a copy of the whole directory.
fn at_rest() -> (DataDir, PathBuf) {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    for repo in ["alice/first", "alice/second", "alice/third"] {
        data.create_repo(repo, &[]);
        push_all(&data, &server, repo, &BRANCHES[..2]);
    }
    server.stop();
    let copy = data.path().with_file_name("copy");
    copy_dir(&data.path(), &copy);
    (data, copy)
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn files_in(dir: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_in(&entry.path(), part));
        } else if entry.file_name().to_string_lossy().contains(part) {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Flips a byte of the event that created a repository.
fn damage_event_of(data: &DataDir, slug: &str) -> (PathBuf, usize) {
    let file = files_in(&data.path().join("log"), "seg-").pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(slug.len()).position(|window| window == slug.as_bytes()).unwrap();
    bytes[at] ^= 0x20;
    fs::write(&file, bytes).unwrap();
    (file, at)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// One JSON value and the exit code.
fn doctor(data: &DataDir, arguments: &[&str]) -> (Value, i32) {
    let output = data.run(&[&["--json", "doctor"], arguments].concat());
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    (value, output.status.code().unwrap())
}

fn check_everything_is_back(data: &DataDir) {
    let server = data.serve();
    server.wait_ready();
    for repo in ["alice/first", "alice/second", "alice/third"] {
        let cloned = clone(&server.url(repo)).unwrap_or_else(|error| panic!("{repo}: {error:?}"));
        cloned.check_complete(&fixtures::etude().heads["main"]).unwrap();
    }
    assert_eq!(data.run(&["verify", "--deep"]).status.code(), Some(0));
    push_all(data, &server, "alice/second", &BRANCHES);
    server.stop();
}

#[test]
fn a_log_damaged_in_the_middle_is_served_up_to_there_and_takes_no_pushes() {
    let (data, _) = at_rest();
    let (file, _) = damage_event_of(&data, "second");
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let before = fs::read(&file).unwrap();
    let server = data.serve();
    server.wait_ready();

    // What is intact is served.
    let cloned = clone(&server.url("alice/first")).unwrap();
    cloned.check_complete(&fixtures::etude().heads["main"]).unwrap();
    // What is not is not made up.
    assert!(ls_remote(&server.url("alice/third")).is_err());

    // File and place are named, at start, by probes and by commands; with what to do.
    let printed = server.until_printed(&name);
    assert!(printed.contains("byte"), "{printed}");
    let health = Request::get(format!("http://{}/health", server.host()), None).send().unwrap();
    assert!(
        health.code == 503 && health.text().contains(&name) && health.text().contains("doctor"),
        "{}",
        health.text()
    );
    for command in [&["status"][..], &["verify"]] {
        let output = data.run(command);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(&name) && text(&output).contains("doctor"), "{}", text(&output));
    }

    // Nothing is taken that would have no place, and whoever asks learns why.
    let token = data.run(&["token", "create", "--owner", "alice"]);
    assert_eq!(token.status.code(), Some(3), "{}", text(&token));
    assert!(text(&token).contains("read-only"), "{}", text(&token));
    server.stop();
    assert_eq!(fs::read(&file).unwrap(), before, "a damaged segment was written to");
}

#[test]
fn a_push_to_a_damaged_log_is_refused_with_the_reason_and_the_remedy() {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    data.create_repo("alice/first", &[]);
    let mut local = push_all(&data, &server, "alice/first", &BRANCHES[..1]);
    data.create_repo("alice/later", &[]);
    data.create_repo("alice/last", &[]);
    server.stop();
    damage_event_of(&data, "later");
    let server = data.serve();
    server.wait_ready();
    let token = local.remotes["origin"].token.clone();
    local.remote("origin", &server.url("alice/first"), token.as_deref());
    let refused: PushFailure = push(&mut local, "origin", BRANCHES[1]).unwrap_err();
    assert_eq!(refused.code(), Some(503), "{refused:?}");
    let said = format!("{refused:?}");
    assert!(said.contains("read-only") && said.contains("reprise doctor"), "{said}");
    server.stop();
}

#[test]
fn the_doctor_says_what_is_lost_and_takes_it_from_a_copy() {
    let (data, copy) = at_rest();
    assert_eq!(doctor(&data, &[]).1, 0, "a healthy directory");
    let (file, _) = damage_event_of(&data, "second");
    let damaged = fs::read(&file).unwrap();

    let (found, exit) = doctor(&data, &[]);
    assert_eq!((exit, found["healthy"].as_bool(), found["damaged"].as_u64()), (1, Some(false), Some(1)), "{found:#}");
    let finding = &found["findings"][0];
    let lost = finding["events"][0].as_u64().unwrap();
    assert!(file.ends_with(finding["file"].as_str().unwrap()), "{found:#}");
    assert_eq!(found["readable_to"].as_u64(), Some(lost - 1));
    // One event of all that there are.
    assert_eq!(found["events"].as_u64().unwrap() + 1, found["end"].as_u64().unwrap());
    assert_eq!(fs::read(&file).unwrap(), damaged, "looking changes nothing");

    // Told to repair, but neither given a copy nor told what may be lost: nothing is done.
    let (found, exit) = doctor(&data, &["--repair"]);
    assert_eq!((exit, fs::read(&file).unwrap() == damaged), (1, true), "{found:#}");
    assert!(found["treatment"]["left"].to_string().contains(&format!("--accept-loss-after {}", lost - 1)), "{found:#}");
    // The loss of another part is not the loss that was accepted.
    let (_, exit) = doctor(&data, &["--repair", "--accept-loss-after", &lost.to_string()]);
    assert_eq!((exit, fs::read(&file).unwrap() == damaged), (1, true));

    let (found, exit) = doctor(&data, &["--repair", "--from", copy.to_str().unwrap()]);
    assert_eq!((exit, found["after"]["healthy"].as_bool()), (0, Some(true)), "{found:#}");
    let kept = data.path().join(found["treatment"]["kept"].as_str().unwrap());
    let name = file.file_name().unwrap();
    assert_eq!(fs::read(kept.join("log").join(name)).unwrap(), damaged, "the damaged bytes are kept");
    check_everything_is_back(&data);
}

#[test]
fn the_loss_of_events_is_taken_only_when_it_is_named() {
    let (data, _) = at_rest();
    damage_event_of(&data, "second");
    let (found, _) = doctor(&data, &[]);
    let readable = found["readable_to"].as_u64().unwrap().to_string();
    let (found, exit) = doctor(&data, &["--repair", "--accept-loss-after", &readable]);
    assert_eq!((exit, found["after"]["healthy"].as_bool()), (0, Some(true)), "{found:#}");

    // The rest is a log like any other, and nobody is told of a loss any more: what was lost can be made and pushed again.
    let server = data.serve();
    server.wait_ready();
    let health = Request::get(format!("http://{}/health", server.host()), None).send().unwrap();
    assert_eq!(health.code, 200, "{}", health.text());
    clone(&server.url("alice/first")).unwrap().check_complete(&fixtures::etude().heads["main"]).unwrap();
    for repo in ["alice/second", "alice/third"] {
        data.create_repo(repo, &[]);
        push_all(&data, &server, repo, &BRANCHES);
    }
    server.stop();
    assert_eq!(doctor(&data, &[]).1, 0);
}

fn health(data: &DataDir) -> (u16, String) {
    let server = data.serve();
    server.wait_ready();
    let answer = Request::get(format!("http://{}/health", server.host()), None).send().unwrap();
    let told = (answer.code, answer.text());
    server.stop();
    told
}

#[test]
fn a_loss_that_was_told_of_is_told_of_no_more_when_every_event_came_back() {
    let (data, copy) = at_rest();
    damage_event_of(&data, "second");
    // Served in between: the index knows more than the log, and that is kept.
    let (code, said) = health(&data);
    assert!(code == 503 && said.contains("\"possible_loss\":true"), "{said}");
    assert_eq!(files_in(&data.path().join("index"), ".loss").len(), 1);
    let (found, exit) = doctor(&data, &["--repair", "--from", copy.to_str().unwrap()]);
    assert_eq!(exit, 0, "{found:#}");
    let (code, said) = health(&data);
    assert_eq!(code, 200, "{said}");
    check_everything_is_back(&data);
}

#[test]
fn the_index_goes_with_the_end_of_the_log_and_stays_with_the_rest() {
    // A copy that has everything: nothing is given up, whatever was accepted.
    let (data, copy) = at_rest();
    damage_event_of(&data, "second");
    let (found, _) = doctor(&data, &[]);
    let readable = found["readable_to"].as_u64().unwrap().to_string();
    let (found, exit) =
        doctor(&data, &["--repair", "--from", copy.to_str().unwrap(), "--accept-loss-after", &readable]);
    assert_eq!(exit, 0, "{found:#}");
    assert!(!found["treatment"]["done"].to_string().contains("index/"), "{found:#}");
    assert!(!files_in(&data.path().join("index"), "CURRENT").is_empty());

    // A copy that ends before the index does.
    let (data, copy) = at_rest();
    data.create_repo("alice/fourth", &[]);
    let server = data.serve();
    server.wait_ready();
    server.stop();
    let last = files_in(&data.path().join("log"), "seg-").pop().unwrap();
    fs::write(&last, vec![0; fs::read(&last).unwrap().len()]).unwrap();
    fs::remove_file(data.path().join("log/anchor")).unwrap();
    let from = copy.to_str().unwrap();
    let (found, exit) = doctor(&data, &["--repair", "--from", from]);
    assert_eq!(exit, 1, "{found:#}");
    let left = found["treatment"]["left"].to_string();
    let (_, offer) = left.split_once("--accept-loss-after ").unwrap_or_else(|| panic!("{left}"));
    let position: String = offer.chars().take_while(char::is_ascii_digit).collect();
    let (found, exit) = doctor(&data, &["--repair", "--from", from, "--accept-loss-after", &position]);
    assert_eq!((exit, found["after"]["healthy"].as_bool()), (0, Some(true)), "{found:#}");
    assert!(found["treatment"]["done"].to_string().contains("index/"), "{found:#}");
    let (code, said) = health(&data);
    assert_eq!(code, 200, "{said}");
}

#[test]
fn a_repair_that_cannot_go_on_tells_what_it_did() {
    let (data, copy) = at_rest();
    damage_event_of(&data, "second");
    fs::write(data.path().join("damaged"), "in the way").unwrap();
    let (found, exit) = doctor(&data, &["--repair", "--from", copy.to_str().unwrap()]);
    assert_eq!(exit, 3, "{found:#}");
    let treatment = &found["treatment"];
    assert!(treatment["ended_early"].as_str().unwrap().contains("damaged"), "{found:#}");
    assert!(treatment["done"].as_array().unwrap().is_empty() && found["after"].is_null(), "{found:#}");
}

#[test]
fn objects_that_are_not_mounted_are_one_finding() {
    let (data, copy) = at_rest();
    fs::rename(data.path().join("objects"), data.path().join("elsewhere")).unwrap();
    let (found, exit) = doctor(&data, &[]);
    assert_eq!((exit, found["damaged"].as_u64(), found["packs"].is_null()), (1, Some(1), true), "{found:#}");
    assert_eq!(found["findings"][0]["file"], "objects/STORE");
    let (found, _) = doctor(&data, &["--repair", "--from", copy.to_str().unwrap()]);
    assert!(found["treatment"]["done"].as_array().unwrap().is_empty(), "{found:#}");
}

#[test]
fn damaged_and_missing_packs_are_named_and_taken_from_a_copy() {
    let (data, copy) = at_rest();
    let packs = files_in(&data.path().join("objects"), ".pack");
    let mut bytes = fs::read(&packs[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&packs[0], &bytes).unwrap();
    fs::remove_file(&packs[1]).unwrap();

    let (found, exit) = doctor(&data, &[]);
    assert_eq!((exit, found["damaged"].as_u64()), (1, Some(2)), "{found:#}");
    for pack in &packs[..2] {
        let name = pack.file_name().unwrap().to_string_lossy();
        assert!(found["findings"].to_string().contains(&*name), "{found:#}");
        let file = found["findings"].as_array().unwrap().iter().find(|finding| finding.to_string().contains(&*name));
        assert!(pack.ends_with(file.unwrap()["file"].as_str().unwrap()) && pack.starts_with(data.path()), "{found:#}");
    }
    let (found, exit) = doctor(&data, &["--repair", "--from", copy.to_str().unwrap()]);
    assert_eq!((exit, found["after"]["healthy"].as_bool()), (0, Some(true)), "{found:#}");
    // Where the damaged one is kept is told, and there it is.
    let done = found["treatment"]["done"].to_string();
    let (_, kept) = done.split_once("kept as ").unwrap();
    let kept: String = kept.chars().take_while(|letter| *letter != '"').collect();
    assert_eq!(fs::read(data.path().join(kept)).unwrap(), bytes);
    check_everything_is_back(&data);
}

#[test]
fn the_doctor_does_not_come_while_a_server_runs() {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    let refused = data.run(&["doctor"]);
    assert_eq!(refused.status.code(), Some(3));
    let said = text(&refused);
    assert!(said.contains(&server.pid().to_string()), "the holder is named: {said}");
    server.stop();
    let nothing = DataDir::new();
    assert_eq!(nothing.run(&["doctor"]).status.code(), Some(3));
    assert_eq!(data.run(&["doctor", "--from", "/nowhere"]).status.code(), Some(2), "--from without --repair");
    assert_eq!(data.run(&["doctor", "--repair", "--from", "/nowhere"]).status.code(), Some(3));
}
