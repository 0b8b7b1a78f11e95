//! SIGTERM, SIGINT, SIGSTOP and SIGCONT under load: what was accepted is answered, and nothing happens twice (T10).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, clippy::print_stderr)]

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use rand::rngs::StdRng;
use reprise_tests::{
    client::{
        Repository,
        http::{connect, read_response},
    },
    effort::Effort,
    oracle::{AckedPush, Kind, Register},
    seeds,
    server_process::{DataDir, ServerProcess},
    workload::{
        Churner, Client, Field, Keyed, Labeler, Racer, Reader, Writer, check_log, check_served, judge, load_until,
        under_load,
    },
};
use rustix::process::Signal;

const REPOS: [&str; 3] = ["alice/one", "bob/two", "carol/fleeting"];
/// The first so many are there all the time.
const STAYING: usize = 2;
/// Longest wait for what must come.
const DEADLINE: Duration = Duration::from_secs(30);

fn started(data: &DataDir, more: &[&str]) -> (ServerProcess, Field) {
    let server = data.serve_with(more);
    server.wait_ready();
    let field = Field::new(data, &["alice", "bob", "carol"]);
    for repo in &REPOS[..STAYING] {
        data.create_repo(repo, &[]);
    }
    field.serve(&server);
    (server, field)
}

fn clients(seed: u64) -> Vec<Box<dyn Client>> {
    vec![
        Box::new(Writer::new("alice/one", "main", seed, 1)),
        Box::new(Writer::new("alice/one", "forced", seed, 2).forcing()),
        Box::new(Racer::new("bob/two", "race", seed, 3)),
        Box::new(Racer::new("bob/two", "race", seed, 4)),
        Box::new(Labeler::new("bob/two", seed, 5)),
        Box::new(Churner::new("carol/fleeting", seed, 6)),
        Box::new(Reader::new(&REPOS)),
    ]
}

/// After a stop that was asked for: the log ended cleanly, and no change had an effect whose client was not told.
fn check_clean_stop(data: &DataDir, server: &ServerProcess, field: &Field) {
    let status = &data.asked(server, "status")[0];
    assert_eq!(status["opened"]["tail"], "clean", "{status}");
    assert_eq!(status["opened"]["unclean"], false, "{status}");
    assert_eq!(status["projections"]["reason"], "", "nothing had to be folded again: {status}");
    judge(field, &REPOS, &data.asked(server, "projections/dump/tags")).unwrap();
    assert_eq!(field.oracle().unknown_happened, 0, "it happened, and nobody was told");
}

#[test]
fn a_server_that_is_asked_to_stop_under_load_answers_what_it_accepted_and_closes_cleanly() {
    let seed = seeds::seed("asked to stop");
    let data = DataDir::new();
    let (mut server, field) = started(&data, &[]);
    let mut clients = clients(seed);
    let mut acked = 0;
    for cycle in Effort::of("T10 asked to stop", 5) {
        let signal = if cycle % 2 == 0 { Signal::TERM } else { Signal::INT };
        let load = Duration::from_millis(100 + cycle * 37 % 200);
        acked += load_until(server, &mut clients, &field, load, |server| {
            server.signal(signal);
            server.wait_end();
        });
        assert!(!data.path().join("server.json").exists(), "no command may believe in a server that is gone");
        server = data.serve();
        server.wait_ready();
        field.serve(&server);
        check_clean_stop(&data, &server, &field);
        clients.iter_mut().for_each(|client| client.settle(&field));
    }
    for repo in &REPOS[..STAYING] {
        check_served(&field, repo, 0).unwrap();
    }
    check_log(&field, &data).unwrap();
    server.stop();
    let pushes = field.oracle().pushes().len();
    assert!(acked > 5 && pushes > 5, "the load was real: {acked} successes, {pushes} pushes");
}

/// A push of one commit to a branch of its own, its blob uploaded before.
fn prepared(field: &Field, branch: &str, random: &mut StdRng) -> Keyed {
    let mut local = Repository::init();
    let content = seeds::bytes(random, 3_000);
    local.commit(branch, branch, &[("a", Some(&content))]);
    let push = Keyed::prepare(&local, branch, false, &field.remote("alice/one"), field, random).unwrap();
    field.oracle().sent(&Register::new("alice/one", Kind::Branch, branch), Some(&push.head));
    push
}

fn acked(field: &Field, branch: &str, push: &Keyed) {
    let mut oracle = field.oracle();
    oracle.acked(&Register::new("alice/one", Kind::Branch, branch));
    let acked = AckedPush { repo: "alice/one".to_owned(), branch: branch.to_owned(), head: push.head.clone() };
    oracle.push_acked(&push.key, acked);
}

/// Sends a push as far as half its body; the server has asked for it. What is still to be sent.
fn half_sent(field: &Field, push: &Keyed) -> (TcpStream, Vec<u8>) {
    let remote = field.remote("alice/one");
    let bytes = push.request(&remote).header("Expect", "100-continue").bytes();
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let mut stream = connect(push.request(&remote).host()).unwrap();
    stream.write_all(&bytes[..head]).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let half = head + (bytes.len() - head) / 2;
    stream.write_all(&bytes[head..half]).unwrap();
    (stream, bytes[half..].to_vec())
}

fn wait_until_nobody_listens(server: &ServerProcess) {
    let until = Instant::now() + DEADLINE;
    while TcpStream::connect(server.host()).is_ok() {
        assert!(Instant::now() < until, "still listening:\n{}", server.printed());
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_push_whose_body_is_on_its_way_is_answered_after_sigterm_and_a_second_one_changes_nothing() {
    let mut random = seeds::random(seeds::seed("on its way"), 0);
    let data = DataDir::new();
    let (server, field) = started(&data, &[]);
    let branches = ["one", "two", "three"];
    let pushes: Vec<Keyed> = branches.iter().map(|branch| prepared(&field, branch, &mut random)).collect();
    let halves: Vec<_> = pushes.iter().map(|push| half_sent(&field, push)).collect();
    server.signal(Signal::TERM);
    wait_until_nobody_listens(&server);
    server.signal(Signal::TERM);
    server.signal(Signal::INT);
    for (((mut stream, rest), push), branch) in halves.into_iter().zip(&pushes).zip(branches) {
        stream.write_all(&rest).unwrap();
        let answer = read_response(&stream).unwrap();
        assert_eq!(answer.code, 200, "{}", answer.text());
        assert_eq!(answer.decode().unwrap().text("remote_head"), push.head);
        acked(&field, branch, push);
    }
    server.wait_end();
    let server = data.serve();
    server.wait_ready();
    field.serve(&server);
    check_clean_stop(&data, &server, &field);
    server.stop();
}

#[test]
fn connections_that_ask_nothing_or_never_end_do_not_hold_up_a_stop_for_longer_than_its_time() {
    let mut random = seeds::random(seeds::seed("held up"), 0);
    let data = DataDir::new();
    let (server, field) = started(&data, &["--limit", "shutdown_time_max=2"]);
    let push = prepared(&field, "never", &mut random);
    let unfinished = half_sent(&field, &push);
    let begun = Instant::now();
    server.signal(Signal::TERM);
    server.wait_end();
    assert!(begun.elapsed() < DEADLINE / 2);
    drop(unfinished);
    let server = data.serve();
    server.wait_ready();
    field.serve(&server);
    check_clean_stop(&data, &server, &field);
    let silent: Vec<TcpStream> = (0..4).map(|_| connect(server.host()).unwrap()).collect();
    let begun = Instant::now();
    server.signal(Signal::TERM);
    server.wait_end();
    assert!(begun.elapsed() < DEADLINE / 2, "nobody had asked anything: {:?}", begun.elapsed());
    drop(silent);
}

#[test]
fn a_server_that_stood_still_under_load_goes_on_and_nothing_happens_twice() {
    let seed = seeds::seed("stood still");
    let mut random = seeds::random(seed, 0);
    let data = DataDir::new();
    let (server, field) = started(&data, &[]);
    let branches = ["i1", "i2", "i3", "i4"];
    let pushes: Vec<Keyed> = branches.iter().map(|branch| prepared(&field, branch, &mut random)).collect();
    let mut clients = clients(seed);
    under_load(server, &mut clients, &field, |server| {
        // Lengths of load and standstill: nothing is waited for but the time itself.
        thread::sleep(Duration::from_millis(200));
        server.signal(Signal::STOP);
        pushes.iter().for_each(|push| give_up_waiting(&field, push));
        thread::sleep(Duration::from_millis(1_500));
        server.signal(Signal::CONT);
        for (push, branch) in pushes.iter().zip(branches) {
            let answer = push.send(&field.remote("alice/one")).unwrap();
            assert_eq!(answer.code, 200, "{}", answer.text());
            assert_eq!(answer.decode().unwrap().text("remote_head"), push.head);
            acked(&field, branch, push);
        }
        thread::sleep(Duration::from_millis(300));
        field.doom();
        server.stop();
    });
    let server = data.serve();
    server.wait_ready();
    field.serve(&server);
    check_clean_stop(&data, &server, &field);
    check_log(&field, &data).unwrap();
    for repo in &REPOS[..STAYING] {
        check_served(&field, repo, 0).unwrap();
    }
    server.stop();
}

/// Sends a whole push and goes away without its answer.
fn give_up_waiting(field: &Field, push: &Keyed) {
    let request = push.request(&field.remote("alice/one")).bytes();
    let remote = field.remote("alice/one");
    let mut stream = connect(push.request(&remote).host()).unwrap();
    stream.write_all(&request).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let waited = stream.read(&mut [0; 16]).unwrap_err();
    assert!(matches!(waited.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waited}");
}

#[test]
fn a_body_that_came_while_the_server_stood_still_is_taken_although_its_time_is_up() {
    let mut random = seeds::random(seeds::seed("time is up"), 0);
    let data = DataDir::new();
    let (server, field) = started(
        &data,
        &["--limit", "body_idle_max=1", "--limit", "header_time_max=1", "--limit", "waiting_time_max=1"],
    );
    let push = prepared(&field, "late", &mut random);
    let (mut stream, rest) = half_sent(&field, &push);
    server.signal(Signal::STOP);
    stream.write_all(&rest).unwrap();
    // Longer than the server's patience, which must not count what came meanwhile as missing.
    thread::sleep(Duration::from_millis(2_500));
    server.signal(Signal::CONT);
    let answer = read_response(&stream).unwrap();
    assert_eq!(answer.code, 200, "{}", answer.text());
    acked(&field, "late", &push);
    judge(&field, &REPOS, &[]).unwrap();
    server.stop();
}
