//! The incident that must be impossible: rows that follow from what others pushed, indexes that nothing rebuilds, damage
//! that is served.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use rand::RngExt;
use reprise_engine::disk::real::RealDisk;
use reprise_projections::records::{self, Current};
use reprise_tests::{
    client::{
        CloneFailure, Failure, Pushed, Repository, Request, Value, clone,
        commands::{clone_branch, pull},
        ids::EMPTY,
        ls_remote, push,
        push::{filter_objects, push_force},
    },
    fixtures,
    rows::{self, PROJECTIONS},
    seeds,
    server_process::{DataDir, ServerProcess},
};

const BRANCHES: [&str; 3] = ["main", "variation", "feature/long-name"];

fn started() -> (DataDir, ServerProcess) {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    (data, server)
}

fn push_fixture(data: &DataDir, server: &ServerProcess, repo: &str) -> Repository {
    let token = data.token(repo.split('/').next().unwrap());
    let mut local = fixtures::etude();
    local.remote("origin", &server.url(repo), Some(&token));
    for branch in BRANCHES {
        push(&mut local, "origin", branch).unwrap_or_else(|error| panic!("{repo} {branch}: {error:?}"));
    }
    local
}

fn check_clone(server: &ServerProcess, repo: &str, local: &Repository) {
    let cloned = clone(&server.url(repo)).unwrap_or_else(|error| panic!("{repo}: {error:?}"));
    assert_eq!(cloned.heads, local.heads);
    for head in local.heads.values() {
        cloned.check_complete(head).unwrap_or_else(|error| panic!("{repo}: {error}"));
        assert_eq!(cloned.tree(head), local.tree(head));
    }
}

#[test]
fn a_the_same_content_pushed_to_two_repositories_gives_both_all_rows_and_complete_clones() {
    let (data, server) = started();
    for repo in ["alice/one", "alice/two", "bob/three"] {
        data.create_repo(repo, &[]);
        let local = push_fixture(&data, &server, repo);
        check_clone(&server, repo, &local);
    }
    let local = fixtures::etude();
    for (owner, slug) in [("alice", "one"), ("alice", "two"), ("bob", "three")] {
        rows::check_complete(&data, owner, slug, &local);
    }
}

#[test]
fn b_a_repository_deleted_and_recreated_with_the_same_content_is_complete() {
    let (data, server) = started();
    data.create_repo("alice/etude", &[]);
    let local = push_fixture(&data, &server, "alice/etude");
    let before = rows::repo_id(&data, "alice", "etude");
    data.json(&["repo", "delete", "alice/etude"]);
    let gone = clone(&server.url("alice/etude")).map(|_| ()).unwrap_err();
    assert!(matches!(gone, CloneFailure::Refs(failure) if failure.code() == Some(404)));
    data.create_repo("alice/etude", &[]);
    assert!(ls_remote(&server.url("alice/etude")).unwrap().is_empty(), "a new repository has no branches");
    push_fixture(&data, &server, "alice/etude");
    assert_ne!(rows::repo_id(&data, "alice", "etude"), before);
    rows::check_complete(&data, "alice", "etude", &local);
    check_clone(&server, "alice/etude", &local);
}

/// Every file below `dir`, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn c_whatever_is_done_to_the_projections_while_stopped_the_next_start_serves_correctly() {
    let seed = seeds::seed("c_whatever_is_done_to_the_projections");
    let (data, server) = started();
    data.create_repo("alice/etude", &[]);
    let local = push_fixture(&data, &server, "alice/etude");
    server.stop();
    let index = data.path().join("index");
    assert!(index.is_dir(), "the projections are in {}", index.display());
    for round in 0..24 {
        let mut random = seeds::random(seed, round);
        let what = damage_index(&index, &mut random, round);
        let server = data.serve();
        server.wait_ready();
        check_clone(&server, "alice/etude", &local);
        rows::check_complete(&data, "alice", "etude", &local);
        if round % 2 == 0 {
            server.stop()
        } else {
            server.kill()
        }
        assert!(index.is_dir(), "round {round}: {what}");
    }
}

/// Deletes, truncates or fills with junk a random subset of the files; every sixth time everything goes.
fn damage_index(index: &Path, random: &mut rand::rngs::StdRng, round: u64) -> String {
    if round % 6 == 5 {
        fs::remove_dir_all(index).unwrap();
        return "all gone".to_owned();
    }
    let mut what = Vec::new();
    let share = [0.1, 0.5, 1.0][random.random_range(0..3)];
    for file in files(index) {
        if !random.random_bool(share) {
            continue;
        }
        let length = fs::metadata(&file).map_or(0, |meta| meta.len());
        match random.random_range(0..4) {
            0 => fs::remove_file(&file).unwrap(),
            1 => fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(length / 2).unwrap(),
            2 => fs::write(&file, b"").unwrap(),
            _ => {
                let junk = seeds::bytes(random, usize::try_from(length.clamp(1, 1 << 16)).unwrap());
                fs::write(&file, junk).unwrap();
            }
        }
        what.push(file.display().to_string());
    }
    what.join(", ")
}

#[test]
fn d_a_projection_that_did_not_exist_when_the_events_were_written_catches_up_by_itself_and_says_so() {
    let (data, server) = started();
    data.create_repo("alice/etude", &[]);
    let local = push_fixture(&data, &server, "alice/etude");
    server.stop();
    // What an older version, which had no object_refs yet, would have left.
    let index = RealDisk::new(data.path().join("index"));
    let mut current: Current = records::read(&index, "CURRENT").unwrap().expect("a live generation");
    let before = current.generation.clone();
    current.versions.remove("object_refs").expect("the projection is known now");
    records::write(&index, "CURRENT", &current).unwrap();

    let server = data.serve();
    server.wait_ready();
    let status = data.json(&["status"]).to_string();
    assert!(status.contains("projection object_refs did not exist"), "{status}");
    check_clone(&server, "alice/etude", &local);
    rows::check_complete(&data, "alice", "etude", &local);
    server.stop();
    let after: Current = records::read(&index, "CURRENT").unwrap().expect("a live generation");
    assert_ne!(after.generation, before, "it was folded again");
    assert_eq!(after.outdated(), None);
}

#[test]
fn e_pushing_everything_again_stores_nothing_twice_and_duplicates_no_row() {
    let (data, server) = started();
    data.create_repo("alice/etude", &[]);
    let mut local = push_fixture(&data, &server, "alice/etude");
    let rows_before: Vec<_> = PROJECTIONS.map(|name| rows::dump(&data, name)).into();
    let bytes_before = stored_bytes(&data);
    let remote = local.remotes["origin"].clone();
    // The empty blob is never missing, so the first push did not send it: sent now it would be new.
    let ids: Vec<String> = local.objects.keys().filter(|id| *id != EMPTY).cloned().collect();
    reprise_tests::client::push::push_objects(&local.objects, &remote, &ids).unwrap();
    let commits: Vec<String> = local.walk(&local.heads["main"].clone(), &BTreeSet::new());
    let body = reprise_tests::client::push::bundle_body(&local, &commits, "main", false).encode();
    let answer = Request::post(format!("{}/push", remote.url), remote.token.as_deref(), &body).value().unwrap();
    assert_eq!(answer.get("ok"), Some(&reprise_tests::client::Value::Bool(true)), "{answer:?}");
    for (name, before) in PROJECTIONS.iter().zip(&rows_before) {
        // A ref row may say at which position the branch was last confirmed; nothing else may differ.
        let strip = |rows: &[serde_json::Value]| -> Vec<String> {
            let mut rows = rows.to_vec();
            for row in rows.iter_mut().filter_map(|row| row.as_object_mut()).filter(|_| *name == "refs") {
                row.remove("position");
            }
            rows.iter().map(ToString::to_string).collect()
        };
        let (after, before) = (strip(&rows::dump(&data, name)), strip(before));
        let other: Vec<&String> = after.iter().filter(|row| !before.contains(row)).collect();
        assert!(after == before, "{name}: {} rows before, {} after, of them new {other:?}", before.len(), after.len());
    }
    assert_eq!(stored_bytes(&data), bytes_before, "a pack was stored again");
    assert_eq!(push(&mut local, "origin", "main"), Ok(Pushed::UpToDate));
}

fn stored_bytes(data: &DataDir) -> u64 {
    pack_files(data).iter().map(|file| fs::metadata(file).unwrap().len()).sum()
}

fn pack_files(data: &DataDir) -> Vec<PathBuf> {
    let found: Vec<PathBuf> = files(&data.path())
        .into_iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "packs"))
        .collect();
    assert!(!found.is_empty(), "no packs below {}", data.path().display());
    found
}

/// Flips one byte of an object where it is stored.
fn damage_object(data: &DataDir, repo: &str, id: &str) -> String {
    let answer = data.json(&["locate", repo, id]);
    let found = answer["found"].as_array().unwrap_or_else(|| panic!("nothing found: {answer}"));
    let place = &found[0];
    let pack = place["pack"].as_str().unwrap_or_else(|| panic!("no pack in {place}")).to_owned();
    let number = |key: &str| place[key].as_u64().unwrap_or_else(|| panic!("no {key} in {place}"));
    let offset = number("offset") + number("stored_bytes") / 2;
    let file = pack_files(data).into_iter().find(|path| path.file_name().unwrap().to_string_lossy().contains(&pack));
    let file = file.unwrap_or_else(|| panic!("no file of pack {pack}"));
    let mut bytes = fs::read(&file).unwrap();
    bytes[usize::try_from(offset).unwrap()] ^= 0x40;
    let mut permissions = fs::metadata(&file).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "a file of this test")]
    permissions.set_readonly(false);
    fs::set_permissions(&file, permissions).unwrap();
    fs::write(&file, bytes).unwrap();
    pack
}

#[test]
fn f_a_damaged_object_is_never_sent_and_a_push_again_heals_it() {
    let (data, server) = started();
    data.create_repo("alice/etude", &[]);
    let local = push_fixture(&data, &server, "alice/etude");
    let victim = local.objects.iter().find(|(_, content)| content.len() == 200_000).unwrap().0.clone();
    let pack = damage_object(&data, "alice/etude", &victim);

    // First met: an error before the headers names object and pack; met later, the answer stops short. Never bad bytes.
    match clone_branch(&server.url("alice/etude"), None) {
        Err(CloneFailure::Fetch(Failure::Status { code: 500, text })) => check_names(&text, &victim, &pack),
        Err(CloneFailure::Fetch(Failure::Body(reason))) => assert!(reason.contains("incomplete"), "{reason}"),
        other => panic!("{:?}", other.map(|(_, applied)| applied)),
    }
    // From now on the typed error comes at once.
    let next = clone(&server.url("alice/etude")).map(|_| ()).unwrap_err();
    let CloneFailure::Fetch(Failure::Status { code: 500, text }) = next else { panic!("{next:?}") };
    check_names(&text, &victim, &pack);
    let direct = Request::get(server.url(&format!("alice/etude/objects/{victim}")), None).send().unwrap();
    assert_ne!(direct.code, 200, "{direct:?}");

    let remote = local.remotes["origin"].clone();
    let all: Vec<String> = local.objects.keys().cloned().collect();
    assert_eq!(
        filter_objects(&remote, &all).unwrap(),
        std::slice::from_ref(&victim),
        "asks for the condemned object alone"
    );
    reprise_tests::client::push::push_objects(&local.objects, &remote, &[victim]).unwrap();
    assert!(filter_objects(&remote, &all).unwrap().is_empty());
    check_clone(&server, "alice/etude", &local);
    server.kill();
    let server = data.serve();
    server.wait_ready();
    check_clone(&server, "alice/etude", &local);
}

fn check_names(text: &str, object: &str, pack: &str) {
    assert!(text.contains(object), "the object is not named: {text}");
    assert!(text.contains(&pack[..12.min(pack.len())]), "the pack is not named: {text}");
}

#[test]
fn f_damage_met_after_the_headers_cuts_the_answer_short_and_the_next_one_names_it() {
    let (data, server) = started();
    data.create_repo("alice/many", &[]);
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/many"), Some(&data.token("alice")));
    let mut random = seeds::random(8, 8);
    let files: Vec<(String, Vec<u8>)> =
        (0..20).map(|n| (format!("part-{n}"), seeds::bytes(&mut random, 200_000))).collect();
    let changes: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), Some(bytes.as_slice()))).collect();
    local.commit("main", "many", &changes);
    push(&mut local, "origin", "main").unwrap();
    // Blobs go out in the order of their pack: the last one comes megabytes after the headers.
    let offset = |id: &String| data.json(&["locate", "alice/many", id])["found"][0]["offset"].as_u64().unwrap();
    let blobs = local.objects.iter().filter(|(_, content)| content.len() == 200_000).map(|(id, _)| id.clone());
    let victim = blobs.max_by_key(offset).unwrap();
    let pack = damage_object(&data, "alice/many", &victim);

    let cut = clone(&server.url("alice/many")).map(|_| ()).unwrap_err();
    assert!(matches!(&cut, CloneFailure::Fetch(Failure::Body(reason)) if reason.contains("incomplete")), "{cut:?}");
    let next = clone(&server.url("alice/many")).map(|_| ()).unwrap_err();
    let CloneFailure::Fetch(Failure::Status { code: 500, text }) = next else { panic!("{next:?}") };
    check_names(&text, &victim, &pack);
    let remote = local.remotes["origin"].clone();
    reprise_tests::client::push::push_objects(&local.objects, &remote, &[victim]).unwrap();
    check_clone(&server, "alice/many", &local);
}

#[test]
fn f_a_damaged_commit_is_never_sent_and_a_push_again_heals_it() {
    let (data, server) = started();
    data.create_repo("alice/etude", &[]);
    let local = push_fixture(&data, &server, "alice/etude");
    let head = local.head("main").to_owned();
    damage_object(&data, "alice/etude", &head);
    let refused = clone(&server.url("alice/etude")).map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, CloneFailure::Fetch(Failure::Status { code: 500, .. } | Failure::Body(_))),
        "{refused:?}"
    );
    let again = clone(&server.url("alice/etude")).map(|_| ()).unwrap_err();
    assert!(matches!(&again, CloneFailure::Fetch(Failure::Status { code: 500, .. })), "{again:?}");
    let remote = local.remotes["origin"].clone();
    let commits = local.walk(&head, &BTreeSet::new());
    let body = reprise_tests::client::push::bundle_body(&local, &commits, "main", false).encode();
    let answer = Request::post(format!("{}/push", remote.url), remote.token.as_deref(), &body).value().unwrap();
    assert_eq!(answer.get("ok"), Some(&reprise_tests::client::Value::Bool(true)), "{answer:?}");
    check_clone(&server, "alice/etude", &local);
}

/// All commits of all branches with what the repository lacks of their objects, though every head is where it should be.
/// The command line does so only for a repository that it does not know; it is the way to heal.
fn push_everything(local: &Repository) {
    let remote = &local.remotes["origin"];
    let all: Vec<String> = local.objects.keys().cloned().collect();
    let missing = filter_objects(remote, &all).unwrap();
    reprise_tests::client::push::push_objects(&local.objects, remote, &missing).unwrap();
    for (branch, head) in &local.heads {
        let commits = local.walk(head, &BTreeSet::new());
        let body = reprise_tests::client::push::bundle_body(local, &commits, branch, false).encode();
        let answer = Request::post(format!("{}/push", remote.url), remote.token.as_deref(), &body).value().unwrap();
        assert_eq!(answer.get("ok"), Some(&Value::Bool(true)), "{}", answer.text("message"));
    }
}

#[test]
fn f_lost_packs_are_condemned_healed_by_a_push_again_and_verified_as_healed() {
    let (data, server) = started();
    data.create_repo("alice/etude", &[]);
    let mut local = push_fixture(&data, &server, "alice/etude");
    assert_eq!(data.run(&["verify"]).status.code(), Some(0));
    server.stop();
    let packs = data.path().join("objects/packs");
    fs::remove_dir_all(&packs).unwrap();
    fs::create_dir(&packs).unwrap();
    let server = data.serve();
    server.wait_ready();
    local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
    let lost = data.run(&["verify"]);
    assert_eq!(lost.status.code(), Some(1), "{}", String::from_utf8_lossy(&lost.stdout));
    // Each clone that meets damage condemns what it meets; each push again heals that.
    let mut rounds = 0;
    while let Err(refused) = clone(&server.url("alice/etude")) {
        assert!(matches!(&refused, CloneFailure::Fetch(Failure::Status { code: 500, .. })), "{refused:?}");
        push_everything(&local);
        rounds += 1;
        assert!(rounds < 10, "it does not heal");
    }
    assert!(rounds > 0);
    check_clone(&server, "alice/etude", &local);
    let healed = data.run(&["verify", "--deep"]);
    assert_eq!(healed.status.code(), Some(0), "{}", String::from_utf8_lossy(&healed.stdout));
    let result = data.json_lines(&["verify"]).pop().unwrap();
    assert!(result["healed"].as_u64().is_some_and(|count| count > 0), "{result}");
}

#[test]
fn f_packs_whose_volume_is_gone_are_not_taken_for_lost_and_are_served_again_when_it_is_back() {
    let (data, server) = started();
    data.create_repo("alice/etude", &[]);
    let local = push_fixture(&data, &server, "alice/etude");
    server.stop();
    // As a volume that is not mounted: the directory is there, and empty.
    let (objects, aside) = (data.path().join("objects"), data.path().join("aside"));
    fs::rename(&objects, &aside).unwrap();
    fs::create_dir(&objects).unwrap();
    let refused = data.run(&["status"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{text}");
    assert!(text.contains("STORE is missing") && text.contains("mounted"), "{text}");
    fs::remove_dir(&objects).unwrap();
    fs::rename(&aside, &objects).unwrap();
    // And one that loses its mount while the server runs.
    let server = data.serve();
    server.wait_ready();
    let end = data.json(&["status"])["durable"].clone();
    fs::rename(&objects, &aside).unwrap();
    let failed = clone(&server.url("alice/etude")).map(|_| ()).unwrap_err();
    assert!(matches!(&failed, CloneFailure::Fetch(Failure::Status { code: 503, .. })), "{failed:?}");
    assert_eq!(data.json(&["status"])["durable"], end, "nothing was condemned");
    fs::rename(&aside, &objects).unwrap();
    check_clone(&server, "alice/etude", &local);
}

#[test]
fn h_one_snapshot_on_two_branches_with_different_parents_clones_completely_each_way() {
    let (data, server) = started();
    data.create_repo("alice/demo", &[]);
    let token = data.token("alice");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    let root = local.commit("main", "root", &[("a", Some(b"a")), ("b", Some(b"b"))]);
    // Both ways end in the same tree; what each last commit adds differs.
    local.set_branch("left", &root);
    local.set_branch("right", &root);
    local.commit("left", "x first", &[("x", Some(b"x"))]);
    local.commit("left", "then y", &[("y", Some(b"y"))]);
    local.commit("right", "y first", &[("y", Some(b"y"))]);
    local.commit("right", "then x", &[("x", Some(b"x"))]);
    let (left, right) = (local.head("left").to_owned(), local.head("right").to_owned());
    assert_eq!(local.commits[&left].text("snapshot_id"), local.commits[&right].text("snapshot_id"));
    for branch in ["main", "left", "right"] {
        push(&mut local, "origin", branch).unwrap();
    }
    check_clone(&server, "alice/demo", &local);
    for branch in ["left", "right"] {
        let mut single = Repository::init();
        single.remote("origin", &server.url("alice/demo"), Some(&token));
        pull(&mut single, "origin", branch).unwrap();
        single.check_complete(local.head(branch)).unwrap_or_else(|error| panic!("{branch} alone: {error}"));
        let other = if branch == "left" { "right" } else { "left" };
        pull(&mut single, "origin", other).unwrap();
        single.check_complete(local.head(other)).unwrap_or_else(|error| panic!("{other} after {branch}: {error}"));
    }
    local.set_branch("left", &root);
    local.commit("left", "rewritten", &[("y", Some(b"y")), ("x", Some(b"x"))]);
    push_force(&mut local, "origin", "left").unwrap();
    check_clone(&server, "alice/demo", &local);
    let mut single = Repository::init();
    single.remote("origin", &server.url("alice/demo"), Some(&token));
    pull(&mut single, "origin", "left").unwrap();
    single.check_complete(local.head("left")).unwrap();
}

/// The sum of a counter over its labels, from `/metrics`.
fn counter(server: &ServerProcess, name: &str) -> f64 {
    let text = Request::get(server.url("metrics"), None).send().unwrap().text();
    let of_name = |line: &&str| line.split([' ', '{']).next() == Some(name);
    let values: Vec<f64> =
        text.lines().filter(of_name).map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(!values.is_empty(), "no {name} in /metrics:\n{text}");
    values.iter().sum()
}

#[test]
fn j_a_clone_reads_what_was_planned_and_nothing_else() {
    let (data, server) = started();
    data.create_repo("alice/etude", &[]);
    let local = push_fixture(&data, &server, "alice/etude");
    // A second tenant with other content: a scan would read it too.
    data.create_repo("bob/noise", &[]);
    let mut noise = Repository::init();
    noise.remote("origin", &server.url("bob/noise"), Some(&data.token("bob")));
    let bytes = seeds::bytes(&mut seeds::random(3, 3), 8 << 20);
    noise.commit("main", "noise", &[("noise", Some(&bytes))]);
    push(&mut noise, "origin", "main").unwrap();

    let names = ["planned_bytes", "planned_reads", "read_bytes", "reads"];
    let all = || names.map(|name| counter(&server, &format!("reprise_fetch_{name}_total")));
    check_clone(&server, "alice/etude", &local);
    let before = all();
    check_clone(&server, "alice/etude", &local);
    let after = all();
    let [planned_bytes, planned_reads, read_bytes, reads] = std::array::from_fn(|index| after[index] - before[index]);
    assert!(planned_bytes > 0.0 && planned_reads > 0.0);
    assert!(read_bytes <= 1.2 * planned_bytes, "{read_bytes} bytes read, {planned_bytes} planned");
    assert_eq!(reads, planned_reads, "ranged reads, made and planned");
}
