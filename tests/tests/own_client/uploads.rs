//! Packs that our client uploads: more than the hub takes at once, and such as a sweep took away.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use reprise_tests::client::{Repository, Request, muse_directory};

use crate::{door, rig::Rig};

/// One commit of twenty blobs, in the user's directory `work`.
fn twenty_blobs(rig: &Rig) -> Repository {
    let contents: Vec<(String, Vec<u8>)> =
        (0..20u8).map(|number| (format!("file-{number}"), vec![number; 9])).collect();
    let files: Vec<(&str, Option<&[u8]>)> =
        contents.iter().map(|(path, content)| (path.as_str(), Some(content.as_slice()))).collect();
    let mut repository = Repository::init();
    repository.commit("main", "one", &files);
    muse_directory::write(&repository, &rig.user.path("work"));
    repository
}

/// How often an endpoint was asked.
fn asked(rig: &Rig, endpoint: &str) -> u64 {
    let metrics = Request::get(rig.server.url("metrics"), None).send().unwrap().text();
    let route = format!("route=\"/{{owner}}/{{slug}}/{endpoint}\"");
    let of_route =
        metrics.lines().filter(|line| line.starts_with("reprise_http_requests_total") && line.contains(&route));
    of_route.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Pushes twenty blobs and two records to a hub that unpacks so many rows; how often what was asked.
fn check(unpack_rows_max: usize) -> [(&'static str, u64); 3] {
    let rig = Rig::with(&["--limit", &format!("unpack_rows_max={unpack_rows_max}")], &[]);
    let repository = twenty_blobs(&rig);
    rig.user.json(&["push", "work", &rig.url]);
    rig.user.check_whole("work");
    let cloned = muse_directory::read(&rig.user.clone_of(&rig.url, "cloned"));
    assert_eq!((&cloned.objects, cloned.head("main")), (&repository.objects, repository.head("main")));
    ["push/unpack-mpack", "push/objects", "push"].map(|endpoint| (endpoint, asked(&rig, endpoint)))
}

#[test]
fn what_is_more_than_the_hub_takes_at_once_goes_in_parts() {
    assert_eq!(check(22), [("push/unpack-mpack", 1), ("push/objects", 0), ("push", 0)], "all of it");
    assert_eq!(check(21), [("push/unpack-mpack", 2), ("push/objects", 1), ("push", 0)], "blobs ahead");
    assert_eq!(check(1), [("push/unpack-mpack", 2), ("push/objects", 1), ("push", 1)], "records by a body");
}

/// Removes all files below a directory.
fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => empty(&entry.path()),
            false => fs::remove_file(entry.path()).unwrap(),
        }
    }
}

#[test]
fn a_push_whose_uploads_were_swept_begins_anew_once() {
    let mut rig = Rig::new();
    twenty_blobs(&rig);
    let url = rig.url.clone();
    let (unpacked, sweeps) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
    let (count, until, quarantine) =
        (Arc::clone(&unpacked), Arc::clone(&sweeps), rig.data.path().join("objects/quarantine"));
    let address = door::before(rig.server.host(), move |line| {
        if line.contains("push/unpack-mpack") && count.fetch_add(1, Ordering::SeqCst) < until.load(Ordering::SeqCst) {
            empty(&quarantine);
        }
        None
    });
    rig.url = format!("http://{address}/alice/etude");
    let said = rig.user.refused(&["push", "work", &rig.url]);
    assert!(said.contains("404") && said.contains("upload"), "{said}");
    assert_eq!(unpacked.swap(0, Ordering::SeqCst), 2, "no more than once");
    sweeps.store(1, Ordering::SeqCst);
    rig.user.json(&["push", "work", &rig.url]);
    assert_eq!(unpacked.load(Ordering::SeqCst), 2);
    assert_eq!(reprise_tests::client::ls_remote(&url).unwrap().len(), 1);
}
