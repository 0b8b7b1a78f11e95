//! The real binary: started on a directory, killed, stopped, asked through its command line.
//!
//! Invariants: a server belongs to exactly one [`ServerProcess`] and dies with it; readiness is read from what it prints
//! and from `/health`, never slept for; everything it printed is shown when a test fails on it.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::client::{Remote, Request};

/// Longest time to the listening line, a debug build on a busy machine included.
const START_MAX: Duration = Duration::from_secs(30);
/// Between two looks at what was printed.
const PRINTED_PACE: Duration = Duration::from_millis(2);
/// Longest graceful shutdown.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A data directory that is removed at the end, and the ways to run `reprise` on it.
pub struct DataDir {
    dir: tempfile::TempDir,
    binary: PathBuf,
    environment: Vec<(String, String)>,
}

impl Default for DataDir {
    fn default() -> DataDir {
        DataDir::new()
    }
}

impl DataDir {
    /// An empty directory for the ordinary binary.
    pub fn new() -> DataDir {
        DataDir::with_binary(binary("reprise"))
    }

    /// An empty directory for another binary with the same command line.
    pub fn with_binary(binary: PathBuf) -> DataDir {
        DataDir { dir: tempfile::tempdir().expect("a temporary directory"), binary, environment: Vec::new() }
    }

    /// Sets an environment variable for all that is started here.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> DataDir {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The directory handed to `--data`.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// `reprise serve` on a free loopback port.
    pub fn serve(&self) -> ServerProcess {
        self.serve_with(&[])
    }

    /// The same with more arguments.
    pub fn serve_with(&self, arguments: &[&str]) -> ServerProcess {
        self.try_serve_with(arguments).unwrap_or_else(|printed| panic!("the server named no address:\n{printed}"))
    }

    /// The same, for a server whose start may fail: what it printed then.
    pub fn try_serve_with(&self, arguments: &[&str]) -> Result<ServerProcess, String> {
        let mut command = self.command();
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments);
        ServerProcess::try_start(command)
    }

    /// `reprise serve` on a free loopback port, which may well refuse to start.
    pub fn spawn(&self) -> Child {
        let mut command = self.command();
        command.args(["serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("reprise starts")
    }

    /// Starts `reprise serve` and kills it after `life`, wherever it is then: opening, recovering or serving.
    pub fn serve_briefly(&self, life: Duration) {
        let mut child = self.spawn();
        // The length of its life: nothing is waited for but the time itself.
        thread::sleep(life);
        drop(child.kill());
        child.wait().expect("its end");
    }

    /// Runs one command and kills it after `life`, unless it has ended by then.
    pub fn run_briefly(&self, arguments: &[&str], life: Duration) {
        let mut command = self.command();
        let mut child =
            command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("reprise starts");
        // The length of its life: nothing is waited for but the time itself.
        thread::sleep(life);
        drop(child.kill());
        child.wait().expect("its end");
    }

    /// Runs one command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().expect("reprise runs")
    }

    /// Runs one command with `--json`; panics unless it succeeds with one JSON value.
    pub fn json(&self, arguments: &[&str]) -> Json {
        let output = self.command().args(arguments).arg("--json").output().expect("reprise runs");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {}\n{stdout}\n{stderr}", output.status);
        serde_json::from_str(stdout.trim()).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{stdout}\n{stderr}"))
    }

    /// Runs one command with `--json` that prints one value per line.
    pub fn json_lines(&self, arguments: &[&str]) -> Vec<Json> {
        let output = self.command().args(arguments).arg("--json").output().expect("reprise runs");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {}\n{stdout}\n{stderr}", output.status);
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {line}"));
        stdout.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
    }

    /// Creates a repository.
    pub fn create_repo(&self, name: &str, more: &[&str]) -> Json {
        self.json(&[&["repo", "create", name], more].concat())
    }

    /// Issues a token with write scope.
    pub fn token(&self, owner: &str) -> String {
        self.token_with(owner, &["--scope", "write"]).0
    }

    /// Issues a token; its secret and all fields.
    pub fn token_with(&self, owner: &str, more: &[&str]) -> (String, Json) {
        let json = self.json(&[&["token", "create", "--owner", owner], more].concat());
        let secret = json["token"].as_str().unwrap_or_else(|| panic!("no token in {json}"));
        (secret.to_owned(), json)
    }

    fn operator(&self) -> String {
        let text = fs::read(self.path().join("server.json")).expect("a running server");
        let json: Json = serde_json::from_slice(&text).expect("JSON");
        json["secret"].as_str().expect("a secret").to_owned()
    }

    /// What the operator of `server`, which runs here, is told under `/api/v1`: one value per line.
    pub fn asked(&self, server: &ServerProcess, path: &str) -> Vec<Json> {
        let answer = Request::get(server.url(&format!("api/v1/{path}")), Some(&self.operator())).send();
        let answer = answer.expect("an answer");
        assert_eq!(answer.code, 200, "{path}: {}", answer.text());
        answer.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--data").arg(self.path()).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// The binary `name`, next to the test's own executable; `bash tests/run` (or `cargo build`) puts it there.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the test's own path");
    let dirs = own.ancestors().skip(1).take(3);
    let found = dirs.map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no {name} near {}: run `cargo build -p reprise-server` first", own.display()))
}

/// A running server.
pub struct ServerProcess {
    child: Child,
    host: String,
    printed: Arc<Mutex<String>>,
}

impl ServerProcess {
    fn try_start(mut command: Command) -> Result<ServerProcess, String> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("reprise starts");
        let printed = Arc::new(Mutex::new(String::new()));
        let (found, listening) = mpsc::channel();
        collect(child.stdout.take().expect("piped"), &printed, &found);
        collect(child.stderr.take().expect("piped"), &printed, &found);
        drop(found);
        let server = |child, host| ServerProcess { child, host, printed: Arc::clone(&printed) };
        match listening.recv_timeout(START_MAX) {
            Ok(host) => Ok(server(child, host)),
            // It ends with its handle.
            Err(error) => Err(format!("{error}: {}", server(child, String::new()).printed())),
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The URL of a repository, or of anything else below the root.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.host)
    }

    /// A repository as a remote.
    pub fn remote(&self, repo: &str, token: Option<&str>) -> Remote {
        Remote { url: self.url(repo), token: token.map(str::to_owned) }
    }

    /// All that it printed so far, both streams.
    pub fn printed(&self) -> String {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has printed `text`, since lines come by threads of their own; all that it printed then.
    pub fn until_printed(&self, text: &str) -> String {
        let deadline = Instant::now() + START_MAX;
        loop {
            let printed = self.printed();
            if printed.contains(text) {
                return printed;
            }
            assert!(Instant::now() < deadline, "{text:?} was not printed:\n{printed}");
            thread::sleep(PRINTED_PACE);
        }
    }

    /// Waits until `/ready` answers 2xx, asking again while it says 503.
    pub fn wait_ready(&self) {
        let deadline = Instant::now() + START_MAX;
        loop {
            let answer = Request::get(self.url("ready"), None).send();
            match &answer {
                Ok(response) if response.code == 200 => return,
                _ if Instant::now() > deadline => panic!("not ready: {answer:?}\n{}", self.printed()),
                // Not a wait for an effect but the pace of a poll that has a deadline.
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Highest resident size so far, KiB (VmHWM).
    pub fn peak_rss_kib(&self) -> u64 {
        peak_rss_kib(self.pid())
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(mut self) {
        self.kill_now();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("a living process");
    }

    /// SIGTERM, and waits for its end; panics unless it exits with 0 in time.
    pub fn stop(self) {
        self.signal(Signal::TERM);
        self.wait_end();
    }

    /// Waits for its end; panics unless it exits with 0 in time.
    pub fn wait_end(mut self) {
        let deadline = Instant::now() + STOP_MAX;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                assert!(status.success(), "stopped with {status}:\n{}", self.printed());
                return;
            }
            assert!(Instant::now() < deadline, "no end:\n{}", self.printed());
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn kill_now(&mut self) {
        // Already gone is as good as killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill_now();
        if thread::panicking() {
            use std::io::Write;
            drop(writeln!(std::io::stderr(), "--- the server printed:\n{}", self.printed()));
        }
    }
}

/// VmHWM of a process, KiB.
pub fn peak_rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).expect("/proc status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

fn collect(stream: impl Read + Send + 'static, printed: &Arc<Mutex<String>>, found: &mpsc::Sender<String>) {
    let (printed, found) = (Arc::clone(printed), found.clone());
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Some(host) = listening(&line) {
                // Only the first line counts; later ones find the receiver gone.
                drop(found.send(host));
            }
            let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
            printed.push_str(&line);
            printed.push('\n');
        }
    });
}

fn listening(line: &str) -> Option<String> {
    let rest = &line[line.find("127.0.0.1:")?..];
    let port: String = rest["127.0.0.1:".len()..].chars().take_while(char::is_ascii_digit).collect();
    (port.parse::<u16>().ok()? != 0).then(|| format!("127.0.0.1:{port}"))
}
