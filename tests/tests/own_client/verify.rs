//! `verify-clone` names every damaged file of a repository, and nothing of a sound one.

use std::{collections::BTreeSet, fs, path::Path};

use reprise_server::client::{
    counter::Counter,
    verify::{Report, verify},
};
use reprise_tests::{
    client::{Repository, ids, muse_directory},
    effort::Effort,
    fixtures,
    server_process::binary,
};
use serde_json::Value as Json;

fn check(root: &Path) -> Report {
    verify(root, &Counter::new(), &Default::default()).unwrap()
}

fn named(report: &Report) -> BTreeSet<&str> {
    report.found.iter().map(|damage| damage.file.as_str()).collect()
}

/// A merge, a folder, an empty file, a name that is not ASCII; a branch in a folder and tracking refs.
fn small() -> Repository {
    let mut repository = Repository::init();
    repository.commit("main", "one", &[("a.txt", Some(b"first")), ("dir/ü.txt", Some(b"second"))]);
    let base = repository.head("main").to_owned();
    repository.set_branch("side/x", &base);
    repository.commit("side/x", "zwei ✓", &[("b.txt", Some(b"third")), ("empty", Some(b""))]);
    repository.commit("main", "three", &[("a.txt", None), ("c.txt", Some(b"fourth"))]);
    let theirs = repository.head("side/x").to_owned();
    repository.merge("main", &theirs);
    repository.remote("origin", "http://127.0.0.1:1/alice/small", None);
    repository.tracking.insert(("origin".to_owned(), "main".to_owned()), base);
    repository
}

#[test]
fn the_repository_that_the_real_client_wrote_is_whole() {
    let (dir, _) = fixtures::etude_muse_directory();
    let (report, expected) = (check(dir.path()), fixtures::expected());
    assert_eq!(report.found, []);
    assert_eq!((report.damaged, report.refs), (0, 3));
    let counts = [report.blobs, report.snapshots, report.commits];
    assert_eq!(counts, [expected.objects, expected.snapshots, expected.commits].map(|count| count as u64));
}

#[test]
fn every_changed_byte_is_found_in_the_file_that_it_is_in() {
    let dir = tempfile::tempdir().unwrap();
    muse_directory::write(&small(), dir.path());
    assert_eq!(check(dir.path()).found, []);
    let muse = dir.path().join(".muse");
    let (mut found, mut uncovered) = (0, 0);
    let mut files = muse_directory::files(&muse);
    // No id covers what a user may write there.
    files.retain(|name, _| !matches!(name.as_str(), "config.toml" | "repo.json"));
    let mut effort = Effort::of("verify-clone, flipped bytes", 4);
    while let Some(unit) = effort.next() {
        for (name, content) in &files {
            // Every sixteenth byte: others in each unit, and another bit of them after sixteen units.
            for at in (unit as usize % 16..content.len()).step_by(16) {
                let mut changed = content.clone();
                changed[at] ^= 1 << ((at as u64 / 16 + unit / 16) % 8);
                fs::write(muse.join(name), &changed).unwrap();
                let file = format!(".muse/{name}");
                match named(&check(dir.path())).contains(file.as_str()) {
                    true => found += 1,
                    false if still_has_its_id(name, &changed) => uncovered += 1,
                    // A ref that names another commit would be one; no single bit makes it that.
                    false => panic!("{name}: byte {at} ({:?}) changed unnoticed", char::from(content[at])),
                }
                effort.saw(1);
            }
            fs::write(muse.join(name), content).unwrap();
        }
    }
    assert_eq!(check(dir.path()).found, [], "all is as it was");
    assert!(found > 300 && uncovered > 0, "found {found}, not covered by any id {uncovered}");
}

/// Whether a record's file still is the record of its name, by the model's own formulas.
fn still_has_its_id(name: &str, content: &[u8]) -> bool {
    let Some((folder, id)) = name.strip_suffix(".json").and_then(|name| name.split_once('/')) else { return false };
    let Ok(record) = serde_json::from_slice::<Json>(content) else { return false };
    let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let derived = match folder {
        "snapshots" => {
            let entries = record["manifest"].as_object().unwrap();
            ids::snapshot_id(entries.iter().map(|(path, id)| (path.as_str(), id.as_str().unwrap_or_default())))
        }
        _ => {
            let parents = ["parent_commit_id", "parent2_commit_id"].map(text);
            let parents: Vec<&str> = parents.iter().map(String::as_str).filter(|parent| !parent.is_empty()).collect();
            ids::commit_id(&parents, &text("snapshot_id"), &text("message"), &text("committed_at"))
        }
    };
    derived == id
}

#[test]
fn every_file_that_is_gone_is_named_by_those_who_need_it() {
    let dir = tempfile::tempdir().unwrap();
    let repository = small();
    muse_directory::write(&repository, dir.path());
    let muse = dir.path().join(".muse");
    for (name, content) in muse_directory::files(&muse) {
        let id = name.replace(['/', '.'], "");
        if name.starts_with("remotes/") || name.starts_with("refs/heads/side") || name.ends_with("config.toml") {
            continue; // Nobody needs a second branch.
        }
        fs::remove_file(muse.join(&name)).unwrap();
        let report = check(dir.path());
        let is_empty_blob = id.ends_with(ids::EMPTY) && name.starts_with("objects/");
        if is_empty_blob || name == "repo.json" {
            assert_eq!(report.found, [], "{name}");
        } else {
            assert!(!report.found.is_empty(), "{name}");
            let missing = name.split_once('/').map(|(_, rest)| rest.trim_end_matches(".json").replace('/', ""));
            let told = report.found.iter().any(|damage| {
                missing.as_ref().is_none_or(|missing| damage.detail.contains(missing.as_str()))
                    || damage.object.is_some_and(|(_, id)| Some(id.to_string()) == missing)
                    || damage.file == ".muse/HEAD"
            });
            assert!(told, "{name}: {:?}", report.found);
        }
        fs::write(muse.join(&name), &content).unwrap();
    }
}

#[test]
fn a_file_that_is_no_object_is_named_and_one_that_was_never_finished_is_not() {
    let dir = tempfile::tempdir().unwrap();
    muse_directory::write(&small(), dir.path());
    let objects = dir.path().join(".muse/objects");
    fs::create_dir_all(objects.join("ab")).unwrap();
    fs::write(objects.join("ab/.obj-tmp-1"), "half").unwrap();
    assert_eq!(check(dir.path()).found, []);
    fs::write(objects.join("ab/none"), "").unwrap();
    fs::write(objects.join("stray"), "").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", objects.join("ab").join("c".repeat(62))).unwrap();
    let link = format!(".muse/objects/ab/{}", "c".repeat(62));
    let expected = BTreeSet::from([".muse/objects/ab/none", ".muse/objects/stray", link.as_str()]);
    assert_eq!(named(&check(dir.path())), expected);
}

#[test]
fn the_command_says_by_its_exit_code_and_in_json_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    muse_directory::write(&small(), dir.path());
    let run = |more: &[&str]| {
        std::process::Command::new(binary("reprise")).arg("verify-clone").arg(dir.path()).args(more).output().unwrap()
    };
    let whole = run(&["--json"]);
    assert_eq!(whole.status.code(), Some(0));
    let json: Json = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!((&json["ok"], &json["damaged"], &json["blobs"]), (&true.into(), &0.into(), &5.into()));
    let blob = ids::sha256_hex(b"fourth");
    let file = format!(".muse/objects/{}/{}", &blob[..2], &blob[2..]);
    fs::write(dir.path().join(&file), b"Fourth").unwrap();
    let damaged = run(&["--json"]);
    assert_eq!(damaged.status.code(), Some(1));
    let json: Json = serde_json::from_slice(&damaged.stdout).unwrap();
    assert_eq!((json["found"][0]["file"].as_str(), json["found"][0]["object"].as_str()), (Some(&*file), Some(&*blob)));
    let text = run(&[]);
    assert!(String::from_utf8_lossy(&text.stdout).contains(&format!("damaged: {file}: its 6 bytes hash to")));
    let elsewhere =
        std::process::Command::new(binary("reprise")).args(["verify-clone", "/nonexistent"]).output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(3));
}
