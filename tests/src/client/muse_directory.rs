//! A local repository as the `.muse` directory that the real client keeps (`fixtures/README.md`), written and read.
//!
//! Invariants: shares no code with the product's own reader and writer; reading panics on what is no repository, so that a
//! test never judges half of one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value as Json;

use super::{Remote, Repository, Value};

/// Writes `repository` below `root/.muse` and its checked-out branch into `root`.
pub fn write(repository: &Repository, root: &Path) {
    let muse = root.join(".muse");
    for (id, content) in &repository.objects {
        put(&muse.join("objects").join(&id[..2]).join(&id[2..]), content);
    }
    for (folder, records) in [("commits", &repository.commits), ("snapshots", &repository.snapshots)] {
        for (id, record) in records {
            let text = serde_json::to_string_pretty(&to_json(record)).expect("JSON") + "\n";
            put(&muse.join(folder).join(format!("{id}.json")), text.as_bytes());
        }
    }
    for (branch, head) in &repository.heads {
        put(&muse.join("refs/heads").join(branch), head.as_bytes());
    }
    for ((remote, branch), head) in &repository.tracking {
        put(&muse.join("remotes").join(remote).join(branch), head.as_bytes());
    }
    let mut config = String::from("[user]\nname = \"\"\nemail = \"\"\n\n");
    for (name, remote) in &repository.remotes {
        config.push_str(&format!("[remotes.{name}]\nurl = \"{}\"\nbranch = \"{}\"\n\n", remote.url, repository.branch));
    }
    put(&muse.join("config.toml"), config.as_bytes());
    put(&muse.join("HEAD"), format!("ref: refs/heads/{}\n", repository.branch).as_bytes());
    let identity = serde_json::json!({"repo_id": repository.repo_id, "schema_version": "0.1.5",
        "created_at": "2026-03-16T12:00:00+00:00", "domain": repository.domain});
    put(&muse.join("repo.json"), identity.to_string().as_bytes());
    if let Some(head) = repository.heads.get(&repository.branch) {
        for (path, content) in repository.materialise(head) {
            put(&root.join(path), &content);
        }
    }
}

/// Reads the repository below `root/.muse`; tokens are nowhere in it.
pub fn read(root: &Path) -> Repository {
    let muse = root.join(".muse");
    let mut repository = Repository::init();
    for (name, content) in files(&muse.join("objects")) {
        repository.objects.insert(name.replace('/', ""), content.into());
    }
    for (name, content) in files(&muse.join("commits")) {
        repository.commits.insert(name.trim_end_matches(".json").to_owned(), record(&content));
    }
    for (name, content) in files(&muse.join("snapshots")) {
        repository.snapshots.insert(name.trim_end_matches(".json").to_owned(), record(&content));
    }
    let text = |content: Vec<u8>| String::from_utf8(content).expect("text");
    repository.heads = files(&muse.join("refs/heads")).into_iter().map(|(name, id)| (name, text(id))).collect();
    for (name, id) in files(&muse.join("remotes")) {
        let (remote, branch) = name.split_once('/').expect("remote/branch");
        repository.tracking.insert((remote.to_owned(), branch.to_owned()), text(id));
    }
    let head = fs::read_to_string(muse.join("HEAD")).expect("HEAD");
    head.trim_end().strip_prefix("ref: refs/heads/").expect("a branch").clone_into(&mut repository.branch);
    let identity: Json = serde_json::from_slice(&fs::read(muse.join("repo.json")).expect("repo.json")).expect("JSON");
    identity["repo_id"].as_str().expect("repo_id").clone_into(&mut repository.repo_id);
    identity["domain"].as_str().expect("domain").clone_into(&mut repository.domain);
    repository.remotes = remotes(&fs::read_to_string(muse.join("config.toml")).expect("config.toml"));
    repository
}

/// All regular files below `dir` by their names with slashes; empty without it.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = BTreeSet::from([String::new()]);
    while let Some(folder) = folders.pop_first() {
        let Ok(entries) = fs::read_dir(dir.join(&folder)) else { continue };
        for entry in entries.map(|entry| entry.expect("an entry")) {
            let name = format!("{folder}{}", entry.file_name().to_str().expect("UTF-8"));
            match entry.file_type().expect("a type").is_dir() {
                true => drop(folders.insert(format!("{name}/"))),
                false => drop(found.insert(name, fs::read(entry.path()).expect("a file"))),
            }
        }
    }
    found
}

fn put(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, content).expect("a file");
}

fn remotes(config: &str) -> BTreeMap<String, Remote> {
    let mut found = BTreeMap::new();
    let mut section = "";
    for line in config.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        if let (Some(name), Some(url)) = (section.strip_prefix("remotes."), line.strip_prefix("url = \"")) {
            let url = url.trim_end_matches('"').to_owned();
            found.insert(name.to_owned(), Remote { url, token: None });
        }
    }
    found
}

fn record(content: &[u8]) -> Value {
    from_json(&serde_json::from_slice(content).expect("a record"))
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(flag) => Json::Bool(*flag),
        Value::Int(number) => match i64::try_from(*number) {
            Ok(number) => number.into(),
            Err(_) => u64::try_from(*number).expect("an integer of JSON").into(),
        },
        Value::Float(number) => (*number).into(),
        Value::Str(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, value)| (key.as_str().expect("a str key").to_owned(), to_json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Bin(_) | Value::Ext(..) => panic!("JSON cannot carry {value:?}"),
    }
}

fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::Nil,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number.into()),
            (None, Some(number)) => Value::Int(number.into()),
            (None, None) => Value::Float(number.as_f64().expect("a float")),
        },
        Json::String(text) => Value::str(text.as_str()),
        Json::Array(items) => Value::Array(items.iter().map(from_json).collect()),
        Json::Object(entries) => Value::map(entries.iter().map(|(key, value)| (key.as_str(), from_json(value)))),
    }
}
