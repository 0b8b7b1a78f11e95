//! The command line as scripts see it: exit codes, one JSON value, and the same answers with and without a server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{fs, process::Output, thread, time::Duration};

use reprise_tests::server_process::DataDir;
use serde_json::Value;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command with and without `--json`: its exit code, and with JSON exactly one value that names it.
fn check_refused(data: &DataDir, arguments: &[&str], exit: i32) {
    let plain = data.run(arguments);
    assert_eq!(plain.status.code(), Some(exit), "{arguments:?}: {}", String::from_utf8_lossy(&plain.stderr));
    assert!(!plain.stderr.is_empty(), "{arguments:?} says why");
    let json = data.run(&[&["--json"], arguments].concat());
    assert_eq!(json.status.code(), Some(exit), "{arguments:?}");
    let value: Value = serde_json::from_str(&stdout(&json)).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    assert_eq!(value["exit"], exit, "{value}");
    assert!(value["error"].is_string(), "{value}");
}

fn check_refusals(data: &DataDir) {
    let absent = "11111111-2222-4333-8444-555555555555";
    let object = "0".repeat(64);
    // Asked about, and not there.
    check_refused(data, &["repo", "show", "alice/absent"], 1);
    check_refused(data, &["locate", "alice/there", &object], 1);
    // Could not be done.
    check_refused(data, &["repo", "delete", "alice/absent"], 3);
    check_refused(data, &["repo", "create", "alice/there"], 3);
    check_refused(data, &["token", "revoke", absent], 3);
}

#[test]
fn refusals_have_their_exit_codes_and_one_json_value_with_and_without_a_server() {
    let data = DataDir::new();
    data.create_repo("alice/there", &[]);
    check_refusals(&data);
    check_refused(&data, &["log", "--follow"], 3);
    let server = data.serve();
    server.wait_ready();
    check_refusals(&data);
    server.stop();
}

#[test]
fn what_is_written_wrongly_is_a_usage_error() {
    let data = DataDir::new();
    data.create_repo("alice/there", &[]);
    for arguments in [
        &["projection", "dump", "nosuch"][..],
        &["--log-filter", "a=b=c", "status"],
        &["serve", "--limit", "nosuch=1"],
        &["token", "create", "--owner", "alice", "--expires", "30"],
        &["repo", "create", "alice"],
    ] {
        let output = data.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_note_that_a_killed_server_left_behind_is_not_believed() {
    let data = DataDir::new();
    let server = data.serve();
    server.wait_ready();
    let note = data.path().join("server.json");
    let right = fs::read(&note).unwrap();
    let mut stale: Value = serde_json::from_slice(&right).unwrap();
    stale["secret"] = Value::String("of another life".to_owned());
    fs::write(&note, stale.to_string()).unwrap();
    let writer = thread::spawn(move || {
        // The new server has the lock and the port before it has written its note.
        thread::sleep(Duration::from_millis(300));
        fs::write(&note, right).unwrap();
    });
    let output = data.run(&["status"]);
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_would_have_no_effect_beside_a_bucket_or_without_one_is_refused() {
    let data = DataDir::new();
    let check = |arguments: &[&str], says: &str| {
        let output = data.run(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(3) && text.contains(says), "{arguments:?}: {text}");
        assert!(!data.path().exists());
    };
    check(&["--bucket-for-clients", "https://bucket.example"], "--bucket-for-clients");
    check(&["--bucket", "s3://reprise/hub", "--presign-uploads", "https://hub.example"], "--presign-uploads");
}

#[test]
fn who_gives_a_directory_of_packs_is_told_of_the_bucket_in_the_environment() {
    let data = DataDir::new().env("REPRISE_BUCKET", "s3://reprise/hub");
    let output = data.run(&["restore", "--from-packs", "--packs", "/nowhere"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && text.contains("REPRISE_BUCKET"), "{text}");
}
