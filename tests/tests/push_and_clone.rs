//! The real client's repositories go up and come back: fixtures, increments, branches, merges, force, releases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use reprise_tests::{
    client::{
        CloneFailure, Failure, Merge, PushFailure, Pushed, Refs, Repository, clone,
        commands::{Fetched, clone_branch, fetch, post_fetch, pull},
        ids::EMPTY,
        ls_remote, push,
        push::{candidates, commits_to_send, filter_objects, push_force},
        release,
    },
    fixtures,
    server_process::{DataDir, ServerProcess},
};

fn hub(repo: &str) -> (DataDir, ServerProcess, String) {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    data.create_repo(repo, &[]);
    let token = data.token(repo.split('/').next().unwrap());
    (data, server, token)
}

fn push_all(repository: &mut Repository, branches: &[&str]) {
    for branch in branches {
        push(repository, "origin", branch).unwrap_or_else(|error| panic!("{branch}: {error:?}"));
    }
}

/// The clone holds every branch, completely, and each tree is the pushed one without its empty files.
fn check_clone(server: &ServerProcess, repo: &str, pushed: &Repository, branches: &[&str]) -> Repository {
    let cloned = clone(&server.url(repo)).unwrap_or_else(|error| panic!("{repo}: {error:?}"));
    let names: BTreeSet<&str> = cloned.heads.keys().map(String::as_str).collect();
    assert_eq!(names, branches.iter().copied().collect(), "branches of {repo}");
    for branch in branches {
        let head = cloned.head(branch);
        assert_eq!(head, pushed.head(branch), "{repo} {branch}");
        cloned.check_complete(head).unwrap_or_else(|error| panic!("{repo} {branch}: {error}"));
        assert_eq!(cloned.tree(head), pushed.tree(head), "{repo} {branch}");
        let mut expected = pushed.materialise(head);
        expected.retain(|_, content| !content.is_empty());
        assert_eq!(cloned.materialise(head), expected, "{repo} {branch}");
    }
    cloned
}

#[test]
fn the_fixture_pushes_and_clones_back_byte_for_byte() {
    let (_data, server, token) = hub("alice/etude");
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("alice/etude"), Some(&token));
    push_all(&mut local, &["main", "variation", "feature/long-name"]);
    let cloned = check_clone(&server, "alice/etude", &local, &["main", "variation", "feature/long-name"]);
    let expected = fixtures::expected();
    for (branch, tree) in &expected.trees {
        assert_eq!(&cloned.tree(cloned.head(branch)), tree, "{branch}");
        let files: BTreeMap<&String, usize> =
            tree.iter().filter(|(_, id)| *id != EMPTY).map(|(path, id)| (path, local.objects[id].len())).collect();
        let got = cloned.materialise(cloned.head(branch));
        assert_eq!(got.iter().map(|(path, content)| (path, content.len())).collect::<BTreeMap<_, _>>(), files);
    }
    assert_eq!(cloned.commits.len(), expected.commits);
    assert_eq!(cloned.snapshots.len(), expected.snapshots);
    assert_eq!(cloned.objects.len(), expected.objects - 1, "all but the empty one");
    assert_eq!(cloned.branch, "main");
    assert_eq!(cloned.domain, "code");
}

#[test]
fn a_clone_holds_the_bytes_of_the_muse_directory_that_the_real_client_wrote() {
    let (_data, server, token) = hub("alice/etude");
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("alice/etude"), Some(&token));
    push_all(&mut local, &["main", "variation", "feature/long-name"]);
    let cloned = clone(&server.url("alice/etude")).unwrap();
    let (_dir, muse) = fixtures::etude_muse_directory();
    for (id, content) in &cloned.objects {
        let file = muse.join("objects").join(&id[..2]).join(&id[2..]);
        assert_eq!(&fs::read(&file).unwrap()[..], &content[..], "{id}");
    }
    for (id, commit) in &cloned.commits {
        let file = fs::read(muse.join("commits").join(format!("{id}.json"))).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&file).unwrap();
        for key in ["message", "committed_at", "snapshot_id", "branch", "author", "sem_ver_bump"] {
            assert_eq!(record[key].as_str().unwrap(), commit.text(key), "{key} of {id}");
        }
    }
}

#[test]
fn every_record_comes_back_field_for_field() {
    let (_data, server, token) = hub("alice/etude");
    let mut local = fixtures::etude();
    local.remote("origin", &server.url("alice/etude"), Some(&token));
    push_all(&mut local, &["main", "variation", "feature/long-name"]);
    let cloned = clone(&server.url("alice/etude")).unwrap();
    for (id, commit) in &cloned.commits {
        let sent = &local.commits[id];
        for key in sent.keys() {
            // The server's own id of the repository may stand in for the client's local one (MWP §4.1).
            if key != "repo_id" {
                assert_eq!(commit.get(key).map(sorted), sent.get(key).map(sorted), "{key} of commit {id}");
            }
        }
    }
    for (id, snapshot) in &cloned.snapshots {
        assert_eq!(sorted(snapshot), sorted(&local.snapshots[id]), "snapshot {id}");
    }
}

/// Maps by key: JSON in canonical form keeps no order of its own.
fn sorted(value: &reprise_tests::client::Value) -> reprise_tests::client::Value {
    use reprise_tests::client::Value;
    match value {
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            entries.sort_by(|(a, _), (b, _)| a.as_str().cmp(&b.as_str()));
            Value::Map(entries)
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[test]
fn an_increment_of_the_real_client_lands_on_what_is_there() {
    let (_data, server, token) = hub("alice/etude");
    let (full, increment) = (fixtures::etude(), fixtures::etude_since_movement_12());
    let head = increment.head("main").to_owned();
    let base = full.commits.values().find(|commit| commit.text("message").starts_with("Movement 12")).unwrap();
    let base = base.text("commit_id").to_owned();
    let mut local = full.clone();
    local.set_branch("main", &base);
    local.remote("origin", &server.url("alice/etude"), Some(&token));
    push_all(&mut local, &["main"]);
    local.set_branch("main", &head);
    local.commits.extend(increment.commits);
    local.snapshots.extend(increment.snapshots);
    local.objects.extend(increment.objects);
    assert!(matches!(push(&mut local, "origin", "main"), Ok(Pushed::Pushed { .. })));
    check_clone(&server, "alice/etude", &local, &["main"]);
}

#[test]
fn only_what_is_missing_is_uploaded_and_a_pull_gets_only_what_is_new() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    local.commit("main", "first: ünïcode ✓", &[("a.txt", Some(b"hello\n")), ("b/ünï.bin", Some(&[7; 70_000]))]);
    let first = push(&mut local, "origin", "main").unwrap();
    assert!(matches!(first, Pushed::Pushed { commits: 1, objects: 2, .. }), "{first:?}");
    assert_eq!(push(&mut local, "origin", "main"), Ok(Pushed::UpToDate));
    let mut other = clone(&server.url("alice/demo")).unwrap();
    other.remote("origin", &server.url("alice/demo"), Some(&token));

    local.commit("main", "second", &[("a.txt", Some(b"hello again\n"))]);
    let second = push(&mut local, "origin", "main").unwrap();
    assert!(matches!(second, Pushed::Pushed { commits: 1, objects: 1, .. }), "{second:?}");

    let (applied, merge) = pull(&mut other, "origin", "main").unwrap();
    assert_eq!(merge, Merge::FastForward(local.head("main").to_owned()));
    assert_eq!((applied.commits, applied.objects), (1, 1), "objects that the client has are left out");
    let (applied, merge) = pull(&mut other, "origin", "main").unwrap();
    assert_eq!((applied.commits, applied.objects, merge), (0, 0, Merge::UpToDate));
    assert_eq!(fetch(&mut other, "origin", "main"), Ok(Fetched::Same));
    check_clone(&server, "alice/demo", &local, &["main"]);
}

#[test]
fn a_fetch_names_every_local_commit_and_gets_the_rest() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    for n in 0..300 {
        local.commit("main", &format!("commit {n}"), &[("n.txt", Some(n.to_string().as_bytes()))]);
    }
    push_all(&mut local, &["main"]);
    let mut other = clone(&server.url("alice/demo")).unwrap();
    local.commit("main", "one more", &[("m.txt", Some(b"m"))]);
    push_all(&mut local, &["main"]);
    let Fetched::Applied(applied) = fetch(&mut other, "origin", "main").unwrap() else { panic!("nothing fetched") };
    assert_eq!((applied.commits, applied.objects), (1, 1));
    let (applied, merge) = pull(&mut other, "origin", "main").unwrap();
    assert_eq!(merge, Merge::FastForward(local.head("main").to_owned()), "{applied:?}");
    other.check_complete(local.head("main")).unwrap();
}

#[test]
fn branches_merges_and_a_branch_at_a_known_commit_work() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    let root = local.commit("main", "root", &[("a", Some(b"a")), ("b", Some(b"b"))]);
    push_all(&mut local, &["main"]);
    local.set_branch("feat/x", &root);
    local.commit("feat/x", "side", &[("x", Some(b"x"))]);
    push_all(&mut local, &["feat/x"]);
    local.commit("main", "ours", &[("a", Some(b"a2"))]);
    let side = local.head("feat/x").to_owned();
    let Merge::Merged(_) = local.merge("main", &side) else { panic!("no merge commit") };
    push_all(&mut local, &["main"]);
    let head = local.head("main").to_owned();
    local.set_branch("same-as-main", &head);
    push_all(&mut local, &["same-as-main"]);
    let heads = ls_remote(&server.url("alice/demo")).unwrap();
    assert_eq!(heads, local.heads);
    check_clone(&server, "alice/demo", &local, &["main", "feat/x", "same-as-main"]);
    let slash = clone_branch(&server.url("alice/demo"), Some("feat/x"));
    assert_eq!(slash.map(|_| ()).unwrap_err(), CloneFailure::Branch("feat/x".to_owned()));
}

#[test]
fn a_fast_forward_over_commits_that_another_branch_brought_is_one() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    let root = local.commit("main", "root", &[("a", Some(b"a"))]);
    push_all(&mut local, &["main"]);
    local.set_branch("side", &root);
    for n in 0..3 {
        local.commit("side", "work", &[("s", Some(format!("{n}").as_bytes()))]);
    }
    push_all(&mut local, &["side"]);
    let side = local.head("side").to_owned();
    assert_eq!(local.merge("main", &side), Merge::FastForward(side));
    local.commit("main", "one more", &[("m", Some(b"m"))]);
    assert!(push(&mut local, "origin", "main").is_ok(), "the reference server refuses this with 409");
    check_clone(&server, "alice/demo", &local, &["main", "side"]);
}

#[test]
fn a_diverged_push_is_409_and_changes_nothing_until_forced() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    local.commit("main", "root", &[("a", Some(b"a"))]);
    push_all(&mut local, &["main"]);
    let mut other = clone(&server.url("alice/demo")).unwrap();
    other.remote("origin", &server.url("alice/demo"), Some(&token));
    other.set_ticks(5_000);
    local.commit("main", "ours", &[("a", Some(b"ours"))]);
    push_all(&mut local, &["main"]);
    let theirs = other.commit("main", "theirs", &[("c", Some(b"theirs"))]);
    let refused = push(&mut other, "origin", "main").unwrap_err();
    assert!(matches!(&refused, PushFailure::Diverged(text) if text.contains("main")), "{refused:?}");
    check_clone(&server, "alice/demo", &local, &["main"]);
    let url = server.url("alice/demo");
    let hidden = post_fetch(&url, Some(&token), [&theirs], []).unwrap_err();
    assert_eq!(hidden.code(), Some(404), "a commit of a refused push is not visible");

    let (_, merge) = pull(&mut other, "origin", "main").unwrap();
    assert!(matches!(merge, Merge::Merged(_)), "{merge:?}");
    push(&mut other, "origin", "main").unwrap();
    check_clone(&server, "alice/demo", &other, &["main"]);

    local.set_ticks(9_000);
    local.commit("main", "rewritten", &[("a", Some(b"rewritten"))]);
    assert!(matches!(push(&mut local, "origin", "main"), Err(PushFailure::Diverged(_))));
    push_force(&mut local, "origin", "main").unwrap();
    check_clone(&server, "alice/demo", &local, &["main"]);
}

#[test]
fn rewinding_a_branch_needs_force() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    let first = local.commit("main", "first", &[("a", Some(b"1"))]);
    local.commit("main", "second", &[("a", Some(b"2"))]);
    push_all(&mut local, &["main"]);
    local.set_branch("main", &first);
    assert!(matches!(push(&mut local, "origin", "main"), Err(PushFailure::Diverged(_))));
    push_force(&mut local, "origin", "main").unwrap();
    assert_eq!(ls_remote(&server.url("alice/demo")).unwrap()["main"], first);
    check_clone(&server, "alice/demo", &local, &["main"]);
}

#[test]
fn a_push_with_unknown_parents_is_refused_with_the_way_out_and_that_way_works() {
    let (data, server, token) = hub("alice/one");
    data.create_repo("alice/two", &[]);
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/one"), Some(&token));
    local.remote("second", &server.url("alice/two"), Some(&token));
    let root = local.commit("main", "root", &[("a", Some(b"a"))]);
    push_all(&mut local, &["main"]);
    local.commit("main", "next", &[("b", Some(b"b"))]);
    let refused = push(&mut local, "second", "main").unwrap_err();
    let text = refused.rejection();
    assert!(text.contains(&root) && text.contains(".muse/remotes"), "{text}");
    assert!(ls_remote(&server.url("alice/two")).unwrap().is_empty());
    local.forget_tracking();
    push(&mut local, "second", "main").unwrap();
    check_clone(&server, "alice/two", &local, &["main"]);
}

#[test]
fn a_push_whose_snapshots_name_absent_objects_is_refused_with_the_list() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    let commit = local.commit("main", "root", &[("a", Some(b"a")), ("b", Some(b"never sent"))]);
    let absent = local.tree(&commit)["b"].clone();
    local.objects.remove(&absent);
    let refused = push(&mut local, "origin", "main").unwrap_err();
    assert!(refused.rejection().contains(&absent), "{refused:?}");
    assert!(ls_remote(&server.url("alice/demo")).unwrap().is_empty(), "no ref moved");
    let url = server.url("alice/demo");
    assert_eq!(post_fetch(&url, Some(&token), [&commit], []).unwrap_err().code(), Some(404), "no commit visible");
    local.add_object(b"never sent");
    push(&mut local, "origin", "main").unwrap();
    check_clone(&server, "alice/demo", &local, &["main"]);
}

#[test]
fn the_first_push_sets_the_default_branch_and_later_ones_do_not() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    local.commit("trunk", "root", &[("a", Some(b"a"))]);
    push_all(&mut local, &["trunk"]);
    local.set_ticks(100);
    local.commit("main", "other", &[("b", Some(b"b"))]);
    push_all(&mut local, &["main"]);
    let refs = Refs::get(&server.url("alice/demo"), None).unwrap();
    assert_eq!(refs.default_branch, "trunk");
    assert_eq!(clone(&server.url("alice/demo")).unwrap().branch, "trunk");
}

#[test]
fn a_first_branch_with_a_slash_does_not_make_the_repository_unclonable() {
    let (data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    local.commit("feat/x", "root", &[("a", Some(b"a"))]);
    push_all(&mut local, &["feat/x"]);
    local.set_ticks(100);
    local.commit("main", "other", &[("b", Some(b"b"))]);
    push_all(&mut local, &["main"]);
    let refs = Refs::get(&server.url("alice/demo"), None).unwrap();
    assert!(!refs.default_branch.contains('/'), "{}", refs.default_branch);
    assert_eq!(data.json(&["repo", "show", "alice/demo"])["default_branch"], "", "nobody chose one");
    check_clone(&server, "alice/demo", &local, &["feat/x", "main"]);
}

#[test]
fn a_branch_that_is_a_folder_of_another_is_refused() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    let root = local.commit("main", "root", &[("a", Some(b"a"))]);
    local.set_branch("feat/x", &root);
    push_all(&mut local, &["main", "feat/x"]);
    for clash in ["feat", "feat/x/y", "main/x"] {
        local.set_branch(clash, &root);
        let refused = push(&mut local, "origin", clash).unwrap_err();
        assert!(!matches!(refused, PushFailure::Diverged(_)), "409 means diverged and nothing else: {refused:?}");
    }
    local.heads.retain(|name, _| name == "main" || name == "feat/x");
    check_clone(&server, "alice/demo", &local, &["main", "feat/x"]);
}

#[test]
fn an_empty_repository_lists_no_branch_and_cannot_be_cloned() {
    let (_data, server, token) = hub("alice/demo");
    let url = server.url("alice/demo");
    assert!(ls_remote(&url).unwrap().is_empty());
    assert_eq!(clone(&url).map(|_| ()).unwrap_err(), CloneFailure::Empty);
    let answer = post_fetch(&url, Some(&token), [], []).unwrap();
    assert!(answer.items("commits").is_empty());
}

#[test]
fn an_empty_file_is_accepted_never_missing_and_never_sent() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    let commit = local.commit("main", "root", &[("empty", Some(b"")), ("full", Some(b"full"))]);
    let remote = server.remote("alice/demo", Some(&token));
    let missing = filter_objects(&remote, &candidates(&local, &commits_to_send(&local, None, &commit))).unwrap();
    assert!(!missing.contains(&EMPTY.to_owned()));
    push_all(&mut local, &["main"]);
    let (cloned, applied) = clone_branch(&server.url("alice/demo"), None).unwrap();
    assert_eq!(applied.dropped, 0, "the client warns about an empty object in the answer");
    assert_eq!(cloned.tree(&commit).len(), 2);
    assert_eq!(cloned.materialise(&commit).len(), 1);
}

#[test]
fn a_second_repository_with_the_same_content_is_complete_by_itself() {
    let (data, server, token) = hub("alice/etude");
    data.create_repo("bob/etude", &[]);
    let bob = data.token("bob");
    for (repo, token) in [("alice/etude", &token), ("bob/etude", &bob)] {
        let mut local = fixtures::etude();
        local.remote("origin", &server.url(repo), Some(token));
        push_all(&mut local, &["main", "variation", "feature/long-name"]);
        check_clone(&server, repo, &local, &["main", "variation", "feature/long-name"]);
    }
}

#[test]
fn a_push_again_with_other_annotations_is_ok_and_changes_nothing() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    let commit = local.commit("main", "root", &[("a", Some(b"a"))]);
    push_all(&mut local, &["main"]);
    let mut annotated = local.clone();
    annotated.commits.get_mut(&commit).unwrap().set("test_runs", reprise_tests::client::Value::Int(9));
    annotated.set_branch("again", &commit);
    push(&mut annotated, "origin", "again").unwrap();
    let cloned = clone(&server.url("alice/demo")).unwrap();
    assert_eq!(cloned.commits[&commit].get("test_runs").and_then(|runs| runs.as_int()), Some(0), "the first stays");
}

#[test]
fn releases_are_published_listed_by_channel_and_retracted() {
    let (_data, server, token) = hub("alice/demo");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/demo"), Some(&token));
    local.commit("main", "root", &[("a", Some(b"a"))]);
    push_all(&mut local, &["main"]);
    let remote = server.remote("alice/demo", Some(&token));
    let stable = release::record(&local, "v1.0.0", "main", "stable", false);
    let beta = release::record(&local, "v1.1.0-rc.1+build.7", "main", "beta", false);
    let draft = release::record(&local, "v2.0.0", "main", "stable", true);
    for record in [&stable, &beta, &draft] {
        assert!(!release::push(&remote, record).unwrap().is_empty());
    }
    let again = release::push(&remote, &stable).unwrap_err();
    assert_eq!(again.code(), Some(409));
    let tags = |channel, drafts, remote: &_| -> Vec<String> {
        let listed = release::list(remote, channel, drafts).unwrap();
        listed.iter().map(|record| record.text("tag").to_owned()).collect()
    };
    assert_eq!(tags(None, false, &remote), ["v1.1.0-rc.1+build.7", "v1.0.0"], "newest first, no drafts");
    assert_eq!(tags(Some("beta"), false, &remote), ["v1.1.0-rc.1+build.7"]);
    assert_eq!(tags(None, true, &remote).len(), 3);
    let anonymous = server.remote("alice/demo", None);
    assert_eq!(tags(None, true, &anonymous).len(), 2, "drafts need a token");
    check_release(&release::list(&remote, Some("stable"), false).unwrap()[0], &stable);
    release::delete(&remote, "v1.1.0-rc.1+build.7").unwrap();
    assert_eq!(release::delete(&remote, "v1.1.0-rc.1+build.7").unwrap_err().code(), Some(404));
    assert_eq!(tags(None, false, &remote), ["v1.0.0"]);
}

/// What was published comes back, changelog included, and no str field is nil.
fn check_release(got: &reprise_tests::client::Value, sent: &serde_json::Value) {
    for key in ["tag", "title", "body", "commit_id", "snapshot_id", "channel", "agent_id", "model_id", "gpg_signature"]
    {
        assert_eq!(got.get(key).and_then(|text| text.as_str()), sent[key].as_str(), "{key}");
    }
    assert_eq!(got.get("is_draft"), Some(&reprise_tests::client::Value::Bool(false)));
    let entry = &got.items("changelog")[0];
    for key in ["commit_id", "message", "author", "committed_at", "agent_id", "model_id", "sem_ver_bump"] {
        assert_eq!(
            entry.get(key).and_then(|text| text.as_str()),
            sent["changelog"][0][key].as_str(),
            "changelog {key}"
        );
    }
    assert_eq!(got.get("semver").unwrap().get("major").and_then(|major| major.as_int()), Some(1));
}

#[test]
fn a_repository_above_64_mib_is_413_with_a_text_and_never_a_partial_clone() {
    let (_data, server, token) = hub("alice/large");
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/large"), Some(&token));
    let mut random = reprise_tests::seeds::random(1, 1);
    let files: Vec<(String, Vec<u8>)> =
        (0..9).map(|n| (format!("{n}.bin"), reprise_tests::seeds::bytes(&mut random, 8 << 20))).collect();
    let changes: Vec<(&str, Option<&[u8]>)> =
        files.iter().map(|(path, content)| (path.as_str(), Some(content.as_slice()))).collect();
    local.commit("main", "large", &changes);
    push_all(&mut local, &["main"]);
    let refused = clone(&server.url("alice/large")).map(|_| ()).unwrap_err();
    let CloneFailure::Fetch(Failure::Status { code: 413, text }) = &refused else { panic!("{refused:?}") };
    assert!(text.contains("64 MiB") || text.contains("67108864"), "the size and the way out: {text}");
}
