//! One directory, one server: whoever comes second is refused and told who holds it; commands go through the holder; what a
//! dead process left is no obstacle (F9).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Output},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use reprise_engine::{
    ErrorKind,
    clock::{SystemClock, SystemRandom},
    disk::real::RealDisk,
    engine::{Engine, Options, Parts},
    store::memory::MemoryStore,
};
use reprise_tests::{
    client::{Refs, Repository, push},
    effort::Effort,
    server_process::{DataDir, ServerProcess},
};
use rustix::process::Signal;

/// Longest wait for what must come.
const DEADLINE: Duration = Duration::from_secs(30);

/// A server with one pushed commit, its head.
fn with_a_push(data: &DataDir) -> (ServerProcess, String) {
    let server = data.serve();
    server.wait_ready();
    data.create_repo("alice/etude", &[]);
    let mut local = Repository::init();
    local.remote("origin", &server.url("alice/etude"), Some(&data.token("alice")));
    let head = local.commit("main", "one", &[("a", Some(b"a"))]);
    push(&mut local, "origin", "main").unwrap();
    (server, head)
}

fn check_head(server: &ServerProcess, head: &str) {
    server.wait_ready();
    assert_eq!(Refs::get(&server.url("alice/etude"), None).unwrap().head("main"), Some(head));
}

/// Refused with the exit code of what could not be done, and with the holder's process and address.
fn check_refused(output: &Output, holder: &ServerProcess) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    let named = format!("held by reprise serve on {}, process {}", holder.host(), holder.pid());
    assert!(text.contains(&named), "{named}? {text}");
}

fn second(data: &DataDir) -> Output {
    data.run(&["serve", "--listen", "127.0.0.1:0"])
}

#[test]
fn a_second_server_is_refused_and_told_who_holds_the_directory_also_by_one_that_stands_still() {
    let data = DataDir::new();
    let (server, head) = with_a_push(&data);
    check_refused(&second(&data), &server);
    server.signal(Signal::STOP);
    check_refused(&second(&data), &server);
    // A command would go through the server: it says so in bounded time.
    let begun = Instant::now();
    check_refused(&data.run(&["status"]), &server);
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    server.signal(Signal::CONT);
    check_head(&server, &head);
    server.stop();
}

#[test]
fn what_a_dead_server_left_in_its_directory_does_not_keep_the_next_one_out() {
    let data = DataDir::new();
    let (server, head) = with_a_push(&data);
    let dead = server.pid();
    server.kill();
    let lock = fs::read_to_string(data.path().join("log/LOCK")).unwrap();
    assert!(lock.contains(&dead.to_string()), "the lock still names the dead: {lock}");
    let server = data.serve();
    check_head(&server, &head);
    check_refused(&second(&data), &server);
    server.stop();
}

/// `cp -a`.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn a_copy_of_the_directory_opens_while_the_original_is_held() {
    let (data, other) = (DataDir::new(), DataDir::new());
    let (server, head) = with_a_push(&data);
    // Standing still, so that the copy is of one moment: what a crash would leave.
    server.signal(Signal::STOP);
    copy(&data.path(), &other.path());
    server.signal(Signal::CONT);
    let copied = other.serve();
    check_head(&copied, &head);
    check_head(&server, &head);
    assert!(other.run(&["verify", "--deep"]).status.success());
    copied.stop();
    server.stop();
}

#[test]
fn commands_that_read_or_rebuild_everything_go_through_the_server_that_holds_the_directory() {
    let data = DataDir::new();
    let (server, head) = with_a_push(&data);
    for command in [&["verify", "--deep"][..], &["rebuild"], &["digest"], &["log"], &["status"]] {
        let output = data.run(command);
        assert_eq!(output.status.code(), Some(0), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(data.json_lines(&["log"]).iter().any(|event| event["updates"][0]["new"] == head.as_str()));
    check_head(&server, &head);
    server.stop();
}

#[test]
fn commands_get_through_when_everybody_else_asks_too_often() {
    let data = DataDir::new();
    let limits = ["rate_limit_loopback=1", "requests_per_second=1", "requests_burst=3"];
    let server = data.serve_with(&limits.map(|limit| ["--limit", limit]).concat());
    let until = Instant::now() + DEADLINE;
    while !matches!(Refs::get(&server.url("alice/etude"), None), Err(failure) if failure.code() == Some(429)) {
        assert!(Instant::now() < until, "never refused");
    }
    for _ in 0..4 {
        data.json(&["status"]);
    }
    data.create_repo("alice/etude", &[]);
    server.stop();
}

#[test]
fn of_eight_openings_of_nothing_at_once_one_succeeds_and_the_others_are_told_that_it_is_held() {
    for round in Effort::of("T11 eight openings of nothing", 100) {
        let dir = tempfile::tempdir().unwrap();
        let start = Barrier::new(8);
        let opened: Vec<_> = thread::scope(|scope| {
            let open = || {
                let parts = Parts {
                    disk: Arc::new(RealDisk::new(dir.path().join("data"))),
                    store: Arc::new(MemoryStore::new()),
                    clock: Arc::new(SystemClock),
                    random: Arc::new(SystemRandom),
                };
                parts.disk.create_dir("").unwrap();
                start.wait();
                Engine::open(parts, Options::new("one of eight"))
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "round {round}");
        for refused in lost {
            let error = refused.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Conflict, "round {round}: {error}");
        }
        won.into_iter().for_each(|opened| opened.unwrap().0.shutdown().unwrap());
    }
}

#[test]
fn of_eight_servers_that_start_at_once_on_nothing_one_wins_and_nothing_is_half_made() {
    let data = DataDir::new();
    let mut children: Vec<Child> = (0..8).map(|_| data.spawn()).collect();
    let until = Instant::now() + DEADLINE;
    while children.iter_mut().filter_map(|child| child.try_wait().unwrap()).count() < 7 {
        assert!(Instant::now() < until, "more than one is still there");
        thread::sleep(Duration::from_millis(5));
    }
    let (mut winners, losers): (Vec<Child>, Vec<Child>) =
        children.into_iter().partition(|child| Path::new("/proc").join(child.id().to_string()).join("exe").exists());
    assert_eq!(winners.len(), 1);
    let mut winner = winners.remove(0);
    for mut loser in losers {
        let mut text = String::new();
        loser.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(loser.wait().unwrap().code(), Some(3), "{text}");
        assert!(text.contains(&format!("process {}", winner.id())), "names the winner, {}: {text}", winner.id());
    }
    // The winner serves what it made.
    data.create_repo("alice/etude", &[]);
    assert_eq!(data.json(&["status"])["ok"], true);
    assert!(data.run(&["verify", "--deep"]).status.success());
    winner.kill().unwrap();
    winner.wait().unwrap();
    let server = data.serve();
    server.wait_ready();
    assert!(Refs::get(&server.url("alice/etude"), None).is_ok());
    server.stop();
}
