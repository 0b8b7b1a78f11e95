//! Refs in a repository: files below `refs/heads` and `remotes/<remote>`, one id each; a slash in a name is a folder.
//!
//! Invariants: a name that is read or written passes the engine's grammar for branches; writing one replaces it at once.

use std::{collections::BTreeMap, path::Path};

use reprise_engine::{id::ObjectId, object::names};

use super::{ClientError, files, files::Found};

/// One ref file, as it stands there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefFile {
    /// Its name below the directory.
    pub name: String,
    /// What it says; the text of the fault if that is no ref.
    pub target: Result<Target, String>,
}

/// What a ref says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A commit.
    Commit(ObjectId),
    /// Nothing yet: `muse init` leaves an empty file.
    Unborn,
}

/// All refs below `dir`, by name, good ones and others.
pub fn list(dir: &Path) -> Result<Vec<RefFile>, ClientError> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for name in files::names(&dir.join(&folder))? {
            if name.starts_with(files::UNFINISHED) {
                continue;
            }
            let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            match files::look(&dir.join(&name))? {
                Found::Directory if folders.len() < FOLDERS_MAX => folders.push(name),
                Found::Nothing => {}
                Found::File(_) => found.push(RefFile { target: read_file(&dir.join(&name), &name)?, name }),
                _ => found.push(RefFile { target: Err("it is no file".to_owned()), name }),
            }
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The commits that the refs below `dir` name, by name.
///
/// Errors: `Refused`, naming the ref that is none.
pub fn read_all(dir: &Path) -> Result<BTreeMap<String, ObjectId>, ClientError> {
    let mut found = BTreeMap::new();
    for RefFile { name, target } in list(dir)? {
        match target {
            Ok(Target::Commit(id)) => drop(found.insert(name, id)),
            Ok(Target::Unborn) => {}
            Err(fault) => return Err(ClientError::Refused(format!("{}: {fault}", dir.join(name).display()))),
        }
    }
    Ok(found)
}

/// Writes one.
pub fn write(dir: &Path, name: &str, id: ObjectId) -> Result<(), ClientError> {
    names::check_ref(name).map_err(|error| ClientError::Refused(error.to_string()))?;
    files::write(&dir.join(name), id.to_string().as_bytes())
}

fn read_file(path: &Path, name: &str) -> Result<Result<Target, String>, ClientError> {
    if let Err(error) = names::check_ref(name) {
        return Ok(Err(error.to_string()));
    }
    let bytes = match files::read(path, REF_FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(ClientError::Refused(fault)) => return Ok(Err(fault)),
        Err(error) => return Err(error),
    };
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    if text.is_empty() {
        return Ok(Ok(Target::Unborn));
    }
    let id = std::str::from_utf8(text).ok().filter(|text| text.len() == 64).and_then(|text| text.parse().ok());
    Ok(id.map(Target::Commit).ok_or_else(|| "it holds no commit id".to_owned()))
}

/// Longest file that may be a ref: an id and a newline.
const REF_FILE_BYTES_MAX: u64 = 65;
/// Folders that wait to be read; more is no repository.
const FOLDERS_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn refs_read_back_by_name_and_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (ObjectId([1; 32]), ObjectId([2; 32]));
        write(dir.path(), "main", one).unwrap();
        write(dir.path(), "feature/x", two).unwrap();
        files::write(&dir.path().join("unborn"), b"").unwrap();
        let expected = BTreeMap::from([("main".to_owned(), one), ("feature/x".to_owned(), two)]);
        assert_eq!(read_all(dir.path()).unwrap(), expected);
        assert!(write(dir.path(), "../main", one).is_err());
    }

    #[test]
    fn what_is_no_ref_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("short", &[b'a'; 63][..]), ("long", &[b'a'; 66]), ("text", &[b'g'; 64])] {
            files::write(&dir.path().join(name), bytes).unwrap();
        }
        std::os::unix::fs::symlink("text", dir.path().join("link")).unwrap();
        let listed = list(dir.path()).unwrap();
        assert!(listed.iter().all(|one| one.target.is_err()), "{listed:?}");
        assert_eq!(listed.len(), 4);
    }
}
