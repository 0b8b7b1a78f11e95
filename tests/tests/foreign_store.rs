//! T13 against an S3 server that others wrote (moto, exact pins, below target/): the contract of every object store, parts, and the
//! real binary: push, clone, restore. `bash tests/foreign-store/setup` brings it; `tests/run` calls that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use reprise_engine::{
    clock::SystemRandom,
    disk::real::RealDisk,
    id::PackId,
    store::{
        Created, ObjectStore, StoreKey,
        directory::DirectoryStore,
        s3::{Copies, Pace, S3Settings, S3Store},
    },
};
use reprise_tests::{
    client::{clone, push},
    fixtures,
    server_process::{DataDir, binary},
    store_contract::check,
};

/// The server; it ends with its standard input, whatever becomes of this process.
struct Foreign {
    child: Child,
    endpoint: String,
}

impl Foreign {
    fn start() -> Foreign {
        let place = binary("reprise").parent().unwrap().parent().unwrap().join("foreign-store");
        let told = fs::read_to_string(place.join("told")).unwrap_or_default();
        assert!(
            place.join("pins").exists(),
            "there is no foreign S3 server in {}: `bash tests/foreign-store/setup` brings it from PyPI, and needs python3 \
             with venv and the network. What it said last:\n{told}",
            place.display()
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign-store/serve.py");
        let mut command = Command::new(place.join("venv/bin/python"));
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("python starts");
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port: u16 = port.trim().parse().expect("the foreign server names its port");
        Foreign { child, endpoint: format!("http://127.0.0.1:{port}") }
    }

    fn settings(&self, prefix: &str) -> S3Settings {
        let settings = S3Settings::parse(&format!("{URL}/{prefix}"), Some(self.endpoint.clone()), None).unwrap();
        S3Settings { credentials: Some(("anybody".into(), "anything".into())), ..settings }
    }

    fn machine(&self) -> DataDir {
        DataDir::new()
            .env("AWS_ACCESS_KEY_ID", "anybody")
            .env("AWS_SECRET_ACCESS_KEY", "anything")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ENDPOINT_URL_S3", &self.endpoint)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn store(settings: S3Settings, root: PathBuf) -> S3Store {
    let directory = DirectoryStore::new(Arc::new(RealDisk::new(root)), Arc::new(SystemRandom));
    S3Store::new(settings, Copies::new(directory, 0).unwrap()).unwrap()
}

#[test]
fn a_foreign_store_passes_the_probe_and_keeps_the_contract() {
    let (foreign, root) = (Foreign::start(), tempfile::tempdir().unwrap());
    for prefix in ["", "hubs/one"] {
        let store = store(foreign.settings(prefix), root.path().join(format!("staged-{}", prefix.len())));
        store.probe([7; 16]).unwrap();
        check(&store);
    }
}

#[test]
fn a_foreign_store_takes_an_object_in_parts_once() {
    let (foreign, root) = (Foreign::start(), tempfile::tempdir().unwrap());
    // S3 wants parts of 5 MiB, but for the last.
    let pace = Pace { put_bytes_max: 1 << 20, part_bytes: 5 << 20, ..Pace::default() };
    let store = store(S3Settings { pace, ..foreign.settings("") }, root.path().to_path_buf());
    let large: Vec<u8> = (0..12u32 << 20).map(|at| (at / 4_096 % 253) as u8).collect();
    let put = |bytes: &[u8]| {
        let mut staged = store.stage().unwrap();
        staged.write(bytes).unwrap();
        staged.commit(&StoreKey::pack(PackId([1; 32])))
    };
    assert_eq!(put(&large).unwrap(), Created::New);
    assert_eq!(put(&large).unwrap(), Created::Existed);
    assert!(put(&large[..11 << 20]).unwrap_err().is_corrupt());
    assert_eq!(store.read(&StoreKey::pack(PackId([1; 32])), 0, 12 << 20).unwrap(), large);
    assert_eq!(store.uploads().unwrap(), [], "what was given up was aborted");
}

#[test]
fn a_hub_on_a_foreign_store_gives_back_what_was_pushed_and_restores_from_it_alone() {
    let foreign = Foreign::start();
    for log in ["local", "bucket"] {
        let url = format!("{URL}/{log}");
        let arguments = ["--bucket", url.as_str(), "--log", log];
        let first = foreign.machine();
        let server = first.serve_with(&arguments);
        server.wait_ready();
        first.create_repo("alice/etude", &[]);
        let mut local = fixtures::etude();
        local.remote("origin", &server.url("alice/etude"), Some(&first.token("alice")));
        push(&mut local, "origin", "main").unwrap();
        // The end of a shutdown brings the rest of a local log.
        server.stop();
        drop(first);
        let second = foreign.machine();
        // What servers share comes with the opening.
        if log == "local" {
            let restored = second.json(&["restore", "--bucket", &url]);
            assert_eq!((&restored["missing_packs"], &restored["repositories"]), (&0.into(), &1.into()), "{restored}");
        }
        let server = second.serve_with(&arguments);
        server.wait_ready();
        let cloned = clone(&server.url("alice/etude")).unwrap();
        assert_eq!(cloned.head("main"), local.head("main"), "--log {log}");
        cloned.check_complete(cloned.head("main")).unwrap();
        assert_eq!(cloned.tree(cloned.head("main")), local.tree(local.head("main")));
    }
}

const URL: &str = "s3://reprise";
