//! Commands that are killed or told to stop in the middle: nothing half-made, and the same command ends well.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use reprise_tests::client::muse_directory;
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{BRANCHES, Rig, tree, working_tree};

/// Passes connections on to a server, but in each direction no more than so many bytes in all: then it stands still, or breaks the
/// connection off and lets as many pass on the next one.
struct Narrows {
    address: String,
    /// From the server.
    down: Arc<Flow>,
    /// To the server.
    up: Arc<Flow>,
    stalled: mpsc::Receiver<()>,
}

struct Flow {
    left: AtomicU64,
    again: AtomicU64,
    passed: AtomicU64,
    tell: mpsc::Sender<()>,
}

enum Passes {
    Yes,
    Stall,
    Break,
}

impl Flow {
    fn new(tell: &mpsc::Sender<()>) -> Arc<Flow> {
        let (left, again, passed) = (AtomicU64::new(u64::MAX), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Flow { left, again, passed, tell: tell.clone() })
    }

    fn may_pass(&self, bytes: u64) -> Passes {
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(bytes)).is_ok() {
            self.passed.fetch_add(bytes, Ordering::SeqCst);
            return Passes::Yes;
        }
        // The first time counts; later ones may find nobody who waits.
        self.tell.send(()).ok();
        match self.again.load(Ordering::SeqCst) {
            0 => Passes::Stall,
            more => {
                self.left.store(more, Ordering::SeqCst);
                Passes::Break
            }
        }
    }

    fn allow(&self, bytes: u64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// From now on every connection is broken off after about so many bytes.
    fn break_after(&self, bytes: u64) {
        self.again.store(bytes, Ordering::SeqCst);
        self.allow(bytes);
    }

    /// Bytes that passed since the last call.
    fn passed(&self) -> u64 {
        self.passed.swap(0, Ordering::SeqCst)
    }
}

impl Narrows {
    fn before(server: &str) -> Narrows {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tell, stalled) = mpsc::channel();
        let narrows = Narrows { address, down: Flow::new(&tell), up: Flow::new(&tell), stalled };
        let (down, up, server) = (Arc::clone(&narrows.down), Arc::clone(&narrows.up), server.to_owned());
        // Ends with the test's process; every connection ends with its client.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&server).unwrap();
                pass(client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&up));
                pass(server, client, Arc::clone(&down));
            }
        });
        narrows
    }

    fn url(&self, repo: &str) -> String {
        format!("http://{}/{repo}", self.address)
    }

    fn wait_stalled(&self) {
        self.stalled.recv_timeout(Duration::from_secs(30)).expect("the limit is reached");
    }
}

/// Copies until the end, or as long as the flow says: then the connection stays open and nothing more comes, or it ends.
fn pass(mut from: TcpStream, mut to: TcpStream, flow: Arc<Flow>) {
    thread::spawn(move || {
        let mut piece = [0; 4_096];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            match flow.may_pass(count as u64) {
                Passes::Yes if to.write_all(&piece[..count]).is_ok() => {}
                Passes::Yes => break,
                // Held until the other side goes.
                Passes::Stall => {
                    while from.read(&mut piece).is_ok_and(|count| count > 0) {}
                    break;
                }
                Passes::Break => {
                    from.shutdown(Shutdown::Both).ok();
                    break;
                }
            }
        }
        to.shutdown(Shutdown::Write).ok();
    });
}

fn end_of(mut child: Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        thread::sleep(Duration::from_millis(5));
    }
    drop(child.kill());
    panic!("the command did not end");
}

#[test]
fn a_clone_that_is_killed_anywhere_and_repeated_ends_well() {
    let rig = Rig::new();
    let original = muse_directory::read(&rig.push_etude());
    let narrows = Narrows::before(rig.server.host());
    let url = narrows.url("alice/etude");
    for (number, bytes) in [0, 200, 5_000, 100_000, 250_000, 340_000].into_iter().enumerate() {
        let name = format!("cloned-{number}");
        narrows.down.allow(bytes);
        let mut child = rig.user.command(&["clone", &url, &name]).stderr(Stdio::null()).spawn().unwrap();
        narrows.wait_stalled();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!rig.user.path(&name).exists(), "nothing half-made has the name");
        narrows.down.allow(u64::MAX);
        let cloned = rig.user.clone_of(&url, &name);
        assert_eq!(working_tree(&cloned), tree(&original, original.head("main")));
        assert_eq!(muse_directory::read(&cloned).objects, original.objects);
    }
    let mut names = rig.user.names();
    names.retain(|name| !name.starts_with("cloned-"));
    assert_eq!(names, ["original"], "no directory stays behind");
}

#[test]
fn a_pack_goes_on_where_its_connection_broke() {
    let rig = Rig::new();
    let original = muse_directory::read(&rig.push_etude());
    let narrows = Narrows::before(rig.server.host());
    let url = narrows.url("alice/etude");
    rig.user.clone_of(&url, "at-once");
    let whole = narrows.down.passed();
    assert!(whole > 350_000, "{whole}");
    narrows.down.break_after(60_000);
    let cloned = rig.user.clone_of(&url, "in-parts");
    assert_eq!(muse_directory::read(&cloned).objects, original.objects);
    let passed = narrows.down.passed();
    assert!(passed < whole + 20_000, "{passed} bytes came in parts instead of {whole}: some came twice");
}

#[test]
fn a_pull_fetches_only_what_is_new() {
    let rig = Rig::new();
    rig.push_etude();
    let narrows = Narrows::before(rig.server.host());
    rig.user.clone_of(&narrows.url("alice/etude"), "cloned");
    assert!(narrows.down.passed() > 350_000);
    let mut original = muse_directory::read(&rig.user.path("original"));
    original.set_ticks(9_000);
    let head = original.commit("main", "later", &[("later.txt", Some(b"later"))]);
    muse_directory::write(&original, &rig.user.path("original"));
    rig.user.json(&["push", "original", &rig.url, "main"]);
    assert_eq!(rig.user.json(&["pull", "cloned"])["head"].as_str(), Some(&*head));
    let passed = narrows.down.passed();
    assert!(passed < 30_000, "{passed} bytes for one small commit");
}

#[test]
fn a_clone_that_was_killed_fetches_nothing_twice() {
    let rig = Rig::new();
    rig.push_etude();
    let narrows = Narrows::before(rig.server.host());
    let url = narrows.url("alice/etude");
    rig.user.clone_of(&url, "at-once");
    let whole = narrows.down.passed();
    narrows.down.allow(250_000);
    let mut child = rig.user.command(&["clone", &url, "cloned"]).stderr(Stdio::null()).spawn().unwrap();
    narrows.wait_stalled();
    wait_until("what passed is written", || {
        let pack = rig.user.path(".cloned.reprise-clone/.muse/incoming/pack");
        std::fs::metadata(pack).is_ok_and(|pack| pack.len() > 200_000)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    narrows.down.passed();
    narrows.down.allow(u64::MAX);
    // The branches moved on meanwhile: the interrupted pack is ended first, the rest comes after.
    let mut original = muse_directory::read(&rig.user.path("original"));
    original.set_ticks(9_000);
    let head = original.commit("main", "later", &[("later.txt", Some(b"later"))]);
    muse_directory::write(&original, &rig.user.path("original"));
    rig.user.json(&["push", "original", &rig.url, "main"]);
    let cloned = rig.user.clone_of(&url, "cloned");
    assert_eq!(muse_directory::read(&cloned).head("main"), head);
    let passed = narrows.down.passed();
    assert!(passed < whole - 200_000 + 30_000, "{passed} bytes of {whole} came again");
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_command_that_is_told_to_stop_ends_at_once_and_says_how_to_go_on() {
    let rig = Rig::new();
    rig.push_etude();
    let narrows = Narrows::before(rig.server.host());
    let url = narrows.url("alice/etude");
    for signal in [Signal::INT, Signal::TERM] {
        narrows.down.allow(100_000);
        let child = rig.user.command(&["clone", &url, "cloned"]).stderr(Stdio::piped()).spawn().unwrap();
        narrows.wait_stalled();
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("interrupted") && said.contains("the same command goes on"), "{said}");
        assert!(!rig.user.path("cloned").exists());
    }
    narrows.down.allow(u64::MAX);
    rig.user.clone_of(&url, "cloned");
}

#[test]
fn a_pull_that_is_killed_and_repeated_ends_well() {
    let rig = Rig::new();
    let original = muse_directory::read(&rig.push_etude());
    let narrows = Narrows::before(rig.server.host());
    let url = narrows.url("alice/etude");
    // A repository that stops at the root of the history.
    let root = original.commits.keys().find(|id| original.parents(id).is_empty()).unwrap().clone();
    let mut behind = original.clone();
    behind.heads = [("main".to_owned(), root.clone())].into();
    behind.tracking.clear();
    behind.branch = "main".to_owned();
    behind.remote("origin", &url, None);
    let tree_at_root = behind.tree(&root);
    behind.commits.retain(|id, _| *id == root);
    let snapshot = behind.commits[&root].text("snapshot_id").to_owned();
    behind.snapshots.retain(|id, _| *id == snapshot);
    behind.objects.retain(|id, _| tree_at_root.values().any(|object| object == id));
    for (number, bytes) in [200, 50_000, 320_000].into_iter().enumerate() {
        let name = format!("behind-{number}");
        muse_directory::write(&behind, &rig.user.path(&name));
        narrows.down.allow(bytes);
        let child = rig.user.command(&["pull", &name]).stderr(Stdio::null()).spawn().unwrap();
        narrows.wait_stalled();
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
        end_of(child);
        rig.user.json(&["verify-clone", &name]);
        assert_eq!(muse_directory::read(&rig.user.path(&name)).heads, behind.heads);
        narrows.down.allow(u64::MAX);
        rig.user.json(&["pull", &name]);
        rig.user.check_whole(&name);
        let pulled = muse_directory::read(&rig.user.path(&name));
        assert_eq!(pulled.head("main"), original.head("main"));
        assert_eq!(working_tree(&rig.user.path(&name)), tree(&original, original.head("main")));
    }
}

#[test]
fn a_push_that_is_killed_moves_no_branch_and_is_repeated() {
    let rig = Rig::new();
    let (dir, _) = reprise_tests::fixtures::etude_muse_directory();
    std::fs::rename(dir.path(), rig.user.path("original")).unwrap();
    let narrows = Narrows::before(rig.server.host());
    let url = narrows.url("alice/etude");
    // After the refs, and after the answer to filter-objects.
    for bytes in [0, 250] {
        narrows.down.allow(bytes);
        let child = rig.user.command(&["push", "original", &url, "main"]).stderr(Stdio::null()).spawn().unwrap();
        narrows.wait_stalled();
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
        end_of(child);
        assert!(reprise_tests::client::ls_remote(&rig.url).unwrap().is_empty());
    }
    narrows.down.allow(u64::MAX);
    for branch in BRANCHES {
        rig.user.json(&["push", "original", &url, branch]);
    }
    rig.user.check_whole("original");
    rig.user.clone_of(&rig.url, "cloned");
}

#[test]
fn a_push_that_was_killed_sends_nothing_twice() {
    let rig = Rig::new();
    rig.push_etude();
    for name in ["alice/first", "alice/other"] {
        rig.create(name);
    }
    let narrows = Narrows::before(rig.server.host());
    rig.user.json(&["push", "original", &narrows.url("alice/first"), "main"]);
    let whole = narrows.up.passed();
    assert!(whole > 300_000, "{whole}");
    // The last request, which moves the branch, does not quite arrive.
    let url = narrows.url("alice/other");
    narrows.up.allow(whole - 60);
    let mut child = rig.user.command(&["push", "original", &url, "main"]).stderr(Stdio::null()).spawn().unwrap();
    narrows.wait_stalled();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reprise_tests::client::ls_remote(&rig.server.url("alice/other")).unwrap().is_empty());
    narrows.up.passed();
    narrows.up.allow(u64::MAX);
    rig.user.json(&["push", "original", &url, "main"]);
    let passed = narrows.up.passed();
    assert!(passed < 60_000, "{passed} bytes of {whole} were sent again");
    assert!(!rig.user.path("original/.muse/incoming").exists());
    rig.user.clone_of(&url, "cloned");
}
