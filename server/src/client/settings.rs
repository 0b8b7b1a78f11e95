//! The stock client's settings: remotes in `.muse/config.toml`, tokens in `~/.muse/identity.toml`.
//!
//! Invariants: reads the part of TOML that the client writes (tables, texts) and steps over the rest; a token is never part of
//! an error. Never writes to a configuration that somebody else made.

use std::{collections::BTreeMap, path::Path};

use super::{ClientError, Repository, address::Address, files, files::Found};
use crate::hub::Secret;

/// A remote as configured.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RemoteSetting {
    /// Its URL.
    pub url: Option<String>,
    /// The branch that has it as upstream.
    pub branch: Option<String>,
}

/// The remotes of a repository by name.
pub fn remotes(repository: &Repository) -> Result<BTreeMap<String, RemoteSetting>, ClientError> {
    let mut found: BTreeMap<String, RemoteSetting> = BTreeMap::new();
    for entry in read(&repository.muse("config.toml"))? {
        let [remotes, name] = entry.table.as_slice() else { continue };
        if remotes != "remotes" {
            continue;
        }
        let remote = found.entry(name.clone()).or_default();
        match entry.key.as_str() {
            "url" => remote.url = Some(entry.value),
            "branch" => remote.branch = Some(entry.value),
            _ => {}
        }
    }
    Ok(found)
}

/// The configuration of a new clone, as the client writes it.
pub fn of_clone(address: &Address, branch: &str) -> String {
    format!("[user]\n\n[remotes.origin]\nurl = \"{address}\"\nbranch = \"{branch}\"\n")
}

/// The token that `muse auth login` stored for a hub in `home`, if it did.
pub fn stored_token(home: &Path, address: &Address) -> Result<Option<Secret>, ClientError> {
    let entries = read(&home.join(".muse").join("identity.toml"))?;
    let token = entries.into_iter().find(|entry| entry.table == [address.authority()] && entry.key == "token");
    Ok(token.map(|entry| entry.value.trim().to_owned()).filter(|token| !token.is_empty()).map(Secret::new))
}

/// The token in a file: its first line.
pub fn token_in(path: &Path) -> Result<Secret, ClientError> {
    let bytes = files::read(path, SETTINGS_BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes).ok().and_then(|text| text.lines().next()).map(str::trim);
    let text = text.filter(|text| !text.is_empty());
    text.map(Secret::new).ok_or_else(|| ClientError::Refused(format!("{} holds no token", path.display())))
}

/// One `key = "text"` and the table it stands in.
#[derive(PartialEq, Eq, Debug)]
struct Entry {
    table: Vec<String>,
    key: String,
    value: String,
}

fn read(path: &Path) -> Result<Vec<Entry>, ClientError> {
    if files::look(path)? == Found::Nothing {
        return Ok(Vec::new());
    }
    let bytes = files::read(path, SETTINGS_BYTES_MAX)?;
    let text =
        String::from_utf8(bytes).map_err(|_| ClientError::Refused(format!("{} is not UTF-8", path.display())))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Vec<Entry> {
    let mut table = Vec::new();
    let mut entries = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix('[') {
            // What is no table of texts (an array of tables, a broken line) has no entries for us.
            table = key_path(rest).unwrap_or_default();
        } else if let Some(entry) = entry(&table, line) {
            entries.push(entry);
        }
    }
    entries
}

fn entry(table: &[String], line: &str) -> Option<Entry> {
    let (key, value) = line.split_once('=')?;
    let (value, _) = quoted(value.trim_start())?;
    Some(Entry { table: table.to_vec(), key: key.trim().to_owned(), value })
}

/// The parts of `a."b.c"]`.
fn key_path(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let (part, after) = quoted(rest).or_else(|| {
            let end = rest.find(['.', ']'])?;
            Some((rest[..end].trim().to_owned(), &rest[end..]))
        })?;
        parts.push(part);
        rest = after.trim_start();
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None => return rest.starts_with(']').then_some(parts),
        }
    }
}

/// A quoted text at the beginning of `text`, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    if let Some(literal) = text.strip_prefix('\'') {
        let end = literal.find('\'')?;
        return Some((literal[..end].to_owned(), &literal[end + 1..]));
    }
    let rest = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &rest[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                plain @ ('"' | '\\') => plain,
                _ => return None,
            }),
            plain => value.push(plain),
        }
    }
    None
}

/// Longest settings file.
const SETTINGS_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn remotes_are_found_among_other_settings() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::at(dir.path());
        let text = "# c\n[user]\nname = \"A \\\"B\\\"\"\n\n[remotes]\n\n[remotes.origin]\nurl = \"http://h/a/b\"\nbranch = \"main\"\n\
                    [remotes.\"other.one\"]\nurl = 'http://h/c/d'\n[[x]]\nurl = \"no\"\n[domain]\nn = 3\n";
        files::write(&repository.muse("config.toml"), text.as_bytes()).unwrap();
        let found = remotes(&repository).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["origin", "other.one"]);
        assert_eq!(found["origin"].branch.as_deref(), Some("main"));
        assert_eq!(found["other.one"].url.as_deref(), Some("http://h/c/d"));
    }

    #[test]
    fn a_clones_settings_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::at(dir.path());
        let address: Address = "http://127.0.0.1:1/a/b".parse().unwrap();
        files::write(&repository.muse("config.toml"), of_clone(&address, "main").as_bytes()).unwrap();
        let expected = RemoteSetting { url: Some(address.to_string()), branch: Some("main".to_owned()) };
        assert_eq!(remotes(&repository).unwrap(), BTreeMap::from([("origin".to_owned(), expected)]));
    }

    #[test]
    fn a_stored_token_is_that_of_its_hub_alone() {
        let home = tempfile::tempdir().unwrap();
        let text = "[\"127.0.0.1:1\"]\ntype = \"human\"\ntoken = \"one\"\n\n[\"127.0.0.1:12\"]\ntoken = \"two\"\n";
        files::write(&home.path().join(".muse/identity.toml"), text.as_bytes()).unwrap();
        let token = |url: &str| stored_token(home.path(), &url.parse().unwrap()).unwrap();
        assert_eq!(token("http://127.0.0.1:1/a/b").unwrap().expose(), "one");
        assert_eq!(token("http://127.0.0.1:12/a/b").unwrap().expose(), "two");
        assert!(token("http://localhost:1/a/b").is_none());
        files::write(&home.path().join("token"), b" three \n").unwrap();
        assert_eq!(token_in(&home.path().join("token")).unwrap().expose(), "three");
    }
}
