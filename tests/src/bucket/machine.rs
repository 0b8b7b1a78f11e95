//! A machine whose hub has a bucket.

use std::time::{Duration, Instant};

use super::Bucket;
use crate::server_process::DataDir;

/// Where the hub of these tests keeps its packs.
pub const URL: &str = "s3://reprise/hub";

/// An empty data directory whose processes find `bucket`.
pub fn machine(bucket: &Bucket) -> DataDir {
    bucket.environment().iter().fold(DataDir::new(), |data, (name, value)| data.env(name, value))
}

/// Polls until it is so, for a minute.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        // The pace of a poll that has a deadline.
        std::thread::sleep(Duration::from_millis(20));
    }
}
