//! T12: every call of an object store × every outcome of its request, over the real client and a real endpoint: right bytes or an error
//! of the right kind, in bounded time, nothing overwritten, nothing left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use reprise_engine::{
    ErrorKind,
    clock::SystemRandom,
    disk::real::RealDisk,
    store::{
        directory::DirectoryStore,
        s3::{Copies, S3Store},
    },
};
use reprise_tests::{
    bucket::{
        Bucket, Faults,
        matrix::{self, Came},
    },
    effort::Effort,
};

#[test]
fn whatever_becomes_of_any_call_it_ends_in_time_with_right_bytes_and_nothing_left() {
    let mut effort = Effort::of("T12 calls and outcomes", 1);
    while effort.next().is_some() {
        let cells = matrix::cells();
        effort.saw(cells.len());
        let came = matrix::run(&cells);
        let wrong: Vec<_> = came.iter().filter(|(_, came)| came.is_err()).collect();
        assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), cells.len());
        assert_eq!(came.len(), cells.len());
        let through = came.iter().filter(|(_, came)| *came == Ok(Came::Through)).count();
        let (calls, outcomes) = (matrix::CALLS.len(), matrix::OUTCOMES.len());
        eprintln!(
            "{} cells ({calls} calls, {outcomes} outcomes, once and always), none wrong: {through} came through, {} were refused in time",
            cells.len(),
            cells.len() - through
        );
        assert!(cells.len() > 250 && through > 150, "{} cells, {through} through", cells.len());
    }
}

#[test]
fn a_store_that_creates_a_key_twice_is_refused_and_the_probe_leaves_nothing_there() {
    let (bucket, root) = (Bucket::start(), tempfile::tempdir().unwrap());
    bucket.objects.set_faults(Faults { deaf: true, ..Faults::default() });
    let disk = std::sync::Arc::new(RealDisk::new(root.path().to_path_buf()));
    let copies = Copies::new(DirectoryStore::new(disk, std::sync::Arc::new(SystemRandom)), 0).unwrap();
    let refused = S3Store::new(bucket.settings(""), copies).unwrap().probe([7; 16]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("a key was created twice"), "{refused}");
    assert!(bucket.objects.keys().is_empty());
}
