//! A hub that knows no direct transfer: everything goes over the endpoints that every hub has.

use reprise_tests::{
    client::{Repository, muse_directory},
    seeds,
};

use crate::{
    door,
    rig::{BRANCHES, Rig},
};

/// The address of a server before `server` that does not know the endpoints of direct transfer.
fn without_direct_transfer(server: &str) -> String {
    door::before(server, |line| line.contains("mpack").then_some(door::NOT_FOUND))
}

#[test]
fn the_real_clients_repository_goes_up_and_comes_back_without_direct_transfer() {
    let mut rig = Rig::new();
    rig.url = format!("http://{}/alice/etude", without_direct_transfer(rig.server.host()));
    let original = muse_directory::read(&rig.push_etude());
    let cloned = muse_directory::read(&rig.user.clone_of(&rig.url, "cloned"));
    assert_eq!((cloned.objects, cloned.heads), (original.objects, original.heads));
    let mut more = muse_directory::read(&rig.user.path("original"));
    more.set_ticks(7_000);
    let head = more.commit("main", "more", &[("more.txt", Some(b"more"))]);
    let other = more.head(BRANCHES[1]).to_owned();
    more.set_branch("at-a-known-commit", &other);
    muse_directory::write(&more, &rig.user.path("original"));
    for branch in ["main", "at-a-known-commit"] {
        rig.user.json(&["push", "original", &rig.url, branch]);
    }
    assert_eq!(rig.user.json(&["pull", "cloned"])["head"].as_str(), Some(&*head));
    rig.user.check_whole("cloned");
}

#[test]
fn what_is_too_much_for_one_answer_comes_branch_by_branch_or_is_refused_with_the_servers_words() {
    let mut rig = Rig::with(&["--limit", "response_bytes_max=400000"], &[]);
    let direct = rig.url.clone();
    rig.url = format!("http://{}/alice/etude", without_direct_transfer(rig.server.host()));
    let mut random = seeds::random(seeds::seed("what is too much for one answer"), 0);
    let mut local = Repository::init();
    let root = local.commit("main", "root", &[("a", Some(b"a"))]);
    for branch in ["one", "two", "three"] {
        local.set_branch(branch, &root);
        local.commit(branch, branch, &[("large", Some(&seeds::bytes(&mut random, 300_000)))]);
    }
    muse_directory::write(&local, &rig.user.path("work"));
    let push = |branch: &str| rig.user.json(&["push", "work", &rig.url, branch]);
    for branch in ["main", "one", "two", "three"] {
        push(branch);
    }
    let cloned = muse_directory::read(&rig.user.clone_of(&rig.url, "cloned"));
    assert_eq!((cloned.objects, cloned.heads), (local.objects.clone(), local.heads.clone()));
    local.commit("one", "more", &[("larger", Some(&seeds::bytes(&mut random, 500_000)))]);
    muse_directory::write(&local, &rig.user.path("work"));
    push("one");
    let said = rig.user.refused(&["clone", &rig.url, "none"]);
    assert!(said.contains("413") && said.contains("400000"), "{said}");
    // Direct transfer knows no such limit.
    let cloned = muse_directory::read(&rig.user.clone_of(&direct, "direct"));
    assert_eq!(cloned.objects, local.objects);
    assert_eq!(rig.user.names(), ["cloned", "direct", "work"]);
}
