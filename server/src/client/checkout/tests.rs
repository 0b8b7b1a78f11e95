//! What a checkout touches, and what it never does.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{fs, os::unix::fs::symlink};

use reprise_engine::object::ids;

use super::*;

struct Rig {
    dir: tempfile::TempDir,
    repository: Repository,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::at(&dir.path().join("repo"));
        files::make_dir(&repository.muse("")).unwrap();
        Rig { dir, repository }
    }

    fn tree(&self, entries: &[(&str, &str)]) -> Tree {
        let put = |(path, text): &(&str, &str)| {
            let id = ids::blob_id(text.as_bytes());
            files::write(&self.repository.path(Kind::Blob, id), text.as_bytes()).unwrap();
            ((*path).to_owned(), id)
        };
        entries.iter().map(put).collect()
    }

    fn go(&self, old: &Tree, new: &Tree) -> Result<(), ClientError> {
        let plan = Checkout::plan(&self.repository, old, new)?;
        plan.apply(&self.repository, &Counter::new(), &CancellationToken::new())
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.repository.root().join(path)).ok()
    }

    fn put(&self, path: &str, text: &str) {
        files::write(&self.repository.root().join(path), text.as_bytes()).unwrap();
    }
}

#[test]
fn files_come_change_and_go_and_empty_folders_with_them() {
    let rig = Rig::new();
    let old = rig.tree(&[("a", "1"), ("d/b", "2"), ("d/c", "3"), ("empty", "")]);
    let new = rig.tree(&[("a", "1!"), ("e/f/g", "4"), ("empty", "")]);
    rig.go(&Tree::new(), &old).unwrap();
    rig.put("mine", "untracked");
    rig.go(&old, &new).unwrap();
    let texts = ["a", "e/f/g", "mine", "empty"].map(|path| rig.text(path).unwrap());
    assert_eq!(texts, ["1!", "4", "untracked", ""]);
    assert_eq!(files::look(&rig.repository.root().join("d")).unwrap(), Found::Nothing);
}

#[test]
fn a_changed_file_is_refused_and_nothing_is_touched() {
    let rig = Rig::new();
    let old = rig.tree(&[("a", "1"), ("b", "2"), ("c", "3")]);
    rig.go(&Tree::new(), &old).unwrap();
    for (path, new) in
        [("a", rig.tree(&[("a", "new"), ("b", "2!"), ("c", "3")])), ("a", rig.tree(&[("b", "2!"), ("c", "3")]))]
    {
        rig.put(path, "mine");
        let error = rig.go(&old, &new).unwrap_err().to_string();
        assert!(error.contains("local changes") && error.contains(": a ("), "{error}");
        assert_eq!([rig.text("a"), rig.text("b")].map(Option::unwrap), ["mine", "2"]);
    }
    // What does not differ between the two may be changed.
    rig.go(&old, &rig.tree(&[("a", "1"), ("b", "2!"), ("c", "3")])).unwrap();
    assert_eq!([rig.text("a"), rig.text("b")].map(Option::unwrap), ["mine", "2!"]);
}

#[test]
fn an_untracked_file_is_not_written_over() {
    let rig = Rig::new();
    rig.put("a", "mine");
    assert!(rig.go(&Tree::new(), &rig.tree(&[("a", "theirs")])).is_err());
    assert!(rig.go(&Tree::new(), &rig.tree(&[("a/b", "theirs")])).is_err());
    assert_eq!(rig.text("a").unwrap(), "mine");
}

#[test]
fn an_interrupted_checkout_can_be_repeated() {
    let rig = Rig::new();
    let (old, new) = (rig.tree(&[("a", "1"), ("b", "2"), ("c", "3")]), rig.tree(&[("a", "1!"), ("b", "2!")]));
    rig.go(&Tree::new(), &old).unwrap();
    rig.put("a", "1!");
    fs::remove_file(rig.repository.root().join("c")).unwrap();
    rig.go(&old, &new).unwrap();
    assert_eq!([rig.text("a"), rig.text("b")].map(Option::unwrap), ["1!", "2!"]);
}

#[test]
fn a_file_becomes_a_folder_and_back() {
    let rig = Rig::new();
    let (file, folder) = (rig.tree(&[("a", "1")]), rig.tree(&[("a/b/c", "2")]));
    rig.go(&Tree::new(), &file).unwrap();
    rig.go(&file, &folder).unwrap();
    assert_eq!(rig.text("a/b/c").unwrap(), "2");
    rig.put("a/b/mine", "untracked");
    assert!(rig.go(&folder, &file).is_err());
    fs::remove_file(rig.repository.root().join("a/b/mine")).unwrap();
    rig.go(&folder, &file).unwrap();
    assert_eq!(rig.text("a").unwrap(), "1");
}

#[test]
fn nothing_is_written_or_removed_through_a_link() {
    let rig = Rig::new();
    let outside = rig.dir.path().join("outside");
    files::write(&outside.join("b"), b"2").unwrap();
    symlink(&outside, rig.repository.root().join("link")).unwrap();
    symlink(outside.join("b"), rig.repository.root().join("b")).unwrap();
    let tree = rig.tree(&[("link/new", "1")]);
    assert!(rig.go(&Tree::new(), &tree).is_err());
    assert!(rig.go(&rig.tree(&[("link/b", "2")]), &Tree::new()).is_err());
    assert!(rig.go(&rig.tree(&[("b", "2")]), &rig.tree(&[("b", "3")])).is_err());
    // Even if the link appeared after the plan was made.
    assert!(write(&rig.repository, "link/new", tree["link/new"]).is_err());
    assert_eq!(files::names(&outside).unwrap(), ["b"]);
    assert_eq!(files::read(&outside.join("b"), 9).unwrap(), b"2");
}

#[test]
fn a_path_that_leads_elsewhere_is_refused() {
    let rig = Rig::new();
    let id = rig.tree(&[("x", "evil")])["x"];
    for path in ["../x", "/tmp/x", ".muse/HEAD", ".MUSE/config.toml", "a/../../x"] {
        assert!(rig.go(&Tree::new(), &Tree::from([(path.to_owned(), id)])).is_err(), "{path}");
    }
    assert_eq!(files::names(rig.dir.path()).unwrap(), ["repo"]);
}

#[test]
fn a_damaged_blob_is_not_checked_out() {
    let rig = Rig::new();
    let tree = rig.tree(&[("a", "1")]);
    files::write(&rig.repository.path(Kind::Blob, tree["a"]), b"2").unwrap();
    assert!(rig.go(&Tree::new(), &tree).unwrap_err().to_string().contains("damaged"));
    assert_eq!(rig.text("a"), None);
}
