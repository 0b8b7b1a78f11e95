//! A hub, a user's directory, and our commands in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use reprise_tests::{
    client::{Repository, Value, muse_directory},
    fixtures,
    server_process::{DataDir, ServerProcess, binary},
};
use serde_json::Value as Json;

pub const BRANCHES: [&str; 3] = ["main", "variation", "feature/long-name"];

/// A hub with one empty repository, and a user who may write to it.
pub struct Rig {
    pub server: ServerProcess,
    pub user: User,
    pub url: String,
    pub data: DataDir,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(&[], &[])
    }

    /// With these arguments of `serve` and of `repo create`.
    pub fn with(serve: &[&str], more: &[&str]) -> Rig {
        Rig::on(DataDir::new(), serve, more)
    }

    /// On this directory.
    pub fn on(data: DataDir, serve: &[&str], more: &[&str]) -> Rig {
        let server = data.serve_with(serve);
        server.wait_ready();
        data.create_repo("alice/etude", more);
        let user = User::new(&data.token("alice"));
        let url = server.url("alice/etude");
        Rig { server, user, url, data }
    }

    /// Another empty repository.
    pub fn create(&self, name: &str) {
        self.data.create_repo(name, &[]);
    }

    /// The real client's repository, pushed by ours; where it is.
    pub fn push_etude(&self) -> PathBuf {
        let (dir, _) = fixtures::etude_muse_directory();
        let root = self.user.path("original");
        fs::rename(dir.path(), &root).unwrap();
        for branch in BRANCHES {
            self.user.json(&["push", "original", &self.url, branch]);
        }
        root
    }
}

/// A directory of a user, and his token.
pub struct User {
    dir: tempfile::TempDir,
    token: String,
    /// What he calls the endpoint of the hub's bucket.
    pub bucket: Option<String>,
}

impl User {
    pub fn new(token: &str) -> User {
        User { dir: tempfile::tempdir().unwrap(), token: token.to_owned(), bucket: None }
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("reprise"));
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("MUSE_TOKEN", &self.token).env("HOME", self.dir.path());
        command.envs(self.bucket.iter().map(|endpoint| ("REPRISE_BUCKET_ENDPOINT", endpoint)));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Panics unless the command succeeds with one JSON value.
    pub fn json(&self, arguments: &[&str]) -> Json {
        let output = self.run(&[arguments, &["--json"]].concat());
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {}\n{stdout}\n{stderr}", output.status);
        assert!(!stderr.contains(&self.token) && !stdout.contains(&self.token), "a token was shown");
        serde_json::from_str(stdout.trim()).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{stdout}"))
    }

    /// Panics unless the command fails with exit code 3; what it said.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {said}");
        said
    }

    /// Names in the directory.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub fn clone_of(&self, url: &str, name: &str) -> PathBuf {
        self.json(&["clone", url, name]);
        self.check_whole(name);
        self.path(name)
    }

    /// `verify-clone` finds nothing, and no command is in the middle of anything.
    pub fn check_whole(&self, name: &str) {
        self.json(&["verify-clone", name]);
        assert!(!self.path(name).join(".muse/incoming").exists(), "{name} holds left-overs");
    }
}

/// The working tree below `root`: all files but `.muse`.
pub fn working_tree(root: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut files = muse_directory::files(root);
    files.retain(|name, _| !name.starts_with(".muse/"));
    files
}

/// The files that a commit's tree has.
pub fn tree(repository: &Repository, head: &str) -> std::collections::BTreeMap<String, Vec<u8>> {
    repository.materialise(head).into_iter().map(|(path, content)| (path, content.to_vec())).collect()
}

/// Maps by key: canonical JSON keeps no order of its own.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            entries.sort_by(|(a, _), (b, _)| a.as_str().cmp(&b.as_str()));
            Value::Map(entries)
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}
