//! What is pushed comes back by clone and pull, and the stock client goes on with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use reprise_tests::client::{self, Remote, Repository, muse_directory, push};

use crate::rig::{BRANCHES, Rig, User, sorted, tree, working_tree};

/// Two repositories hold the same: objects byte for byte, records field for field, branches.
fn check_same(ours: &Repository, theirs: &Repository) {
    assert_eq!(ours.objects, theirs.objects);
    assert_eq!(ours.snapshots.keys().collect::<Vec<_>>(), theirs.snapshots.keys().collect::<Vec<_>>());
    assert_eq!(ours.commits.keys().collect::<Vec<_>>(), theirs.commits.keys().collect::<Vec<_>>());
    for (id, record) in ours.snapshots.iter().chain(&ours.commits) {
        let other = theirs.snapshots.get(id).or_else(|| theirs.commits.get(id)).unwrap();
        assert_eq!(sorted(record), sorted(other), "{id}");
    }
    assert_eq!(ours.heads, theirs.heads);
}

#[test]
fn the_real_clients_repository_comes_back_as_it_was() {
    let rig = Rig::new();
    let original = rig.push_etude();
    let cloned = rig.user.clone_of(&rig.url, "cloned");
    let (before, after) = (muse_directory::read(&original), muse_directory::read(&cloned));
    check_same(&after, &before);
    assert!(lines_of_snapshots(&cloned) == lines_of_snapshots(&original), "indented and escaped as the client does it");
    assert_eq!(working_tree(&cloned), tree(&before, before.head("main")));
    assert_eq!((after.branch.as_str(), after.domain.as_str()), ("main", "code"));
    assert_eq!(after.remotes["origin"].url, rig.url);
    let tracking: Vec<_> = after.tracking.iter().map(|((remote, branch), head)| (&**remote, &**branch, head)).collect();
    let expected: Vec<_> = before.heads.iter().map(|(branch, head)| ("origin", &**branch, head)).collect();
    assert_eq!(tracking, expected);
    let mut names =
        fs::read_dir(cloned.join(".muse")).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    names.sort();
    let layout = ["HEAD", "commits", "config.toml", "objects", "refs", "remotes", "repo.json", "snapshots"];
    assert_eq!(names, layout, "nothing else, and nothing less");
}

/// The lines of all snapshot files, in any order: the client writes paths in the order in which it found them.
fn lines_of_snapshots(root: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let line = |line: &str| line.trim_end_matches(',').to_owned();
    let lines = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().split('\n').map(line).collect();
    muse_directory::files(&root.join(".muse/snapshots")).into_iter().map(|(name, bytes)| (name, lines(bytes))).collect()
}

#[test]
fn another_branch_can_be_checked_out_and_a_missing_one_leaves_nothing() {
    let rig = Rig::new();
    let original = muse_directory::read(&rig.push_etude());
    rig.user.json(&["clone", &rig.url, "--branch", "feature/long-name"]);
    let cloned = rig.user.path("etude");
    assert_eq!(working_tree(&cloned), tree(&original, original.head("feature/long-name")));
    assert_eq!(muse_directory::read(&cloned).branch, "feature/long-name");
    assert!(rig.user.refused(&["clone", &rig.url, "other", "--branch", "none"]).contains("no branch 'none'"));
    assert!(rig.user.refused(&["clone", &rig.url, "etude"]).contains("not an empty directory"));
    assert_eq!(rig.user.names(), ["etude", "original"]);
}

#[test]
fn a_pull_brings_what_was_pushed_since_and_keeps_what_is_local() {
    let rig = Rig::new();
    let mut local = Repository::init();
    let first = local.commit("main", "one", &[("a", Some(b"1")), ("dir/b", Some(b"2")), ("c", Some(b"3"))]);
    muse_directory::write(&local, &rig.user.path("work"));
    rig.user.json(&["push", "work", &rig.url]);
    let cloned = rig.user.clone_of(&rig.url, "cloned");
    assert_eq!(rig.user.json(&["pull", "cloned"])["moved"], "same");
    let second = local.commit(
        "main",
        "two",
        &[("a", Some(b"1!")), ("dir/b", None), ("new/d", Some(b"4")), ("empty", Some(b""))],
    );
    local.set_branch("side", &first);
    muse_directory::write(&local, &rig.user.path("work"));
    for branch in ["main", "side"] {
        rig.user.json(&["push", "work", &rig.url, branch]);
    }
    fs::write(cloned.join("a"), "mine").unwrap();
    fs::write(cloned.join("untracked"), "mine too").unwrap();
    let before = working_tree(&cloned);
    let said = rig.user.refused(&["pull", "cloned"]);
    assert!(said.contains("local changes stand in the way") && said.contains(": a ("), "{said}");
    assert_eq!(working_tree(&cloned), before, "nothing was touched");
    assert_eq!(muse_directory::read(&cloned).head("main"), first);
    rig.user.check_whole("cloned");
    fs::write(cloned.join("a"), "1").unwrap();
    fs::write(cloned.join("c"), "changed, but not by them").unwrap();
    let pulled = rig.user.json(&["pull", "cloned"]);
    assert_eq!(
        (&pulled["moved"], pulled["from"].as_str(), pulled["head"].as_str()),
        (&"forward".into(), Some(&*first), Some(&*second))
    );
    assert_eq!((&pulled["commits"], &pulled["blobs"]), (&0.into(), &0.into()), "the refused pull had brought them");
    let mut expected = tree(&local, &second);
    expected.insert("c".to_owned(), b"changed, but not by them".to_vec());
    expected.insert("untracked".to_owned(), b"mine too".to_vec());
    assert_eq!(working_tree(&cloned), expected);
    let repository = muse_directory::read(&cloned);
    assert_eq!(repository.tracking[&("origin".to_owned(), "side".to_owned())], first);
    assert_eq!(repository.heads.len(), 1, "other branches are tracked, not made");
    rig.user.check_whole("cloned");
}

#[test]
fn a_branch_that_has_diverged_is_neither_pulled_nor_pushed() {
    let rig = Rig::new();
    let mut local = Repository::init();
    local.commit("main", "one", &[("a", Some(b"1"))]);
    muse_directory::write(&local, &rig.user.path("work"));
    rig.user.json(&["push", "work", &rig.url]);
    let cloned = rig.user.clone_of(&rig.url, "cloned");
    let theirs = local.commit("main", "two", &[("a", Some(b"2"))]);
    muse_directory::write(&local, &rig.user.path("work"));
    rig.user.json(&["push", "work", &rig.url]);
    let mut other = muse_directory::read(&cloned);
    other.set_ticks(1_000);
    let ours = other.commit("main", "mine", &[("a", Some(b"3"))]);
    muse_directory::write(&other, &cloned);
    assert!(rig.user.refused(&["push", "cloned", &rig.url]).contains("pull first"));
    assert!(rig.user.refused(&["pull", "cloned"]).contains("diverged"));
    let after = muse_directory::read(&cloned);
    assert_eq!(after.head("main"), ours);
    assert_eq!(after.tracking[&("origin".to_owned(), "main".to_owned())], theirs);
    assert!(rig.user.refused(&["push", "cloned", &rig.url]).contains("pull first"));
    rig.user.json(&["push", "cloned", &rig.url, "--force"]);
    assert_eq!(muse_directory::read(&cloned).tracking[&("origin".to_owned(), "main".to_owned())], ours);
    assert_eq!(client::ls_remote(&rig.url).unwrap()["main"], ours);
    assert_eq!(rig.user.json(&["pull", "cloned"])["moved"], "same");
}

#[test]
fn the_stock_client_goes_on_with_our_clone_and_we_with_its_push() {
    let rig = Rig::new();
    rig.push_etude();
    let cloned = rig.user.clone_of(&rig.url, "cloned");
    let mut stock = muse_directory::read(&cloned);
    let token = rig.user.token().to_owned();
    stock.remotes.insert("origin".to_owned(), Remote { url: rig.url.clone(), token: Some(token) });
    stock.set_ticks(5_000);
    let head = stock.commit("main", "by the stock client", &[("score/new.txt", Some(b"new"))]);
    push(&mut stock, "origin", "main").unwrap();
    let pulled = rig.user.json(&["pull", "cloned"]);
    assert_eq!((pulled["head"].as_str(), &pulled["commits"], &pulled["blobs"]), (Some(&*head), &1.into(), &1.into()));
    rig.user.check_whole("cloned");
    assert_eq!(working_tree(&cloned), tree(&stock, &head));
    // And back: what we push is what it clones.
    let ours = muse_directory::read(&cloned);
    let theirs = client::clone(&rig.url).unwrap();
    for branch in BRANCHES {
        theirs.check_complete(theirs.head(branch)).unwrap();
        assert_eq!(theirs.head(branch), ours.head(branch));
    }
}

#[test]
fn a_push_sends_what_the_hub_lacks_and_a_repetition_nothing() {
    let rig = Rig::new();
    let mut local = Repository::init();
    let first = local.commit("main", "one", &[("a", Some(b"1")), ("b", Some(b"2"))]);
    muse_directory::write(&local, &rig.user.path("work"));
    let push = |more: &[&str]| rig.user.json(&[&["push", "work", &rig.url], more].concat());
    let counts =
        |value: &serde_json::Value| ["commits", "snapshots", "blobs"].map(|name| value[name].as_u64().unwrap());
    assert_eq!(counts(&push(&[])), [1, 1, 2]);
    assert_eq!(counts(&push(&[])), [0, 0, 0]);
    local.commit("main", "two", &[("b", Some(b"3"))]);
    local.set_branch("side", &first);
    local.commit("side", "three", &[("c", Some(b"1")), ("d", Some(b"4"))]);
    let theirs = local.head("side").to_owned();
    local.merge("main", &theirs);
    local.set_branch("again", &first);
    muse_directory::write(&local, &rig.user.path("work"));
    assert_eq!(counts(&push(&["main"])), [3, 3, 2], "the blob of c is there under another path");
    assert_eq!(counts(&push(&["side"]))[2], 0);
    push(&["again"]);
    assert_eq!(client::ls_remote(&rig.url).unwrap(), local.heads);
    assert!(rig.user.refused(&["push", "work", &rig.url, "none"]).contains("no branch 'none'"));
}

#[test]
fn a_damaged_repository_is_not_pushed() {
    let rig = Rig::new();
    let mut local = Repository::init();
    local.commit("main", "one", &[("a", Some(b"one file")), ("b", Some(b"2"))]);
    let work = rig.user.path("work");
    muse_directory::write(&local, &work);
    let id = client::ids::sha256_hex(b"one file");
    let blob = work.join(".muse/objects").join(&id[..2]).join(&id[2..]);
    fs::write(&blob, "One file").unwrap();
    assert!(rig.user.refused(&["push", "work", &rig.url]).contains(&format!("blob {id} is damaged")));
    fs::remove_file(&blob).unwrap();
    assert!(rig.user.refused(&["push", "work", &rig.url]).contains(&format!("blob {id} is missing")));
    assert!(client::ls_remote(&rig.url).unwrap().is_empty());
    assert!(!work.join(".muse/incoming").exists());
}

#[test]
fn a_private_repository_needs_the_token_and_takes_it_from_three_places() {
    let rig = Rig::with(&[], &["--private"]);
    let mut local = Repository::init();
    local.commit("main", "one", &[("a", Some(b"1"))]);
    muse_directory::write(&local, &rig.user.path("work"));
    rig.user.json(&["push", "work", &rig.url]);
    let clone = |user: &User, name: &str, more: &[&str], token: Option<&str>| {
        let mut command = user.command(&[&["clone", &rig.url, name], more].concat());
        command.env_remove("MUSE_TOKEN");
        if let Some(token) = token {
            command.env("MUSE_TOKEN", token);
        }
        command.output().unwrap().status.code()
    };
    let token = rig.user.token();
    assert_eq!(clone(&rig.user, "none", &[], None), Some(3));
    assert_eq!(clone(&rig.user, "bad", &[], Some("bad")), Some(3));
    assert_eq!(clone(&rig.user, "environment", &[], Some(token)), Some(0));
    fs::write(rig.user.path("token"), token).unwrap();
    assert_eq!(clone(&rig.user, "file", &["--token-file", "token"], None), Some(0));
    fs::create_dir(rig.user.path(".muse")).unwrap();
    let identity = format!("[\"{}\"]\ntype = \"human\"\ntoken = \"{token}\"\n", rig.server.host());
    fs::write(rig.user.path(".muse/identity.toml"), identity).unwrap();
    assert_eq!(clone(&rig.user, "stored", &[], None), Some(0));
    assert_eq!(rig.user.names(), [".muse", "environment", "file", "stored", "token", "work"]);
}
