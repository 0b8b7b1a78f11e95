//! The one grammar for paths, branches, repository names.
//!
//! Invariants: what passes here can be written below a directory on any common file system without leaving it and
//! without touching the client's own `.muse` folder. Beyond that, nothing is refused that the client can make: no Unicode
//! normalisation, no rule against `.lock`, `~`, spaces or parts that start with a dot. Must never fold or mend a name.

use crate::{
    error::{Error, Result},
    limits::{PATH_BYTES_MAX, REF_BYTES_MAX},
};

/// Checks one path of a snapshot: relative, `/` between non-empty parts, none of them `.`, `..` or a form of `.muse`; no
/// control character, no backslash, at most [`PATH_BYTES_MAX`] bytes. `Invalid` shows the path and says why.
pub fn check_path(path: &str) -> Result<()> {
    refuse("path", path, path_fault(path))
}

/// Checks a branch name: the client's own rules (at most [`REF_BYTES_MAX`] bytes, no backslash, no `.` at either end, no
/// `..`, no `/` at either end, no `//`), and no control character, no part `.`, no form of `.muse`.
pub fn check_ref(name: &str) -> Result<()> {
    refuse("branch name", name, ref_fault(name))
}

/// Checks an owner (`^[a-z0-9][a-z0-9._-]{0,63}$`; upper case is refused, not folded).
pub fn check_owner(owner: &str) -> Result<()> {
    refuse("owner", owner, word_fault(owner))
}

/// Checks a slug; same grammar as an owner.
pub fn check_slug(slug: &str) -> Result<()> {
    refuse("repository name", slug, word_fault(slug))
}

fn refuse(what: &str, name: &str, fault: Option<String>) -> Result<()> {
    match fault {
        None => Ok(()),
        Some(fault) => Err(Error::invalid(format!("{what} '{}': {fault}", shown(name)))),
    }
}

fn path_fault(path: &str) -> Option<String> {
    if path.is_empty() {
        return Some("it is empty".to_owned());
    }
    if path.len() > PATH_BYTES_MAX {
        return Some(format!("{} bytes are over the limit of {PATH_BYTES_MAX}", path.len()));
    }
    if path.starts_with('/') || is_drive(path) {
        return Some("it is absolute".to_owned());
    }
    character_fault(path).or_else(|| path.split('/').find_map(part_fault))
}

fn ref_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("it is empty".to_owned());
    }
    if name.len() > REF_BYTES_MAX {
        return Some(format!("{} bytes are over the limit of {REF_BYTES_MAX}", name.len()));
    }
    if name.starts_with('.') || name.ends_with('.') {
        return Some("it starts or ends with '.'".to_owned());
    }
    if name.contains("..") {
        return Some("it contains '..'".to_owned());
    }
    character_fault(name).or_else(|| name.split('/').find_map(part_fault))
}

fn word_fault(word: &str) -> Option<String> {
    let starts = word.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let rest = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
    if starts && rest && word.len() <= WORD_BYTES_MAX {
        return None;
    }
    Some(format!("expected 1 to {WORD_BYTES_MAX} of a-z 0-9 . _ -, the first a letter or digit"))
}

fn character_fault(name: &str) -> Option<String> {
    let controls = if name.is_ascii() {
        name.bytes().any(|byte| byte.is_ascii_control())
    } else {
        name.chars().any(char::is_control)
    };
    if controls {
        return Some("it contains a control character".to_owned());
    }
    name.contains('\\').then(|| "it contains a backslash".to_owned())
}

fn part_fault(part: &str) -> Option<String> {
    if part.is_empty() {
        return Some("it has an empty part".to_owned());
    }
    // Almost every part ends here: only these beginnings can become `.`, `..` or `.muse` on some file system.
    let first = part.as_bytes()[0];
    if !matches!(first, b'.' | b'm' | b'M') && first.is_ascii() {
        return None;
    }
    if first == b'.' && part.bytes().all(|byte| matches!(byte, b'.' | b' ')) {
        return Some("a part of it is a form of '.' or '..'".to_owned());
    }
    is_muse(part).then(|| "a part of it is a form of '.muse', the client's own folder".to_owned())
}

/// True for `.muse` as a file system might see it: any case, with code points that HFS+ ignores, with trailing dots and
/// spaces or a stream name (NTFS), or as its short name `muse~1`.
fn is_muse(part: &str) -> bool {
    let folded: String = part.chars().filter(|c| !is_ignorable(*c)).map(fold).collect();
    let rest = folded.strip_prefix(".muse").or_else(|| {
        let number = folded.strip_prefix("muse~")?;
        let rest = number.trim_start_matches(|c: char| c.is_ascii_digit());
        (rest.len() < number.len()).then_some(rest)
    });
    rest.map(|rest| rest.trim_start_matches(['.', ' '])).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// U+017F (long s) folds to `s` on file systems that fold Unicode case; no other character folds into these letters.
fn fold(character: char) -> char {
    if character == '\u{17f}' { 's' } else { character.to_ascii_lowercase() }
}

fn is_ignorable(character: char) -> bool {
    matches!(character, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

/// `C:` and `C:/…` leave the tree on Windows; `a:b` is an ordinary file name elsewhere and stays allowed.
fn is_drive(path: &str) -> bool {
    let bytes = path.as_bytes();
    matches!(bytes, [letter, b':'] | [letter, b':', b'/', ..] if letter.is_ascii_alphabetic())
}

fn shown(name: &str) -> String {
    name.chars().take(120).flat_map(char::escape_debug).collect()
}

const WORD_BYTES_MAX: usize = 64;

/// Whether two branches cannot both be, since one is a folder of the other for a client that keeps them as files.
pub fn clash(one: &str, other: &str) -> bool {
    is_path_prefix(one, other) || is_path_prefix(other, one)
}

/// Whether `name` lies below `folder`.
pub(crate) fn is_path_prefix(folder: &str, name: &str) -> bool {
    name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_paths_pass() {
        for path in [
            "a",
            "a/b/c.txt",
            "ünï/日本.mid",
            ".museignore",
            ".museattributes",
            ".muse2/x",
            "muse/x",
            "muse~/x",
            "muse~x",
            "a b",
            "x/.hidden",
            "...a",
            "a:b.txt",
            "a..b",
            "x.lock",
            "-x",
            "e\u{301}",
            "moose",
            "Muse.txt",
            ". a",
        ] {
            assert!(check_path(path).is_ok(), "{path:?}");
        }
        assert!(check_path(&"a".repeat(PATH_BYTES_MAX)).is_ok());
    }

    #[test]
    fn hostile_paths_are_refused() {
        for path in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/..",
            "../a",
            "a/./b",
            "a/../../b",
            "...",
            "a/.. ",
            ". ",
            "a\\b",
            "..\\a",
            "a\0b",
            "a\nb",
            "a\r",
            "a\u{7f}",
            "a\u{85}b",
            "C:",
            "c:/x",
            ".muse",
            ".MUSE/config",
            "a/.Muse/x",
            ".muse.",
            ".muse ",
            ".muse. . /x",
            ".muse::$INDEX_ALLOCATION",
            ".muse.:x",
            "muse~1",
            "MUSE~12/x",
            "muse~1.",
            ".mu\u{200c}se",
            "\u{feff}.muse",
            ".muse\u{202e}",
            ".mu\u{17f}e",
            "a/\u{200d}.m\u{206f}USE .",
        ] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        assert!(check_path(&"a".repeat(PATH_BYTES_MAX + 1)).is_err_and(|error| error.to_string().contains("4096")));
    }

    #[test]
    fn branches_follow_the_clients_rules() {
        for name in ["main", "feat/x", "a/.x", "x.lock", "a b", "ünï", "@", "a~1", "-x", "a./b", &"b".repeat(255)] {
            assert!(check_ref(name).is_ok(), "{name:?}");
        }
        for name in [
            "",
            ".a",
            "a.",
            "a..b",
            "../evil",
            "/a",
            "a/",
            "a//b",
            "a\\b",
            "a\tb",
            "a\rb",
            "a\nb",
            "a\0",
            "a\u{1b}",
            "a/./b",
            ".muse",
            "a/.MUSE",
            "x/muse~1",
            &"b".repeat(256),
            &"ü".repeat(128),
        ] {
            assert!(check_ref(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn branches_clash_when_one_is_a_whole_path_part_of_the_other() {
        assert!(clash("feat", "feat/x") && clash("feat/x", "feat"));
        assert!(!clash("feat", "feature") && !clash("feat", "feat"));
    }

    #[test]
    fn owners_and_slugs_are_plain_lower_case_words() {
        for word in ["a", "0", "alice", "a-b_c.d", &"x".repeat(64)] {
            assert!(check_owner(word).is_ok() && check_slug(word).is_ok(), "{word:?}");
        }
        for word in ["", "A", "-a", ".a", "_a", "a/b", "..", "ä", "a b", "a\n", &"x".repeat(65)] {
            assert!(check_owner(word).is_err() && check_slug(word).is_err(), "{word:?}");
        }
    }

    proptest! {
        #[test]
        fn no_accepted_path_leaves_the_tree_or_enters_the_clients_folder(path in "[.a/ \\\\museMUSE~1:\u{200c}\0]{0,12}") {
            if check_path(&path).is_ok() {
                prop_assert!(!path.starts_with('/') && !path.contains(['\\', '\0']));
                for part in path.split('/') {
                    let seen = part.replace('\u{200c}', "").to_lowercase();
                    let seen = seen.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
                    prop_assert!(!part.is_empty() && part != "." && part != ".." && seen != ".muse" && seen != "muse~1");
                }
            }
        }
    }
}
