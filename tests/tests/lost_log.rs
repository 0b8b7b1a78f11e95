//! The log is lost and packs are left: what a new log gets of them, what it does not, and that nothing is served before the
//! operator says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use rand::RngExt;
use reprise_engine::store::StoreKey;
use reprise_tests::{
    bucket::{
        Bucket,
        machine::{URL, machine},
    },
    client::{CloneFailure, Repository, Value as Record, clone, ids::sha256_hex, mpack, push},
    effort::Effort,
    fixtures, seeds,
    server_process::{DataDir, ServerProcess},
};
use serde_json::{Value, json};

const BRANCHES: [&str; 3] = ["main", "variation", "feature/long-name"];

fn serve(data: &DataDir, more: &[&str]) -> ServerProcess {
    let server = data.serve_with(more);
    server.wait_ready();
    server
}

/// A public repository and a private one, each pushed branch by branch.
fn history(data: &DataDir, more: &[&str]) -> Repository {
    let server = serve(data, more);
    data.create_repo("alice/etude", &[]);
    data.create_repo("alice/secret", &["--private"]);
    let mut local = fixtures::etude();
    let token = data.token("alice");
    for repo in ["alice/etude", "alice/secret"] {
        local.forget_tracking();
        local.remote("origin", &server.url(repo), Some(&token));
        for branch in BRANCHES {
            push(&mut local, "origin", branch).unwrap_or_else(|error| panic!("{branch}: {error:?}"));
        }
    }
    server.stop();
    local
}

/// What packs can tell, row by row, without the positions that they cannot.
fn told_by_packs(data: &DataDir) -> BTreeMap<&'static str, BTreeSet<String>> {
    let rows = |name| {
        let rows = data.json_lines(&["projection", "dump", name]).into_iter().map(|mut row| {
            row.as_object_mut().unwrap().remove("position");
            row.to_string()
        });
        (name, rows.collect())
    };
    ["commits", "snapshots", "object_refs", "mpack_index", "storage_uri"].map(rows).into_iter().collect()
}

/// Everything but the packs is gone.
fn lose_the_log(data: &DataDir) {
    for name in fs::read_dir(data.path()).unwrap().map(|entry| entry.unwrap().file_name()) {
        let path = data.path().join(&name);
        match (name == "objects", path.is_dir()) {
            (true, _) => {}
            (_, true) => fs::remove_dir_all(path).unwrap(),
            (_, false) => fs::remove_file(path).unwrap(),
        }
    }
}

/// The id that the store's mark names.
fn marked(objects: &Path) -> String {
    fs::read_to_string(objects.join("STORE")).unwrap().trim().to_owned()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn recovered(data: &DataDir, more: &[&str]) -> Value {
    data.json(&[&["restore", "--from-packs"], more].concat())
}

/// Runs a command that is to be refused, and gives what it says.
fn refused(data: &DataDir, arguments: &[&str], exit: i32) -> String {
    let output = data.run(arguments);
    assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn names(report: &Value) -> Vec<String> {
    let repos = report["repositories"].as_array().unwrap().iter();
    repos.map(|repo| repo["name"].as_str().unwrap().to_owned()).collect()
}

fn candidates(data: &DataDir, name: &str) -> Vec<Value> {
    data.json(&["adopt", "--list", name])["heads"].as_array().unwrap().clone()
}

fn commits(candidates: &[Value]) -> BTreeSet<&str> {
    candidates.iter().map(|head| head["commit"].as_str().unwrap()).collect()
}

fn adopt_all(data: &DataDir, name: &str, local: &Repository) {
    for branch in BRANCHES {
        data.json(&["adopt", name, local.head(branch), branch]);
    }
}

fn check_clone(server: &ServerProcess, name: &str, local: &Repository) {
    let cloned = clone(&server.url(name)).unwrap_or_else(|error| panic!("{error:?}"));
    for branch in BRANCHES {
        assert_eq!(cloned.head(branch), local.head(branch), "{branch}");
        cloned.check_complete(cloned.head(branch)).unwrap();
        assert_eq!(cloned.tree(cloned.head(branch)), local.tree(local.head(branch)), "{branch}");
    }
}

fn check_hidden(server: &ServerProcess, name: &str) {
    match clone(&server.url(name)) {
        Err(CloneFailure::Refs(failure)) => assert_eq!(failure.code(), Some(404), "{name}"),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn packs_alone_give_back_every_row_that_packs_can_tell_and_no_branch_name_or_token() {
    let data = DataDir::new();
    let local = history(&data, &[]);
    let before = told_by_packs(&data);
    let old_log = marked(&data.path().join("objects"));
    lose_the_log(&data);
    let why = refused(&data, &["restore", "--from-packs"], 3);
    assert!(why.contains(&format!("--replace-log {old_log}")), "{why}");
    let report = recovered(&data, &["--replace-log", &old_log]);
    assert_eq!(report["replaced_log"], json!(old_log), "{report}");
    assert_eq!(report["damaged"], json!([]), "{report}");
    assert_ne!(marked(&data.path().join("objects")), old_log);
    let kept = data.path().join("objects").join("aside").join(&old_log).join("STORE");
    assert_eq!(fs::read_to_string(kept).unwrap().trim(), old_log);
    assert_eq!(told_by_packs(&data), before);
    for name in ["refs", "tokens", "releases", "tags"] {
        assert_eq!(data.json_lines(&["projection", "dump", name]), Vec::<Value>::new(), "{name}");
    }
    for name in names(&report) {
        assert!(name.starts_with("quarantine/"), "{name}");
        let heads = candidates(&data, &name);
        for branch in BRANCHES {
            assert!(commits(&heads).contains(local.head(branch)), "{branch}: {heads:?}");
        }
        let times: Vec<&str> = heads.iter().map(|head| head["committed_at"].as_str().unwrap()).collect();
        assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");
    }
    assert_eq!(names(&report).len(), 2, "{report}");
    assert_eq!(data.json(&["digest", "--three-ways"])["ok"], true);
    assert!(!data.path().join("recovery").exists());
}

#[test]
fn nothing_of_a_quarantined_repository_is_served_until_it_is_named_and_then_its_trees_are_the_old_ones() {
    let data = DataDir::new();
    let local = history(&data, &[]);
    let old_log = marked(&data.path().join("objects"));
    lose_the_log(&data);
    let report = recovered(&data, &["--replace-log", &old_log]);
    let names = names(&report);
    // Without a server; the second one with.
    adopt_all(&data, &names[0], &local);
    let server = serve(&data, &[]);
    adopt_all(&data, &names[1], &local);
    for name in names.iter().map(String::as_str).chain(["alice/etude", "alice/secret"]) {
        check_hidden(&server, name);
    }
    let why = refused(&data, &["token", "create", "--owner", "quarantine"], 3);
    assert!(why.contains("nobody owns it"), "{why}");
    refused(&data, &["repo", "create", "quarantine/mine"], 3);
    data.json(&["repo", "update", &names[0], "--rename", "bob/etude"]);
    check_hidden(&server, "bob/etude");
    data.json(&["repo", "update", "bob/etude", "--public"]);
    check_clone(&server, "bob/etude", &local);
    check_hidden(&server, &names[1]);
    // Who goes on from there needs nothing but a token.
    let mut mine = clone(&server.url("bob/etude")).unwrap();
    mine.remote("origin", &server.url("bob/etude"), Some(&data.token("bob")));
    let tip = mine.commit("main", "after the loss", &[("after.txt", Some(b"later".as_slice()))]);
    push(&mut mine, "origin", "main").unwrap();
    assert_eq!(clone(&server.url("bob/etude")).unwrap().head("main"), tip);
    refused(&data, &["repo", "update", "bob/etude", "--rename", "quarantine/back"], 3);
}

#[test]
fn packs_in_another_directory_are_copied_and_nothing_there_is_changed() {
    let old = DataDir::new();
    let local = history(&old, &[]);
    let objects = old.path().join("objects");
    let new = DataDir::new();
    let packs = objects.to_str().unwrap().to_owned();
    let why = refused(&new, &["restore", "--from-packs", "--packs", &packs], 3);
    assert!(why.contains("doctor"), "a log is beside them: {why}");
    lose_the_log(&old);
    let before = files(&objects);
    let report = recovered(&new, &["--packs", &packs]);
    assert_eq!(files(&objects), before);
    assert_eq!(report["replaced_log"], Value::Null, "no store was taken over: {report}");
    let name = &names(&report)[0];
    adopt_all(&new, name, &local);
    new.json(&["repo", "update", name, "--rename", "alice/etude", "--public"]);
    check_clone(&serve(&new, &[]), "alice/etude", &local);
}

#[test]
fn a_bucket_that_still_holds_pieces_of_the_old_log_is_taken_over_only_when_that_log_is_named() {
    let bucket = Bucket::start();
    let first = machine(&bucket);
    let local = history(&first, &["--bucket", URL]);
    drop(first);
    let pieces = |of: &str| bucket.objects.keys().iter().filter(|key| key.starts_with(of)).count();
    let (segments, packs) = (pieces("hub/log/"), pieces("hub/packs/"));
    assert!(segments > 0);
    let second = machine(&bucket);
    let why = refused(&second, &["restore", "--from-packs", "--bucket", URL], 3);
    assert!(why.contains("reprise restore") && why.contains("--replace-log "), "{why}");
    assert_eq!((pieces("hub/log/"), pieces("hub/aside/")), (segments, 0), "nothing was touched");
    let old_log = why.split("--replace-log ").nth(1).unwrap()[..36].to_owned();
    let other_log = "00000000-0000-4000-8000-000000000000";
    refused(&second, &["restore", "--from-packs", "--bucket", URL, "--replace-log", other_log], 3);
    let report = recovered(&second, &["--bucket", URL, "--replace-log", &old_log]);
    assert_eq!(report["set_aside"], json!(segments), "{report}");
    assert_eq!(pieces(&format!("hub/aside/{old_log}/")), segments + 1, "the pieces and the mark");
    assert_eq!(pieces("hub/packs/"), packs);
    for name in names(&report) {
        adopt_all(&second, &name, &local);
    }
    second.json(&["repo", "update", &names(&report)[0], "--rename", "alice/etude", "--public"]);
    drop(second);
    // The new log has the places of the old one's segments, and is all that an empty machine gets.
    let third = machine(&bucket);
    let restored = third.json(&["restore", "--bucket", URL]);
    assert_eq!((&restored["repositories"], &restored["missing_packs"]), (&json!(2), &json!(0)), "{restored}");
    check_clone(&serve(&third, &["--bucket", URL]), "alice/etude", &local);
}

#[test]
fn killed_at_any_moment_it_goes_on_and_names_every_pack_once() {
    let mut interrupted = 0;
    for seed in Effort::of("T10 killed recoveries", 3) {
        let mut random = seeds::random(seed, 0x4c4f_5354);
        let data = DataDir::new();
        let local = history(&data, &[]);
        let before = told_by_packs(&data);
        let objects = data.path().join("objects");
        let old_log = marked(&objects);
        lose_the_log(&data);
        let command = ["restore", "--from-packs", "--replace-log", &old_log];
        for _ in 0..12 {
            data.run_briefly(&command, Duration::from_millis(random.random_range(20..700)));
            interrupted += u32::from(data.path().join("recovery").exists());
            if !data.path().join("recovery").exists() && data.path().join("log").exists() {
                break;
            }
        }
        let done = data.run(&command);
        // Done by one that was killed late, or by this one.
        assert!(done.status.success() || text(&done).contains("holds a log"), "{}", text(&done));
        assert_eq!(told_by_packs(&data), before, "seed {seed}");
        let events = data.json_lines(&["log"]);
        let of_kind = |kind: &str| events.iter().filter(|event| event["kind"] == kind).count();
        assert_eq!(
            (of_kind("repo_created"), of_kind("objects_received")),
            (2, packs_in(&objects).len()),
            "seed {seed}"
        );
        assert_eq!(events.len(), 2 + packs_in(&objects).len(), "seed {seed}");
        let name = events.iter().find_map(|event| event["slug"].as_str()).unwrap();
        adopt_all(&data, &format!("quarantine/{name}"), &local);
    }
    assert!(interrupted > 0, "no kill met a recovery that was under way");
}

#[test]
fn of_a_damaged_pack_what_proves_itself_goes_on_and_the_rest_is_named() {
    let data = DataDir::new();
    let server = serve(&data, &[]);
    data.create_repo("alice/etude", &[]);
    let mut local = Repository::init();
    let kept =
        local.commit("main", "one", &[("a.txt", Some(b"first".as_slice())), ("b.txt", Some(b"second".as_slice()))]);
    local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
    push(&mut local, "origin", "main").unwrap();
    let two = [("c.txt", Some(b"third, which rots".as_slice())), ("d.txt", Some(b"fourth, beside it".as_slice()))];
    let broken = local.commit("main", "two", &two);
    push(&mut local, "origin", "main").unwrap();
    server.stop();
    let objects = data.path().join("objects");
    let blob = local.tree(&broken)["c.txt"].clone();
    let (pack, offset) = where_is(&data, &blob);
    let old_log = marked(&objects);
    lose_the_log(&data);
    flip(&objects.join(StoreKey::pack(pack.parse().unwrap()).as_str()), offset);
    let output = data.run(&["restore", "--from-packs", "--json", "--replace-log", &old_log]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let damaged = &report["damaged"][0];
    assert_eq!((&damaged["pack"], &damaged["lost"]), (&json!(pack), &json!([format!("blob {blob}")])), "{report}");
    assert_ne!(damaged["rescued"], Value::Null, "{report}");
    let name = &names(&report)[0];
    data.json(&["adopt", name, &kept, "first"]);
    let why = refused(&data, &["adopt", name, &broken, "main"], 3);
    assert!(why.contains(&format!("blob {blob}")), "{why}");
    let adopted = data.json(&["adopt", name, &broken, "main", "--incomplete"]);
    assert_eq!(adopted["missing_listed"], json!([format!("blob {blob}")]), "{adopted}");
    // What is pushed again heals it.
    data.json(&["repo", "update", name, "--rename", "alice/etude", "--public"]);
    let server = serve(&data, &[]);
    local.forget_tracking();
    local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
    local.set_branch("again", &broken);
    push(&mut local, "origin", "again").unwrap();
    clone(&server.url("alice/etude")).unwrap().check_complete(&broken).unwrap();
}

#[test]
fn a_pack_without_its_table_gives_back_every_entry() {
    let data = DataDir::new();
    let local = history(&data, &[]);
    let objects = data.path().join("objects");
    let old_log = marked(&objects);
    let before = told_by_packs(&data);
    lose_the_log(&data);
    let packs = packs_in(&objects);
    for pack in &packs {
        let bytes = fs::read(pack).unwrap();
        fs::write(pack, &bytes[..bytes.len() - 60]).unwrap();
    }
    let output = data.run(&["restore", "--from-packs", "--json", "--replace-log", &old_log]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let damaged = report["damaged"].as_array().unwrap();
    assert_eq!(damaged.len(), packs.len(), "{report}");
    for damaged in damaged {
        assert_eq!((&damaged["lost"], &damaged["complete"]), (&json!([]), &json!(true)), "{damaged}");
    }
    let after = told_by_packs(&data);
    for name in ["commits", "snapshots", "object_refs"] {
        assert_eq!(after[name], before[name], "{name}");
    }
    for name in names(&report) {
        adopt_all(&data, &name, &local);
    }
}

#[test]
fn what_a_refused_push_left_is_a_candidate_and_never_a_branch() {
    let data = DataDir::new();
    let mut local = history(&data, &[]);
    let show = data.json(&["repo", "show", "alice/etude"]);
    let repo = show["repo_id"].as_str().unwrap();
    let objects = data.path().join("objects");
    let stray = local.commit("main", "refused", &[("stray.txt", Some(b"stray".as_slice()))]);
    stored_and_never_named(&objects, repo, &local, &[&stray], &[local.tree(&stray)["stray.txt"].clone()]);
    let old_log = marked(&objects);
    lose_the_log(&data);
    let report = recovered(&data, &["--replace-log", &old_log]);
    let repos = report["repositories"].as_array().unwrap();
    let name = repos.iter().find(|one| one["repo_id"] == repo).unwrap()["name"].as_str().unwrap();
    let heads = candidates(&data, name);
    assert!(commits(&heads).contains(stray.as_str()), "{heads:?}");
    assert!(heads.iter().all(|head| head["head_of"] == json!([])), "{heads:?}");
    // The head of before is not among them: the stray commit of the same branch stands on it. It can be adopted all the same.
    let parent = fixtures::etude().head("main").to_owned();
    assert!(!commits(&heads).contains(parent.as_str()), "{heads:?}");
    data.json(&["adopt", name, &parent, "main"]);
    let why = refused(&data, &["adopt", name, fixtures::etude().head("variation"), "main"], 3);
    assert!(why.contains("does not continue"), "{why}");
    refused(&data, &["adopt", name, &"0".repeat(64), "other"], 3);
}

#[test]
fn a_record_that_two_packs_tell_differently_is_said() {
    let data = DataDir::new();
    let mut local = history(&data, &[]);
    let show = data.json(&["repo", "show", "alice/etude"]);
    let repo = show["repo_id"].as_str().unwrap();
    let objects = data.path().join("objects");
    let head = local.head("main").to_owned();
    // The id covers parents, snapshot, message and time, and nothing else.
    local.commits.get_mut(&head).unwrap().set("author", Record::str("mallory"));
    stored_and_never_named(&objects, repo, &local, &[&head], &[]);
    let old_log = marked(&objects);
    lose_the_log(&data);
    let report = recovered(&data, &["--replace-log", &old_log]);
    let differing: Vec<_> = report["differing"].as_array().unwrap().iter().map(|one| &one["object"]).collect();
    assert_eq!(differing, [&json!(head)], "{report}");
}

#[test]
fn a_directory_that_holds_anything_is_refused_before_anything_is_written() {
    let data = DataDir::new();
    history(&data, &[]);
    let before = files(&data.path());
    let why = refused(&data, &["restore", "--from-packs"], 3);
    assert!(why.contains("it holds a log"), "{why}");
    assert_eq!(files(&data.path()), before);
    lose_the_log(&data);
    fs::write(data.path().join("notes.txt"), "mine").unwrap();
    let why = refused(&data, &["restore", "--from-packs"], 3);
    assert!(why.contains("notes.txt"), "{why}");
}

#[test]
fn a_directory_whose_recovery_is_not_finished_is_opened_by_nothing_else() {
    let data = DataDir::new();
    history(&data, &[]);
    let objects = data.path().join("objects");
    let old_log = marked(&objects);
    lose_the_log(&data);
    // A pack that cannot be opened now is no damage: the recovery ends there, and goes on later.
    let pack = packs_in(&objects).pop().unwrap();
    let bytes = fs::read(&pack).unwrap();
    fs::remove_file(&pack).unwrap();
    std::os::unix::fs::symlink(&pack, &pack).unwrap();
    let command = ["restore", "--from-packs", "--replace-log", &old_log];
    refused(&data, &command, 3);
    assert_eq!(marked(&objects), old_log, "nothing was taken over before every pack was read");
    for other in [&["repo", "create", "alice/new"][..], &["serve", "--listen", "127.0.0.1:0"]] {
        let why = refused(&data, other, 3);
        assert!(why.contains("--from-packs"), "{other:?}: {why}");
    }
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    assert_eq!(names(&recovered(&data, &[])).len(), 2);
    data.json(&["status"]);
}

/// Commits with their snapshots, and blobs, in a pack of the repository that no event names.
fn stored_and_never_named(objects: &Path, repo: &str, local: &Repository, commits: &[&str], blobs: &[String]) {
    let commits: Vec<String> = commits.iter().map(|commit| (*commit).to_owned()).collect();
    let held = mpack::objects_of(local, &commits, blobs);
    let bytes = mpack::write(repo, &"07".repeat(16), 7, &held);
    let path = objects.join(StoreKey::pack(sha256_hex(&bytes).parse().unwrap()).as_str());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Pack and offset of a blob.
fn where_is(data: &DataDir, blob: &str) -> (String, u64) {
    let found = data.json(&["locate", "alice/etude", blob]);
    let found = &found["found"][0];
    (found["pack"].as_str().unwrap().to_owned(), found["offset"].as_u64().unwrap())
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(offset).unwrap()] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn packs_in(objects: &Path) -> Vec<PathBuf> {
    let files = files(&objects.join("packs")).into_keys();
    files.filter(|path| path.extension().is_some_and(|extension| extension == "pack")).collect()
}

/// Every file below a directory, with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => found.extend(files(&entry)),
            false => drop(found.insert(entry.clone(), fs::read(&entry).unwrap())),
        }
    }
    found
}
