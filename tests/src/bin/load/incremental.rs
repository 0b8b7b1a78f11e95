//! The push that happens all day: refs, filter-objects, push/objects with 2 objects, push with 1 commit.

use std::time::Instant;

use reprise_tests::{
    client::{
        Repository, Value,
        push::{bundle_body, candidates, objects_body},
    },
    seeds,
    server_process::DataDir,
};

use crate::{
    exchange::Prepared,
    figures::{Times, print},
    machine,
};

const PUSHES: u64 = 500;
const FILES: u64 = 200;

/// Prints the time of the whole sequence of four exchanges.
pub fn run() {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    data.create_repo("load/incremental", &[]);
    let remote = server.remote("load/incremental", Some(&data.token("load")));
    let mut local = Repository::init();
    let mut random = seeds::random(5, 5);
    let files: Vec<(String, Vec<u8>)> =
        (0..FILES).map(|n| (format!("dir-{}/file-{n}", n % 10), seeds::bytes(&mut random, 3_000))).collect();
    let changes: Vec<_> = files.iter().map(|(path, content)| (path.as_str(), Some(content.as_slice()))).collect();
    local.commit("main", "first", &changes);
    local.remotes.insert("origin".to_owned(), remote.clone());
    reprise_tests::client::push(&mut local, "origin", "main").expect("the first push");
    let mut buffer = vec![0; 64 << 10];
    let mut times = Vec::new();
    for n in 0..PUSHES {
        let (one, two) = (seeds::bytes(&mut random, 3_000), seeds::bytes(&mut random, 3_000));
        let paths = [format!("dir-0/file-{}", n % 20 * 10), "dir-1/file-1".to_owned()];
        let before: Vec<String> = local.objects.keys().cloned().collect();
        let commit = local.commit("main", "next", &[(&paths[0], Some(&one)), (&paths[1], Some(&two))]);
        let new: Vec<String> = local.objects.keys().filter(|id| before.binary_search(id).is_err()).cloned().collect();
        let commits = [commit];
        let filter = Value::map([("object_ids", Value::strs(candidates(&local, &commits)))]).encode();
        let requests = [
            Prepared::new(&remote, "GET", "refs", &[]),
            Prepared::new(&remote, "POST", "filter-objects", &filter),
            Prepared::new(&remote, "POST", "push/objects", &objects_body(&local.objects, &new)),
            Prepared::new(&remote, "POST", "push", &bundle_body(&local, &commits, "main", false).encode()),
        ];
        let started = Instant::now();
        for request in &requests {
            request.run(&mut buffer);
        }
        times.push(started.elapsed());
    }
    print("incremental push, four exchanges", &Times::new(times).text());
    print("  one fdatasync of the machine", &machine::fdatasync().text());
    print("  server's peak RSS", &format!("{} MiB", server.peak_rss_kib() / 1_024));
}
