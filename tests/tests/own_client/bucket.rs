//! Our client and a hub whose packs are in a bucket.

use reprise_tests::{
    bucket::Bucket,
    client::{Request, muse_directory},
    server_process::DataDir,
};

use crate::rig::{BRANCHES, Rig};

/// Pushes and clones with these arguments of `serve` and what the user calls the bucket's endpoint; whether packs passed through
/// the server.
fn check(arguments: &[&str], endpoint: impl Fn(&Bucket) -> Option<String>) -> bool {
    let bucket = Bucket::start();
    let data = bucket.environment().iter().fold(DataDir::new(), |data, (name, value)| data.env(name, value));
    let mut rig = Rig::on(data, &[&["--bucket", "s3://reprise/hub", "--log", "bucket"], arguments].concat(), &[]);
    rig.user.bucket = endpoint(&bucket);
    let original = muse_directory::read(&rig.push_etude());
    let cloned = muse_directory::read(&rig.user.clone_of(&rig.url, "cloned"));
    for branch in BRANCHES {
        assert_eq!(cloned.head(branch), original.head(branch));
    }
    assert_eq!((&cloned.objects, cloned.commits.len()), (&original.objects, original.commits.len()));
    assert!(!bucket.objects.keys().iter().any(|key| key.starts_with("hub/quarantine/")), "taken in");
    assert!(!rig.server.printed().contains(rig.user.token()));
    let metrics = Request::get(rig.server.url("metrics"), None).send().unwrap().text();
    metrics.lines().any(|line| line.starts_with("reprise_http_requests_total") && line.contains("PUT"))
}

#[test]
fn our_packs_go_to_the_bucket_itself_where_its_user_names_it() {
    assert!(!check(&[], |bucket| Some(bucket.endpoint())));
}

#[test]
fn our_packs_go_through_the_server_where_we_do_not_reach_the_bucket() {
    let named = |endpoint: &'static str| move |_: &Bucket| Some(endpoint.to_owned());
    assert!(check(&[], |_| None), "nobody named it");
    assert!(check(&[], named("http://127.0.0.1:1")), "another one was named");
    let of_nobody = ["--bucket-for-clients", "http://127.0.0.1:1"];
    assert!(check(&of_nobody, named("http://127.0.0.1:1")), "nobody listens there");
    assert!(check(&["--bucket-for-clients", "https://bucket.example"], |bucket| Some(bucket.endpoint())));
    assert!(check(&["--bucket-for-clients", "no"], |bucket| Some(bucket.endpoint())));
}
