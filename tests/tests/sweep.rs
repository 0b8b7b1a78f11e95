//! `reprise sweep`: what no event names goes, what any event names or will name stays (F10: no clock decides it). Over the real
//! binary, with packs in a directory and in a bucket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use reprise_engine::{id::PackId, store::StoreKey};
use reprise_tests::{
    bucket::{
        Bucket,
        machine::{URL, machine, until},
    },
    client::{Repository, clone, push},
    fixtures,
    server_process::{DataDir, ServerProcess},
};
use serde_json::Value;

/// A hub with or without a bucket, and what lies under its keys.
struct Hub {
    bucket: Option<Bucket>,
    data: DataDir,
    server: ServerProcess,
    local: Repository,
}

impl Hub {
    fn new(arguments: Option<&[&str]>) -> Hub {
        Hub::over(arguments.map(|_| Bucket::start()), arguments)
    }

    fn over(bucket: Option<Bucket>, arguments: Option<&[&str]>) -> Hub {
        let data = bucket.as_ref().map_or_else(DataDir::new, machine);
        let server = match arguments {
            Some(more) => data.serve_with(&[&["--bucket", URL], more].concat()),
            None => data.serve(),
        };
        server.wait_ready();
        data.create_repo("alice/etude", &[]);
        let mut local = fixtures::etude();
        local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
        push(&mut local, "origin", "main").unwrap();
        Hub { bucket, data, server, local }
    }

    fn file(&self, key: &StoreKey) -> PathBuf {
        self.data.path().join("objects").join(key.as_str())
    }

    fn put(&self, key: &StoreKey, bytes: &[u8]) {
        match &self.bucket {
            Some(bucket) => bucket.objects.overwrite(&format!("hub/{key}"), bytes.to_vec().into()),
            None => {
                fs::create_dir_all(self.file(key).parent().unwrap()).unwrap();
                fs::write(self.file(key), bytes).unwrap();
            }
        }
    }

    fn has(&self, key: &StoreKey) -> bool {
        match &self.bucket {
            Some(bucket) => bucket.objects.bytes(&format!("hub/{key}")).is_some(),
            None => self.file(key).exists(),
        }
    }

    fn end(&self) -> u64 {
        self.data.json(&["status"])["durable"].as_u64().unwrap()
    }

    /// Packs that events about packs alone name.
    fn retired(&self) -> Vec<Value> {
        let events = self.data.json_lines(&["log"]).into_iter().filter(|event| event["kind"] == "packs_relocated");
        events.flat_map(|event| event["packs"].as_array().unwrap().clone()).collect()
    }

    fn check(&self) {
        let cloned = clone(&self.server.url("alice/etude")).unwrap();
        cloned.check_complete(self.local.head("main")).unwrap();
        assert_eq!(self.data.json(&["verify", "--deep"])["damaged"], 0);
    }
}

#[test]
fn what_no_event_names_is_retired_by_an_event_and_then_deleted_and_nothing_else_is() {
    for arguments in [None, Some(&[][..]), Some(&["--log", "bucket"][..])] {
        let hub = Hub::new(arguments);
        let garbage = [1, 2].map(|name| StoreKey::pack(PackId([name; 32])));
        for key in &garbage {
            hub.put(key, b"left by a crash");
        }
        let end = hub.end();
        let would = hub.data.json(&["sweep", "--dry-run"]);
        assert_eq!((&would["swept"], &would["bytes"]), (&2.into(), &30.into()), "{would}");
        assert!(garbage.iter().all(|key| hub.has(key)) && hub.end() == end, "a dry run changes nothing");
        let did = hub.data.json(&["sweep"]);
        assert_eq!((&did["swept"], &did["bytes"], &did["retired"]), (&2.into(), &30.into(), &2.into()), "{did}");
        assert!(!garbage.iter().any(|key| hub.has(key)));
        let retired = hub.retired();
        assert!(retired.len() == 2 && retired.iter().all(|pack| pack["uri"].is_null()), "{retired:?}");
        hub.check();
        // A write that comes late, or a deletion that a crash kept from happening: the next sweep sees to it, by the same event.
        hub.put(&garbage[0], b"late");
        let again = hub.data.json(&["sweep"]);
        assert_eq!((&again["swept"], &again["retired"]), (&1.into(), &0.into()), "{again}");
        assert!(!hub.has(&garbage[0]) && hub.retired().len() == 2);
        assert_eq!(hub.data.json(&["sweep"])["swept"], 0);
        hub.check();
    }
}

#[test]
fn slots_that_were_left_behind_and_uploads_that_nobody_ended_are_swept() {
    let bucket = Bucket::start();
    // Segments of few slots, so that there are sealed ones.
    bucket.objects.overwrite("hub/log/SHARED", b"segment_bytes 262144\nsegment_slots 4\n"[..].into());
    let hub = Hub::over(Some(bucket), Some(&["--log", "bucket"]));
    let bucket = hub.bucket.as_ref().unwrap();
    bucket.objects.begin_upload("hub/packs/00/upload");
    bucket.objects.begin_upload("elsewhere/upload");
    bucket.objects.begin_upload("hub/other/upload");
    for number in 0..9 {
        hub.data.create_repo(&format!("alice/more-{number}"), &[]);
    }
    until("a segment is sealed and its slots are gone", || !hub.has(&StoreKey::slot(1)));
    hub.put(&StoreKey::slot(1), b"left by a server that slept");
    let end = hub.end();
    let did = hub.data.json(&["sweep"]);
    let found = did["found"].as_array().unwrap();
    let swept = |what: &str, key: &str| {
        found.iter().any(|one| one["swept"]["what"] == what && one["swept"]["key"].as_str() == Some(key))
    };
    assert!(swept("slot", StoreKey::slot(1).as_str()) && swept("upload", "packs/00/upload"), "{did}");
    assert!(!hub.has(&StoreKey::slot(1)));
    assert_eq!(bucket.objects.unfinished(), 2, "those of other stores, and of other things than packs, go on");
    // What counts is there for a server that has nothing else.
    assert!(bucket.objects.keys().iter().any(|key| key.ends_with(".slot")), "not all of the log is sealed");
    let other = machine(bucket);
    let server = other.serve_with(&["--bucket", URL, "--log", "bucket"]);
    server.wait_ready();
    assert!(other.json(&["status"])["durable"].as_u64() >= Some(end));
    hub.check();
}

/// A pack is stored before its event: whatever a sweep sees in between, the push is accepted and its objects are there.
#[test]
fn pushes_go_on_while_one_sweep_follows_the_other_and_none_loses_an_object() {
    for arguments in [None, Some(&["--log", "bucket"][..])] {
        let mut hub = Hub::new(arguments);
        let ended = AtomicBool::new(false);
        let mut local = hub.local.clone();
        thread::scope(|scope| {
            let sweeps = scope.spawn(|| {
                let mut sweeps = 0;
                while !ended.load(Ordering::Relaxed) || sweeps < 3 {
                    hub.data.json(&["sweep"]);
                    sweeps += 1;
                }
                sweeps
            });
            for number in 0..30 {
                let content = format!("content {number}");
                local.commit("main", "more", &[("more", Some(content.as_bytes()))]);
                let mut tries = 0;
                while let Err(refused) = push(&mut local, "origin", "main") {
                    assert!(refused.code() == Some(503) && tries < 50, "{refused:?}");
                    tries += 1;
                }
            }
            ended.store(true, Ordering::Relaxed);
            assert!(sweeps.join().unwrap() >= 3);
        });
        hub.local = local;
        hub.check();
    }
}
